"""CUDA graphs without CUDA: when they are made, kept and replayed. tests/gpu/test_prediction.py makes real ones."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from saicinpainting.inference import graphs
from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.graphs import CudaCapture, GraphedNetwork, TensorsFromOutside
from saicinpainting.networks import dft
from saicinpainting.networks.fourier import set_fft_backend
from tests.helpers import rand
from tests.samples import generator


class StubbedCuda:
    """What `CudaCapture` asks of torch.cuda; a graph's replay calls the network again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = "computing"
        self.network: Callable[[Tensor], Tensor] = lambda x: x
        cuda = {
            "device": lambda _: contextlib.nullcontext(),
            "Stream": lambda _: self,
            "stream": lambda _: self._on("side"),
            "current_stream": lambda _: self,
            "graph_pool_handle": lambda: self.log.append("pool") or "pool",  # type: ignore[func-returns-value]
            "CUDAGraph": lambda: self,
            "graph": lambda _, pool, stream, capture_error_mode: self._on(f"graph in {pool}"),
        }
        for name, value in cuda.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def _on(self, where: str) -> Iterator[None]:
        before, self.current = self.current, where
        yield
        self.current = before

    def wait_stream(self, _: object) -> None:
        self.log.append("wait")

    def call(self, x: Tensor) -> Tensor:
        self.log.append(self.current)
        assert not torch.is_grad_enabled()
        self.given, self.made = x, 2 * x
        return self.made

    def replay(self) -> None:
        self.made.copy_(2 * self.given)


def test_networks_warm_up_beside_before_they_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = StubbedCuda(monkeypatch)
    capture = CudaCapture(torch.device("cuda"))
    x = image(8).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        replay = capture(cuda.call, x.clone())
    assert cuda.log == ["pool", "wait", "side", "side", "wait", "graph in pool"]
    assert cuda.given.is_contiguous(memory_format=torch.channels_last)
    first = replay(x)
    second = replay(x + 1)
    assert torch.equal(first, 2 * x)  # not where the next replay writes
    assert torch.equal(second, 2 * x + 2)
    capture(cuda.call, x)
    assert cuda.log[6:] == ["wait", "side", "side", "wait", "graph in pool"]  # of the same memory


class Recorder:
    """A capture whose replays read and write fixed memory, as those of graphs do."""

    def __init__(self) -> None:
        self.captured: list[tuple[int, ...]] = []
        self.replayed: list[tuple[int, ...]] = []

    def __call__(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        self.captured.append(tuple(x.shape))
        given, made = x.clone(), network(x)

        def replay(new: Tensor) -> Tensor:
            self.replayed.append(tuple(new.shape))
            given.copy_(new)
            made.copy_(network(given))
            return made.clone()

        return replay


def image(height: int, width: int = 8, batch: int = 1) -> Tensor:
    return rand(height, batch, 4, height, width)


@pytest.fixture
def network() -> nn.Module:
    return nn.Conv2d(4, 3, 1).requires_grad_(False)


def test_graphs_are_made_for_sizes_that_repeat(network: nn.Module) -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    for height in (8, 16, 8, 24, 16):
        assert torch.equal(graphed(image(height)), network(image(height)))
    assert not recorder.captured
    for height in (8, 8, 16, 8):
        assert torch.equal(graphed(image(height)), network(image(height)))
    assert recorder.captured == [(1, 4, 8, 8), (1, 4, 16, 8)]
    assert [height for _, _, height, _ in recorder.replayed] == [8, 8, 16, 8]
    graphed(image(8, batch=2))
    assert len(recorder.captured) == 2  # a batch of another number is another size


def test_results_are_not_overwritten_by_the_next(network: nn.Module) -> None:
    graphed = GraphedNetwork(network, Recorder())
    for _ in range(3):
        first = graphed(image(8))
    second = graphed(image(8) + 1)
    assert torch.equal(first, network(image(8)))
    assert not torch.equal(first, second)


def test_graphs_that_were_used_last_are_kept(network: nn.Module) -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder, most_graphs=2)
    for height in (8, 16):
        for _ in range(3):
            graphed(image(height))
    graphed(image(8))
    for _ in range(3):
        graphed(image(24))  # in place of 16's
    captures = len(recorder.captured)
    graphed(image(8))
    assert len(recorder.captured) == captures == 3
    graphed(image(16))
    assert recorder.captured[3:] == [(1, 4, 16, 8)]


def test_large_batches_and_endless_sizes_get_none(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    monkeypatch.setattr(graphs, "MOST_PIXELS", 100)
    for _ in range(4):
        graphed(image(8, batch=2))
    assert not recorder.captured
    monkeypatch.setattr(graphs, "MOST_SIZES", 3)
    for width in range(1, 12):
        graphed(image(8, width))
    assert len(graphed._calls) <= 3


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted"), torch.OutOfMemoryError("CUDA out of m")])
def test_a_network_that_cannot_be_captured_runs_without(
    network: nn.Module, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def capture(_: object, x: Tensor) -> Callable[[Tensor], Tensor]:
        tried.append(x.shape)
        if x.shape[2] == 16:
            raise error
        return Recorder()(network, x)

    graphed = GraphedNetwork(network, capture)
    with caplog.at_level(logging.WARNING):
        for height in (8, 8, 8, 16, 16, 16, 16, 8, 24, 24, 24):
            assert torch.equal(graphed(image(height)), network(image(height)))
    assert len(tried) == 2
    assert caplog.messages == [f"no CUDA graph of the network can be made ({error}); it runs without"]


def test_graphs_can_be_done_without(network: nn.Module) -> None:
    recorder = Recorder()
    graphed = GraphedNetwork(network, recorder)
    assert not graphed.clear()
    for _ in range(3):
        graphed(image(8))
    assert graphed.clear()
    assert not graphed.clear()
    for _ in range(3):
        graphed(image(8))
    assert len(recorder.captured) == 2


def test_what_a_graph_reads_from_outside_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrices of the transforms are kept for 64 sizes only; a graph would read what comes to their place."""
    network = fold(generator("lama-fourier", "generator.ngf=4"))
    set_fft_backend(network, "products")
    monkeypatch.setattr(dft, "_CACHE", {})
    x = rand(1, 1, 4, 64, 64)
    with torch.no_grad():
        network(x)
        with TensorsFromOutside() as outside:
            network(x)
    addresses = {tensor.untyped_storage().data_ptr() for tensor in outside.tensors}
    matrices = [matrix for made in dft._CACHE.values() for matrix in made]
    assert len(matrices) == 4
    for wanted in (x, *network.parameters(), *matrices):
        assert wanted.untyped_storage().data_ptr() in addresses
    # No map that the network made is held.
    assert len(addresses) <= 1 + len(list(network.state_dict())) + len(matrices)


def test_threads_do_not_write_into_each_others_graphs() -> None:
    """A replay reads and writes memory of its own, as CUDA's do."""

    def capture(network: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
        given, made = x.clone(), network(x)

        def replay(x: Tensor) -> Tensor:
            given.copy_(x)
            time.sleep(0.002)
            made.copy_(network(given))
            return made.clone()

        return replay

    graphed = GraphedNetwork(nn.Identity(), capture)
    wrong: list[int] = []

    def call(number: int) -> None:
        x = torch.full((1, 1, 4, 4), float(number))
        wrong.extend(number for _ in range(20) if not torch.equal(graphed(x), x))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
