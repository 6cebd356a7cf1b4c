from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from saicinpainting.training.reports.event_logs import better, read_all, read_runs, select_tags
from saicinpainting.utils import InputError


def write_log(folder: Path, scalars: Mapping[str, Mapping[int, float]]) -> Path:
    """An event file as training writes it, `hp_metric` at step 0 included; `scalars`: tag -> step -> value."""
    time.sleep(0.01)  # a file is begun after the one before it
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("hp_metric", -1, 0)
        writer.add_scalar("epoch", 0, 1)
        for tag, values in scalars.items():
            for step, value in values.items():
                writer.add_scalar(tag, value, step)
    return max(folder.glob("events*"), key=lambda file: file.stat().st_mtime_ns)


def read_one(path: Path) -> dict[str, dict[int, float]]:
    (run,) = read_runs(path)
    return {tag: dict(zip(s.steps, s.values, strict=True)) for tag, s in run.scalars.items()}


def test_scalars_come_back(tmp_path: Path):
    scalars = {"train_gen_l1": {4: 0.5, 9: 0.25}, "val_ssim_total_mean": {9: 0.75}}
    write_log(tmp_path / "run" / "version_0", scalars)
    assert read_one(tmp_path / "run") == scalars


def test_a_resumed_run_goes_on_where_its_checkpoint_was(tmp_path: Path):
    """The first start went on to step 9 after the checkpoint at step 5, and was killed; version 10 follows 9."""
    write_log(tmp_path / "run" / "version_9", {"a": dict.fromkeys(range(10), 1.0), "b": {3: 1.0, 7: 1.0}})
    write_log(tmp_path / "run" / "version_10", {"a": {6: 2.0, 8: 2.0}, "c": {8: 2.0}})
    assert read_one(tmp_path / "run") == {
        "a": {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 8: 2},
        "b": {3: 1},
        "c": {8: 2},
    }
    assert read_runs(tmp_path / "run")[0].restarts == []


def test_two_files_in_one_folder_are_one_run(tmp_path: Path):
    write_log(tmp_path / "run", {"a": {0: 1.0, 1: 1.0}})
    write_log(tmp_path / "run", {"a": {1: 2.0, 2: 2.0}})
    assert read_one(tmp_path / "run") == {"a": {0: 1, 1: 2, 2: 2}}


def test_a_run_begun_anew_leaves_the_old_one_out_and_says_so(tmp_path: Path):
    write_log(tmp_path / "run" / "version_0", {"a": {3: 1.0, 5: 1.0}, "b": {5: 1.0}})
    anew = write_log(tmp_path / "run" / "version_1", {"a": {3: 2.0}})
    assert read_one(tmp_path / "run") == {"a": {3: 2}}
    assert read_runs(tmp_path / "run")[0].restarts == [anew]


def test_what_a_kill_cut_off_is_left_out(tmp_path: Path):
    file = write_log(tmp_path / "run", {"a": dict.fromkeys(range(5), 1.0)})
    file.write_bytes(file.read_bytes()[:-5])
    (tmp_path / "run" / "events.out.tfevents.9999999999.host.1.0").touch()
    assert read_one(tmp_path / "run") == {"a": dict.fromkeys(range(4), 1.0)}


def test_runs_are_told_apart_by_their_folders(tmp_path: Path):
    for name in ("one", "two"):
        write_log(tmp_path / "tb" / name / "version_0", {"a": {0: 1.0}})
    write_log(tmp_path / "tb" / "two" / "version_1", {"a": {1: 2.0}})
    assert {run.name: run.scalars["a"].values for run in read_runs(tmp_path / "tb")} == {"one": [1], "two": [1, 2]}
    (version,) = read_runs(tmp_path / "tb" / "two" / "version_1")
    assert (version.name, version.scalars["a"].values) == ("two/version_1", [2])
    (file,) = (tmp_path / "tb" / "one").rglob("events*")
    assert read_runs(file)[0].name == "one/version_0"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path):
    for name in ("mine/run", "yours/run", "yours/other"):
        write_log(tmp_path / name, {"a": {0: 1.0}})
    paths = [tmp_path / "mine" / "run", tmp_path / "yours"]
    assert [run.name for run in read_all(paths)] == [str(paths[0]), "other", str(paths[1] / "run")]


def test_an_experiment_folder_leads_to_its_logs(tmp_path: Path):
    run = tmp_path / "experiments" / "jane_big-lama"
    run.mkdir(parents=True)
    config = f"generator: {{}}\ntraining_model: {{}}\nlocation: {{tb_dir: {tmp_path / 'tb'}}}\n"
    (run / "config.yaml").write_text(config)
    with pytest.raises(InputError, match=r"no logs in .*tb/jane_big-lama, where its config\.yaml has them"):
        read_runs(run)
    write_log(tmp_path / "tb" / "jane_big-lama" / "version_0", {"a": {0: 1.0}})
    assert read_runs(run)[0].name == "jane_big-lama"
    assert read_one(run) == {"a": {0: 1}}


def test_what_is_no_log_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"neither config\.yaml nor events"):
        read_runs(tmp_path / "empty")
    write_log(tmp_path / "run", {})
    with pytest.raises(InputError, match="run: its event files hold no scalars"):
        read_runs(tmp_path / "run")
    write_log(tmp_path / "real", {"val_gen_l1": {0: 1.0}, "_val_ssim_0-10%_mean": {0: 1.0}})
    with pytest.raises(InputError, match=r"real: val_gen_11 was not logged; known: val_gen_l1 \(did you mean"):
        read_runs(tmp_path / "real")[0].series("val_gen_11")


@pytest.mark.parametrize(
    ("tag", "direction"),
    [
        ("val_ssim_fid100_f1_total_mean", "max"),
        ("val_lpips_fid100_f1_total_mean", "max"),
        ("extra_val_random_thick_512_ssim_total_mean", "max"),
        ("_test_ssim_10-20%_mean", "max"),
        ("test_lpips_total_mean", "min"),
        ("val_fid_total_mean", "min"),
        ("val_gen_resnet_pl", "min"),
        ("val_ssim_total_std", None),
        ("val_gen_adv", None),
        ("train_gen_l1", None),
        ("speed_images_per_second", None),
    ],
)
def test_the_better_direction(tag: str, direction: str | None):
    assert better(tag) == direction


def test_tags_are_selected_by_pattern_in_reading_order():
    known = ["speed_step_seconds", "train_gen_l1", "val_gen_l1", "val_ssim_total_mean", "val_ssim_total_std",
             "_val_ssim_0-10%_mean", "extra_val_thick_ssim_0-10%_mean", "test_ssim_total_mean"]  # fmt: skip
    assert select_tags(known) == [
        "val_ssim_total_mean", "val_gen_l1", "test_ssim_total_mean", "train_gen_l1", "speed_step_seconds",
    ]  # fmt: skip
    assert select_tags(known, ["*_l1", "_val*"]) == ["_val_ssim_0-10%_mean", "val_gen_l1", "train_gen_l1"]
    with pytest.raises(InputError, match=r"--tags val_fid\*: no such scalar; known: .*val_gen_l1"):
        select_tags(known, ["val_*", "val_fid*"])
