"""bin/evaluate_predicts.py as a process, and the package functions under it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch
import yaml
from PIL import Image

from saicinpainting.data.pairs import batches_of_equal_size
from saicinpainting.evaluation.predictions import (
    evaluate_predictions,
    metric_switches,
    read_evaluation_config,
)
from saicinpainting.io.device import pick_device
from saicinpainting.metrics.ssim import ssim
from saicinpainting.utils import InputError

ROOT = Path(__file__).resolve().parents[2]
DATASET = {"img_suffix": ".png", "inpainted_suffix": ".png"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photographs of three sizes with two masks each; predictions are noisy inside the hole."""
    root = tmp_path_factory.mktemp("evaluation")
    data, predictions = root / "data", root / "predictions"
    data.mkdir()
    predictions.mkdir()
    rng = np.random.RandomState(0)
    photographs = {"astronaut": (64, 64), "chelsea": (64, 64), "coffee": (48, 72), "rocket": (40, 40)}
    for name, (height, width) in photographs.items():
        image = Image.fromarray(getattr(skimage.data, name)()).resize((width, height))
        image.save(data / f"{name}.png")
        for index, share in enumerate((0.25, 0.75)):
            mask = np.zeros((height, width), np.uint8)
            mask[: round(height * share)] = 255
            noise = rng.randint(-60, 60, (height, width, 3)) * (mask[..., None] > 0)
            inpainted = (np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(mask).save(data / f"{name}_mask{index:03}.png")
            Image.fromarray(inpainted).save(predictions / f"{name}_mask{index:03}.png")
    return data, predictions


def run(*arguments: Any, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command from another folder and without PYTHONPATH."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, ROOT / "bin" / "evaluate_predicts.py", *map(str, arguments)],
        cwd=folder,
        env={**inherited, "TORCH_HOME": str(folder), "LAMA_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def expected_ssim(folders: tuple[Path, Path], pattern: str) -> np.ndarray:
    data, predictions = folders
    values = []
    for path in sorted(predictions.glob(pattern)):
        pair = [data / f"{path.stem.split('_')[0]}.png", path]
        x, y = (torch.from_numpy(np.asarray(Image.open(p)) / 255).permute(2, 0, 1)[None] for p in pair)
        values.append(ssim(x, y).item())
    return np.array(values)


def test_command_measures_a_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.csv"
    done = run(
        ROOT / "configs" / "eval2_gpu.yaml", *folders, out, "--metrics", "ssim", "--batch-size", 3, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out, sep="\t", index_col=[0, 1])
    assert list(table.index) == [("ssim", "total"), ("ssim", "20-30%"), ("ssim", "70-80%")]
    for group, pattern in {"total": "*.png", "20-30%": "*_mask000.png", "70-80%": "*_mask001.png"}.items():
        values = expected_ssim(folders, pattern)
        assert table.loc[("ssim", group), "mean"] == pytest.approx(values.mean(), abs=6e-5)
        assert table.loc[("ssim", group), "std"] == pytest.approx(values.std(), abs=6e-5)
    assert f"{table.loc[('ssim', 'total'), 'mean']:.4f}" in done.stdout


def test_command_without_weights_stops_in_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(ROOT / "configs" / "eval2_cpu.yaml", *folders, tmp_path / "out.csv", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: VGG16 weights of LPIPS: cannot download https://download.pytorch.org/")
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in done.stderr
    assert done.stderr.endswith(", or leave that metric out\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_missing_prediction_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, predictions = folders
    for path in sorted(predictions.iterdir())[1:]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = {"dataset_kwargs": DATASET, "evaluator_kwargs": metric_switches("ssim")}
    with pytest.raises(InputError, match=r"1 of 8 predictions are missing .*astronaut_mask000\.png"):
        evaluate_predictions(config, data, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_prediction_is_named_without_a_traceback(
    folders: tuple[Path, Path], tmp_path: Path, workers: int
) -> None:
    data, predictions = folders
    for path in predictions.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "astronaut_mask000.png").write_bytes(b"no image")
    config = tmp_path / "config.yaml"
    settings = {**metric_switches("ssim"), "num_workers": workers, "device": "cpu"}
    config.write_text(yaml.safe_dump({"dataset_kwargs": DATASET, "evaluator_kwargs": settings}))
    done = run(config, data, tmp_path, tmp_path / "out.csv", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: cannot read the image ")
    assert "astronaut_mask000.png" in last


def test_padding_of_the_data_set_changes_nothing(folders: tuple[Path, Path]) -> None:
    switches = metric_switches("ssim")
    plain = {"dataset_kwargs": DATASET, "evaluator_kwargs": switches}
    padded = {"dataset_kwargs": {**DATASET, "pad_out_to_modulo": 32}, "evaluator_kwargs": switches}
    expected = evaluate_predictions(plain, *folders, device="cpu")
    assert evaluate_predictions(padded, *folders, device="cpu") == expected


def test_batches_end_where_the_size_changes() -> None:
    sides = [4, 4, 4, 6, 4, 4]
    assert list(batches_of_equal_size(range(6), 2, lambda i: sides[i])) == [[0, 1], [2], [3], [4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"evaluator_kwargs": {"batchsize": 2}}, r"evaluator_kwargs\.batchsize: unknown.*'batch_size'"),
        ({"dataset_kwargs": {"img_sufix": ".png"}}, r"dataset_kwargs\.img_sufix: unknown.*'img_suffix'"),
        ({"dataset": {}}, r"config\.yaml: dataset: unknown config key.*'dataset_kwargs'"),
        ({"dataset_kwargs": ".png"}, r"dataset_kwargs: expected settings"),
        (["dataset_kwargs"], r"expected the sections"),
        ({"evaluator_kwargs": {"batch_size": 0, "lpips": False, "fid": False}}, "batch_size: expected a whole number"),
        ({"evaluator_kwargs": {"device": "tpu9", "lpips": False, "fid": False}}, "device=tpu9 cannot be used here"),
    ],
)
def test_wrong_config_is_named(folders: tuple[Path, Path], tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "config.yaml"
    if isinstance(content, dict):
        content = {"dataset_kwargs": DATASET, **content}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        evaluate_predictions(read_evaluation_config(path), *folders)


def test_unreadable_configs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot read the evaluation config \(No such.*configs holds"):
        read_evaluation_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"bad\.yaml is no valid YAML"):
        read_evaluation_config(tmp_path / "bad.yaml")


def test_the_official_section_of_classes_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "eval2_segm.yaml"
    official = "evaluator_kwargs:\n  batch_size: 8\n\nsegmentation:\n  enable: %s\n  weights_path: %s\n"
    for enable, weights, expected in (
        ("True", "${TORCH_HOME}", {"segm": True, "segm_weights": None}),
        ("True", "/weights", {"segm": True, "segm_weights": "/weights"}),
        ("False", "/weights", {}),
    ):
        path.write_text(official % (enable, weights))
        assert read_evaluation_config(path) == {"evaluator_kwargs": {**expected, "batch_size": 8}, "dataset_kwargs": {}}


@pytest.mark.parametrize("key", ["img_suffix", "inpainted_suffix"])
def test_an_ending_that_is_not_given_is_that_of_the_files(folders: tuple[Path, Path], key: str) -> None:
    switches = metric_switches("ssim")
    expected = evaluate_predictions({"dataset_kwargs": DATASET, "evaluator_kwargs": switches}, *folders, device="cpu")
    config = {"dataset_kwargs": {**DATASET, key: None}, "evaluator_kwargs": switches}
    assert evaluate_predictions(config, *folders, device="cpu") == expected


def test_a_published_config_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_evaluation_config("configs/eval2_ssim.yaml") == read_evaluation_config(ROOT / "configs/eval2_ssim.yaml")


def test_predictions_with_several_endings_name_the_setting_of_theirs(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for file in folders[1].rglob("*.png"):
        for ending in (".bmp", ".webp"):
            copy = (tmp_path / file.relative_to(folders[1])).with_suffix(ending)
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(file).save(copy)
    config = {"dataset_kwargs": {"img_suffix": ".png", "inpainted_suffix": ".png"}, "evaluator_kwargs": {}}
    with pytest.raises(InputError, match=r"either may be meant; set inpainted_suffix to \.bmp or \.webp"):
        evaluate_predictions(config, folders[0], tmp_path, **metric_switches("ssim"))


@pytest.mark.parametrize(("key", "value"), [("num_workers", -1), ("bins", 0), ("bins", 2.5)])
def test_a_number_that_cannot_be_is_named(folders: tuple[Path, Path], key: str, value: float) -> None:
    names = {"img_suffix": ".png", "inpainted_suffix": ".png"}
    config = {"dataset_kwargs": names, "evaluator_kwargs": {key: value, "device": "cpu"}}
    with pytest.raises(InputError, match=rf"evaluator_kwargs\.{key}: expected a whole number .* got {value}"):
        evaluate_predictions(config, *folders, **metric_switches("ssim"))


def test_unknown_metric_is_named() -> None:
    assert [name for name, on in metric_switches("fid, ssim").items() if on] == ["ssim", "fid"]
    with pytest.raises(InputError, match=r"--metrics: unknown metric 'lpip'.*'lpips'"):
        metric_switches("ssim,lpip")


def test_automatic_device_exists() -> None:
    for name in ("auto", None):
        assert torch.ones(2, device=pick_device(name)).sum() == 2


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "1"])
def test_unknown_devices_are_told_the_known_ones(name: str) -> None:
    with pytest.raises(InputError) as raised:
        pick_device(name)
    assert str(raised.value) == f"device={name} cannot be used here; expected one like auto, cpu, cuda, cuda:1, mps"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("eval2*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_understood(path: Path, folders: tuple[Path, Path]) -> None:
    """With SSIM alone, on the CPU, and with the names of our files."""
    config = read_evaluation_config(path)
    overrides = {**metric_switches("ssim"), "device": "cpu", "num_workers": 0}
    config["dataset_kwargs"]["img_suffix"] = ".png"
    assert ("ssim", "total") in evaluate_predictions(config, *folders, **overrides)
