"""Faster ways to compute what a trained generator computes."""
