"""The official path of FID's network."""
