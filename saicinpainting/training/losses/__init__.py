"""The official paths of the losses."""
