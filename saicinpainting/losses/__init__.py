"""Losses: pure functions with thin modules around those that hold weights."""
