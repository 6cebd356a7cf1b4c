"""Counting what the operators of a training step cost, while tensors that hold no numbers pass through them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
# They make a tensor of memory that is there already, or of memory that nobody has written.
NO_WORK = {
    "_unsafe_view",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
}
HOST_COPIES = {Tensor.cpu, Tensor.numpy, Tensor.tolist}
REST = "rest"  # what no named phase holds: the guard's copies, the network's input, the blend


@dataclass
class Cost:
    """What some operators cost.

    operators: dispatched, views left out; each is one kernel on a GPU, or a few.
    host_reads: times that the host waits for a number from the device.
    moved: bytes of the operators' inputs and outputs.
    convolution_flop, product_flop: floating point operations of convolutions and of matrix products.
    """

    operators: float = 0
    host_reads: float = 0
    moved: float = 0
    convolution_flop: float = 0
    product_flop: float = 0

    @property
    def flop(self) -> float:
        return self.convolution_flop + self.product_flop

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(getattr(self, f.name) * factor for f in fields(Cost)))


@dataclass
class StepCost:
    """Costs of a step by (phase, operator); peak: bytes of the tensors that lived at once."""

    parts: dict[tuple[str, str], Cost] = field(default_factory=dict)
    peak: int = 0

    def add(self, phase: str, operator: str, cost: Cost) -> None:
        self.parts[phase, operator] = self.parts.get((phase, operator), Cost()) + cost

    @property
    def total(self) -> Cost:
        return sum(self.parts.values(), Cost())

    def by_phase(self) -> dict[str, Cost]:
        return self._grouped(0)

    def by_operator(self) -> dict[str, Cost]:
        return self._grouped(1)

    def _grouped(self, position: int) -> dict[str, Cost]:
        groups: dict[str, Cost] = {}
        for key, cost in self.parts.items():
            groups[key[position]] = groups.get(key[position], Cost()) + cost
        return groups


def mean_cost(often: StepCost, rare: StepCost, interval: int) -> StepCost:
    """Mean of `interval` steps, one of which is like `rare`."""
    mean = StepCost(peak=max(often.peak, rare.peak))
    for step, share in ((rare, 1 / interval), (often, 1 - 1 / interval)):
        for (phase, operator), cost in step.parts.items():
            mean.add(phase, operator, cost * share)
    return mean


class OperatorCounter(TorchDispatchMode):
    """Adds what is dispatched while it is active to `cost`, under the innermost `phase`.

    A number that fake tensors cannot give is answered with 1 or True, as `isfinite` would be in a healthy step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cost = StepCost()
        self._phases = [REST]
        self._live = WeakIdKeyDictionary()  # storages that an operator has had to do with, weights among them
        self._live_bytes = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def begin(self, name: str) -> None:
        self._phases.append(name)

    def end(self) -> None:
        self._phases.pop()

    def add(self, operator: str, cost: Cost) -> None:
        self.cost.add(self._phases[-1], operator, cost)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if function is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            self.add(name, Cost(host_reads=1))
            return _number(args[0])
        if function is aten.nonzero.default and isinstance(args[0], FakeTensor):  # the size of its result is read
            self.add(name, Cost(operators=1, host_reads=1))
            return args[0].new_empty(args[0].numel(), args[0].dim(), dtype=torch.int64)
        out = function(*args, **kwargs)
        tensors = list(_fakes([*args, *kwargs.values(), out]))
        for tensor in tensors:
            self._watch(tensor.untyped_storage())
        self.cost.peak = max(self.cost.peak, self._live_bytes)
        if tensors and function.namespace != "prim" and not function.is_view and name not in NO_WORK:
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            flop = _flop(function, args, kwargs, out)
            kind = "convolution_flop" if "convolution" in name else "product_flop"
            self.add(name, Cost(operators=1, moved=moved, **{kind: flop}))
        return out

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._live:
            self._live[storage] = None
            self._live_bytes += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self._live_bytes -= size


def _fakes(values: Iterable[Any]) -> Iterator[FakeTensor]:
    for value in values:
        if isinstance(value, FakeTensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _fakes(value)


def _flop(function: Any, args: Any, kwargs: Any, out: Any) -> int:
    formula = flop_registry.get(function.overloadpacket)
    return formula(*args, **kwargs, out_val=out) if formula else 0


def _number(tensor: Tensor) -> Any:
    try:
        return tensor.item()
    except DataDependentOutputException:
        return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1


class HostCopies(TorchFunctionMode):
    """Adds copies to the host to `counter`'s reads. On CPU tensors they are no operators."""

    def __init__(self, counter: OperatorCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], FakeTensor):
            devices = [*args[1:2], kwargs.get("device")] if function is Tensor.to else []
            if function in HOST_COPIES or any(isinstance(device, str) and device == "cpu" for device in devices):
                self.counter.add(function.__name__, Cost(host_reads=1))
            if function in (Tensor.numpy, Tensor.tolist):
                ones = np.ones(args[0].shape)
                return ones if function is Tensor.numpy else ones.tolist()
        return function(*args, **kwargs)


class DeviceFactories(TorchFunctionMode):
    """Has tensors that are asked for on a device made by `fake`; those without stay on the host.

    What PyTorch's own backward passes make of nothing is not seen: four scalars in that of the gradient penalty.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        on_host = device is None or device == "cpu"  # named as such; the device of a tensor is no string
        on_device = not on_host and not any(map(torch.is_tensor, args))
        with self.fake if on_device else nullcontext():
            return function(*args, **kwargs)


@contextmanager
def counted(counter: OperatorCounter) -> Iterator[None]:
    """Count what happens inside into `counter.cost`."""
    with counter, HostCopies(counter):
        yield


@contextmanager
def fake_tensors(*, foreach: bool = True) -> Iterator[FakeTensorMode]:
    """A mode that makes tensors without numbers, which stand for those on a GPU; others stand for those on the host.

    Within, tensors that are made on a device are fake too.

    foreach: let them take the paths for lists of tensors, as CUDA's do; PyTorch asks for the tensors' type.
    """
    with ExitStack() as stack:
        # Matrices without numbers must not stay behind.
        stack.enter_context(mock.patch.dict("saicinpainting.networks.dft._CACHE", clear=True))
        if foreach:
            known = _foreach_utils._foreach_supported_types  # shared by name, so changed in place
            known.append(FakeTensor)
            stack.callback(known.remove, FakeTensor)
        # Asked at every operator, and slow to answer.
        stack.enter_context(mock.patch.object(torch.cuda, "is_available", cache(torch.cuda.is_available)))
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        stack.enter_context(DeviceFactories(fake))
        yield fake
