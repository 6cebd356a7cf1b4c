"""The documented command for fine-tuning, on a checkpoint in the layout of the published ones."""

from __future__ import annotations

from pathlib import Path

import torch

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.networks import make_generator
from tests.helpers import fill, run_script, shrunk, write_data
from tests.runs import composed, lightning_1_checkpoint


def test_one_command_fine_tunes_a_published_generator(tmp_path: Path):
    write_data(tmp_path / "data")
    settings = {**composed("big-lama")["generator"], "ngf": 4, "n_blocks": 1}
    published = {f"generator.{name}": t for name, t in fill(make_generator(**settings)).state_dict().items()}
    file = tmp_path / "big-lama" / "models" / "best.ckpt"
    file.parent.mkdir(parents=True)
    torch.save(lightning_1_checkpoint(published), file)

    overrides = shrunk(tmp_path, f"hydra.run.dir={tmp_path / 'run'}", "optimizers.generator.lr=0")
    run = run_script(
        "train.py", "-cn", "big-lama", f"trainer.finetune_from={tmp_path / 'big-lama'}", *overrides, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    log = (tmp_path / "run" / "train.log").read_text()
    assert "discriminator" in log
    assert "random weights" in log
    checkpoint = read_checkpoint(tmp_path / "run" / "models" / "last.ckpt")
    assert checkpoint["global_step"] == 4  # counted anew
    for name, tensor in published.items():
        if "running_" in name or "num_batches" in name:
            continue  # batch norm has seen other images
        torch.testing.assert_close(checkpoint["state_dict"][name], tensor, rtol=0, atol=0)
