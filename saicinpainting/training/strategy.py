"""Distributed data parallel training of two networks that take turns."""

from __future__ import annotations

from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from saicinpainting.training.trainers.default import DefaultInpaintingTrainingModule
from saicinpainting.utils import InputError

# Lightning's names of DDP, and how each starts its processes.
_START_METHODS = {
    "ddp": "popen",
    "ddp_find_unused_parameters_false": "popen",
    "ddp_find_unused_parameters_true": "popen",
    "ddp_spawn": "spawn",
    "ddp_fork": "fork",
    "ddp_notebook": "fork",
}


class NetworkwiseDDPStrategy(DDPStrategy):
    """Wraps the generator and the discriminator each for itself, not the module that holds them.

    A backward pass reaches the parameters of one network only. Around the whole module DDP would have to look for the
    others in every pass and wait for them; around each network it finds exactly what it expects, and the frozen
    networks of losses and metrics stay out of it.
    """

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert isinstance(module, DefaultInpaintingTrainingModule)
        module.distribute(self._setup_model)


class GeneratorSyncBatchNorm(TorchSyncBatchNorm):
    """Joins the generator's batch norms over the processes, and no others.

    The R1 penalty differentiates the discriminator twice, which `SyncBatchNorm` cannot. The networks of losses and
    metrics use running statistics.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        model.generator = super().apply(model.get_submodule("generator"))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        model.generator = super().revert(model.get_submodule("generator"))
        return model


def make_ddp_strategy(name: str) -> NetworkwiseDDPStrategy:
    """The strategy for one of Lightning's names of DDP.

    Raises:
        InputError: a way of distributing that cannot train two networks in turns.
    """
    if name not in _START_METHODS:
        raise InputError(
            f"trainer.kwargs.strategy={name}: cannot train two networks that take turns; expected auto, ddp, "
            "ddp_spawn, ddp_fork or ddp_notebook"
        )
    return NetworkwiseDDPStrategy(
        start_method=_START_METHODS[name],  # type: ignore[arg-type]
        # Training uses no running statistics of batch norm, so there is no need to exchange them in every step:
        # validation and checkpoints use those of rank 0.
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
