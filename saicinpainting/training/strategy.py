"""Distributed data parallel training of two networks that take turns."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch import nn

from saicinpainting.io.signals import GRACE
from saicinpainting.training.module import InpaintingModule
from saicinpainting.training.process_logs import ProcessLogs, ignore_no_news
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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._logs = ProcessLogs()

    def setup_environment(self) -> None:
        ignore_no_news()
        super().setup_environment()
        if self.global_rank == 0:
            self._logs.set_up()

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert isinstance(module, InpaintingModule)
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
        # `super().revert` would come back here with each part of the generator.
        model.generator = TorchSyncBatchNorm().revert(model.get_submodule("generator"))
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


class Ranks:
    """The processes that Lightning has started for ranks on this machine; none where torchrun or SLURM did."""

    def __init__(self, launcher: Any) -> None:
        self._launcher = launcher

    @property
    def all(self) -> bool:
        """Whether rank 0 is one of them and this process only waits for them."""
        return isinstance(self._launcher, _MultiProcessingLauncher)

    def send(self, number: int) -> None:
        if self._launcher is not None:
            self._launcher.kill(number)

    def send_when_started(self, number: int) -> None:
        while not self._launcher.procs:
            time.sleep(0.1)
        self.send(number)

    def kill(self) -> None:
        self.send(getattr(signal, "SIGKILL", signal.SIGTERM))

    def wait(self) -> None:
        """Let them end, which they are about to; kill those that do not."""
        processes = getattr(self._launcher, "procs", [])
        ending = list(processes)
        processes.clear()  # Lightning watches this list, and would kill this process for one that fails now
        deadline = time.monotonic() + GRACE / 2
        for process in ending:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
