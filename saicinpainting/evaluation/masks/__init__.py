"""The official paths of segmentation masks."""
