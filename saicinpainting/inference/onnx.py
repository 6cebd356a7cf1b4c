"""Running an exported ONNX file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saicinpainting.io.device import pick_device
from saicinpainting.io.images import padded
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What runs a file on torch's kinds of devices."""


def onnx_session(path: Path, device: torch.device | str | None) -> Any:
    """An ONNX Runtime session on `device`; `auto`: on what `pick_device` picks if ONNX Runtime has it, else the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: running ONNX files needs ONNX Runtime: pip install onnxruntime") from None
    picked = pick_device(device)
    here = onnxruntime.get_available_providers()
    provider = PROVIDERS.get(picked.type)
    if provider not in here:
        if device not in (None, "auto"):
            raise InputError(
                f"device={picked}: ONNX Runtime has only {', '.join(here)} here; set device=cpu, or "
                "pip install onnxruntime-gpu in place of onnxruntime for an NVIDIA GPU"
            )
        LOGGER.warning("%s: filled on the CPU, for ONNX Runtime has nothing for %s here", path, picked.type)
        provider = PROVIDERS["cpu"]
    providers: list[Any] = [PROVIDERS["cpu"]]
    if provider != PROVIDERS["cpu"]:  # what the GPU cannot do, the CPU does
        providers.insert(0, (provider, {"device_id": picked.index or 0}))
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # it raises types of its own for files that are missing, broken or too new
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: ONNX Runtime cannot load it ({reason})") from error
    if provider not in session.get_providers():  # it goes on without libraries that it does not find
        raise InputError(f"device={picked}: ONNX Runtime cannot start {provider}, see above; set device=cpu")
    return session


class OnnxInpainter:
    """Fills batches with a file of `bin/export.py`: `image` (B, 3, H, W), `mask` (B, 1, H, W), any size, whole."""

    def __init__(self, path: Path, device: torch.device | str | None = "auto") -> None:
        self.session = onnx_session(path, device)
        names = {node.name for node in self.session.get_inputs()}
        if names != {"image", "mask"}:
            raise InputError(f"{path}: expected the inputs image and mask, found {', '.join(sorted(names))}")
        about: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.modulo = int(about.get("size_multiple", 8))
        self.min_size = int(about.get("min_size", 8))

    def fill_batch(self, batch: Mapping[str, Any]) -> Tensor:
        """The filled images, (B, 3, H, W) on the CPU, of a batch: `image` and `mask`."""
        image, mask = batch["image"].float(), (batch["mask"] > 0).float()
        height, width = image.shape[2:]
        inputs = {
            name: padded(x, self.modulo, self.min_size).contiguous().numpy()
            for name, x in (("image", image), ("mask", mask))
        }
        (result,) = self.session.run(["inpainted"], inputs)
        filled = torch.from_numpy(result)[:, :, :height, :width]
        return torch.where(mask > 0, filled, image)
