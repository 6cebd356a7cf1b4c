"""The official path of what builds and loads training modules."""

from saicinpainting.training.factory import make_training_model
from saicinpainting.training.load import load_checkpoint
