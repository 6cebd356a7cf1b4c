"""bin/evaluate.py as its user runs it: one command, interrupted, continued, a second checkpoint, the report."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from saicinpainting.evaluation.checkpoint import evaluate_checkpoint
from saicinpainting.evaluation.qualitative import find_failures, write_failures
from saicinpainting.metrics.inception import _make_inception
from saicinpainting.utils import InputError
from tests.helpers import ROOT, fill, photo, run_script, shrunk, write_data

PHOTOS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, photographs, and random weights of the metrics' networks in their files."""
    root = tmp_path_factory.mktemp("evaluate")
    write_data(root / "data")
    run = run_script(
        "train.py", "-cn", "lama-fourier", *shrunk(root, f"hydra.run.dir={root / 'run'}"), cwd=root
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    (root / "photos").mkdir()
    for i in range(PHOTOS):
        Image.fromarray(photo("coffee.png", 300, 25 * i)).save(root / "photos" / f"{i}.png")
    torch.save(fill(_make_inception()).state_dict(), root / "inception.pth")
    vgg16 = fill(make_layers(cfgs["D"])).state_dict()
    torch.save({f"features.{key}": tensor for key, tensor in vgg16.items()}, root / "vgg16.pth")
    return root


def arguments(root: Path, out: Path, *extra: str) -> list[str]:
    return [
        f"model.path={root / 'run'}", f"indir={root / 'photos'}", f"outdir={out}", "sets=[thin,thick]", "size=256",
        f"lpips_weights={root / 'vgg16.pth'}", f"fid_weights={root / 'inception.pth'}", "num_workers=0", "batch_size=2",
        "device=cpu", "examples=1", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(root: Path) -> Path:
    run = run_script("evaluate.py", *arguments(root, root / "out"), cwd=root)
    assert run.returncode == 0, run.stderr
    assert "lpips" in run.stdout
    return root / "out" / "run"


def test_tables_and_what_made_them(evaluated: Path, root: Path) -> None:
    table = pd.read_csv(evaluated / "results.csv", sep="\t", index_col=["set", "metric", "group"])
    content = json.loads((evaluated / "results.json").read_text())
    images = pd.read_csv(evaluated / "images.csv", sep="\t")
    for name in ("thin", "thick"):
        assert content["sets"][name]["images"] == PHOTOS
        own = images[images["set"] == name]
        for metric in ("ssim", "lpips", "psnr", "psnr_hole", "l1", "l1_hole"):
            assert table.loc[(name, metric, "total"), "mean"] == pytest.approx(own[metric].mean(), abs=6e-5)
            assert content["sets"][name]["results"][metric]["total"]["mean"] == pytest.approx(
                own[metric].mean(), abs=1e-6
            )
        assert table.loc[(name, "fid", "total"), "mean"] > 0
    made_by = content["made_by"]
    assert made_by["settings"]["seed"] == 0
    assert made_by["versions"]["torch"] == torch.__version__
    assert set(made_by["sets"]) == {"thin", "thick"}


def test_the_same_table_after_interruptions(evaluated: Path, root: Path, tmp_path: Path) -> None:
    """Killed whenever something new has been written, and started again, until it ends."""
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "bin" / "evaluate.py"), *arguments(root, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1"}
    marks: list[Callable[[], Any]] = [
        lambda: list(out.glob("sets/random_thin_256/*_mask*.png")),
        lambda: list(out.glob("run/predictions/random_thin_256/*.png")),
        lambda: list(out.glob("run/predictions/random_thick_256/*.png")),
        lambda: (out / "run" / "made_by.jsonl").read_text(),  # the first set is measured
    ]
    kills = 0
    for reached in marks:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and not reached():
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        assert process.returncode == -signal.SIGKILL, process.stderr and process.stderr.read().decode()
    assert kills == len(marks)
    last = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    for name in ("results.csv", "images.csv"):
        assert (out / "run" / name).read_text() == (evaluated / name).read_text()
    assert "metrics of thin: measured before\nmetrics of thick\n" in last.stdout


def test_predictions_of_another_checkpoint_are_not_taken(evaluated: Path, root: Path) -> None:
    state = torch.load(root / "run" / "models" / "last.ckpt", weights_only=True)
    torch.save({**state, "another": 1}, root / "run" / "models" / "another.ckpt")
    extra = ("model.checkpoint=another.ckpt", "model.name=run")
    run = run_script("evaluate.py", *arguments(root, root / "out", *extra), cwd=root)
    assert run.returncode == 1
    assert re.search(
        r"error: .*holds an evaluation made of something else \(checkpoint_sha256.*set model\.name", run.stderr
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sets=[thinn]", r"sets: 'thinn' is neither a folder nor a recipe for size=256; known: .*did you mean 'thin'"),
        ("size=300", r"size: the set thin is drawn at 256 or 512 px, not at 300; set size to one of them"),
        ("indir=null", r"indir: the set thin is drawn from photographs"),
        ("metrics=[fidd]", r"metrics: unknown metric 'fidd'.*did you mean 'fid'"),
        ("model.checkpoint=nope.ckpt", r"no checkpoint .*nope\.ckpt"),
        ("paper=placed", r"paper: unknown data set 'placed'.*did you mean 'places'"),
        ("model.name=sets", r"model\.name: 'sets' cannot be"),
        ("precision=fp8", r"precision: unknown value 'fp8'"),
    ],
)
def test_wrong_settings_are_named(root: Path, tmp_path: Path, override: str, message: str) -> None:
    with initialize_config_dir(str(ROOT / "configs" / "evaluation"), version_base="1.3"):
        config = compose("default", arguments(root, tmp_path / "out", override))
    settings: Any = OmegaConf.to_container(config, resolve=True)
    with pytest.raises(InputError, match=message):
        evaluate_checkpoint(settings)


# ---- galleries -----------------------------------------------------------------------------------------------------


def test_failures_are_the_images_with_the_worst_values(evaluated: Path, tmp_path: Path) -> None:
    images = pd.read_csv(evaluated / "images.csv", sep="\t")
    by_hand = images.sort_values("psnr_hole")
    run = run_script("analyze_errors.py", str(evaluated), "--by", "psnr_hole", "--top", "3", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    text = (evaluated / "errors.html").read_text()
    captions = [caption.split(" · ")[1] for caption in re.findall(r"<figcaption>([^<]*)", text)]
    assert captions == by_hand["image"].head(3).tolist()
    assert [line.split()[1] for line in run.stdout.splitlines() if line.startswith((" thi", "thi"))] == captions
    assert text.count('src="data:image/jpeg') == 3 * 3
    assert len(find_failures(evaluated, set_name="thin").ranked) == PHOTOS


def test_failures_against_another_model(evaluated: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    images = pd.read_csv(other / "images.csv", sep="\t")
    images.loc[5, "ssim"] += 0.2  # there it came out better
    images.loc[2, "ssim"] -= 0.1
    images.to_csv(other / "images.csv", sep="\t", index=False)
    failures = find_failures(evaluated, by="ssim", against=other)
    assert failures.ranked["image"].tolist()[0] == images.loc[5, "image"]
    assert failures.ranked["image"].tolist()[-1] == images.loc[2, "image"]
    assert failures.ranked["worse by"].tolist()[0] == pytest.approx(0.2)
    write_failures(evaluated, failures, tmp_path / "page.html", top=2, against=other)
    assert (tmp_path / "page.html").read_text().count('src="data:image/jpeg') == 2 * 4


def test_wrong_questions_about_failures_are_named(evaluated: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .*images\.csv; expected a model's folder"):
        find_failures(tmp_path)
    with pytest.raises(InputError, match=r"--by: .*has no 'sim'.*did you mean 'ssim'"):
        find_failures(evaluated, by="sim")
    with pytest.raises(InputError, match=r"--set: .*has no set 'thicc'.*did you mean 'thick'"):
        find_failures(evaluated, set_name="thicc")


def test_several_runs_side_by_side(evaluated: Path, root: Path, tmp_path: Path) -> None:
    data, first = root / "out" / "sets" / "random_thin_256", evaluated / "predictions" / "random_thin_256"
    second = tmp_path / "second"
    second.mkdir()
    for file in first.glob("*.png"):
        Image.new("RGB", Image.open(file).size, "red").save(second / file.name)
    run = run_script(
        "side_by_side.py", str(data), str(tmp_path / "page.html"), f"lama={first}", f"red={second}", "--count", "2",
        cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "page.html").read_text()
    assert text.count('src="data:image/jpeg') == 2 * 4
    pictures = [base64.b64decode(found) for found in re.findall(r'base64,([^"]*)"', text)]
    means = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).mean(axis=(0, 1)) for picture in pictures]
    np.testing.assert_allclose(means[2], (254, 0, 0), atol=2)
    assert np.abs(means[1] - means[3]).max() < 60  # LaMa's result and the original
    wrong = run_script("side_by_side.py", str(data), "page.html", str(first), cwd=tmp_path)
    assert "expected NAME=PREDICTIONS" in wrong.stderr
    no_page = run_script("side_by_side.py", str(data), f"lama={first}", f"red={second}", cwd=tmp_path)
    assert no_page.returncode == 1
    assert f"error: lama={first}: expected a page to write, .html" in no_page.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"second", "page.html"}


# ---- the report ----------------------------------------------------------------------------------------------------

PROBE = """<script>
addEventListener("load", () => {
  const images = [...document.images];
  document.body.setAttribute("data-probe", JSON.stringify({
    images: images.length, loaded: images.filter(image => image.complete && image.naturalWidth > 1).length,
    plots: document.querySelectorAll("img.plot").length,
    rows: document.querySelectorAll("#results tbody tr").length,
    paper: document.querySelectorAll("#paper tbody tr").length,
    height: document.querySelector("img.plot").getBoundingClientRect().height,
    wide: document.documentElement.scrollWidth - innerWidth,
  }));
});
</script>"""


def browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.mark.skipif(browser() is None, reason="needs Chromium")
def test_the_report_opens_in_a_browser(evaluated: Path, tmp_path: Path) -> None:
    """The page in another folder: tables, plots and pictures are there, nothing is wider than the window."""
    page = tmp_path / "report.html"
    page.write_text((evaluated / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    run = subprocess.run(
        [str(browser()), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=20000", "--window-size=1200,900", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'data-probe="([^"]*)"', run.stdout)
    assert found, run.stderr[-2000:]
    probe = json.loads(html.unescape(found[1]))
    # A row of three for each of best, median and worst of two sets; plots of seven metrics at most.
    assert probe["images"] == probe["loaded"] == probe["plots"] + 2 * 3 * 3
    assert probe["plots"] >= 6
    assert probe["rows"] == 9
    assert probe["paper"] == 3
    assert probe["height"] > 50
    assert probe["wide"] <= 0


def test_the_report_needs_no_other_file(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "object at 0x" not in text
