"""Where ONNX files run, with a stand-in for ONNX Runtime's sessions, and files that others exported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from saicinpainting.inference import onnx as onnx_model
from saicinpainting.inference.backends import load_backend
from saicinpainting.inference.onnx import onnx_session
from saicinpainting.utils import InputError

CPU, CUDA, OTHER = "CPUExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider"


class Session:
    """Keeps what it was asked for; `broken` providers are left out, as ONNX Runtime does without their libraries."""

    broken: frozenset[str] = frozenset()

    def __init__(self, path: str, providers: list[Any]) -> None:
        self.providers = providers

    def get_providers(self) -> list[str]:
        names = [name if isinstance(name, str) else name[0] for name in self.providers]
        return [name for name in names if name not in self.broken]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The providers that are there, on a machine with a GPU."""
    providers = [CUDA, OTHER, CPU]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    gpu = torch.device("cuda")
    monkeypatch.setattr(onnx_model, "pick_device", lambda name: gpu if name == "auto" else torch.device(name))
    return providers


@pytest.mark.parametrize(
    ("device", "providers"),
    [
        ("cpu", [CPU]),
        (torch.device("cpu"), [CPU]),
        ("auto", [(CUDA, {"device_id": 0}), CPU]),
        ("cuda", [(CUDA, {"device_id": 0}), CPU]),
        (torch.device("cuda", 1), [(CUDA, {"device_id": 1}), CPU]),
    ],
)
def test_the_device_chooses_the_providers(here: list[str], device: Any, providers: list[Any]) -> None:
    assert onnx_session(Path("lama.onnx"), device).providers == providers


def test_devices_that_onnx_runtime_does_not_have(here: list[str], caplog: pytest.LogCaptureFixture) -> None:
    here.remove(CUDA)
    assert onnx_session(Path("lama.onnx"), "auto").providers == [CPU]
    assert "lama.onnx: filled on the CPU" in caplog.text
    for device in ("cuda", "mps", torch.device("cuda")):
        with pytest.raises(InputError, match=rf"device={device}: ONNX Runtime has only {OTHER}, {CPU} here; set"):
            onnx_session(Path("lama.onnx"), device)


def test_a_gpu_that_does_not_start_is_no_silent_cpu(here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "broken", frozenset([CUDA]))
    with pytest.raises(InputError, match="device=cuda: ONNX Runtime cannot start CUDAExecutionProvider"):
        onnx_session(Path("lama.onnx"), "cuda")


def test_predictions_hand_their_device_on(here: list[str], tmp_path: Path) -> None:
    here.remove(CUDA)
    with pytest.raises(InputError, match="device=cuda: ONNX Runtime has only"):
        load_backend({"path": str(tmp_path), "checkpoint": "lama.onnx"}, "cuda")


class Darkening(torch.nn.Module):
    """The interface of LaMa's public ONNX files: half of the image in 0 to 255, known pixels or not."""

    def __init__(self, top: float) -> None:
        super().__init__()
        self.top = top

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (image * 0.5 + mask * 0) * self.top


def exported(path: Path, *, top: float = 255, size: int = 64, swapped: bool = False, free: bool = False) -> Path:
    image, mask = torch.rand(1, 3, size, size), torch.rand(1, 1, size, size)
    names = ["pixels", "hole"] if not free else ["image", "mask"]
    free_axes = {name: {2: "height", 3: "width"} for name in (*names, "output")} if free else None
    torch.onnx.export(
        Darkening(top).eval(), (image, mask), str(path), input_names=names, output_names=["output"],
        dynamic_axes=free_axes, dynamo=False,
    )  # fmt: skip
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("top", [1, 255])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("size", [(40, 56), (64, 64), (100, 230)])
def test_a_foreign_file_fills_images_of_any_size(tmp_path: Path, top: float, free: bool, size: tuple[int, int]) -> None:
    fill = load_backend(
        {"path": str(exported(tmp_path / "lama.onnx", top=top, free=free)), "checkpoint": "best.ckpt"}, "cpu"
    )
    image, mask = torch.full((2, 3, *size), 0.8), torch.zeros(2, 1, *size)
    mask[:, :, 10:20, 15:30] = 1
    filled = fill({"image": image, "mask": mask})
    known = mask.expand_as(image) == 0
    assert torch.equal(filled[known], image[known])
    hole = filled[~known]
    if not free and max(size) > 64:  # enlarged, and led over to what is around
        assert hole.min() > 0.38
        assert hole.max() < 0.81
    else:
        torch.testing.assert_close(hole, torch.full_like(hole, 0.4))


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_something_else_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    torch.onnx.export(
        torch.nn.Conv2d(4, 3, 1), (torch.rand(1, 4, 8, 8),), str(tmp_path / "net.onnx"), input_names=["x"], dynamo=False
    )
    model = {"path": str(tmp_path / "net.onnx"), "checkpoint": "best.ckpt"}
    with pytest.raises(InputError, match=r"net\.onnx: .* this one takes x tensor\(float\) \(1, 4, 8, 8\)"):
        load_backend(model, "cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("image", "mask"),
    [((1, 64, 64, 3), (1, 64, 64, 1)), ((1, 3, 64, 64), (1, 3, 64, 64))],
    ids=["channels last", "colours"],
)
def test_inputs_of_another_layout_are_named(tmp_path: Path, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
    torch.onnx.export(
        Darkening(1).eval(), (torch.rand(image), torch.rand(mask)), str(tmp_path / "net.onnx"),
        input_names=["image", "mask"], dynamo=False,
    )  # fmt: skip
    takes = rf"image tensor\(float\) {re.escape(str(image))}, mask tensor\(float\) {re.escape(str(mask))}"
    with pytest.raises(InputError, match=f"this one takes {takes}"):
        load_backend({"path": str(tmp_path / "net.onnx"), "checkpoint": "best.ckpt"}, "cpu")
