"""Keeps a batch whose gradient is not finite away from the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from saicinpainting.utils import InputError, did_you_mean

LOGGER = logging.getLogger(__name__)
POLICIES = ("skip", "stop", "ignore")


class NonFiniteGuard:
    """Decides, from the norm of a network's gradient, whether its optimizer may step.

    The gradient is the same on every rank, so all ranks decide alike. The check reads one number from the device per
    optimizer step; `ignore` saves that.

    Args:
        policy: `skip` leaves the network as it was before the batch and goes on, `stop` ends the run at once, `ignore`
            does not look.
        max_in_a_row: with `skip`, the run ends after so many bad batches in succession.
    """

    def __init__(self, *, policy: str = "skip", max_in_a_row: int = 10) -> None:
        if policy not in POLICIES:
            raise InputError(f"training_model.nonfinite: unknown value {policy!r}; {did_you_mean(policy, POLICIES)}")
        self.policy = policy
        self.max_in_a_row = max_in_a_row
        self.skipped = 0  # batches, since the run started or resumed
        self._counter: Tensor | None = None
        self._in_a_row = 0
        self._skipped_now = False
        self._buffers: list[Tensor] = []
        self._saved: list[Tensor] = []

    @torch.no_grad()
    def start_batch(self, networks: Iterable[nn.Module]) -> None:
        """Remember the running statistics of `networks`, which a forward pass of bad values would spoil."""
        if self.policy == "ignore":
            return
        buffers = [buffer for network in networks for buffer in network.buffers()]
        if len(self._saved) != len(buffers) or any(
            b.device != s.device or b.dtype != s.dtype for b, s in zip(buffers, self._saved, strict=True)
        ):
            self._saved = [torch.empty_like(buffer) for buffer in buffers]
        self._buffers = buffers
        _copy(self._saved, buffers)
        self._in_a_row = self._in_a_row if self._skipped_now else 0
        self._skipped_now = False

    def counter(self, device: torch.device) -> Tensor:
        """`skipped` for the logs, on the device once and for all: a copy to it in every step would wait for it."""
        if self._counter is None or self._counter.device != device:
            self._counter = torch.tensor(float(self.skipped), device=device)
        return self._counter

    def allows(
        self, norm: Tensor, *, network: str, step: int, losses: Mapping[str, Tensor], scaled: bool = False
    ) -> bool:
        """Whether to step by a gradient of this norm; if not, the running statistics are what they were.

        Args:
            norm: of the gradient over all ranks, 0-dimensional.
            network, step, losses: for the report.
            scaled: the loss was scaled for float16, whose overflows are expected. They are left out as well, but said
                only where the losses themselves are not finite, and may come more often in a row.

        Raises:
            InputError: the policy is `stop`, or too many batches in a row were bad.
        """
        if self.policy == "ignore" or bool(torch.isfinite(norm)):
            return True
        _copy(self._buffers, self._saved)
        if not self._skipped_now:
            self.skipped += 1
            self._counter = None
            self._in_a_row += 1
            self._skipped_now = True
        bad = [name for name, value in losses.items() if not bool(torch.isfinite(value).all())]
        found = f"the gradient of the {network} is {float(norm)}" + (f" (not finite: {', '.join(bad)})" if bad else "")
        limit = self.max_in_a_row * (10 if scaled else 1)
        if self._in_a_row >= limit or (self.policy == "stop" and (bad or not scaled)):
            rows = f" in {self._in_a_row} batches in a row" if self._in_a_row > 1 else ""
            raise InputError(
                f"step {step}: {found}{rows}; the weights were left as they were. Look for broken images, lower "
                "optimizers.*.lr, or resume from an earlier checkpoint"
            )
        if bad or not scaled:
            LOGGER.warning("step %d: %s; the %s skips this batch (%d so far)", step, found, network, self.skipped)
        return False


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:  # networks without batch norm have no buffers
        torch._foreach_copy_(targets, sources)
