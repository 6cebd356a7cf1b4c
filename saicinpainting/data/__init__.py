"""Training data: images, augmentation, masks, loaders."""
