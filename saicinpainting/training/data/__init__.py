"""The official paths of training data."""
