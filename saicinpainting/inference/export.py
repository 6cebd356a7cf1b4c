"""Exports: ONNX, TorchScript and torch.export, each compared with the model before the file counts as written."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.io.files import naming
from saicinpainting.networks.fourier import set_fft_backend
from saicinpainting.networks.inputs import GeneratorInput, blend
from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
Run = Callable[[Tensor, Tensor], Tensor]
"""Image and mask to the filled image, as `ExportableInpainter.forward`."""
INPUTS, OUTPUT = ("image", "mask"), "inpainted"
CHECKED_SIZES = ((1, 256, 256), (3, 256, 256), (1, 512, 768), (1, 1000, 600))
"""Batch, height and width of the images on which an export is compared."""
TOLERANCE = 1e-3
LARGEST_BATCH, LARGEST_SIDE = 64, 8192
"""What torch.export is promised; its files refuse more."""
OPSET = 18


class ExportableInpainter(nn.Module):
    """`forward(image, mask)`: the filled image.

    image: float32 (B, 3, H, W) in [0, 1]; mask: (B, 1, H, W), 1 = hole; H and W multiples of `multiple`. No Fourier
    operator is left: transforms are products with matrices that are made from the sizes.
    """

    def __init__(self, network: nn.Module, generator_input: GeneratorInput | None = None) -> None:
        super().__init__()
        self.network, self.generator_input = network, generator_input or GeneratorInput()
        self.multiple, self.min_size = int(network.size_multiple), int(network.min_size)  # type: ignore[arg-type]
        set_fft_backend(network, "products")

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return blend(self.network(self.generator_input(image, mask)), image, mask)


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
    sizes: Sequence[tuple[int, int, int]] = CHECKED_SIZES,
    tolerance: float = TOLERANCE,
) -> float:
    """Write `model` to `out` and return the largest difference from it.

    kind: `onnx`, `torchscript` or `torch_export`; None: by the ending, .onnx, .pt or .pt2. Batch, height and width are
    free within what the file's metadata say, and so is the device. The file appears when it has given the model's
    results at all `sizes`, on the CPU; ONNX in OpenVINO too, if installed.

    Raises:
        InputError: an unknown kind, a package that is missing, or an export that computes something else.
    """
    kind = kind or {".onnx": "onnx", ".pt": "torchscript", ".pt2": "torch_export"}.get(out.suffix, out.suffix)
    if kind not in EXPORTERS:
        raise InputError(f"{out}: unknown kind of export {kind!r}; {did_you_mean(kind, EXPORTERS)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part.{out.name}")
    try:
        with warnings.catch_warnings(), torch.no_grad(), naming(out):
            warnings.simplefilter("ignore")  # exporters warn of what the comparison checks
            EXPORTERS[kind](model, part)
        difference = max(largest_difference(model, load(part), sizes) for load in LOADERS[kind])
        if not difference <= tolerance:
            raise InputError(f"{out}: the export differs from the model by {difference:.2g}, more than {tolerance:.2g}")
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return difference


def largest_difference(model: nn.Module, other: Run, sizes: Sequence[tuple[int, int, int]]) -> float:
    """Over random images (batch, height, width) with a box-shaped hole."""
    differences = []
    for batch, height, width in sizes:
        generator = torch.Generator().manual_seed(batch * height + width)
        image, mask = torch.rand(batch, 3, height, width, generator=generator), torch.zeros(batch, 1, height, width)
        mask[:, :, height // 4 : height // 2, width // 3 : width // 2] = 1
        with torch.no_grad():
            expected = model(image, mask)
        got = other(image, mask)
        if got.shape != expected.shape:
            return float("inf")
        differences.append((got - expected).abs().max().item())
        LOGGER.info("%d x %d x %d: largest difference %.2g", batch, height, width, differences[-1])
    return max(differences)


# ---- kinds ---------------------------------------------------------------------------------------------------------


def metadata(model: ExportableInpainter, *, bounded: bool = False) -> dict[str, str]:
    """What a file says of itself; bounded: it refuses what is above LARGEST_BATCH and LARGEST_SIDE."""
    least = -(-model.min_size // model.multiple) * model.multiple
    sides = f"multiples of {model.multiple}, {least} " + (f"to {LARGEST_SIDE}" if bounded else "or more")
    return {
        "image": "float32 (batch, 3, height, width), RGB in [0, 1]",
        "mask": "float32 (batch, 1, height, width), 1 = hole, 0 = known",
        "inpainted": "float32 (batch, 3, height, width), RGB in [0, 1]; known pixels are those of the image",
        "batch": f"1 to {LARGEST_BATCH}" if bounded else "1 or more",
        "height": sides,
        "width": sides,
        "size_multiple": str(model.multiple),
        "min_size": str(model.min_size),
    }


def _example(model: ExportableInpainter) -> tuple[Tensor, Tensor]:
    # Other numbers than any constant of the network, so that no size is taken for one.
    height, width = 11 * model.multiple, 13 * model.multiple
    mask = torch.zeros(2, 1, height, width)
    mask[:, :, 20:60, 30:70] = 1
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)), mask


def _dynamic_shapes(model: ExportableInpainter) -> dict[str, dict[int, Any]]:
    least, most = -(-model.min_size // model.multiple), LARGEST_SIDE // model.multiple
    height, width = (model.multiple * torch.export.Dim(name, min=least, max=most) for name in ("rows", "columns"))
    shape = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH), 2: height, 3: width}
    return dict.fromkeys(INPUTS, shape)


def _to_program(model: ExportableInpainter) -> torch.export.ExportedProgram:
    program = torch.export.export(model, _example(model), dynamic_shapes=_dynamic_shapes(model), strict=False)
    for node in list(program.graph.nodes):  # they assert the device that the export was made on
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _to_onnx(model: ExportableInpainter, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError as error:
        raise InputError(f"ONNX export needs onnx and onnxscript: pip install onnx onnxscript ({error})") from None
    names: Any = {"input_names": list(INPUTS), "output_names": [OUTPUT]}
    program: Any = torch.onnx.export(_to_program(model), **names, opset_version=OPSET, dynamo=True, verbose=False)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata(model))
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _to_torchscript(model: ExportableInpainter, path: Path) -> None:
    traced: Any = torch.jit.trace(model, _example(model), check_trace=False)
    # By way of Python's files: torch's own end the process where the disk is full.
    with path.open("wb") as file:
        torch.jit.save(traced, file, _extra_files={"metadata.json": json.dumps(metadata(model))})


def _to_torch_export(model: ExportableInpainter, path: Path) -> None:
    file, about = io.BytesIO(), json.dumps(metadata(model, bounded=True))
    torch.export.save(_to_program(model), file, extra_files={"metadata.json": about})
    path.write_bytes(file.getbuffer())


def _load_onnx(path: Path) -> Run:
    from saicinpainting.inference.onnx import onnx_session

    session = onnx_session(path, "cpu")
    return lambda image, mask: torch.from_numpy(
        session.run([OUTPUT], {"image": image.numpy(), "mask": mask.numpy()})[0]
    )


def _load_openvino(path: Path) -> Run:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}  # half precision by itself where the processor has units for it
    compiled = openvino.Core().compile_model(str(path), "CPU", hint)
    return lambda image, mask: torch.from_numpy(compiled({"image": image.numpy(), "mask": mask.numpy()})[0])


EXPORTERS: Mapping[str, Callable[[ExportableInpainter, Path], None]] = {
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
    "torch_export": _to_torch_export,
}
LOADERS: Mapping[str, Sequence[Callable[[Path], Run]]] = {
    "onnx": [_load_onnx, *([_load_openvino] if importlib.util.find_spec("openvino") else [])],
    "torchscript": [lambda path: torch.no_grad()(torch.jit.load(str(path)))],
    "torch_export": [lambda path: torch.no_grad()(torch.export.load(io.BytesIO(path.read_bytes())).module())],
}
"""What runs a file of each kind here."""
