"""Exports for programs of others: fixed sizes, half precision, and the interfaces of the public ONNX files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from saicinpainting.inference import export as module
from saicinpainting.inference.export import ExportableInpainter, export
from saicinpainting.inference.export_formats import INTERFACES
from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.onnx import OnnxInpainter
from saicinpainting.inference.runtimes import Runtime
from saicinpainting.networks.dft import constant_matrices, rfft2
from saicinpainting.utils import InputError
from tests.helpers import photo
from tests.samples import generator

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (96, 128)


@pytest.fixture(scope="module")
def model() -> ExportableInpainter:
    return ExportableInpainter(fold(generator("lama-fourier"))).eval()


@pytest.fixture(scope="module")
def files(model: ExportableInpainter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    made = {name: folder / f"{name}.onnx" for name in (*INTERFACES, "half")}
    for name in INTERFACES:
        export(model, made[name], interface=name, size=SIZE)
    export(model, made["half"], size=SIZE, precision="fp16")
    return made


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, np.ndarray]:
    """RGB (H, W, 3) and mask (H, W), uint8."""
    mask = np.zeros(SIZE, np.uint8)
    mask[20:60, 30:90] = 255
    return photo("coffee.png", SIZE[1], 3)[: SIZE[0]].copy(), mask


@pytest.fixture(scope="module")
def expected(model: ExportableInpainter, picture: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """What the model makes of it, as a file of 8 bits has it."""
    image, mask = as_tensors(*picture)
    with torch.no_grad():
        filled = model(image, mask)[0]
    return (255 * filled).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()


def as_tensors(pixels: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return image, (torch.from_numpy(mask) > 0).float()[None, None]


def assert_within_a_level(got: np.ndarray, expected: np.ndarray, mask: np.ndarray) -> None:
    difference = np.abs(got.astype(int) - expected.astype(int))
    assert difference[mask == 0].max() == 0
    assert difference.max() <= 1


def test_a_fixed_size_is_computed_beforehand(files: dict[str, Path]) -> None:
    proto = onnx.load(files["default"])
    assert {n.op_type for n in proto.graph.node} == {
        "Add", "Concat", "Conv", "ConvTranspose", "Identity", "MatMul", "Mul", "Pad", "Relu", "Reshape", "Sigmoid",
        "Split", "Sub", "Transpose",
    }  # fmt: skip
    types = {tensor.data_type for tensor in proto.graph.initializer}
    assert types == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}  # the latter of Reshape, Pad and Split
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 3, *SIZE]
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert (about["batch"], about["height"], about["width"]) == ("1", "96", "128")


def test_programs_for_carves_file_take_ours(
    files: dict[str, Path], picture: tuple[np.ndarray, np.ndarray], expected: np.ndarray
) -> None:
    """They cut decimals off without clipping."""
    image, mask = (x.numpy() for x in as_tensors(*picture))
    session = onnxruntime.InferenceSession(str(files["carve"]), providers=["CPUExecutionProvider"])
    assert [x.name for x in (*session.get_inputs(), *session.get_outputs())] == ["image", "mask", "output"]
    (result,) = session.run(["output"], {"image": image, "mask": mask})
    assert_within_a_level(result[0].transpose(1, 2, 0).astype(np.uint8), expected, picture[1])


@pytest.mark.parametrize("engine", ["ENGINE_CLASSIC", "ENGINE_NEW", "ENGINE_AUTO"])
def test_programs_for_opencvs_file_take_ours(
    files: dict[str, Path], picture: tuple[np.ndarray, np.ndarray], expected: np.ndarray, engine: str
) -> None:
    """They give BGR in 0.00392 of 255 levels, which is not 1 / 255, and cut decimals off."""
    if not hasattr(cv2.dnn, engine):
        pytest.skip(f"OpenCV {cv2.__version__} has one engine only")
    pixels, mask = picture
    net = cv2.dnn.readNetFromONNX(str(files["opencv"]), getattr(cv2.dnn, engine))
    size = SIZE[::-1]
    net.setInput(cv2.dnn.blobFromImage(pixels[:, :, ::-1].copy(), 0.00392, size, (0, 0, 0), False, False), "image")
    blob = cv2.dnn.blobFromImage(mask, scalefactor=1.0, size=size, mean=(0,), swapRB=False, crop=False)
    net.setInput((blob > 0).astype(np.float32), "mask")
    result = np.transpose(net.forward()[0], (1, 2, 0)).astype(np.uint8)
    assert_within_a_level(result[:, :, ::-1], expected, mask)


@pytest.mark.parametrize("name", [*INTERFACES, "half"])
@pytest.mark.parametrize("crop", [SIZE, (70, 101)])
def test_our_reader_takes_every_export(
    model: ExportableInpainter,
    files: dict[str, Path],
    picture: tuple[np.ndarray, np.ndarray],
    name: str,
    crop: tuple[int, int],
) -> None:
    height, width = crop
    image, mask = (x[:, :, :height, :width] for x in as_tensors(*picture))
    filled = OnnxInpainter(files[name]).fill_batch({"image": image, "mask": mask})
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    reader = OnnxInpainter(files["default"])
    reference = reader.fill_batch({"image": image, "mask": mask})
    # A level and half of one, for those that round; half precision of random weights.
    torch.testing.assert_close(filled, reference, atol=5 / 255 if name == "half" else 1.5 / 255, rtol=0)
    if crop == SIZE:
        with torch.no_grad():
            torch.testing.assert_close(reference, model(image, mask), atol=1e-4, rtol=0)


def test_half_precision_is_half_the_size_with_float32_around_it(files: dict[str, Path]) -> None:
    proto = onnx.load(files["half"])
    ends = {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    assert ends == {onnx.TensorProto.FLOAT}
    weights = {t.data_type for t in proto.graph.initializer if np.prod(t.dims) > 100}
    assert weights == {onnx.TensorProto.FLOAT16}
    assert files["half"].stat().st_size < 0.7 * files["default"].stat().st_size


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fixed_sizes_of_torchs_files(model: ExportableInpainter, tmp_path: Path, precision: str) -> None:
    for ending in (".pt", ".pt2"):
        difference = export(model, tmp_path / f"lama{ending}", size=SIZE, precision=precision)
        assert difference < (1e-5 if precision == "fp32" else 2e-2)
    script: Any = torch.jit.load(tmp_path / "lama.pt")
    assert not [node for node in script.inlined_graph.nodes() if node.kind() in ("aten::size", "aten::new_ones")]


def test_other_runtimes_are_told_of(
    model: ExportableInpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(path: Path) -> Any:
        raise ValueError("no such\n operator")

    runtimes = [*module.RUNTIMES["onnx"], Runtime("Toy", cannot), Runtime("Absent", cannot, "no_such_package")]
    monkeypatch.setattr(module, "RUNTIMES", {"onnx": runtimes})
    with caplog.at_level(logging.INFO, "saicinpainting"):
        export(model, tmp_path / "lama.onnx", size=(64, 64), interface="opencv")
    assert "ONNX Runtime, 1 x 64 x 64: largest difference 0" in caplog.text
    assert "OpenCV, classic engine, 1 x 64 x 64: largest difference 0" in caplog.text
    assert "Toy cannot run this file (no such operator)" in caplog.text
    assert "Absent" not in caplog.text


class Amplifying(torch.nn.Module):
    """Numbers so large that their rounding decides, as the last layers of a deep network with random weights."""

    size_multiple, min_size = 8, 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 3, 7, padding=3)
        with torch.no_grad():
            self.conv.weight.mul_(1e5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (1 + torch.sin(self.conv(x))) / 2


def test_a_network_that_amplifies_rounding_is_exported_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = ExportableInpainter(Amplifying()).eval()
    difference = export(model, tmp_path / "lama.onnx", size=(256, 256))
    assert difference > module.TOLERANCES["fp32"]
    assert "lama.onnx: this network amplifies rounding: from double precision the export differs by" in caplog.text
    assert (tmp_path / "lama.onnx").exists()


def test_a_wrong_export_of_such_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ExportableInpainter(Amplifying()).eval()
    wrong = Runtime("wrong", lambda path: lambda image, mask: model(image.flip(1), mask).flip(1))
    monkeypatch.setattr(module, "RUNTIMES", {"onnx": [wrong]})
    with pytest.raises(
        InputError, match=r"differs from the model by 1, more than 0\.001 \(from double precision by 1, "
    ):
        export(model, tmp_path / "lama.onnx", size=(256, 256))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lama.onnx", {"size": (100, 512)}, r"size=100x512: .* multiples of 8 from 16 on; set size=104x512"),
        ("lama.onnx", {"size": (0, 8)}, r"set size=16x16"),
        ("lama.onnx", {"interface": "cv"}, r"interface: unknown value 'cv'"),
        ("lama.onnx", {"precision": "int8"}, r"precision: unknown value 'int8'"),
        ("lama.pt", {"interface": "carve"}, r"lama\.pt: interface=carve is one of ONNX files"),
    ],
)
def test_what_cannot_be_is_named(
    model: ExportableInpainter, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(model, tmp_path / name, **options)


def test_constant_matrices_are_made_anew_each_time() -> None:
    x = torch.rand(1, 2, 8, 12)
    with constant_matrices():
        inside = rfft2(x)
    torch.testing.assert_close(inside, rfft2(x))
    spectrum = torch.fft.rfft2(x, norm="ortho")
    torch.testing.assert_close(inside, torch.cat([spectrum.real, spectrum.imag], dim=1))
