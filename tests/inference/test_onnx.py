"""Where ONNX files run, with a stand-in for ONNX Runtime's sessions."""

from __future__ import annotations

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
