"""Networks, images and metrics that several tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from saicinpainting.inference.backends import Backend, load_backend
from saicinpainting.inference.fast.folding import fold
from saicinpainting.networks import make_generator
from tests.helpers import (
    ROOT,
    fill,
    golden_values,
    photo,
    rand,
)


def generator(config: str, *overrides: str) -> Any:
    return fill(make_generator(**generator_settings(config, *overrides))).eval()


def generator_settings(config: str, *overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        settings = compose(config, ["location=places_example", "generator.n_blocks=2", "generator.ngf=8", *overrides])
    return OmegaConf.to_container(settings.generator, resolve=True)


def pretend_to(module: nn.Module, device: torch.device) -> nn.Module:
    """`module.to(device)` of a machine that has it: shapes and devices without numbers."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.device != device:
                    moved = torch.empty_like(tensor, device=device)
                    tensors[name] = nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved
    return module


def refining(model: dict[str, Any], px_budget: int = 1_800_000, **options: Any) -> Backend:
    few = {"n_iters": 3, "min_side": 20, "px_budget": px_budget}
    return load_backend(model, torch.device("cpu"), refine=True, refiner=few, **options)


class Red:
    """Fills holes with red; counts what it saw, and stops after so many images."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.batches: list[torch.Size] = []
        self.stop_after = stop_after

    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        if self.stop_after is not None and sum(shape[0] for shape in self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(batch["image"].shape)
        red = torch.tensor([1.0, 0, 0])[:, None, None]
        return batch["image"] * (1 - batch["mask"]) + red * batch["mask"]


def write_pairs(folder: Path, *sizes: tuple[int, int]) -> Path:
    """Small images `000.png` and so on with a mask each."""
    folder.mkdir(parents=True)
    for i, (height, width) in enumerate(sizes):
        mask = np.zeros((height, width), np.uint8)
        mask[4:9, 4:9] = 255
        Image.fromarray(photo("coffee.png", 64, i)[:height, :width]).save(folder / f"{i:03}.png")
        Image.fromarray(mask).save(folder / f"{i:03}_mask000.png")
    return folder


class Inpainter(nn.Module):
    def __init__(self, case: str, *, folded: bool = False, **overrides: Any) -> None:
        super().__init__()
        self.generator: nn.Module = fill(make_generator(**{**golden_values()[case], **overrides})).double()
        if folded:
            self.generator = fold(self.generator)


def picture(height: int, width: int, hole: tuple[slice, slice]) -> dict:
    small = rand(8, 1, 3, 12, 20).double()
    image = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    mask = torch.zeros(1, 1, height, width, dtype=torch.float64)
    mask[:, :, hole[0], hole[1]] = 1
    return {"image": image, "mask": mask, "unpad_to_size": [torch.tensor([height]), torch.tensor([width])]}


def in_float32(batch: dict) -> dict:
    return {**batch, "image": batch["image"].float(), "mask": batch["mask"].float()}


def golden_picture() -> dict:
    return picture(192, 320, (slice(48, 144), slice(80, 240)))


def features(seed: int, count: int, dims: int) -> torch.Tensor:
    """Correlated features of unequal scale, as a network's are."""
    rng = np.random.RandomState(seed)
    mixing = rng.standard_normal((dims, dims)) / dims**0.5
    return torch.from_numpy(rng.standard_normal((count, dims)) @ mixing + rng.standard_normal(dims) * 0.3)


class BrightIsSky(torch.nn.Module):
    """Class 2, sky, where the red channel is above one half; class 0, wall, elsewhere."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * (image[:, 0] > 0.5).long()


CASES = {
    "ffc.64x64": 1,
    "ffc.48x80": 2,
    "ffc.train.64x64": 1,
    "ffc_lfu.64x64": 1,
    "ffc_gated.64x64": 1,
    "ffc_gated.48x80": 2,
    "ffc_posenc.64x64": 1,
    "ffc_posenc.48x80": 2,
    "ffc_scaled.64x64": 1,
    "ffc_scaled.48x80": 2,
    "global.64x64": 1,
    "global.48x80": 2,
    "multidilated.96x128": 1,
}
