"""Files, downloads, images, devices, checkpoints: what every other room uses."""
