"""Measuring checkpoints and folders of predictions: sets, tables, reports."""
