"""Masks: generators, segmentation, folders of one's own, and evaluation sets."""
