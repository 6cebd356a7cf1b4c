"""Exports against the model, by other runtimes and at other sizes than they were made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from saicinpainting.inference import export as module
from saicinpainting.inference import runtimes
from saicinpainting.inference.export import ExportableInpainter, export
from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.onnx import OnnxInpainter
from saicinpainting.inference.runtimes import Runtime
from saicinpainting.networks.inputs import GeneratorInput
from saicinpainting.utils import InputError
from tests.disks import largest_file
from tests.helpers import rand
from tests.samples import generator, pretend_to

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES = ((1, 256, 256), (3, 256, 256), (1, 512, 768), (3, 1000, 600))


@pytest.fixture(scope="module")
def model() -> ExportableInpainter:
    return ExportableInpainter(fold(generator("lama-fourier"))).eval()


@pytest.fixture(scope="module")
def onnx_file(model: ExportableInpainter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "lama.onnx"
    assert export(model, path, sizes=SIZES[:1]) < 1e-4
    return path


def inputs(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(batch, 1, height, width)
    mask[:, :, height // 3 : height // 2, 40:90] = 1
    return rand(batch, batch, 3, height, width), mask


@pytest.mark.parametrize("size", SIZES)
def test_onnx_runtime_gives_the_models_results(model: ExportableInpainter, onnx_file: Path, size: Any) -> None:
    image, mask = inputs(*size)
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    (result,) = session.run(["inpainted"], {"image": image.numpy(), "mask": mask.numpy()})
    with torch.no_grad():
        expected = model(image, mask)
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-4)


def test_a_network_of_larger_multiples_is_compared_at_sizes_that_it_takes(tmp_path: Path) -> None:
    for override in ("generator.n_downsampling=4", "generator.resnet_conv_kwargs.enable_lfu=true"):
        network = fold(generator("lama-fourier", "generator.ngf=16", "generator.n_blocks=1", override))
        assert export(ExportableInpainter(network).eval(), tmp_path / "lama.pt") < 1e-4


def test_the_coordinates_of_the_spectrum_are_those_of_the_size_at_hand(tmp_path: Path) -> None:
    override = "+generator.resnet_conv_kwargs.spectral_pos_encoding=true"
    model = ExportableInpainter(fold(generator("lama-fourier", "generator.n_blocks=1", override))).eval()
    assert export(model, tmp_path / "lama.onnx", sizes=[(1, 64, 72), (2, 96, 128)]) < 1e-4


def test_openvino_gives_the_models_results(model: ExportableInpainter, onnx_file: Path) -> None:
    pytest.importorskip("openvino")
    assert module.largest_difference(model, runtimes._openvino(onnx_file), SIZES).difference < 1e-4


def test_the_onnx_file_has_no_fourier_operator_and_tells_of_itself(onnx_file: Path) -> None:
    proto = onnx.load(onnx_file)
    assert not {node.op_type for node in proto.graph.node} & {"DFT", "STFT"}
    assert {node.op_type for node in proto.graph.node} >= {"Conv", "MatMul"}
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert about["size_multiple"] == "8"
    assert "1 = hole" in about["mask"]
    assert [node.name for node in proto.graph.input] == ["image", "mask"]
    free = [
        [d.dim_param for d in node.type.tensor_type.shape.dim] for node in (*proto.graph.input, *proto.graph.output)
    ]
    assert free == [["batch", "", "height", "width"]] * 3


def test_an_onnx_file_fills_images_of_any_size(model: ExportableInpainter, onnx_file: Path) -> None:
    image, mask = inputs(2, 101, 93)
    filled = OnnxInpainter(onnx_file).fill_batch({"image": image, "mask": mask})
    assert torch.equal(filled[mask.expand_as(image) == 0], image[mask.expand_as(image) == 0])


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_torchscript_and_torch_export(model: ExportableInpainter, tmp_path: Path, ending: str) -> None:
    path, extra = tmp_path / f"lama{ending}", {"metadata.json": ""}
    assert export(model, path, sizes=SIZES[:1]) < 1e-4
    if ending == ".pt":
        loaded: Any = torch.jit.load(path, _extra_files=extra)
        limits = ("1 or more", "multiples of 8, 16 or more")
    else:
        loaded = torch.export.load(path, extra_files=extra).module()
        limits = ("1 to 64", "multiples of 8, 16 to 8192")
    about = json.loads(extra["metadata.json"])
    assert (about["batch"], about["height"]) == limits
    assert about["width"] == about["height"]
    for size in ((2, 264, 312), (1, 128, 80)):
        with torch.no_grad():
            torch.testing.assert_close(loaded(*inputs(*size)), model(*inputs(*size)), atol=1e-4, rtol=0)
    if ending == ".pt":
        _assert_no_device(loaded)
    else:
        _assert_runs_on_a_gpu(loaded)


def _assert_no_device(script: Any) -> None:
    graph = script.inlined_graph
    values = [node.output().toIValue() for node in graph.findAllNodes("prim::Constant")]
    assert values
    for value in values:
        assert not isinstance(value, torch.device)
        assert not (isinstance(value, torch.Tensor) and value.dim())  # numbers go with any device


def _assert_runs_on_a_gpu(network: torch.nn.Module) -> None:
    """PyTorch's fake one, which is as strict about devices as a real one."""
    gpu = torch.device("cuda", 0)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        image, mask = (torch.zeros(3, channels, 128, 80, device=gpu) for channels in (3, 1))
        assert pretend_to(network, gpu)(image, mask).device == gpu


def test_an_export_that_computes_something_else_is_no_file(
    model: ExportableInpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Runtime("wrong", lambda path: lambda *x: model(*x) + 0.01)
    monkeypatch.setattr(module, "RUNTIMES", {"torchscript": [wrong]})
    with pytest.raises(InputError, match=r"lama\.pt: the export differs from the model by 0\.01, more than 0\.001"):
        export(model, tmp_path / "lama.pt", sizes=((1, 64, 128),))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_export_leaves_the_old_one(tmp_path: Path) -> None:
    """TorchScript's own writer ends the process."""
    network = torch.nn.Conv2d(4, 3, 1)
    network.size_multiple, network.min_size = 8, 8  # type: ignore[assignment]
    path = tmp_path / "lama.pt"
    path.write_text("old")
    with largest_file(300), pytest.raises(OSError, match=r"File too large: .*lama\.pt"):
        export(ExportableInpainter(network).eval(), path, sizes=SIZES[:1])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, "old")]


def test_unknown_kinds_and_broken_files_are_named(model: ExportableInpainter, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"lama\.tflite: unknown kind of export '\.tflite'; known: .*; name OUT \.onnx, \.pt or \.pt2$"
    ):
        export(model, tmp_path / "lama.tflite")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        OnnxInpainter(tmp_path / "broken.onnx")


@pytest.mark.parametrize("ending", [".onnx", ".pt"])
def test_a_network_of_one_channel_is_exported(tmp_path: Path, ending: str) -> None:
    grey = generator("lama-fourier", "generator.input_nc=2", "generator.output_nc=1")
    model = ExportableInpainter(fold(grey), GeneratorInput(image_channels=1)).eval()
    path = tmp_path / f"grey{ending}"
    assert export(model, path, sizes=[(1, 64, 96)]) < 1e-4
    image, mask = inputs(2, 64, 96)
    if ending == ".onnx":
        reader = OnnxInpainter(path)
        assert reader.image_channels == 1
        with torch.no_grad():
            expected = model(image[:, :1], mask)
        torch.testing.assert_close(reader({"image": image[:, :1], "mask": mask}), expected, rtol=0, atol=1e-4)
        with pytest.raises(InputError, match=r"interface=carve: .* this network's have 1 channels"):
            export(model, path, interface="carve")
