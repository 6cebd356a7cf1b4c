"""Running an exported ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saicinpainting.inference.padding import padded
from saicinpainting.utils import InputError


def onnx_session(path: Path) -> Any:
    """An ONNX Runtime session, on the GPU if the installed package knows one."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: running ONNX files needs ONNX Runtime: pip install onnxruntime") from None
    try:
        return onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # it raises types of its own for files that are missing, broken or too new
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: ONNX Runtime cannot load it ({reason})") from error


class OnnxInpainter:
    """Fills batches with a file of `bin/export.py`: `image` (B, 3, H, W), `mask` (B, 1, H, W), any size."""

    def __init__(self, path: Path) -> None:
        self.session = onnx_session(path)
        names = {node.name for node in self.session.get_inputs()}
        if names != {"image", "mask"}:
            raise InputError(f"{path}: expected the inputs image and mask, found {', '.join(sorted(names))}")
        about: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.modulo = int(about.get("size_multiple", 8))
        self.min_size = int(about.get("min_size", 8))

    def fill_batch(self, batch: Mapping[str, Any], out_key: str = "inpainted") -> Tensor:
        if out_key != "inpainted":
            raise InputError("out_key: an ONNX file gives the filled image alone, inpainted")
        image, mask = batch["image"].float(), (batch["mask"] > 0).float()
        height, width = image.shape[2:]
        inputs = {
            name: padded(x, self.modulo, self.min_size).contiguous().numpy()
            for name, x in (("image", image), ("mask", mask))
        }
        (result,) = self.session.run(["inpainted"], inputs)
        filled = torch.from_numpy(result)[:, :, :height, :width]
        return torch.where(mask > 0, filled, image)
