"""What exports are written as: interfaces, metadata, and a writer for each kind of file."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from saicinpainting.networks.dft import constant_matrices
from saicinpainting.utils import InputError

if TYPE_CHECKING:
    from saicinpainting.inference.export import ExportableInpainter

Size: TypeAlias = tuple[int, int]
"""Height and width."""
INPUTS = ("image", "mask")
LARGEST_BATCH, LARGEST_SIDE = 64, 8192
"""What torch.export is promised; its files refuse more."""
OPSET = 18


@dataclass(frozen=True)
class Interface:
    """How a file takes images and gives results; the inputs are called `image`, in [0, 1], and `mask`, 1 = hole.

    Args:
        output: name of the result.
        levels: the result is in whole numbers from 0 to 255; else in [0, 1].
        bgr: channels of image and result are blue, green, red.
    """

    output: str = "inpainted"
    levels: bool = False
    bgr: bool = False


INTERFACES: Mapping[str, Interface] = {
    "default": Interface(),
    # lama_fp32.onnx of Carve/LaMa-ONNX, which most programs around ONNX Runtime were written for.
    "carve": Interface("output", levels=True),
    # models/inpainting_lama of OpenCV's model zoo, samples/dnn/inpainting of OpenCV: what cv2.imread gives, as it is.
    "opencv": Interface("output", levels=True, bgr=True),
}


def metadata(model: ExportableInpainter, *, size: Size | None = None, bounded: bool = False) -> dict[str, str]:
    """What a file says of itself; bounded: it refuses what is above LARGEST_BATCH and LARGEST_SIDE."""
    least = -(-model.min_size // model.multiple) * model.multiple
    sides = f"multiples of {model.multiple}, {least} " + (f"to {LARGEST_SIDE}" if bounded else "or more")
    interface = model.interface
    count = model.generator_input.image_channels
    channels = "BGR" if interface.bgr else {1: "grey", 2: "grey and alpha", 3: "RGB", 4: "RGBA"}.get(count, str(count))
    values = f"{channels}, whole numbers 0 to 255" if interface.levels else f"{channels} in [0, 1]"
    return {
        "image": f"float32 (batch, {count}, height, width), {channels} in [0, 1]",
        "mask": "float32 (batch, 1, height, width), 1 = hole, 0 = known",
        interface.output: f"float32 (batch, {count}, height, width), {values}; known pixels are those of the image",
        "batch": "1" if size else f"1 to {LARGEST_BATCH}" if bounded else "1 or more",
        "height": str(size[0]) if size else sides,
        "width": str(size[1]) if size else sides,
        "other_sizes": "continue image and mask by their mirror images to the right and the bottom, crop the result",
        "size_multiple": str(model.multiple),
        "min_size": str(model.min_size),
        "result_max": "255" if interface.levels else "1",
        "channels": channels,
    }


def _example(model: ExportableInpainter, size: Size | None) -> tuple[Tensor, Tensor]:
    # Other numbers than any constant of the network, so that no free size is taken for one.
    batch, height, width = (1, *size) if size else (2, 11 * model.multiple, 13 * model.multiple)
    mask = torch.zeros(batch, 1, height, width)
    mask[:, :, height // 4 : height // 2, width // 3 : width // 2] = 1
    shape = (batch, model.generator_input.image_channels, height, width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)), mask


def _dynamic_shapes(model: ExportableInpainter) -> dict[str, dict[int, Any]]:
    least, most = -(-model.min_size // model.multiple), LARGEST_SIDE // model.multiple
    height, width = (model.multiple * torch.export.Dim(name, min=least, max=most) for name in ("rows", "columns"))
    shape = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH), 2: height, 3: width}
    return dict.fromkeys(INPUTS, shape)


def _to_program(model: ExportableInpainter, size: Size | None) -> torch.export.ExportedProgram:
    example = _example(model, size)
    if size:
        with constant_matrices():
            model(*example)
            program = torch.export.export(model, example, strict=False)
    else:
        program = torch.export.export(model, example, dynamic_shapes=_dynamic_shapes(model), strict=False)
    for node in list(program.graph.nodes):  # they assert the device that the export was made on
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _to_onnx(model: ExportableInpainter, path: Path, size: Size | None) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch needs it
    except ImportError as error:
        raise InputError(f"ONNX export needs onnx and onnxscript: pip install onnx onnxscript ({error})") from None
    names: Any = {"input_names": list(INPUTS), "output_names": [model.interface.output]}
    program: Any = torch.onnx.export(_to_program(model, size), **names, opset_version=OPSET, dynamo=True, verbose=False)
    proto = program.model_proto
    if size:
        _name_constants_apart(proto.graph)
    else:
        _name_dimensions(proto.graph)
    onnx.helper.set_model_props(proto, metadata(model, size=size))
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _name_dimensions(graph: Any) -> None:
    """Call the free dimensions batch, height and width, where torch has names such as `8*s30`."""
    for value in (*graph.input, *graph.output):
        for index, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[index].dim_param = name
    del graph.value_info[:]  # which holds torch's names; runtimes infer it again


def _name_constants_apart(graph: Any) -> None:
    """Give matrices that several products share a name for each: OpenCV's classic engine makes layers of them."""
    import onnx

    constants = {tensor.name for tensor in graph.initializer}
    uses: Counter[str] = Counter()
    nodes = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[0] in constants:
            name = node.input[0]
            uses[name] += 1
            node.input[0] = f"{name}.{uses[name]}"
            nodes.append(onnx.helper.make_node("Identity", [name], [node.input[0]], name=f"node_{node.input[0]}"))
        nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]  # deleted below, if not copied
    del graph.node[:]
    graph.node.extend(nodes)


def _to_torchscript(model: ExportableInpainter, path: Path, size: Size | None) -> None:
    # Traced from the program, a fixed size has numbers for sizes, which converters of TorchScript ask for.
    traceable: Any = _to_program(model, size).module() if size else model
    traced: Any = torch.jit.trace(traceable, _example(model, size), check_trace=False)
    # By way of Python's files: torch's own end the process where the disk is full.
    with path.open("wb") as file:
        torch.jit.save(traced, file, _extra_files={"metadata.json": json.dumps(metadata(model, size=size))})


def _to_torch_export(model: ExportableInpainter, path: Path, size: Size | None) -> None:
    file, about = io.BytesIO(), json.dumps(metadata(model, size=size, bounded=True))
    torch.export.save(_to_program(model, size), file, extra_files={"metadata.json": about})
    path.write_bytes(file.getbuffer())


EXPORTERS: Mapping[str, Callable[[ExportableInpainter, Path, Size | None], None]] = {
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
    "torch_export": _to_torch_export,
}
