"""What the metrics share: states that hold one row per image, and frozen networks."""

from __future__ import annotations

import importlib.metadata
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from saicinpainting.io.download import digest_of

TOTAL = "total"
NO_GROUP = -1

Statistics = dict[str, float]


@dataclass(frozen=True)
class Row:
    """What a metric keeps of each image: `shape`, computed from these `inputs` (of `pred`, `target`, `mask`) alone."""

    inputs: tuple[str, ...] = ("pred", "target")
    shape: tuple[int, ...] = ()


class ImageMetric(Metric):
    """Compares pairs of images and keeps one row per image, so that any group of images has its own result.

    `compute()` returns the statistics (`mean` and, where it is defined, `std`) of all images under `TOTAL` and
    of each group under its number. Rows and group numbers are gathered from all ranks in the same order.

    rows: the rows by name. signature: names how rows are computed, the device and weights included; values of equal
    signatures may stand for each other. version: to be raised whenever `measure` gives other values than before.
    packages: those whose code computes the rows. least_images: fewer have no result. least_side: images with a shorter
    one are continued before they are measured.
    """

    full_state_update = False
    is_differentiable = False
    version = 1
    packages: tuple[str, ...] = ()
    least_images = 1
    least_side = 1
    groups: list[Tensor]

    def __init__(self, *, rows: Mapping[str, Row]) -> None:
        super().__init__()
        self.rows = dict(rows)
        self._empty_rows = {"groups": torch.empty(0, dtype=torch.int64)}
        self._empty_rows |= {name: torch.empty(0, *row.shape, dtype=torch.float32) for name, row in rows.items()}
        for name in self._empty_rows:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @property
    def signature(self) -> str:
        return "-".join([type(self).__name__, str(self.version), self.device.type, *self._package_versions])

    @cached_property
    def _package_versions(self) -> list[str]:
        return [f"{package}-{importlib.metadata.version(package)}" for package in self.packages]

    @abstractmethod
    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        """Row `row` of a batch; inputs: those that `rows` names, float32 (B, C, H, W) in [0, 1], masks 0 or 1."""

    @abstractmethod
    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        """Statistics of the images behind `rows`; empty if there are too few of them."""

    def update(self, pred: Tensor, target: Tensor, groups: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Add a batch.

        pred, target: (B, 3, H, W), clamped to [0, 1]; groups: (B,) group number of each image; mask: (B, 1, H, W),
        1 = hole, for the metrics that look at the hole.
        """
        rows = {name: self.measured(name, {"pred": pred, "target": target, "mask": mask}) for name in self.rows}
        self.append(rows, groups)

    def measured(self, row: str, images: Mapping[str, Tensor | None]) -> Tensor:
        """Row `row` of the batch `images`."""
        inputs = [images[name] for name in self.rows[row].inputs]
        if any(image is None for image in inputs):
            raise ValueError(f"{type(self).__name__} needs the masks of the images")
        # Under mixed precision the scores would be those of rounded features.
        with torch.autocast(self.device.type, enabled=False):
            return self.measure(row, *(image.float().clamp(0, 1) for image in inputs if image is not None))

    def append(self, rows: Mapping[str, Tensor], groups: Tensor | None = None) -> None:
        """Add images whose rows are known."""
        # As torchmetrics does around `update`: what was computed before is out of date.
        self._computed = None
        self._update_count += 1
        if groups is None:
            groups = torch.full((len(next(iter(rows.values()))),), NO_GROUP)
        for name, row in {"groups": groups, **rows}.items():
            parts = getattr(self, name)
            parts.append(row.to(self.device))
            # Equal parts are joined, so that a few large ones lie in memory, not thousands of small ones.
            while len(parts) > 1 and len(parts[-1]) >= len(parts[-2]):
                parts[-2:] = [torch.cat(parts[-2:])]

    def compute(self) -> dict[str | int, Statistics]:
        if len(self.groups) == 0:
            return {}
        rows = self._joined_rows()
        groups = rows.pop("groups")
        numbers = sorted(set(groups.tolist()) - {NO_GROUP})
        chosen: dict[str | int, Any] = {TOTAL: slice(None)}
        chosen |= {n: groups == n for n in numbers if not (groups == n).all()}
        found = self._summaries(rows, chosen)
        result = {group: found.get(group, found[TOTAL]) for group in (TOTAL, *numbers)}
        return {group: statistics for group, statistics in result.items() if statistics}

    def _summaries(self, rows: Mapping[str, Tensor], chosen: Mapping[str | int, Any]) -> dict[str | int, Statistics]:
        """`summarize` of the rows that each group has chosen; ranks that hold the same rows share the work."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if self._is_synced else (0, 1)
        own = {
            group: self.summarize({name: row[chosen[group]] for name, row in rows.items()})
            for group in [*chosen][rank::ranks]
        }
        if ranks == 1:
            return own
        shares: list[dict[str | int, Statistics]] = [{} for _ in range(ranks)]
        dist.all_gather_object(shares, own)
        return {group: statistics for share in shares for group, statistics in share.items()}

    def gathered_rows(self) -> dict[str, Tensor]:
        """The rows of all ranks, and `groups`, on the CPU; every rank must call it."""
        self._computed = None
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return {name: row.cpu() for name, row in self._joined_rows().items()}

    def _joined_rows(self) -> dict[str, Tensor]:
        """Each state as one tensor; it takes the place of its parts, so that rows lie in memory once."""
        joined = {}
        for name in self._empty_rows:
            state = getattr(self, name)
            joined[name] = dim_zero_cat(state if len(state) else [self._empty_rows[name].to(self.device)])
            setattr(self, name, [joined[name]])
        return joined

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A rank without images takes part in the gathering too, with rows of the shape and type of the others.
        if len(self.groups) == 0:
            for name, empty in self._empty_rows.items():
                setattr(self, name, [empty.to(self.device)])
        super().sync(*args, **kwargs)


class NetworkMetric(ImageMetric):
    """A metric with a fixed network, which is neither trained nor saved: to PyTorch it is no submodule."""

    def __init__(self, network: nn.Module, *, rows: Mapping[str, Row], weights: Sequence[str | Path] = ()) -> None:
        """weights: the files of the network's weights."""
        super().__init__(rows=rows)
        self._weights = tuple(map(Path, weights))
        # A tuple hides the network from state dicts, optimizers, `train()` and DDP's broadcasts.
        self._hidden = (network.eval().requires_grad_(False),)

    @property
    def signature(self) -> str:
        """With the checksums of the weights' files."""
        return "-".join([super().signature, *self._digests])

    @cached_property
    def _digests(self) -> list[str]:
        return [digest_of(path, "sha256")[:16] for path in self._weights]

    @property
    def network(self) -> nn.Module:
        return self._hidden[0]

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> nn.Module:
        result = super()._apply(fn, exclude_state)
        self.network.to(self.device)
        return result


def precise(images: Tensor) -> Tensor:
    """As float64, where the device has it."""
    return images.float() if images.device.type == "mps" else images.double()


def mean_and_std(values: Tensor) -> Statistics:
    """Mean and population standard deviation of `values` (N,), NaN if one of them is; empty where there are none."""
    values = values.cpu().double()
    if len(values) == 0:
        return {}
    return {"mean": values.mean().item(), "std": values.std(unbiased=False).item()}
