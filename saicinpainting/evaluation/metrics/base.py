"""What the metrics share: states that hold one row per image, and frozen networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from saicinpainting.utils import InputError

TOTAL = "total"
NO_GROUP = -1

Statistics = dict[str, float]


class ImageMetric(Metric):
    """Compares pairs of images and keeps one row per image, so that any group of images has its own result.

    `compute()` returns the statistics (`mean` and, where it is defined, `std`) of all images under `TOTAL` and
    of each group under its number. Rows and group numbers are gathered from all ranks in the same order.
    """

    full_state_update = False
    is_differentiable = False
    groups: list[Tensor]

    def __init__(self, *, row_shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._empty_rows = {"groups": torch.empty(0, dtype=torch.int64)}
        self._empty_rows |= {name: torch.empty(0, *shape, dtype=torch.float32) for name, shape in row_shapes.items()}
        for name in self._empty_rows:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def measure(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Rows of a batch; pred, target: float32 (B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        """Statistics of the images behind `rows`; empty if there are too few of them."""

    def update(self, pred: Tensor, target: Tensor, groups: Tensor | None = None) -> None:
        """Add a batch; pred, target: (B, 3, H, W), clamped to [0, 1]; groups: (B,) group number of each image."""
        if groups is None:
            groups = torch.full((len(pred),), NO_GROUP)
        # Under mixed precision the scores would be those of rounded features.
        with torch.autocast(pred.device.type, enabled=False):
            rows = self.measure(pred.float().clamp(0, 1), target.float().clamp(0, 1))
        for name, row in {"groups": groups, **rows}.items():
            getattr(self, name).append(row.to(self.device))

    def compute(self) -> dict[str | int, Statistics]:
        if len(self.groups) == 0:
            return {}
        rows = {name: dim_zero_cat(getattr(self, name)) for name in self._empty_rows}
        groups = rows.pop("groups")
        result: dict[str | int, Statistics] = {TOTAL: self.summarize(rows)}
        for group in sorted(set(groups.tolist()) - {NO_GROUP}):
            result[group] = self.summarize({name: row[groups == group] for name, row in rows.items()})
        return {group: statistics for group, statistics in result.items() if statistics}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank without images takes part in the gathering too, with rows of the shape and type of the others.
        if len(self.groups) == 0:
            for name, empty in self._empty_rows.items():
                setattr(self, name, [empty.to(self.device)])
        super().sync(*args, **kwargs)


class NetworkMetric(ImageMetric):
    """A metric with a fixed network, which is neither trained nor saved: to PyTorch it is no submodule."""

    def __init__(self, network: nn.Module, *, row_shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(row_shapes=row_shapes)
        # A tuple hides the network from state dicts, optimizers, `train()` and DDP's broadcasts.
        self._hidden = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:
        return self._hidden[0]

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> nn.Module:
        result = super()._apply(fn, exclude_state)
        self.network.to(self.device)
        return result


def mean_and_std(values: Tensor) -> Statistics:
    """Mean and population standard deviation of `values` (N,); empty for N = 0."""
    if len(values) == 0:
        return {}
    values = values.cpu().double()
    return {"mean": values.mean().item(), "std": values.std(unbiased=False).item()}


def read_state_dict(path: Any, *, what: str) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for broken files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{what}: cannot read {path} ({reason}); delete it to have it fetched again") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{what}: {path} holds a {type(state).__name__}, expected a mapping of tensors")
    return dict(state)


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], *, path: Any, what: str) -> None:
    """Load `state` from the file `path`; names and shapes must match."""
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{what}: {path} holds weights of another network ({reason}); delete it") from error
