"""Keeps a batch whose gradient is not finite away from the weights, without waiting for the device."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
Policy = Literal["skip", "stop", "ignore"]
# How many batches later a report is read. The same number on every rank, so that all of them end a run together; the
# host is never further ahead of the device.
LAG = 2


class NonFiniteGuard:
    """Lets a network's optimizer step only by a finite gradient.

    The decision is made on the device, where a fused optimizer reads it; other optimizers wait for it. The gradient is
    the same on every rank, so all ranks decide alike. What was found is reported `LAG` batches later.

    Args:
        policy: `skip` leaves the networks as they were before the batch and goes on, `stop` leaves them so and ends the
            run, `ignore` does not look.
        max_in_a_row: with `skip`, the run ends after so many bad batches in succession.
    """

    def __init__(self, *, policy: Policy = "skip", max_in_a_row: int = 10) -> None:
        self.policy = policy
        self.max_in_a_row = max_in_a_row
        self._statistics: list[_Statistics] = []
        self._gradients: list[_Gradient] = []  # of the batch under way
        self._reports: deque[tuple[list[_Gradient], _HostCopy]] = deque()
        self._skipped_on_device: Tensor | None = None
        self._stopped: Tensor | None = None  # on the device: a gradient was bad where the policy is `stop`
        self._skipped = 0  # batches reported so far
        self._in_a_row = 0

    def start_batch(self, networks: Iterable[nn.Module]) -> None:
        """Remember the running statistics of `networks`, which a forward pass of bad values would spoil.

        Raises:
            InputError: an earlier batch was bad and the policy is `stop`, or too many in a row were.
        """
        if self.policy == "ignore":
            return
        self._read(behind=LAG)
        self._gradients = []
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for network in networks:
            for buffer in network.buffers():
                by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._statistics = [_Statistics(buffers) for buffers in by_dtype.values()]

    def check(
        self,
        norm: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        network: str,
        step: int,
        losses: Mapping[str, Tensor],
        scaled: bool = False,
    ) -> None:
        """Keep `optimizer` from stepping if the norm of its gradient is not finite.

        Args:
            norm: of the gradient over all ranks, 0-dimensional.
            network, step, losses: for the report.
            scaled: the loss was scaled for float16, whose overflows are expected and whose scaler skips them. They are
                reported only where the losses themselves are not finite, and may come more often in a row.
        """
        if self.policy == "ignore":
            return
        bad = torch.isfinite(norm).logical_not()
        if scaled:
            pass
        elif all(group.get("fused") for group in optimizer.param_groups):
            if self.policy == "stop":
                bad = self._stopped = bad if self._stopped is None else bad | self._stopped
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        elif bool(bad):
            # Without gradients the optimizer's step changes nothing, but counts as this batch's.
            optimizer.zero_grad(set_to_none=True)
        self._gradients.append(_Gradient(network, step, norm, bad, losses, scaled))

    @torch.no_grad()
    def end_batch(self) -> None:
        """Take the running statistics back if one of the batch's gradients was bad."""
        if not self._gradients:
            return
        flags = torch.stack([gradient.bad for gradient in self._gradients])
        bad = flags.any()
        for statistics in self._statistics:
            statistics.restore_if(bad)
        self._skipped_on_device = self.skipped(bad.device) + bad
        self._reports.append((self._gradients, _HostCopy(flags)))
        if any(gradient.scaled for gradient in self._gradients):
            self._read(behind=0)  # float16's scaler has waited for the device already

    def skipped(self, device: torch.device) -> Tensor:
        """How many batches were skipped since the run started or resumed, a number on `device`."""
        if self._skipped_on_device is None:
            self._skipped_on_device = torch.zeros((), device=device)
        return self._skipped_on_device

    def read_all(self) -> None:
        """Report what is still to be reported; raises as `start_batch`."""
        self._read(behind=0)

    def _read(self, *, behind: int) -> None:
        while len(self._reports) > behind:
            gradients, flags = self._reports.popleft()
            self._report([gradient for gradient, bad in zip(gradients, flags.read(), strict=True) if bad])

    def _report(self, gradients: list[_Gradient]) -> None:
        """One batch's bad gradients."""
        self._in_a_row = self._in_a_row + 1 if gradients else 0
        self._skipped += bool(gradients)
        for gradient in gradients:
            spoiled = [name for name, value in gradient.losses.items() if not bool(torch.isfinite(value).all())]
            losses = f" (not finite: {', '.join(spoiled)})" if spoiled else ""
            found = f"the gradient of the {gradient.network} is {float(gradient.norm)}{losses}"
            unexpected = bool(spoiled) or not gradient.scaled
            limit = self.max_in_a_row * (10 if gradient.scaled else 1)
            if self._in_a_row >= limit or (self.policy == "stop" and unexpected):
                rows = f" in {self._in_a_row} batches in a row" if self._in_a_row > 1 else ""
                raise InputError(
                    f"step {gradient.step}: {found}{rows}; the weights were left as they were. Look for broken images, "
                    "lower optimizers.*.lr, or resume from an earlier checkpoint"
                )
            if unexpected:
                template = "step %d: %s; the %s skips this batch (%d so far)"
                LOGGER.warning(template, gradient.step, found, gradient.network, self._skipped)


@dataclass(frozen=True)
class _Gradient:
    """What is known of one network's gradient; the numbers are on the device."""

    network: str
    step: int
    norm: Tensor
    bad: Tensor
    losses: Mapping[str, Tensor]
    scaled: bool


class _Statistics:
    """Running statistics of one type, and what they were."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffers = buffers
        self.before = self._flat()

    def _flat(self) -> Tensor:
        return torch.cat([buffer.reshape(-1) for buffer in self.buffers])

    def restore_if(self, bad: Tensor) -> None:
        """By the same few launches whether they are restored or not: the host does not know."""
        now = torch.where(bad, self.before, self._flat())
        parts = now.split([buffer.numel() for buffer in self.buffers])
        torch._foreach_copy_(self.buffers, [p.view_as(b) for p, b in zip(parts, self.buffers, strict=True)])


class _HostCopy:
    """A few numbers on their way to the host; whoever reads them early waits."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[bool]:
        if self._event is not None:
            self._event.synchronize()
        return self._values.numpy().tolist()
