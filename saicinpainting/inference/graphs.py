"""CUDA graphs of a network: for sizes that repeat, all its kernels are launched at once."""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOGGER = logging.getLogger(__name__)
Replay = Callable[[Tensor], Tensor]
Capture = Callable[[Callable[[Tensor], Tensor], Tensor], Replay]
"""Makes a graph of a network for inputs like the one given."""
FIRST_CALL = 3
"""Of a size that a graph is made for: a graph costs about as much as three calls."""
MOST_GRAPHS = 8
MOST_PIXELS = 1 << 21
"""Of a batch: computing more takes longer than launching does, and graphs keep the memory of the largest."""
MOST_SIZES = 4096
"""That calls are counted of."""


class GraphedNetwork:
    """Calls `network`, (B, C, H, W) to (B, C', H, W); from the third call of a size on by a CUDA graph.

    Graphs of up to `most_graphs` sizes are kept, those that were used last. Where none can be made the network is
    called as it is.
    """

    def __init__(self, network: nn.Module, capture: Capture, *, most_graphs: int = MOST_GRAPHS) -> None:
        self.network, self.most_graphs = network, most_graphs
        self._capture: Capture | None = capture
        self._lock = threading.RLock()  # graphs read and write the same memory at every call
        self._graphs: OrderedDict[torch.Size, Replay] = OrderedDict()
        self._calls: Counter[torch.Size] = Counter()

    def __call__(self, x: Tensor) -> Tensor:
        size = x.shape
        with self._lock:
            if size not in self._graphs and self._is_due(x):
                self._make(x)
            if size in self._graphs:
                self._graphs.move_to_end(size)
                return self._graphs[size](x)
        return self.network(x)

    def clear(self) -> bool:
        """Forget the graphs and their memory, until sizes repeat again; whether there were any."""
        with self._lock:
            had = bool(self._graphs)
            self._graphs.clear()
            self._calls.clear()
        return had

    def _is_due(self, x: Tensor) -> bool:
        if self._capture is None or x.shape[0] * x.shape[2] * x.shape[3] > MOST_PIXELS:
            return False
        if len(self._calls) >= MOST_SIZES:
            self._calls.clear()
        self._calls[x.shape] += 1
        return self._calls[x.shape] >= FIRST_CALL

    def _make(self, x: Tensor) -> None:
        assert self._capture is not None
        while len(self._graphs) >= self.most_graphs:
            self._graphs.popitem(last=False)
        try:
            self._graphs[x.shape] = self._capture(self.network, x)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            LOGGER.warning("no CUDA graph of the network can be made (%s); it runs without", reason)
            self._capture = None
        if self._capture is None:
            self.clear()


class CudaCapture:
    """Makes CUDA graphs that share their memory, of which each needs all only while it runs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Replay:
        # Graphs may run in inference mode or without, which inference tensors may not.
        with torch.cuda.device(self.device), torch.inference_mode(False), torch.no_grad():
            if self._stream is None:
                self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self.device)
            current = torch.cuda.current_stream(self.device)
            given = x.clone(memory_format=torch.preserve_format)
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    network(given)  # libraries set themselves up, and what is kept for a size is made
                    with TensorsFromOutside() as outside:
                        network(given)
            finally:
                current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Threads that write files or read ahead may use the GPU's pinned memory meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                made = network(given)
        return partial(_replay, graph, given, made, outside.tensors)


def _replay(graph: torch.cuda.CUDAGraph, given: Tensor, made: Tensor, outside: list[Tensor], x: Tensor) -> Tensor:
    """outside: what the graph reads besides `given`, kept so that it stays where it is."""
    given.copy_(x)
    graph.replay()
    return made.clone()  # the next replay writes there


class TensorsFromOutside(TorchDispatchMode):
    """tensors: those that are read and were not made meanwhile, such as weights and the matrices that `dft` keeps."""

    def __init__(self) -> None:
        super().__init__()
        self._made: set[int] = set()
        self._outside: dict[int, Tensor] = {}

    @property
    def tensors(self) -> list[Tensor]:
        return list(self._outside.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for read in tree_leaves((args, kwargs)):
            if isinstance(read, Tensor) and _address(read) not in self._made:
                self._outside[_address(read)] = read
        result = function(*args, **(kwargs or {}))
        self._made.update(_address(made) for made in tree_leaves(result) if isinstance(made, Tensor))
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
