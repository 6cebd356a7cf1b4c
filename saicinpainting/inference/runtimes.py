"""What runs exported files here, for the comparison at the end of an export."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from saicinpainting.inference.export_formats import Interface
from saicinpainting.utils import InputError

Run: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Image and mask to the filled image, as `ExportableInpainter.forward`."""


@dataclass(frozen=True)
class Runtime:
    """Something that runs files of a kind.

    Args:
        name: as in reports.
        package: the module that it needs; None: PyTorch.
        load: a file to its `Run`.
    """

    name: str
    load: Callable[[Path], Run]
    package: str | None = None

    def installed(self) -> bool:
        return self.package is None or importlib.util.find_spec(self.package) is not None


def in_unit_range(run: Run, interface: Interface) -> Run:
    """`run` of a file with `interface`, for RGB images and results in [0, 1]."""

    def in_rgb(image: Tensor, mask: Tensor) -> Tensor:
        if interface.bgr:
            image = image.flip(1)
        filled = run(image, mask)
        filled = filled / 255 if interface.levels else filled
        return filled.flip(1) if interface.bgr else filled

    return in_rgb


def _torchscript(path: Path) -> Run:
    return torch.no_grad()(torch.jit.load(str(path)))


def _torch_export(path: Path) -> Run:
    return torch.no_grad()(torch.export.load(io.BytesIO(path.read_bytes())).module())


def _onnx_runtime(path: Path) -> Run:
    from saicinpainting.inference.onnx import onnx_session

    session = onnx_session(path, "cpu")
    return lambda image, mask: torch.from_numpy(session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0])


def _openvino(path: Path) -> Run:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # half precision by itself where the processor has units for it
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
    return lambda image, mask: torch.from_numpy(compiled({"image": image.numpy(), "mask": mask.numpy()})[0])


def _opencv(path: Path, engine: str) -> Run:
    import cv2

    choice = [getattr(cv2.dnn, engine)] if hasattr(cv2.dnn, engine) else []
    if not choice and engine != "ENGINE_CLASSIC":
        raise InputError(f"OpenCV {cv2.__version__} has the classic engine only")
    with _quiet_opencv():
        net = cv2.dnn.readNetFromONNX(str(path), *choice)

    def run(image: Tensor, mask: Tensor) -> Tensor:
        with _quiet_opencv():
            net.setInput(image.numpy(), "image")
            net.setInput(mask.numpy(), "mask")
            return torch.from_numpy(np.array(net.forward()))

    return run


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Without its own lines on what it cannot do, which comes as an exception too."""
    from cv2.utils import logging

    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


RUNTIMES: Mapping[str, Sequence[Runtime]] = {
    "onnx": [
        Runtime("ONNX Runtime", _onnx_runtime, "onnxruntime"),
        Runtime("OpenVINO", _openvino, "openvino"),
        Runtime("OpenCV, classic engine", lambda path: _opencv(path, "ENGINE_CLASSIC"), "cv2"),
        Runtime("OpenCV, new engine", lambda path: _opencv(path, "ENGINE_NEW"), "cv2"),
    ],
    "torchscript": [Runtime("PyTorch", _torchscript)],
    "torch_export": [Runtime("PyTorch", _torch_export)],
}
"""By kind of file; the first decides on an export, the others are told of."""
