"""Backends fill batches of images: a trained network, with or without refinement, or an exported file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from saicinpainting.inference.devices import gpus
from saicinpainting.inference.edges import Batch, EdgedBackend, EdgeSettings, MatchingBackend, fill_with_edge
from saicinpainting.inference.fast.folding import fold as folded
from saicinpainting.inference.inpainter import Inpainter, check_painted
from saicinpainting.inference.overlap import Download
from saicinpainting.inference.refinement import RefinerSettings, refine_predict, scales_of, unpadded_size
from saicinpainting.inference.tiling import fill_parts
from saicinpainting.io.device import dtype_of, pick_device, warn_of_emulation
from saicinpainting.io.images import padded
from saicinpainting.io.memory import Attempts
from saicinpainting.io.ranks import Ranks
from saicinpainting.networks.base import Generator
from saicinpainting.networks.inputs import GeneratorInput
from saicinpainting.networks.load import load_model
from saicinpainting.networks.models import locate_model
from saicinpainting.schema import read_section
from saicinpainting.utils import InputError, check_bool

LOGGER = logging.getLogger(__name__)
Backend = Callable[[Batch], torch.Tensor]
"""Images of one padded size with masks to the filled images (B, C, H, W) in [0, 1], on whatever device."""


def image_channels(backend: Backend) -> int:
    """Of the images that `backend` fills: its attribute `image_channels`, 3 if it has none."""
    return getattr(backend, "image_channels", 3)


def checkpoint_file(model: Mapping[str, Any]) -> Path:
    """The file that `path` and `checkpoint` name, fetched if it has to be; see `locate_model`."""
    return locate_model(model["path"], model["checkpoint"]).checkpoint


def load_backend(
    model: Mapping[str, Any],
    device: torch.device | str,
    *,
    edge: EdgeSettings | None = None,
    **options: Any,
) -> Backend:
    """Load the backend that fills batches with the trained network of `model`.

    model: `path` and `checkpoint`, as `locate_model` takes them. edge: how fills meet what is around them.
    out_key: `inpainted`, or `predicted_image`, what the network painted everywhere.
    refine, refiner: feature refinement and its settings.
    trust: packages whose code the run may name as its generator's `_target_`.
    options: of `Inpainter`; refinement follows `fold` and `precision` and takes no others. Images above the refiner's
    `px_budget` are refined in parts around their holes; a part that is still larger is shrunk.
    """
    edge = edge or EdgeSettings()
    backend = _load(model, device, edge=edge, **options)
    return backend if edge == EdgeSettings() else EdgedBackend(backend, edge)


def _load(
    model: Mapping[str, Any],
    device: torch.device | str,
    *,
    edge: EdgeSettings,
    out_key: str = "inpainted",
    refine: bool = False,
    refiner: Mapping[str, Any] | None = None,
    trust: Collection[str] = (),
    **options: Any,
) -> MatchingBackend:
    """`load_backend` without what is done around it; an `InputError` if `edge` cannot be followed."""
    # Of a command line, where `no` is a text.
    switches = {"refine": refine, "fold": options.get("fold", True), "compile": options.get("compile_network", False)}
    for key, value in switches.items():
        check_bool(key, value)
    if out_key not in ("inpainted", "predicted_image"):
        raise InputError(f"out_key: expected inpainted or predicted_image, got {out_key!r}")
    exported = next((str(model[key]) for key in ("path", "checkpoint") if ".onnx" in Path(str(model[key])).name), None)
    if out_key != "inpainted" and (refine or exported):
        whom = "refine=true" if refine else "an ONNX file"
        raise InputError(f"out_key={out_key}: {whom} gives inpainted only; leave out_key out")
    check_painted(out_key, options.get("strategy", "auto"))
    if out_key != "inpainted" and (edge.feather or edge.match_colors):
        raise InputError(
            f"out_key={out_key}: nothing meets the image there; leave mask.feather and mask.match_colors out"
        )
    if refine:
        if exported:
            raise InputError(f"refine=true: {exported} is an ONNX file, which cannot be refined; leave refine out")
        _refuse(options, "refine=true", but={"fold", "precision"})
        return _refining(model, pick_device(device), refiner or {}, trust, **options)
    if exported:
        _refuse(options, "an ONNX file")  # the file is folded as it was written
        from saicinpainting.inference.onnx import OnnxInpainter, refuse_matching

        if edge.match_colors:
            refuse_matching(exported)
        return OnnxInpainter(checkpoint_file(model), device)
    inpainter = Inpainter.from_pretrained(model["path"], model["checkpoint"], trust=trust, device=device, **options)
    return NetworkBackend(inpainter, out_key)


class NetworkBackend:
    """Fills batches with `inpainter`; out_key: as in `Inpainter.fill_batch`."""

    def __init__(self, inpainter: Inpainter, out_key: str) -> None:
        self.inpainter, self.out_key, self.image_channels = inpainter, out_key, inpainter.image_channels

    def __call__(self, batch: Batch, *, match_colors: bool = False) -> torch.Tensor:
        return self.inpainter.fill_batch(batch, self.out_key, match_colors=match_colors)


def _refuse(options: Mapping[str, Any], whom: str, *, but: Set[str] = frozenset()) -> None:
    """An `InputError` for options that say something else than `Inpainter` does without them."""
    defaults = signature(Inpainter).parameters
    for name in options.keys() - but:
        switched_off = name == "cuda_graphs" and options[name] is False  # as it is for all others
        if options[name] != defaults[name].default and not switched_off:
            key = "compile" if name == "compile_network" else name
            raise InputError(f"{key}={options[name]}: {whom} cannot follow it; leave {key} out")


def _refining(
    model: Mapping[str, Any],
    device: torch.device,
    refiner: Mapping[str, Any],
    trust: Collection[str],
    *,
    fold: bool = True,
    precision: str = "fp32",
    **_: Any,
) -> MatchingBackend:
    settings = read_section(RefinerSettings, {"precision": precision, **refiner}, where="refiner")
    warn_of_emulation(dtype_of(settings.precision), device)
    gpus(settings.gpu_ids)  # whether they are there
    generator, generator_input = load_model(model["path"], model["checkpoint"], trust=trust)
    if replace(generator_input, image_channels=3) != GeneratorInput():
        raise InputError(
            "refine=true: refinement gives a network image and mask, but this one takes noise, or no mask; "
            "set refine=false"
        )
    if not isinstance(generator, Generator):
        raise InputError(
            "refine=true: refinement needs the encode and decode of saicinpainting.networks.base.Generator, which "
            f"{type(generator).__name__} is not; set refine=false"
        )
    network = (folded(generator) if fold else generator).eval().requires_grad_(False).to(device)
    if settings.modulo % network.size_multiple:
        raise InputError(
            f"refiner.modulo: expected a multiple of {network.size_multiple}, which this network needs, got "
            f"{settings.modulo}; set refiner.modulo={network.size_multiple}"
        )
    return RefinementBackend(network, settings, generator_input.image_channels)


class RefinementBackend:
    """Fills batches with refinement; counts the images, and those that were filled plainly, at least in part.

    generator: (B, C + 1, H, W) to (B, C, H, W); image_channels: C.
    """

    def __init__(self, generator: Any, settings: RefinerSettings, image_channels: int = 3) -> None:
        self.generator, self.settings, self.image_channels = generator, settings, image_channels
        self.n_images = self.n_plain = 0
        self._least = max(settings.modulo, generator.min_size)
        self._attempts = Attempts()

    def __call__(self, batch: Batch, *, match_colors: bool = False) -> torch.Tensor:
        height, width = unpadded_size(batch)
        image, mask = (batch[key][:, :, :height, :width] for key in ("image", "mask"))
        return self._refined(image, mask, match_colors)

    def _refined(self, image: torch.Tensor, mask: torch.Tensor, match_colors: bool) -> torch.Tensor:
        """All at once where that fits, else by halves; one image in parts."""
        pixels, budget = image.shape[2] * image.shape[3], self.settings.px_budget
        if pixels <= budget:
            filled = self._attempts.attempt(len(image), pixels, lambda: self._paint(image, mask, match_colors, budget))
            if filled is not None:
                self._count(len(image), plain=self._is_plain(image, budget))
                return filled
        if len(image) == 1:
            return self._in_parts(image, mask, match_colors)
        halves = zip(image.chunk(2), mask.chunk(2), strict=True)
        return torch.cat([self._refined(*half, match_colors) for half in halves])

    def _in_parts(self, image: torch.Tensor, mask: torch.Tensor, match_colors: bool) -> torch.Tensor:
        plain = []

        def paint(part: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
            pixels, budget = part[0, 0].numel(), int(self.settings.px_budget)

            def within(fewer: int) -> torch.Tensor:
                limit = fewer if fewer < pixels else budget
                painted = self._paint(part, hole, match_colors, limit)
                plain.append(self._is_plain(part, limit))
                return painted

            return self._attempts.shrink(min(pixels, budget), within)

        filled = fill_parts(image, mask, paint)
        self._count(1, plain=any(plain))
        return filled

    def _paint(self, image: torch.Tensor, mask: torch.Tensor, match_colors: bool, px_budget: float) -> torch.Tensor:
        height, width = image.shape[2:]
        if min(height, width) < self._least:
            image, mask = (padded(x, self.settings.modulo, self._least) for x in (image, mask))
        batch = {"image": image, "mask": mask, "unpad_to_size": image.shape[2:]}
        settings = {**vars(self.settings), "px_budget": px_budget}
        return refine_predict(batch, self, match_colors=match_colors, **settings)[:, :, :height, :width]

    def _is_plain(self, image: torch.Tensor, px_budget: float) -> bool:
        min_side, max_scales = self.settings.min_side, self.settings.max_scales
        return scales_of(*image.shape[2:], px_budget=px_budget, min_side=min_side, max_scales=max_scales) == 1

    def _count(self, n_images: int, *, plain: bool) -> None:
        self.n_images += n_images
        self.n_plain += n_images * plain


def share_limits(backend: Backend, ranks: Ranks, memory_gb: float | None = None) -> None:
    """Let all ranks decide the same about an image: what it may take becomes what rank 0 has measured.

    Those of a machine that compute on its CPUs have its memory together. memory_gb: the setting, which is kept.

    Raises:
        InputError: all ranks would refine on the same cards.
    """
    backend = backend.backend if isinstance(backend, EdgedBackend) else backend
    if ranks.count == 1:
        return
    if isinstance(backend, RefinementBackend) and gpus(backend.settings.gpu_ids):
        raise InputError(
            f"refiner.gpu_ids={backend.settings.gpu_ids}: each of {ranks.count} processes has a card of its own; leave "
            "it out, or start one process"
        )
    if isinstance(backend, NetworkBackend) and memory_gb is None:
        inpainter = backend.inpainter
        users = ranks.local_count if inpainter.device.type == "cpu" else 1
        inpainter.memory_gb = ranks.share(lambda: inpainter.memory_gb / users)


def warn_of_unrefined(backend: Backend, ranks: Ranks | None = None) -> None:
    """Warn, at the end of a run, of all images so far that have no coarser scale to be refined by.

    ranks: those that share the images; all of them call this.
    """
    backend = backend.backend if isinstance(backend, EdgedBackend) else backend
    if not isinstance(backend, RefinementBackend):
        return
    counts = (ranks or Ranks()).gather([backend.n_images, backend.n_plain])
    n_images, n_plain = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if not n_plain:
        return
    min_side = backend.settings.min_side
    reason = (
        f"an image, or the part around a hole, has a coarser scale where its shorter side is above "
        f"{math.floor(math.sqrt(2) * min_side)} pixels, refiner.min_side={min_side} times 1.41; lower refiner.min_side"
    )
    if backend.settings.max_scales == 1:
        reason = "refiner.max_scales=1 leaves no coarser scale; raise it"
    message = "refine=true: %d of %d images were filled without refinement, or parts of them: %s"
    LOGGER.warning(message, n_plain, n_images, reason)


class ArrayBackend(Protocol):
    """Fills an RGB image, float32 (3, H, W) in [0, 1], where its hole, bool (H, W), is true.

    The result is uint8 (H, W, 3), or uint16 if deep.
    """

    def __call__(
        self, image: np.ndarray, hole: np.ndarray, edge: EdgeSettings, *, deep: bool = False
    ) -> np.ndarray: ...


def load_array_backend(model: Mapping[str, Any], device: torch.device | str, **options: Any) -> ArrayBackend:
    """Load a function that fills one image after the other; options: of `load_backend`."""
    fill = _load(model, device, edge=EdgeSettings(), **options)
    if (channels := image_channels(fill)) != 3:
        raise InputError(f"model.path={model['path']}: it fills images of {channels} channels, not RGB; use predict")

    def fill_array(image: np.ndarray, hole: np.ndarray, edge: EdgeSettings, *, deep: bool = False) -> np.ndarray:
        batch: Batch = {
            "image": torch.from_numpy(image)[None],
            "mask": torch.from_numpy(hole)[None, None].float(),
            "unpad_to_size": hole.shape,
        }
        return Download(fill_with_edge(fill, batch, edge), deep=deep).pixels()[0]

    return fill_array
