"""What the logs and checkpoints of runs tell afterwards."""
