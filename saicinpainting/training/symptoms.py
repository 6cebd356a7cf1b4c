"""Runs that report on themselves: what goes wrong is found in the values that a step logs anyway."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from saicinpainting.training.monitors import SpeedMonitor
from saicinpainting.training.parts import Batch, Logs

LOGGER = logging.getLogger(__name__)

CAST = "cast_"
COLOURS = ("red", "green", "blue")
LOSS, REAL, FAKE = "discr_adv", "adv_discr_real_out", "adv_discr_fake_out"
PENALTY = "adv_discr_real_gp"
WAITING = "speed_data_wait_share"


def colour_cast(filled: Batch) -> Logs:
    """Mean colour of the fill less that of the truth, over all holes of a batch, in [-1, 1] by channel.

    filled: `image` and `inpainted` (B, C, H, W), equal outside the hole, and `mask` (B, 1, H, W), 1 = hole.
    """
    difference = (filled["inpainted"].detach() - filled["image"]).sum((0, 2, 3)) / filled["mask"].sum().clamp(min=1)
    names = COLOURS if len(difference) == len(COLOURS) else range(len(difference))
    return {f"{CAST}{name}": value for name, value in zip(names, difference, strict=True)}


class Symptom(NamedTuple):
    """What is wrong. `severity`: 1 is worth a warning; `worse`: another one follows at so many times the last."""

    cause: str
    severity: float
    text: str
    worse: float = 2


class SymptomMonitor(pl.Callback):
    """Warns of what a run seldom recovers from: once for each cause, and again where it gets much worse.

    It looks at logged steps only, at values that they log (one read of the device), on rank 0. A cause has to last for
    `window` logged values; single steps are noise.

    - The discriminator has won: its loss is below `won_loss`, a few hundredths of the 2 ln 2 = 1.39 of one that only
      guesses. What a generator is told by a perfect one is noise (Arjovsky and Bottou 2017, section 2.2).
    - The discriminator is blind: mean scores of images and fills are less than `blind_scores` apart. That shifts a
      probability near 1/2 by `blind_scores` / 4.
    - R1 grows: the penalty has `r1_growth` times its lowest level and outweighs ln 2, a term of the loss at chance. It
      bounds the discriminator's slope (Mescheder et al. 2018); if it runs away, training has left the stable region.
    - Colour cast: the fill's mean colour is off by `cast`, 5 of 255 levels, about what can just be seen (2.3 in CIELAB,
      Mahy et al. 1994), and always to the same side.
    - Waiting for data: more than `data_wait` of the time of `wait_steps` steps, those to the first logged one left out.

    Args:
        settle_steps: steps of a run before which only waiting for data is judged: networks start blind and grey.
        window: logged values that have to agree.
        won_loss: the discriminator's loss.
        blind_scores: difference of mean scores.
        r1_growth: a factor.
        cast: of [0, 1].
        data_wait: a share in (0, 1).
        wait_steps: steps over which waiting is judged.
    """

    def __init__(
        self,
        *,
        settle_steps: int = 2000,
        window: int = 20,
        won_loss: float = 0.05,
        blind_scores: float = 0.01,
        r1_growth: float = 100,
        cast: float = 0.02,
        data_wait: float = 0.2,
        wait_steps: int = 100,
    ) -> None:
        self.settle_steps, self.window = settle_steps, window
        self.won_loss, self.blind_scores, self.r1_growth = won_loss, blind_scores, r1_growth
        self.cast, self.data_wait, self.wait_steps = cast, data_wait, wait_steps
        self._waiting: list[float] = []  # since this start
        self._values: dict[str, list[float]] = {}  # the latest ones, the newest last
        self._lowest_penalty = math.inf
        self._warned: dict[str, float] = {}  # cause -> severity of the latest warning
        self._starts = True  # the first logged step of this start is to come

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values, "lowest_penalty": self._lowest_penalty, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._values, self._warned = dict(state_dict["values"]), dict(state_dict["warned"])
        self._lowest_penalty = state_dict["lowest_penalty"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._starts, self._waiting = True, []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not interval or trainer.global_step % interval or not trainer.is_global_zero:
            return
        logs = _read(getattr(pl_module, "latest_logs", {})) if trainer.global_step > self.settle_steps else {}
        speed = next((c.latest for c in trainer.callbacks if isinstance(c, SpeedMonitor)), {})  # type: ignore[attr-defined]
        if not self._starts and WAITING in speed:
            enough = -(-self.wait_steps // interval)  # each is a mean over the steps since the one before
            self._waiting = [*self._waiting, speed[WAITING]][-enough:]
            if len(self._waiting) == enough:
                self._warn(self._waiting_for_data(sum(self._waiting) / enough), trainer.global_step)
        self._starts = False
        for name, value in logs.items():
            self._values[name] = [*self._values.get(name, []), value][-self.window :]
        for symptom in self._symptoms():
            self._warn(symptom, trainer.global_step)

    def _warn(self, symptom: Symptom, step: int) -> None:
        before = self._warned.get(symptom.cause)
        if symptom.severity >= (1 if before is None else symptom.worse * before):
            self._warned[symptom.cause] = symptom.severity
            LOGGER.warning("step %d: %s", step, symptom.text)

    def _symptoms(self) -> Iterator[Symptom]:
        """What the latest values show, harmless or not."""
        latest = {name: values for name, values in self._values.items() if len(values) == self.window}
        if LOSS in latest:
            yield self._won(latest[LOSS])
        if REAL in latest and FAKE in latest:
            yield self._blind(latest[REAL], latest[FAKE])
        if PENALTY in latest:
            yield self._r1_growth(latest[PENALTY])
        if casts := {name.removeprefix(CAST): values for name, values in latest.items() if name.startswith(CAST)}:
            yield self._colour_cast(casts)

    def _won(self, losses: list[float]) -> Symptom:
        text = (
            f"the discriminator has won: its loss was at most {max(losses):.2g} in the last {len(losses)} logged "
            "steps, and the generator is told nothing of use; lower optimizers.discriminator.lr or raise "
            "losses.adversarial.gp_coef, and resume from a checkpoint before"
        )
        return Symptom("won", self.won_loss / max(max(losses), 1e-12), text, worse=10)

    def _blind(self, real: list[float], fake: list[float]) -> Symptom:
        apart = max(abs(r - f) for r, f in zip(real, fake, strict=True))
        text = (
            f"the discriminator is blind: mean scores of images and fills were at most {apart:.2g} apart in the last "
            f"{len(real)} logged steps; raise optimizers.discriminator.lr, or lower losses.adversarial.gp_coef"
        )
        return Symptom("blind", float(apart < self.blind_scores), text)

    def _r1_growth(self, penalties: list[float]) -> Symptom:
        level = sorted(penalties)[len(penalties) // 2]
        self._lowest_penalty = min(self._lowest_penalty, max(level, 1e-12))
        growth = level / self._lowest_penalty
        text = (
            f"the R1 penalty has grown from {self._lowest_penalty:.2g} to {level:.2g}, the discriminator gets ever "
            "steeper; lower optimizers.discriminator.lr, raise losses.adversarial.gp_coef or set its gp_interval=1, "
            "and resume from a checkpoint before"
        )
        return Symptom("r1", growth / self.r1_growth if level > math.log(2) else 0.0, text, worse=10)

    def _colour_cast(self, casts: Mapping[str, list[float]]) -> Symptom:
        one_sided = {name: values for name, values in casts.items() if min(values) > 0 or max(values) < 0}
        means = {name: sum(values) / len(values) for name, values in one_sided.items()}
        levels = ", ".join(f"{name} {255 * mean:+.1f}" for name, mean in means.items())
        text = (
            f"colour cast: the fill differs from the truth by {levels} of 255 levels, to the same side in the last "
            f"{self.window} logged steps; raise losses.resnet_pl.weight or losses.l1.weight_missing, and with few "
            "images a step raise data.total_batch_size or set training_model.frozen_batch_norm=true"
        )
        return Symptom("cast", max(map(abs, means.values()), default=0.0) / self.cast, text)

    def _waiting_for_data(self, share: float) -> Symptom:
        def per_work(share: float) -> float:
            return share / max(1 - share, 1e-6)

        text = (
            f"{share:.0%} of the time goes by waiting for data; raise data.num_workers, or pack the images by "
            "bin/make_shards.py, smaller if the crops allow it"
        )
        return Symptom("waiting", per_work(share) / per_work(self.data_wait), text)


def _read(logs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The values that symptoms show in, by one read; what is not finite is the guard's affair."""
    names = [name for name in logs if name in (LOSS, REAL, FAKE, PENALTY) or name.startswith(CAST)]
    if not names:
        return {}
    values = torch.stack([logs[name].detach().float() for name in names]).tolist()
    return {name: value for name, value in zip(names, values, strict=True) if math.isfinite(value)}
