"""Running ONNX files: exported here, or others that fill images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from saicinpainting.inference.tiling import fill_parts, resize_to_fit
from saicinpainting.io.device import pick_device
from saicinpainting.io.images import mirrored, padded
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


def refuse_matching(file: str) -> NoReturn:
    raise InputError(
        f"mask.match_colors=true: {file} is an ONNX file, which does not say what it painted around the hole; leave "
        "mask.match_colors out"
    )


class OnnxInpainter:
    """Fills batches with an ONNX file: one of `bin/export.py`, or another of an image and a mask to an image.

    Of others, inputs are told by their channels (3 and 1), so names and order are free. They may have a fixed size:
    smaller images are mirrored up to it, larger ones are filled in parts around their holes. Their results may be
    in 0 to 255: a file without this program's metadata is tried once, on white, whose known part tells.

    Raises:
        InputError: the file wants something else; it says what.
    """

    def __init__(self, path: Path, device: torch.device | str | None = "auto") -> None:
        self.path, self.session = path, onnx_session(path, device)
        self.image, self.mask = self._inputs()
        about: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.modulo = int(about.get("size_multiple", 8))
        self.min_size = int(about.get("min_size", 8))
        batch, channels, height, width = self.image.shape
        self.image_channels = channels if isinstance(channels, int) else 3
        self.batch = batch if isinstance(batch, int) else None
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        # Files of this program say what their results are in; those of its first versions were in [0, 1].
        known = "size_multiple" in about
        self.bgr = about.get("channels") == "BGR"
        self.range = float(about.get("result_max", 1)) if known else self._range_of_results()

    def _inputs(self) -> tuple[Any, Any]:
        """The nodes of image and mask."""
        nodes = self.session.get_inputs()
        by_channels = {node.shape[1]: node for node in nodes if len(node.shape) == 4}
        floats = all(node.type == "tensor(float)" for node in nodes)
        if len(nodes) == 2 and floats and by_channels.keys() == {3, 1}:
            return by_channels[3], by_channels[1]
        named = {node.name: node for node in nodes}
        if floats and named.keys() == {"image", "mask"} and all(len(node.shape) == 4 for node in nodes):
            image, mask = named["image"], named["mask"]
            colours, holes = (
                node.shape[1] if isinstance(node.shape[1], int) else usual for node, usual in ((image, 3), (mask, 1))
            )
            if colours <= 4 and holes == 1:
                return image, mask
        found = ", ".join(f"{node.name} {node.type} {tuple(node.shape)}" for node in nodes)
        raise InputError(
            f"{self.path}: expected a file that takes an image, float (batch, 3, height, width), and a mask, float "
            f"(batch, 1, height, width); this one takes {found}"
        )

    def _range_of_results(self) -> float:
        """255 or 1: what white comes out as."""
        height, width = self.size or (max(64, self.min_size), max(64, self.min_size))
        batch = self.batch or 1
        mask = np.zeros((batch, 1, height, width), np.float32)
        mask[:, :, height // 2 :, width // 2 :] = 1
        result = self._run(np.ones((batch, self.image_channels, height, width), np.float32), mask)
        return 255.0 if np.abs(result).max() > 2 else 1.0

    def _run(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        output = self.session.get_outputs()[0].name
        try:
            result = self.session.run([output], {self.image.name: image, self.mask.name: mask})[0]
        except Exception as error:  # it raises types of its own
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.path}: it cannot fill {image.shape[3]}x{image.shape[2]} pixels ({reason})"
            ) from error
        if result.shape != image.shape:
            raise InputError(f"{self.path}: expected a result {image.shape}, as the image is, got {result.shape}")
        return np.asarray(result, np.float32)

    def __call__(self, batch: Mapping[str, Any], *, match_colors: bool = False) -> Tensor:
        return self.fill_batch(batch, match_colors=match_colors)

    def fill_batch(self, batch: Mapping[str, Any], *, match_colors: bool = False) -> Tensor:
        """The filled images, (B, C, H, W) on the CPU, of a batch: `image` and `mask`."""
        if match_colors:
            refuse_matching(str(self.path))
        image, mask = batch["image"].float(), (batch["mask"] > 0).float()
        if self.batch is None and self.size is None:
            filled = self._painted(image, mask)
        else:
            filled = torch.cat([self._one(*one) for one in zip(image.split(1), mask.split(1), strict=True)])
        return torch.where(mask > 0, filled, image)

    def _one(self, image: Tensor, mask: Tensor) -> Tensor:
        height, width = image.shape[2:]
        if self.size is None or (height <= self.size[0] and width <= self.size[1]):
            return self._painted(image, mask)
        return fill_parts(image, mask, self._part)

    def _part(self, image: Tensor, mask: Tensor) -> Tensor:
        """A part of an image, smaller where it is larger than the file's size."""
        assert self.size is not None
        height, width = image.shape[2:]
        scale = min(1.0, self.size[0] / height, self.size[1] / width)
        return self._painted(*resize_to_fit(image, mask, int(height * width * scale**2)))

    def _painted(self, image: Tensor, mask: Tensor) -> Tensor:
        """What the file makes of images that are not larger than its size."""
        count, _, height, width = image.shape
        if self.size is None:
            inputs = [padded(x, self.modulo, self.min_size) for x in (image, mask)]
        else:
            inputs = [mirrored(x, *self.size) for x in (image, mask)]
        if self.batch is not None:
            inputs = [x.expand(self.batch, -1, -1, -1) for x in inputs]
        if self.bgr:
            inputs[0] = inputs[0].flip(1)
        result = torch.from_numpy(self._run(*(x.contiguous().numpy() for x in inputs)))
        result = result[:count, :, :height, :width] / self.range
        return result.flip(1) if self.bgr else result
