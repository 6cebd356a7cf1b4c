"""The official path of training augmentation."""

from saicinpainting.data.aug import get_transforms
