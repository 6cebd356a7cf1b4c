"""The official paths of metrics."""
