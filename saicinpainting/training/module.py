"""The one LightningModule: a generator step, then a discriminator step, for every batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from saicinpainting.io.checkpoint import CONFIG, FROZEN_PREFIXES, without_prefixes
from saicinpainting.losses.perceptual import ResNetPL
from saicinpainting.metrics.evaluator import InpaintingEvaluator, results_table
from saicinpainting.networks.base import Generator, set_memory_format
from saicinpainting.networks.batch_norm import freeze_batch_norms, freeze_norms, statistics_kept
from saicinpainting.networks.ema import without_average
from saicinpainting.networks.inputs import batch_rng
from saicinpainting.training.compilation import compile_networks, uncompiled, wants_compilation
from saicinpainting.training.frozen import WHERE as FROZEN_PARTS
from saicinpainting.training.frozen import frozen_norms, frozen_parameters
from saicinpainting.training.guard import NonFiniteGuard
from saicinpainting.training.micro_batches import MicroBatch, each_micro_batch, split_batch
from saicinpainting.training.objective import Objective
from saicinpainting.training.optimizers import NAMES, suit_this_run, warn_of_other_settings
from saicinpainting.training.parts import Batch, Logs, TrainingParts
from saicinpainting.training.symptoms import colour_cast
from saicinpainting.training.visualizer import draw_in_tensorboard, score_maps
from saicinpainting.utils import InputError, add_prefix_to_keys, flatten_dict, set_requires_grad

LOGGER = logging.getLogger(__name__)

AUTOCAST_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
VALIDATIONS = "validations"  # the checkpoint's key for their number
PENALTY = "latest_penalty"  # and for what is logged of a penalty until it comes again


class InpaintingModule(Objective):
    """LaMa's training: how `Objective` is trained, validated and saved. It takes the same arguments."""

    micro_batches = 1  # of a training batch; see `micro_batches`
    validations = 0  # that are done, before a resume too

    def _set_up_training(self, parts: TrainingParts) -> None:
        super()._set_up_training(parts)
        self._frozen = frozen_parameters(self.options.frozen_parts, self._networks())
        if self.options.discriminator_warmup_steps and not parts.losses.adversarial_weight:
            key = "training_model.discriminator_warmup_steps"
            raise InputError(f"{key}: losses.adversarial.weight=0 trains no discriminator; set one of them")
        self.val_evaluator = parts.val_evaluator
        self.test_evaluator = parts.test_evaluator
        self.extra_evaluators = nn.ModuleDict(parts.extra_evaluators)
        self.measured: set[str] = set()  # what was logged in the last validation
        self.gradient_clip_val = parts.gradient_clip_val
        self.visualizer = parts.visualizer
        self.seed = parts.seed
        self._config = parts.config
        self.guard = NonFiniteGuard(policy=self.options.nonfinite)
        self._make_optimizers, self.schedules = parts.make_optimizers, parts.schedules
        self._grad_norm = torch.zeros(())  # of the latest step, before clipping
        self.latest_logs: Logs = {}  # of the latest step, on the device
        self._latest_penalty: Logs = {}
        self._usual_batch = 0  # images of this run's largest batch
        self._memory_format = torch.contiguous_format

    def _networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def trained_parameters(self, network: str) -> list[nn.Parameter]:
        """Those of `generator` or `discriminator` that are not frozen."""
        named = self._networks()[network].named_parameters()
        return [parameter for name, parameter in named if f"{network}.{name}" not in self._frozen]

    def _require_gradients(self, network: str) -> None:
        for parameter in self.trained_parameters(network):
            parameter.requires_grad_(True)

    def setup(self, stage: str) -> None:
        """Lay out the weights and freeze what is frozen before optimizers and DDP see them."""
        if stage == "fit":
            for name, network in self._networks().items():
                set_requires_grad(network, False)  # what is frozen stays so
                self._require_gradients(name)
            self._memory_format = self.options.memory_format(self.trainer.strategy.root_device)
            set_memory_format(self, self._memory_format)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        # A fused optimizer takes float16's loss scale out inside its step, where nothing can be clipped before.
        fused = self.trainer.precision != "16-mixed"
        optimizers = list(self._make_optimizers(self.generator, self.discriminator, fused))
        return optimizers, self.schedules.start(optimizers)

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Train each network inside `wrap(network)`, which averages its gradients over the ranks."""
        self._distributed = {name: wrap(getattr(self, name)) for name in ("generator", "discriminator")}

    def on_fit_start(self) -> None:
        if isinstance(self.loss_resnet_pl, ResNetPL):
            self.loss_resnet_pl.prepare(AUTOCAST_DTYPES.get(str(self.trainer.precision)))
        if self.options.frozen_batch_norm:
            freeze_batch_norms(self.generator)
        freeze_norms(frozen_norms(self.options.frozen_parts, self._networks()), where=FROZEN_PARTS)
        self._usual_batch = 0
        setting = self.options.compile
        if self.options.checkpoint_blocks:
            if not isinstance(self.generator, Generator):
                raise InputError("training_model.checkpoint_blocks: this generator's residual blocks are not known")
            self.generator.checkpoint_blocks = True
            return  # a compiler decides by itself what to keep
        if setting == "auto" and self.batch_options.sizes_vary:
            return  # each size would be compiled anew
        if wants_compilation(setting, self.device, planned_steps=lambda: self.trainer.estimated_stepping_batches):
            encoder = getattr(self.loss_resnet_pl, "impl", None)
            networks = [n for n in (self.generator, encoder, self.discriminator) if n is not None]
            compile_networks(networks, device=self.device, required=setting is True)

    def on_train_start(self) -> None:
        self._latest_penalty = {name: value.to(self.device) for name, value in self._latest_penalty.items()}
        self.schedules.resume(self.trainer.optimizers, self._steps_of_each(self.global_step))
        self.schedules.check_length(self._steps_of_each(self.trainer.estimated_stepping_batches))
        for name, optimizer in zip(NAMES, self.trainer.optimizers, strict=True):
            suit_this_run(optimizer)
            followed, own = name in self.schedules.followed, self.schedules.own_settings(name)
            warn_of_other_settings(optimizer, scheduled=followed, set_by_schedule=own)

    def _steps_of_each(self, steps: float) -> dict[str, Any]:
        """How many steps each network has had when the run has had `steps`."""
        learning = max(0, steps - self.options.discriminator_warmup_steps)
        return {"generator": learning, "discriminator": 0 if self._without_discriminator else steps}

    def on_fit_end(self) -> None:
        self._distributed.clear()

    # ---- training -----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        step = self.global_step
        micro_batches = self._prepared(batch, step)
        images = len(micro_batches[0].batch["image"])
        # The last batch of an epoch may be smaller: to compile for it would take longer than to compute it.
        self._usual_batch = max(self._usual_batch, images)
        with uncompiled(images < self._usual_batch):
            logs, filled = self._step(micro_batches, step)
        waiting = {"generator": self._warms_up(step), "discriminator": self._without_discriminator}
        self.schedules.step([name for name, waits in waiting.items() if waits])
        if self.generator_average is not None:
            self.generator_average.update(self.generator, self.global_step)
        self.latest_logs = {**_detached(logs), "skipped_batches": self.guard.skipped(self.device)}
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Lightning keeps the host busy for milliseconds with what it is told of a step, and writes every so many only.
        if self.trainer.should_stop or (interval and (step + 1) % interval == 0):
            self.latest_logs |= colour_cast(filled)
            self.log_dict(add_prefix_to_keys(self.latest_logs, "train_"), batch_size=images)
        if batch_idx % self.options.visualize_each_iters == 0:
            self._visualize(filled, batch_idx, "train")

    def _step(self, micro_batches: Sequence[MicroBatch], step: int) -> tuple[Logs, Batch]:
        """Both networks' steps: what is logged of the first micro-batch, and how the generator filled it."""
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        self.guard.start_batch((self.generator, self.discriminator))
        if self._warms_up(step):
            filled = self._filled_only(micro_batches)
            logs = self._discriminator_step(micro_batches, filled, discriminator_optimizer, step, counts=True)
        else:
            logs, filled = self._generator_step(micro_batches, generator_optimizer)
            if not self._without_discriminator:
                seen = filled if self.options.reuse_generator_output else [None] * len(filled)
                logs |= self._discriminator_step(micro_batches, seen, discriminator_optimizer, step)
        self.guard.end_batch()
        return logs, filled[0]

    @property
    def _without_discriminator(self) -> bool:
        return self.losses.adversarial_weight <= 0

    def _warms_up(self, step: int) -> bool:
        """Whether the discriminator trains alone in this step."""
        return step < self.options.discriminator_warmup_steps

    def _filled_only(self, micro_batches: Sequence[MicroBatch]) -> list[Batch]:
        """What the generator makes of them as it trains, but without learning: its running statistics stay, too."""
        with torch.no_grad(), statistics_kept(self.generator):
            return [self._fill(batch, self.generator, rng) for batch, rng in micro_batches]

    def _prepared(self, batch: Batch, step: int) -> list[MicroBatch]:
        """The step's micro-batches, transformed, each with its random numbers."""
        first = self.global_rank * self.micro_batches
        prepared = []
        for number, part in enumerate(split_batch(batch, self.micro_batches)):
            rng = batch_rng(self.seed, step, first + number)
            part = self.batch_options.transform(part, step=step, rng=rng)
            image = part["image"].contiguous(memory_format=self._memory_format)
            prepared.append(MicroBatch({**part, "image": image}, rng))
        return prepared

    def _each(self, micro_batches: Sequence[MicroBatch], network: str) -> Iterator[MicroBatch]:
        both = (self.generator, self.discriminator)
        return each_micro_batch(micro_batches, both, self._distributed.get(network))

    def _generator_step(self, micro_batches: Sequence[MicroBatch], optimizer: Any) -> tuple[Logs, list[Batch]]:
        self._require_gradients("generator")
        set_requires_grad(self.discriminator, False)
        optimizer.zero_grad()
        all_logs, filled = [], []
        for batch, rng in self._each(micro_batches, "generator"):
            result = self._fill(batch, self._distributed.get("generator", self.generator), rng)
            loss, logs = self.generator_loss(result)
            self.manual_backward(loss / len(micro_batches))
            all_logs.append(_detached(logs))
            filled.append({**result, **_detached({key: result[key] for key in ("predicted_image", "inpainted")})})
        self._pending = ("generator", self.global_step, _sums(all_logs))
        optimizer.step()
        return {**all_logs[0], "gen_grad_norm": self._grad_norm}, filled

    def _discriminator_step(
        self,
        micro_batches: Sequence[MicroBatch],
        seen: Sequence[Batch | None],
        optimizer: Any,
        step: int,
        *,
        counts: bool = False,
    ) -> Logs:
        """`seen`: as the generator's step filled each; None for a fresh forward of the updated generator.

        `counts`: this is the batch's global step, as the generator has none.
        """
        self._require_gradients("discriminator")
        if seen[0] is None:
            torch.clear_autocast_cache()  # Lightning 2.4 and 2.5 keep casts, of the weights before the step
        optimizer.zero_grad()
        all_logs = []
        for (batch, rng), filled in zip(self._each(micro_batches, "discriminator"), seen, strict=True):
            if filled is None:
                with torch.no_grad():
                    filled = self._fill(batch, self.generator, rng)
            loss, logs = self.discriminator_loss(filled, step)
            self.manual_backward(loss / len(micro_batches))
            all_logs.append(_detached(logs))
        self._pending = ("discriminator", step, _sums(all_logs))
        if counts:
            optimizer.step()
        else:
            # Past Lightning's wrapper, which would count this as one more global step: steps are batches here, as in
            # published checkpoints.
            self.trainer.strategy.optimizer_step(optimizer.optimizer, closure=lambda: None)
        logs = all_logs[0]
        # A penalty that is not computed in every step is logged as it was last.
        penalty = {name: value for name, value in logs.items() if name.endswith("_gp")}
        self._latest_penalty = penalty or self._latest_penalty
        return {**self._latest_penalty, **logs, "discr_grad_norm": self._grad_norm}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Scale the gradient to at most `gradient_clip_val`; drop it if it is not finite.

        Float16's loss scale has been taken out by now. It overflows now and then on purpose; its scaler sees to that
        and needs the gradient.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._grad_norm = nn.utils.clip_grad_norm_(parameters, self.gradient_clip_val or float("inf"))
        network, step, losses = self._pending
        scaled = self.trainer.precision == "16-mixed"
        self.guard.check(self._grad_norm, optimizer, network=network, step=step, losses=losses, scaled=scaled)

    def on_train_epoch_end(self) -> None:
        self.guard.read_all()

    # ---- validation ---------------------------------------------------------------------------------------------

    def _val_titles(self) -> list[str]:
        """Names of the validation sets, in the order of their loaders."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return data.val_titles

    def _evaluator(self, title: str) -> InpaintingEvaluator | None:
        evaluators: dict[str, Any] = {"val": self.val_evaluator, "test": self.test_evaluator}
        evaluators |= {f"extra_val_{name}": evaluator for name, evaluator in self.extra_evaluators.items()}
        return evaluators.get(title)

    def on_validation_start(self) -> None:
        """Evaluate on every rank what the checkpoint will hold: batch norm's running statistics of rank 0."""
        if not self.trainer.sanity_checking:
            self.guard.read_all()
        if self.trainer.world_size > 1:
            networks = [n for n in (self.generator, self.discriminator, self.generator_average) if n is not None]
            for buffer in [buffer for network in networks for buffer in network.buffers()]:
                torch.distributed.broadcast(buffer, src=0)
        self.measured = set()
        for title in self._val_titles():
            if (evaluator := self._evaluator(title)) is not None:
                evaluator.round = 0 if self.trainer.sanity_checking else self.validations  # that measures all

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        title = self._val_titles()[dataloader_idx]
        # Past compiled networks: evaluation meets many sizes, each of which would be compiled anew.
        with uncompiled():
            batch = self(batch)
            _, logs = self.generator_loss(batch)
        logs = add_prefix_to_keys(logs, f"{title}_")
        self.measured |= logs.keys()
        self.log_dict(
            logs,
            # Lightning averages these counts over the processes as integers; a multiple of their number stays exact.
            batch_size=len(batch["image"]) * self.trainer.world_size,
            add_dataloader_idx=False,
            sync_dist=True,
        )
        evaluator = self._evaluator(title)
        if evaluator is not None:
            evaluator.update(batch)
        if title == "test" or batch_idx % self.options.visualize_each_iters == 0:
            self._visualize(batch, batch_idx, title)

    def on_validation_epoch_end(self) -> None:
        for title in self._val_titles():
            evaluator = self._evaluator(title)
            if evaluator is None:
                continue
            results = evaluator.compute()
            evaluator.reset()
            if not results:
                continue
            message = "%s metrics after epoch %d, %d steps:\n%s"
            LOGGER.info(message, title, self.current_epoch, self.global_step, results_table(results).to_string())
            for name, value in flatten_dict(results).items():
                # Official naming: what is no total starts with an underscore and so sorts to the end.
                hidden = "" if "total" in name or title.startswith("extra_val") else "_"
                self.log(f"{hidden}{title}_{name}", float(value))
                self.measured |= {f"{title}_{name}", f"{hidden}{title}_{name}"}
        if not self.trainer.sanity_checking:
            self.validations += 1

    def left_out(self, name: str) -> bool:
        """Whether the last validation did not measure `name`, a value of validations (`evaluator.costly_every`)."""
        evaluators = (self._evaluator(title) for title in self._val_titles())
        postponed = any(getattr(evaluator, "postpones", False) for evaluator in evaluators)
        return postponed and name not in self.measured

    # ---- images -------------------------------------------------------------------------------------------------

    def _visualize(self, batch: Batch, batch_idx: int, title: str) -> None:
        whole = title == "test"  # each process draws the images it has
        if self.trainer.sanity_checking or not (whole or self.trainer.is_global_zero):
            return
        if self.options.store_discr_outputs_for_vis and self.losses.adversarial_weight > 0:
            batch = {**batch, **score_maps(self.discriminator, batch)}
        number = batch_idx * self.trainer.world_size + self.global_rank if whole else batch_idx
        self.visualizer(self.current_epoch, number, batch, suffix=f"_{title}")
        if self.trainer.is_global_zero:
            draw_in_tensorboard(self.loggers, batch, title, number if title != "train" else 0, self.global_step)

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Pretrained networks are constants: they stay out of the file."""
        checkpoint["state_dict"] = without_prefixes(checkpoint["state_dict"], FROZEN_PREFIXES)
        checkpoint[VALIDATIONS] = self.validations
        if not self.options.predict_only:
            checkpoint[CONFIG] = self._config
            self.schedules.save(checkpoint)
            checkpoint[PENALTY] = {name: value.cpu() for name, value in self._latest_penalty.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the constants that the file leaves out, or holds in another version, from this model."""
        self.validations = checkpoint.get(VALIDATIONS, 0)
        if not self.options.predict_only:
            self.schedules.restore(checkpoint)
            penalized = self.adversarial_loss.penalizes(0)  # the run may go on with another loss
            self._latest_penalty = checkpoint.get(PENALTY, {}) if penalized else {}
        state = checkpoint["state_dict"]
        if self.generator_average is None:
            state = without_average(state)
        own = {name: t for name, t in self.state_dict().items() if name.startswith(FROZEN_PREFIXES)}
        checkpoint["state_dict"] = {**without_prefixes(state, FROZEN_PREFIXES), **own}


def _detached(logs: Logs) -> Logs:
    return {name: value.detach() for name, value in logs.items()}


def _sums(all_logs: Sequence[Logs]) -> Logs:
    """Over micro-batches: not finite where one of them is not."""
    first = all_logs[0]
    return first if len(all_logs) == 1 else {name: sum(logs[name] for logs in all_logs) for name in first}  # type: ignore[misc]
