"""Copies beside the computing: the same bytes, and on a stubbed GPU the order in which streams wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saicinpainting.data.pairs import InpaintingDataset
from saicinpainting.inference import filling, overlap
from saicinpainting.inference.folders import predict_folder
from saicinpainting.inference.overlap import Download, upload
from saicinpainting.io.images import to_pixels
from saicinpainting.utils import InputError
from tests.helpers import fake_cuda, rand
from tests.samples import Red, write_pairs


def test_pixels_come_back_rounded_and_known_ones_as_they_were() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).expand(2, 3, 4, 256)
    assert np.array_equal(Download(bytes_.float() / 255).pixels(), bytes_.permute(0, 2, 3, 1).numpy())
    images = rand(1, 2, 3, 40, 56) * 1.2 - 0.1
    expected = np.stack([np.rint(np.clip(one, 0, 1).transpose(1, 2, 0) * np.float32(255)) for one in images.numpy()])
    assert np.array_equal(Download(images).pixels(), expected)
    assert np.array_equal(Download(images).pixels()[1], to_pixels(images[1]))
    assert not Download(images).is_under_way


def test_numbers_that_are_not_finite_are_no_pixels() -> None:
    for value in (torch.nan, torch.inf):
        images = rand(1, 1, 3, 8, 8)
        images[0, 1, 2, 3] = value
        with pytest.raises(InputError, match="not finite: with precision=fp16 set bf16 or fp32"):
            Download(images).pixels()


class Streams:
    """Stands for torch.cuda's streams and says in which order they were used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = self.compute = _Stream("compute", self.log)
        monkeypatch.setattr(overlap, "_stream", lambda _, purpose: _Stream(purpose, self.log))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self._switched)
        monkeypatch.setattr(torch._C, "_cuda_init", lambda: None)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: self._pinned(x))
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda x, stream: self._said(f"{x.dtype} is read in {stream.name}", None)
        )
        monkeypatch.setattr(overlap, "_pinned_like", lambda x: torch.empty(x.shape, dtype=x.dtype))

    def _pinned(self, x: torch.Tensor) -> torch.Tensor:
        assert x.is_contiguous()  # a part of an image is not pinned with what lies between its rows
        return self._said(f"pin in {self.current.name}", x)

    def _said(self, line: str, value: Any) -> Any:
        self.log.append(line)
        return value

    @contextlib.contextmanager
    def _switched(self, stream: _Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


class _Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: _Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> _Stream:
        self.log.append(f"{self.name} records")
        return self

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(monkeypatch)


def test_an_upload_waits_for_nothing_that_is_computed(streams: Streams) -> None:
    with fake_cuda():
        there = upload(torch.empty(2, 3, 8, 80)[..., 20:28], torch.device("cuda"))
        assert there.device == torch.device("cuda:0")
        assert upload(there, torch.device("cuda")) is there
    assert streams.log == ["pin in upload", "compute waits for upload", "torch.float32 is read in compute"]
    image = torch.empty(2)
    assert upload(image, torch.device("cpu")) is image


def test_one_byte_a_colour_comes_back_in_a_stream_of_its_own(streams: Streams) -> None:
    with fake_cuda():
        download = Download(torch.empty(2, 3, 8, 8, device="cuda"))
    assert download.is_under_way
    assert download._pixels.shape == (2, 8, 8, 3)
    assert download._pixels.dtype == torch.uint8
    assert streams.log == [
        "download waits for compute",
        "download records",
        "torch.uint8 is read in download",
        "torch.bool is read in download",
    ]
    download._pixels, download._finite = torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.tensor(True)
    assert download.pixels().shape == (2, 8, 8, 3)
    assert streams.log[-1] == "host waits for download"


def test_the_next_batch_starts_before_the_last_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Slow(Download):
        is_under_way = True  # type: ignore[assignment]

        def pixels(self) -> np.ndarray:
            log.append("wait")
            return super().pixels()

    class Logged(Red):
        def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
            log.append("start")
            return super().__call__(batch)

    monkeypatch.setattr(filling, "Download", Slow)
    indir = write_pairs(tmp_path / "in", *[(16, 16)] * 7)
    dataset = InpaintingDataset(indir, img_suffix=".png")
    summary = predict_folder(Logged(), dataset, indir, tmp_path / "out", batch_size=2)
    assert log == ["start", "start", "wait", "start", "wait", "start", "wait", "wait"]
    assert len(summary.written) == 7
