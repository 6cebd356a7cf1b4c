"""`bin/train.py --multirun …` whose runs train nothing: usage: swept.py COMMANDS WORD…

A run's end is decided by its learning rate: 0.1 and 0.2 end well, 0.3 is killed, 0.4 has a mistake. COMMANDS gets each
run's command line, as JSON, a line each.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from omegaconf import OmegaConf

from saicinpainting.commands import train
from saicinpainting.config import register_resolvers
from saicinpainting.training import sweep
from tests.runs import write_log

COMMANDS = Path(sys.argv.pop(1))


def finish(command: list[str], signals: object) -> int:
    """What a run leaves in its folder, and its exit status; instead of a process."""
    with COMMANDS.open("a") as file:
        file.write(json.dumps(command) + "\n")
    words = dict(word.split("=", 1) for word in command if "=" in word)
    run = Path(words["hydra.run.dir"])
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    register_resolvers()
    with (run / "train.log").open("a") as log:
        lr = config.optimizers.generator.lr
        if lr == 0.4:
            log.write("[date][cli][ERROR] - stopped: data.batch_size: expected another\n")
            return 1
        OmegaConf.save(config, run / "config.yaml")
        log.write("[date][run][INFO] - the run:\n")
        write_log(
            Path(config.location.tb_dir) / run.parent.name / run.name, {"val_ssim_total_mean": {9: lr, 19: lr / 2}}
        )
        if lr == 0.3:
            return -signal.SIGKILL
        log.write(f"[date][run][INFO] - finished: {run}\n")
        return 0


if __name__ == "__main__":
    sweep._run_process = finish  # type: ignore[assignment]
    train.main()
