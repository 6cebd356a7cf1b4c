"""Feature refinement for pictures larger than those the network was trained on.

Kulshreshtha, Pugh, Jiddi: Feature Refinement to Improve High Resolution Image Inpainting (2022,
arXiv 2206.13644). The picture is inpainted small, where the network sees the whole hole; at each larger scale
the features behind the encoder are optimised until the prediction, halved, agrees with the smaller result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from saicinpainting.evaluation.data import pad_tensor_to_modulo
from saicinpainting.utils import InputError

# A mask of zeros and ones that went through a blur or a resize: above the first number the pixel has some of
# the hole, above the second nothing but hole.
SOME = 1e-8
ALL = 1 - 1e-8
EROSION_SIDE = 15

Features = Any  # a tensor or a tuple of tensors (local and global features of FFC)


class EncoderDecoder(Protocol):
    """What refinement asks of a generator, cut in front of its residual blocks."""

    def encode(self, x: Tensor) -> Features:
        """x: (B, 4, H, W), the image without the hole and the mask."""

    def decode(self, features: Features) -> Tensor:
        """The predicted image, (B, 3, H, W) in [0, 1]."""


def refine_predict(
    batch: Mapping[str, Any],
    inpainter: nn.Module,
    *,
    gpu_ids: str | int | None = None,
    modulo: int = 8,
    n_iters: int = 15,
    lr: float = 0.002,
    min_side: int = 512,
    max_scales: int = 3,
    px_budget: int = 1_800_000,
    device: torch.device | str | None = None,
) -> Tensor:
    """Inpaint one picture with refinement; (1, 3, H, W) on the CPU, smaller than the picture above px_budget.

    batch: image (1, 3, H, W) in [0, 1], mask (1, 1, H, W), 1 = hole, both padded, and unpad_to_size (H, W).
    inpainter: has the `generator`. It runs where its parameters are, or on `device`, or on the GPU `gpu_ids`.
    min_side: shorter side below which no coarser scale is made; max_scales: how many scales at most.
    """
    generator: Any = inpainter.generator
    device = _move_to(generator, device if device is not None else _parse_gpu_ids(gpu_ids))
    image, mask = _unpadded(batch)
    image, mask = _fit_into_budget(image.to(device), mask.to(device), px_budget)
    result: Tensor | None = None
    with _frozen(generator):
        levels = _pyramid(image, mask, min_side=min_side, max_scales=max_scales)
        for level_image, level_mask in tqdm(levels, desc="refinement", leave=False):
            result = _inpaint_level(generator, level_image, level_mask, result, modulo=modulo, n_iters=n_iters, lr=lr)
    assert result is not None
    return result.cpu()


def _parse_gpu_ids(gpu_ids: str | int | None) -> str | None:
    """The device that the setting names: None, "None", "0" or "0,"."""
    ids = [part.strip() for part in str(gpu_ids).split(",") if part.strip()]
    if ids in ([], ["None"]):
        return None
    if len(ids) > 1:
        raise InputError(
            f"refiner.gpu_ids: expected one GPU, got {gpu_ids!r}; splitting the network over several GPUs is "
            "not built yet, set refiner.gpu_ids=0"
        )
    if not ids[0].isdigit():
        raise InputError(f"refiner.gpu_ids: expected the number of a GPU, got {gpu_ids!r}")
    if int(ids[0]) >= torch.cuda.device_count():
        raise InputError(
            f"refiner.gpu_ids: GPU {ids[0]} asked for, {torch.cuda.device_count()} found; "
            "set refiner.gpu_ids=null to run on the model's device"
        )
    return f"cuda:{ids[0]}"


def _move_to(generator: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is not None:
        generator.to(device)
    return next(generator.parameters()).device


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights, which saves memory; as it was before on leaving."""
    modes = {part: part.training for part in module.modules()}
    wanted_gradient = [p for p in module.parameters() if p.requires_grad]
    module.eval()
    for parameter in wanted_gradient:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter in wanted_gradient:
            parameter.requires_grad_(True)


def _unpadded(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    if "unpad_to_size" not in batch:
        raise InputError("refinement: unpad_to_size is missing; set dataset.pad_out_to_modulo to 8")
    image, mask = batch["image"], batch["mask"]
    if image.shape[0] != 1:
        raise InputError(f"refinement: expected one picture at a time, got {image.shape[0]}")
    height, width = (int(side) for side in batch["unpad_to_size"])
    return image[:, :, :height, :width], mask[:, :, :height, :width]


def _fit_into_budget(image: Tensor, mask: Tensor, px_budget: int) -> tuple[Tensor, Tensor]:
    height, width = image.shape[-2:]
    if height * width <= px_budget:
        return image, mask
    ratio = math.sqrt(px_budget / (height * width))
    size = (int(height * ratio), int(width * ratio))
    return _resize(image, size), (_resize(mask, size) > 0).to(mask)


def _pyramid(image: Tensor, mask: Tensor, *, min_side: int, max_scales: int) -> list[tuple[Tensor, Tensor]]:
    """Image and mask at all scales, coarse to fine; the shorter side of the coarsest is about min_side."""
    octaves = math.log2(min(image.shape[-2:]) / min_side)
    n_scales = min(1 + round(max(0.0, octaves)), max_scales)
    levels = [(image, mask)]
    for _ in range(n_scales - 1):
        image = _halve(image)
        mask = (_halve(mask) >= SOME).to(mask)
        levels.insert(0, (image, mask))
    return levels


def _inpaint_level(
    generator: EncoderDecoder,
    image: Tensor,
    mask: Tensor,
    coarser: Tensor | None,
    *,
    modulo: int,
    n_iters: int,
    lr: float,
) -> Tensor:
    """Inpaint one scale: plainly where `coarser`, the result at half the size, is None, else with refinement.

    image and result: (1, 3, h, w); mask: (1, 1, h, w).
    """
    height, width = image.shape[-2:]
    padded_image = pad_tensor_to_modulo(image, modulo)
    hole = (pad_tensor_to_modulo(mask, modulo) >= SOME).to(mask)
    with torch.no_grad():
        features = generator.encode(torch.cat([padded_image * (1 - hole), hole], dim=1))
    if coarser is not None:
        inside = _eroded_half(hole[:, :, :height, :width])

        def loss_of(prediction: Tensor) -> Tensor:
            halved = _halve(prediction[:, :, :height, :width])
            return _mean_distance(prediction, padded_image, 1 - hole) + _mean_distance(halved, coarser, inside)

        features = _refine(features, _sparing_decode(generator), loss_of, n_steps=n_iters - 1, lr=lr)
    with torch.no_grad():
        prediction = generator.decode(features)
    return (hole * prediction + (1 - hole) * padded_image)[:, :, :height, :width]


def _sparing_decode(generator: Any) -> Callable[[Features], Tensor]:
    """`generator.decode`, of which the backward pass keeps what goes from part to part and computes the rest again.

    A part is a residual block, or the layers of one halving. Large pictures would not fit otherwise.
    """
    layers = list(getattr(generator, "model", ()))[getattr(generator, "first_block", 0) :]
    if not layers:
        return generator.decode
    parts: list[list[nn.Module]] = []
    for layer in layers:
        # What has no weights of its own, or only a norm's, belongs to the part before it.
        light = not any(isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) for part in layer.modules())
        if parts and light:
            parts[-1].append(layer)
        else:
            parts.append([layer])

    def decode(features: Features) -> Tensor:
        for part in parts:
            features = checkpoint(_run, part, features, use_reentrant=False)
        return features

    return decode


def _run(layers: Sequence[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def _refine(
    features: Features,
    decode: Callable[[Features], Tensor],
    loss_of: Callable[[Tensor], Tensor],
    *,
    n_steps: int,
    lr: float,
) -> Features:
    """The features after n_steps of Adam on `loss_of(decode(features))`."""
    features = tuple(map(_as_leaf, features)) if isinstance(features, tuple) else _as_leaf(features)
    leaves = [z for z in (features if isinstance(features, tuple) else [features]) if torch.is_tensor(z)]
    optimizer = torch.optim.Adam(leaves, lr=lr)
    with torch.enable_grad():
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss_of(decode(features)).backward()
            optimizer.step()
    return features


def _as_leaf(feature: Any) -> Any:
    """A tensor to optimise; what is no tensor (FFC's absent global half) stays as it is."""
    return feature.detach().clone().requires_grad_(True) if torch.is_tensor(feature) else feature


def _mean_distance(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """Mean |a - b| over the pixels that where: (1, 1, h, w) selects; 0 if it selects none."""
    # An eroded hole is empty where the hole is narrower than the kernel; a mean over nothing would be NaN.
    n_values = (where.sum() * a.shape[1]).clamp(min=1)
    return ((a - b).abs() * where).sum() / n_values


def _eroded_half(hole: Tensor) -> Tensor:
    """The inner part of the hole at half the size: the coarser result near its edge is left out."""
    height, width = hole.shape[-2:]
    whole = (_resize(hole, (height // 2, width // 2)) >= ALL)[0, 0].to(torch.uint8).cpu().numpy()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (EROSION_SIDE, EROSION_SIDE))
    return torch.from_numpy(cv2.erode(whole, kernel))[None, None].to(hole)


def _halve(x: Tensor) -> Tensor:
    """Half the size, rounded down, after a 5x5 Gaussian blur with sigma 1; x: (B, C, H, W)."""
    channels, height, width = x.shape[1:]
    offsets = torch.arange(-2, 3, dtype=x.dtype, device=x.device)
    row = torch.softmax(-offsets.square() / 2, dim=0).expand(channels, 1, 1, 5)
    blurred = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), row, groups=channels)
    blurred = F.conv2d(blurred, row.mT, groups=channels)
    return _resize(blurred, (height // 2, width // 2))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
