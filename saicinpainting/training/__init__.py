"""Training: networks, losses, data, the Lightning module and runs."""
