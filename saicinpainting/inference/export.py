"""Exports: ONNX, TorchScript and torch.export, each compared with the model before the file counts as written."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saicinpainting.inference.export_formats import EXPORTERS, INTERFACES, Interface, Size
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.runtimes import RUNTIMES, Run, Runtime, in_unit_range
from saicinpainting.io.device import dtype_of
from saicinpainting.io.files import naming
from saicinpainting.io.images import ceil_modulo
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.networks.inputs import GeneratorInput, blend
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
CHECKED_SIZES = ((1, 256, 256), (3, 256, 256), (1, 512, 768), (1, 1000, 600))
"""Batch, height and width of the images on which an export of free sizes is compared."""
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2}
"""By precision, for images in [0, 1]."""
ROUNDING_FACTOR = 3
"""How many times as far as the model from double precision an export may be, where rounding is all there is to see."""


class ExportableInpainter(nn.Module):
    """`forward(image, mask)`: the filled image.

    image: float32 (B, C, H, W) in [0, 1]; mask: (B, 1, H, W), 1 = hole; H and W multiples of `multiple`. No Fourier
    operator is left: transforms are products with matrices that are made from the sizes. The result is as `interface`
    says. dtype: what `network` computes in, if not in the image's.
    """

    def __init__(
        self,
        network: nn.Module,
        generator_input: GeneratorInput | None = None,
        *,
        interface: Interface = INTERFACES["default"],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network, self.generator_input = network, generator_input or GeneratorInput()
        self.interface, self.dtype = interface, dtype
        self.multiple, self.min_size = int(network.size_multiple), int(network.min_size)  # type: ignore[arg-type]
        set_fft_backend(network, "products")

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        if self.interface.bgr:
            image = _swapped(image)
        predicted = self.network(self.generator_input(image, mask).to(self.dtype or image.dtype))
        filled = blend(predicted.to(image.dtype), image, mask)
        if self.interface.levels:  # whole, for programs that cut decimals off
            filled = (filled * 255 + 0.5).floor().clamp(0, 255)
        return _swapped(filled) if self.interface.bgr else filled


def _swapped(image: Tensor) -> Tensor:
    """(B, 3, H, W), RGB to BGR or back."""
    return torch.cat(image.chunk(3, dim=1)[::-1], dim=1)


def exportable(
    path: str | Path, checkpoint: str = "best.ckpt", *, device: str = "cpu", trust: Collection[str] = ()
) -> ExportableInpainter:
    """The folded generator of an experiment's folder; `trust`: as in `load_generator`."""
    inpainter = Inpainter.from_pretrained(path, checkpoint, trust=trust, device=device)
    if inpainter.generator_input.add_noise_kwargs is not None:
        raise InputError(f"{path}: a generator with noise as an input (training_model.add_noise_kwargs) has no export")
    network = inpainter.network.to(memory_format=torch.contiguous_format)
    return ExportableInpainter(network, inpainter.generator_input).eval()


def export(
    model: ExportableInpainter,
    out: Path,
    *,
    kind: str | None = None,
    interface: str = "default",
    size: Size | None = None,
    precision: str = "fp32",
    sizes: Sequence[tuple[int, int, int]] | None = None,
    tolerance: float | None = None,
) -> float:
    """Write `model` to `out` and return the largest difference from it, of values in [0, 1].

    The file appears when it has given the model's results on the CPU. Other runtimes that are installed are tried too
    and their differences or failures logged.

    Args:
        kind: `onnx`, `torchscript` or `torch_export`; None: by the ending, .onnx, .pt or .pt2.
        interface: of ONNX files, a key of `INTERFACES`.
        size: height and width of the only image that the file takes, one at a time; None: batch, height and width are
            free within what the file's metadata say, and so is the device.
        precision: `fp32` or `fp16`, of weights and layers; image, mask, result and what is known stay float32.
        sizes: batch, height and width of what is compared; None: `CHECKED_SIZES` or the next that are taken, or `size`.
        tolerance: the difference that is allowed; None: see `TOLERANCES`.

    Raises:
        InputError: an unknown kind, interface or precision, a size that the network does not take, a package that is
            missing, or an export that computes something else.
    """
    kind = kind or {".onnx": "onnx", ".pt": "torchscript", ".pt2": "torch_export"}.get(out.suffix, out.suffix)
    if kind not in EXPORTERS:
        raise InputError(
            f"{out}: unknown kind of export {kind!r}; {did_you_mean(kind, EXPORTERS)}; name OUT .onnx, .pt or .pt2"
        )
    if interface not in INTERFACES:
        raise InputError(f"interface: unknown value {interface!r}; {did_you_mean(interface, INTERFACES)}")
    if interface != "default" and kind != "onnx":
        raise InputError(f"{out}: interface={interface} is one of ONNX files; name the file .onnx, or leave it out")
    if interface != "default" and (channels := model.generator_input.image_channels) != 3:
        raise InputError(f"interface={interface}: it is one of RGB images, this network's have {channels} channels")
    if precision not in TOLERANCES:
        raise InputError(f"precision: unknown value {precision!r}; {did_you_mean(precision, TOLERANCES)}")
    if size is not None:
        _check_size(model, size)
    written = _variant(model, INTERFACES[interface], precision)
    if sizes is None:
        sizes = (
            [(1, *size)]
            if size
            else [(batch, *_taken(model, (height, width))) for batch, height, width in CHECKED_SIZES]
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part.{out.name}")
    try:
        with warnings.catch_warnings(), torch.no_grad(), naming(out):
            warnings.simplefilter("ignore")  # exporters warn of what the comparison checks
            EXPORTERS[kind](written, part, size)
        deciding, *others = RUNTIMES[kind]
        run = in_unit_range(deciding.load(part), written.interface)
        worst = largest_difference(model, run, sizes, levels=written.interface.levels, name=deciding.name)
        _accept(worst, model, written, run, out, TOLERANCES[precision] if tolerance is None else tolerance)
        for runtime in others:
            if runtime.installed():
                _try(runtime, part, model, written.interface, sizes[:1])
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return worst.difference


def _check_size(model: ExportableInpainter, size: Size) -> None:
    taken = _taken(model, size)
    if tuple(size) != taken:
        raise InputError(
            f"size={size[0]}x{size[1]}: this network takes multiples of {model.multiple} from {model.min_size} on; "
            f"set size={taken[0]}x{taken[1]}"
        )


def _taken(model: ExportableInpainter, size: Size) -> Size:
    """`size`, or the next larger one that the network takes."""
    height, width = (ceil_modulo(max(side, model.min_size), model.multiple) for side in size)
    return height, width


def _variant(model: ExportableInpainter, interface: Interface, precision: str) -> ExportableInpainter:
    """`model` as the file shall be."""
    if precision == "fp32":
        return ExportableInpainter(model.network, model.generator_input, interface=interface).eval()
    dtype = dtype_of(precision)
    network = copy.deepcopy(model.network).to(dtype)
    return ExportableInpainter(network, model.generator_input, interface=interface, dtype=dtype).eval()


# ---- comparison ----------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """The largest difference of values in [0, 1], and the batch, height and width where it was."""

    difference: float
    size: tuple[int, int, int]


def largest_difference(
    model: ExportableInpainter,
    other: Run,
    sizes: Sequence[tuple[int, int, int]],
    *,
    levels: bool = False,
    name: str = "export",
) -> Difference:
    """Of `other`, which is called `name`, over random images (batch, height, width) with a box-shaped hole.

    levels: `other` rounds to 255 levels, which is no difference.
    """
    worst = Difference(-1.0, sizes[0])
    for size in sizes:
        image, mask = example(*size, channels=model.generator_input.image_channels)
        with torch.no_grad():
            difference = _difference(model(image, mask), other(image, mask), levels)
        LOGGER.info("%s, %d x %d x %d: largest difference %.2g of 255 levels", name, *size, 255 * difference)
        if not difference <= worst.difference:
            worst = Difference(difference, size)
    return worst


def _try(
    runtime: Runtime,
    path: Path,
    model: ExportableInpainter,
    interface: Interface,
    sizes: Sequence[tuple[int, int, int]],
) -> None:
    """Log how another runtime does, and no more: nobody has to use it."""
    try:
        run = in_unit_range(runtime.load(path), interface)
        largest_difference(model, run, sizes, levels=interface.levels, name=runtime.name)
    except Exception as error:  # each has types of its own
        LOGGER.warning("%s cannot run this file (%s)", runtime.name, " ".join(str(error).split())[:200])


def example(batch: int, height: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """A random image and a mask with a box-shaped hole."""
    generator = torch.Generator().manual_seed(batch * height + width)
    image, mask = torch.rand(batch, channels, height, width, generator=generator), torch.zeros(batch, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 3 : width // 2] = 1
    return image, mask


def _difference(expected: Tensor, got: Tensor, levels: bool = False) -> float:
    if got.shape != expected.shape:
        return float("inf")
    return max((got - expected).abs().max().item() - (0.5 / 255 if levels else 0), 0.0)


def _accept(
    worst: Difference, model: ExportableInpainter, written: ExportableInpainter, run: Run, out: Path, tolerance: float
) -> None:
    """Raise InputError if the export computes something else than the model.

    Rounding is no reason: a network whose numbers grow from layer to layer, as with random weights, makes any
    difference of it. Its own distance from double precision tells.
    """
    if worst.difference <= tolerance:
        return
    image, mask = example(*worst.size, channels=model.generator_input.image_channels)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double(), mask.double())
        plain = ExportableInpainter(written.network, written.generator_input, dtype=written.dtype)
        own = _difference(exact, plain(image, mask))
        difference = _difference(exact, run(image, mask), written.interface.levels)
    if difference <= ROUNDING_FACTOR * own:
        LOGGER.warning(
            "%s: this network amplifies rounding: from double precision the export differs by %.2g, the model itself "
            "by %.2g; no two programs will agree on its results. Is it trained?", out, difference, own
        )  # fmt: skip
        return
    raise InputError(
        f"{out}: the export differs from the model by {worst.difference:.2g}, more than {tolerance:.2g}"
        f" (from double precision by {difference:.2g}, the model by {own:.2g})"
    )
