"""Feature refinement for images larger than those the network was trained on.

Kulshreshtha, Pugh, Jiddi: Feature Refinement to Improve High Resolution Image Inpainting (2022,
arXiv 2206.13644). The image is inpainted small, where the network sees the whole hole; at each larger scale
the features behind the encoder are optimised until the prediction, halved, agrees with the smaller result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from saicinpainting.inference.devices import decoder_parts, gpus, spread_over
from saicinpainting.inference.stopping import check_stop
from saicinpainting.inference.tiling import without_seam
from saicinpainting.io.device import dtype_of
from saicinpainting.io.images import pad_tensor_to_modulo
from saicinpainting.networks.base import Generator
from saicinpainting.utils import InputError, check_whole

# A mask of zeros and ones that went through a blur or a resize: above the first number the pixel has some of
# the hole, above the second nothing but hole.
SOME = 1e-8
ALL = 1 - 1e-8
EROSION_SIDE = 15
FIRST_SCALE = 2.0**20
"""Of a loss on its way back: about 1 for a pixel of a large image."""

Features = Any  # a tensor or a tuple of tensors (local and global features of FFC)


@dataclass(frozen=True)
class RefinerSettings:
    """The section `refiner` of configs/prediction.

    Args:
        gpu_ids: GPUs that share the residual blocks, such as 0 or [0, 1]; null: the device where the network is.
        modulo: sides are padded to multiples of it.
        n_iters: predictions at each scale, with a step of Adam between them.
        lr: of Adam.
        min_side: shorter side below which no coarser scale is made.
        max_scales: how many scales at most.
        px_budget: pixels of one image; larger ones are shrunk.
        precision: of the network's convolutions and products, `fp32`, `bf16` or `fp16`; features, loss and Adam's
            steps stay in float32.
    """

    gpu_ids: int | str | list[int] | None = None
    modulo: int = 8
    n_iters: int = 15
    lr: float = 0.002
    min_side: float = 512
    max_scales: int = 3
    px_budget: float = 1_800_000
    precision: str = "fp32"

    def __post_init__(self) -> None:
        dtype_of(self.precision)
        for key in ("n_iters", "max_scales", "modulo"):
            check_whole(f"refiner.{key}", getattr(self, key), least=1)
        for key in ("min_side", "px_budget"):
            if getattr(self, key) <= 0:
                raise InputError(f"refiner.{key}: expected a number of pixels above 0, got {getattr(self, key)}")


def refine_predict(
    batch: Mapping[str, Any],
    inpainter: Any,
    *,
    device: torch.device | str | Sequence[torch.device | str] | None = None,
    match_colors: bool = False,
    **settings: Any,
) -> Tensor:
    """Inpaint images with refinement; (B, 3, H, W) on the CPU, smaller than the images above px_budget.

    Each image comes out as it would alone.

    Args:
        batch: image (B, 3, H, W) in [0, 1], mask (B, 1, H, W), 1 = hole, both padded, and unpad_to_size, the (H, W)
            that all images have without the padding.
        inpainter: has the `generator`, which `encode`s (B, 4, H, W), the image without the hole and the mask, and
            `decode`s the features to (B, 3, H, W); `filled` and `finished` are used where it has them. It is moved
            to `device` or the GPUs `gpu_ids` and left there; without either it runs where it is. Several devices
            share the residual blocks, see `devices.spread_over`.
        match_colors: make each scale's image continue the known pixels, see `tiling.without_seam`.
        settings: those of `RefinerSettings`.

    Raises:
        InputError: images of different sizes, GPUs that are not there, numbers too large for the precision.
    """
    refiner = RefinerSettings(**settings)
    dtype = dtype_of(refiner.precision)
    generator: Any = inpainter.generator
    listed = [device] if isinstance(device, (str, torch.device)) else device
    devices = gpus(refiner.gpu_ids) if listed is None else [torch.device(one) for one in listed]
    if devices:
        spread_over(generator, devices)
    # fp32 leaves the weights' own type, float64 too.
    half = None if dtype == torch.float32 else dtype
    network = _Network(generator, next(generator.parameters()).device, half)
    height, width = unpadded_size(batch)
    image, mask = (batch[key][:, :, :height, :width].to(network.device) for key in ("image", "mask"))
    mask = mask.to(image.dtype)
    image, mask = _fit_into_budget(image, mask, refiner.px_budget)
    result: Tensor | None = None
    with _frozen(generator):
        levels = _pyramid(image, mask, min_side=refiner.min_side, max_scales=refiner.max_scales)
        for level_image, level_mask in tqdm(levels, desc="refinement", leave=False):
            check_stop()
            result = _inpaint_level(network, level_image, level_mask, result, refiner, match_colors=match_colors)
    assert result is not None
    return result.cpu()


@dataclass(frozen=True)
class _Network:
    """A generator that takes and gives float32 (or float64) on `device`, whatever and wherever it computes."""

    generator: Any
    device: torch.device
    dtype: torch.dtype | None  # of convolutions and products, if another than the weights'

    def filled(self, x: Tensor) -> Tensor:
        return self.generator.filled(x) if hasattr(self.generator, "filled") else x

    def finished(self, y: Tensor, x: Tensor) -> Tensor:
        return self.generator.finished(y, x) if hasattr(self.generator, "finished") else y

    @torch.no_grad()
    def encode(self, x: Tensor) -> Features:
        return self._call(self.generator.encode, x)

    @torch.no_grad()
    def decode(self, features: Features) -> Tensor:
        return self._call(self.generator.decode, features)

    def decode_for_gradient(self, features: Features) -> Tensor:
        return self._call(_sparing_decode(self.generator), features)

    def _call(self, function: Callable[[Any], Any], x: Any) -> Any:
        with torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            y = function(x)
        return tree_map_only(Tensor, lambda t: (t.float() if t.dtype == self.dtype else t).to(self.device), y)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights, which saves memory; as it was before on leaving."""
    modes = {part: part.training for part in module.modules()}
    trained = [p for p in module.parameters() if p.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def unpadded_size(batch: Mapping[str, Any]) -> tuple[int, int]:
    """(H, W) of the images of a batch without their padding; an `InputError` if they differ or it is not known."""
    if "unpad_to_size" not in batch:
        raise InputError("refinement: unpad_to_size is missing; set dataset.pad_out_to_modulo to 8")
    heights, widths = (torch.as_tensor(sides).unique().tolist() for sides in batch["unpad_to_size"])
    if len(heights) > 1 or len(widths) > 1:
        raise InputError(
            f"refinement: expected images of one size in a batch, got heights {heights} and widths {widths}; "
            "refine them apart"
        )
    return heights[0], widths[0]


def _fit_into_budget(image: Tensor, mask: Tensor, px_budget: float) -> tuple[Tensor, Tensor]:
    height, width = image.shape[-2:]
    size = _size_in_budget(height, width, px_budget)
    if size == (height, width):
        return image, mask
    return _resize(image, size), (_resize(mask, size) > 0).to(mask)


def _size_in_budget(height: int, width: int, px_budget: float) -> tuple[int, int]:
    if height * width <= px_budget:
        return height, width
    ratio = math.sqrt(px_budget / (height * width))
    return int(height * ratio), int(width * ratio)


def scales_of(height: int, width: int, *, min_side: float, max_scales: int, px_budget: float) -> int:
    """How many scales `refine_predict` has for an image of this size; with one it inpaints plainly."""
    return _n_scales(_size_in_budget(height, width, px_budget), min_side=min_side, max_scales=max_scales)


def _n_scales(size: Sequence[int], *, min_side: float, max_scales: int) -> int:
    octaves = math.log2(min(size) / min_side)
    return min(1 + round(max(0.0, octaves)), max_scales)


def _pyramid(image: Tensor, mask: Tensor, *, min_side: float, max_scales: int) -> list[tuple[Tensor, Tensor]]:
    """Image and mask at all scales, coarse to fine; the shorter side of the coarsest is about min_side."""
    levels = [(image, mask)]
    for _ in range(_n_scales(image.shape[-2:], min_side=min_side, max_scales=max_scales) - 1):
        image = _halve(image)
        mask = (_halve(mask) >= SOME).to(mask)
        levels.insert(0, (image, mask))
    return levels


def _inpaint_level(
    network: _Network,
    image: Tensor,
    mask: Tensor,
    coarser: Tensor | None,
    refiner: RefinerSettings,
    *,
    match_colors: bool,
) -> Tensor:
    """Inpaint one scale: plainly where `coarser`, the result at half the size, is None, else with refinement.

    image and result: (B, 3, h, w); mask: (B, 1, h, w).
    """
    height, width = image.shape[-2:]
    padded_image = pad_tensor_to_modulo(image, refiner.modulo)
    hole = (pad_tensor_to_modulo(mask, refiner.modulo) >= SOME).to(mask)
    x = network.filled(torch.cat([padded_image * (1 - hole), hole], dim=1))
    features = network.encode(x)
    if coarser is not None:
        inside = _eroded_half(hole[:, :, :height, :width])

        def losses_of(decoded: Tensor) -> Tensor:
            prediction = network.finished(decoded, x)
            halved = _halve(prediction[:, :, :height, :width])
            return _mean_distance(prediction, padded_image, 1 - hole) + _mean_distance(halved, coarser, inside)

        features = _refine(features, network.decode_for_gradient, losses_of, n_steps=refiner.n_iters - 1, lr=refiner.lr)
    prediction = network.finished(network.decode(features), x)
    if not prediction.isfinite().all():
        raise InputError("refinement: the network's image is not finite; with precision=fp16 set bf16 or fp32")
    if match_colors:
        prediction = without_seam(prediction, padded_image, hole)
    return torch.where(hole > 0, prediction, padded_image)[:, :, :height, :width]


def _sparing_decode(generator: Any) -> Callable[[Features], Tensor]:
    """`generator.decode`, of which the backward pass keeps what goes from part to part and computes the rest again.

    Large images would not fit otherwise.
    """
    own = isinstance(generator, Generator) and generator.has_own("decode")
    parts = decoder_parts(generator)
    if own or not parts:
        return generator.decode

    def decode(features: Features) -> Tensor:
        for part in parts:
            features = checkpoint(nn.Sequential(*part), features, use_reentrant=False)
        return features

    return decode


def _refine(
    features: Features,
    decode: Callable[[Features], Tensor],
    losses_of: Callable[[Tensor], Tensor],
    *,
    n_steps: int,
    lr: float,
) -> Features:
    """The features after n_steps of Adam on `losses_of(decode(features))`, (B,), a loss for each image."""
    features = tree_map_only(Tensor, lambda z: z.detach().clone().requires_grad_(True), features)
    leaves = [z for z in tree_leaves(features) if torch.is_tensor(z)]
    optimizer = torch.optim.Adam(leaves, lr=lr)
    scale: Tensor | None = None
    with torch.enable_grad():
        for _ in range(n_steps):
            check_stop()
            scale = _set_gradients(leaves, lambda: losses_of(decode(features)), scale)
            optimizer.step()
    return features


def _set_gradients(leaves: Sequence[Tensor], losses: Callable[[], Tensor], scale: Tensor | None) -> Tensor:
    """Give each of `leaves` (B, ...) the gradient of its image's loss; losses(): (B,).

    On their way back the losses are multiplied by a scale (B,), powers of two: a mean over a million pixels has
    derivatives of 1e-7, and float16 ends there. Where that leaves float16's range at the other end, a smaller one is
    tried. Returns the scale that did, to be the next step's.
    """
    while True:
        for leaf in leaves:
            leaf.grad = None
        values = losses()
        scale = torch.full_like(values, FIRST_SCALE) if scale is None else scale
        # Adam treats each number by itself, so the sum refines each image as its own loss would.
        (values * scale).sum().backward()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        finite = torch.stack([gradient.flatten(1).isfinite().all(dim=1) for gradient in gradients]).all(dim=0)
        if finite.all():
            break
        scale = torch.where(finite, scale, scale / 16)
        if scale.min() < 1:
            raise InputError("refinement: gradients that are not finite; with precision=fp16 set bf16 or fp32")
    for gradient in gradients:
        gradient /= scale.view(-1, *[1] * (gradient.dim() - 1))
    return scale


def _mean_distance(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """(B,): each image's mean |a - b| over the pixels that where: (B, 1, h, w) selects; 0 if it selects none."""
    # An eroded hole is empty where the hole is narrower than the kernel; a mean over nothing would be NaN.
    n_values = (where.sum(dim=(1, 2, 3)) * a.shape[1]).clamp(min=1)
    return ((a - b).abs() * where).sum(dim=(1, 2, 3)) / n_values


def _eroded_half(hole: Tensor) -> Tensor:
    """The inner part of the hole, (B, 1, h, w), at half the size: the coarser result near its edge is left out."""
    height, width = hole.shape[-2:]
    whole = (_resize(hole, (height // 2, width // 2)) >= ALL)[:, 0].to(torch.uint8).cpu().numpy()
    # As kornia's erosion, which takes a thousand times as long, and gigabytes, with a kernel of this size.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (EROSION_SIDE, EROSION_SIDE))
    return torch.from_numpy(np.stack([cv2.erode(one, kernel) for one in whole]))[:, None].to(hole)


def _halve(x: Tensor) -> Tensor:
    """Half the size, rounded down, after a 5x5 Gaussian blur with sigma 1; x: (B, C, H, W)."""
    from kornia.filters import gaussian_blur2d  # half a second that only refinement needs

    height, width = x.shape[2:]
    return _resize(gaussian_blur2d(x, (5, 5), (1.0, 1.0)), (height // 2, width // 2))


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
