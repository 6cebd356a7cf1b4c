"""What fills batches of images: a trained network, plainly or with refinement, or an exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saicinpainting.config import read_experiment_config
from saicinpainting.evaluation.refinement import refine_predict, unpadded_size
from saicinpainting.evaluation.utils import dtype_of, pick_device
from saicinpainting.evaluation.writing import from_pixels, to_pixels
from saicinpainting.inference.high_resolution import fill_parts
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.padding import padded
from saicinpainting.training.modules.folding import fold as folded
from saicinpainting.training.trainers import load_checkpoint
from saicinpainting.utils import InputError, call_with_settings, check_known_keys

Batch = dict[str, Any]
FillBatch = Callable[[Batch], torch.Tensor]


def checkpoint_file(model: Mapping[str, Any]) -> Path:
    """The file that `path`, a run's folder, and `checkpoint` name."""
    return Path(model["path"]) / "models" / model["checkpoint"]


def load_filler(
    model: Mapping[str, Any],
    device: torch.device | str,
    *,
    out_key: str = "inpainted",
    refine: bool = False,
    refiner: Mapping[str, Any] | None = None,
    **options: Any,
) -> FillBatch:
    """What fills batches with the trained network of `model`.

    model: `path`, a run's folder, and `checkpoint`, a file of its `models/`. out_key: `inpainted`, or
    `predicted_image`, what the network painted everywhere. refine, refiner: feature refinement and its settings.
    options: of `Inpainter`; refinement follows `fold` and `precision` and takes no others. Images above the refiner's
    `px_budget` are refined part by part around their holes, as far as that does it at their own size.
    """
    if out_key not in ("inpainted", "predicted_image"):
        raise InputError(f"out_key: expected inpainted or predicted_image, got {out_key!r}")
    exported = checkpoint_file(model).suffix == ".onnx"
    if refine:
        if exported:
            raise InputError(
                f"refine=true: {model['checkpoint']} is an ONNX file, which cannot be refined; leave refine out, or "
                "set model.checkpoint to what it was exported from"
            )
        if out_key != "inpainted":
            raise InputError(f"out_key={out_key}: refine=true gives inpainted only; leave out_key out")
        _refuse(options, "refine=true", but={"fold", "precision"})
        return _refining(model, pick_device(device), refiner or {}, **options)
    if exported:
        if out_key != "inpainted":
            raise InputError(f"out_key={out_key}: an ONNX file gives inpainted only; leave out_key out")
        _refuse(options, "an ONNX file")  # the file is folded as it was written
        from saicinpainting.inference.onnx_model import OnnxInpainter

        onnx = OnnxInpainter(checkpoint_file(model), device)
        return onnx.fill_batch
    inpainter = Inpainter.from_run(model["path"], model["checkpoint"], device=device, **options)
    return lambda batch: inpainter.fill_batch(batch, out_key)


def _refuse(options: Mapping[str, Any], whom: str, *, but: Set[str] = frozenset()) -> None:
    """An `InputError` for options that say something else than `Inpainter` does without them."""
    defaults = signature(Inpainter).parameters
    for name in options.keys() - but:
        if options[name] != defaults[name].default:
            key = "compile" if name == "compile_network" else name
            raise InputError(f"{key}={options[name]}: {whom} cannot follow it; leave {key} out")


def _refining(
    model: Mapping[str, Any],
    device: torch.device,
    refiner: Mapping[str, Any],
    *,
    fold: bool = True,
    precision: str = "fp32",
    **_: Any,
) -> FillBatch:
    config = read_experiment_config(model["path"])
    config.training_model.predict_only = True
    network: Any = load_checkpoint(config, checkpoint_file(model), strict=False)
    if network.batch_options.noise is not None or not network.concat_mask:
        raise InputError(
            "refine=true: refinement gives a network image and mask, but this one takes noise, or no mask; "
            "set refine=false"
        )
    if fold:
        network.generator = folded(network.generator)
    network.freeze()
    network.to(device)
    settings = {"inpainter": network, "precision": precision, **refiner}
    # What is wrong with the settings is wrong for every image: it must not look like images that cannot be filled.
    check_known_keys(settings, signature(refine_predict).parameters, where="refiner")
    dtype_of(precision)
    defaults = {name: setting.default for name, setting in signature(refine_predict).parameters.items()}
    budget, modulo = (int({**defaults, **settings}[key]) for key in ("px_budget", "modulo"))
    least = max(modulo, network.generator.min_size)

    def paint(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        if min(height, width) < least:
            image, mask = (padded(x, modulo, least) for x in (image, mask))
        batch = {"image": image, "mask": mask, "unpad_to_size": image.shape[2:]}
        return call_with_settings(refine_predict, {"batch": batch, **settings}, where="refiner")[:, :, :height, :width]

    def fill(batch: Batch) -> torch.Tensor:
        height, width = unpadded_size(batch)
        image, mask = (batch[key][:, :, :height, :width] for key in ("image", "mask"))
        if height * width <= budget:
            return paint(image, mask)
        pairs = zip(image.split(1), mask.split(1), strict=True)
        return torch.cat([fill_parts(one, hole, paint) for one, hole in pairs])

    return fill


def array_filler(
    model: Mapping[str, Any], device: torch.device | str, **options: Any
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What fills a uint8 image (H, W, 3) where its mask (H, W) is not 0; options: those of `load_filler`."""
    fill = load_filler(model, device, **options)

    def fill_array(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        hole = mask > 0
        batch: Batch = {
            "image": from_pixels(image)[None],
            "mask": torch.from_numpy(hole)[None, None].float(),
            "unpad_to_size": image.shape[:2],
        }
        return np.where(hole[..., None], to_pixels(fill(batch)[0]), image)

    return fill_array
