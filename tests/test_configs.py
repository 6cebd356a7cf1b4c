"""Every shipped training and prediction config composes, and what it names can be built."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from saicinpainting.data.datamodule import InpaintingDataModule
from saicinpainting.data.datasets import make_train_dataset
from saicinpainting.inference.refinement import RefinerSettings
from saicinpainting.losses.adversarial import make_discrim_loss
from saicinpainting.losses.perceptual import PERCEPTUAL_LOSSES, make_resnet_pl
from saicinpainting.masks.mixed import MASK_GENERATORS, get_mask_generator
from saicinpainting.metrics.evaluator import EVALUATORS
from saicinpainting.networks import make_discriminator, make_generator
from saicinpainting.schema import read_section
from saicinpainting.training.visualizer import make_visualizer
from saicinpainting.utils import InputError, count_parameters
from tests.runs import ROOT, TRAINING, compose_raw, composed, resolved

PREDICTION = ROOT / "configs" / "prediction"

RUNS = sorted(path.stem for path in TRAINING.glob("*.yaml") if not path.stem.startswith("_"))
GROUP_FILES = sorted((path.parent.name, path.stem) for path in TRAINING.glob("*/*.yaml"))

# Names that users' command lines and runs' folders hold.
OFFICIAL_RUNS = """
    big-lama big-lama-celeba big-lama-regular big-lama-regular-celeba lama-fourier lama-fourier-celeba lama-regular
    lama-regular-celeba lama_small_train_masks ablv2_work ablv2_work_ffc075 ablv2_work_md ablv2_work_no_fm
    ablv2_work_no_segmpl ablv2_work_no_segmpl_csdilirpl ablv2_work_no_segmpl_csdilirpl_celeba_csdilirpl1_new
    ablv2_work_no_segmpl_csirpl ablv2_work_no_segmpl_csirpl_celeba_csirpl03_new ablv2_work_no_segmpl_vgg
    ablv2_work_no_segmpl_vgg_celeba_l2_vgg003_new ablv2_work_nodil_segmpl ablv2_work_small_holes
"""
OFFICIAL_GROUP_FILES = {
    "data": "abl-02-thin-bb abl-04-256-mh-dist abl-04-256-mh-dist-celeba",
    "discriminator": "pix2pixhd_nlayer",
    "evaluator": "default_inpainted",
    "generator": """ffc_resnet_075 pix2pixhd_global pix2pixhd_global_sigmoid
                    pix2pixhd_multidilated_catin_4dil_9b""",
    "hydra": "no_time overrides",
    "location": "celeba_example docker places_example places_standard",
    "optimizers": "default default_optimizers",
    "trainer": """any_gpu_large_ssim_ddp_final any_gpu_large_ssim_ddp_final_benchmark
                  any_gpu_large_ssim_ddp_final_celeba""",
    "visualizer": "directory",
}


def as_written(section: DictConfig) -> dict[str, Any]:
    settings = OmegaConf.to_container(section, resolve=False)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def build_on_meta(make: Any, settings: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        return make(**settings)


def test_official_names_are_there() -> None:
    assert set(OFFICIAL_RUNS.split()) <= set(RUNS)
    for group, names in OFFICIAL_GROUP_FILES.items():
        assert {(group, name) for name in names.split()} <= set(GROUP_FILES)


# ---- run files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_networks_and_losses_of_a_run_are_built(run: str) -> None:
    config = composed(run)
    generator = build_on_meta(make_generator, config["generator"])
    discriminator = build_on_meta(make_discriminator, config["discriminator"])
    size = config["data"]["train"]["out_size"]
    picture = generator(torch.empty(2, 4, size, size, device="meta"))
    assert picture.shape == (2, 3, size, size)
    score, features = discriminator(picture)
    assert score.shape[:2] == (2, 1)
    assert features
    make_discrim_loss(**config["losses"]["adversarial"])


@pytest.mark.parametrize("run", RUNS)
def test_every_setting_is_one_that_something_takes(run: str) -> None:
    config = composed(run)
    losses, trainer = config["losses"], config["trainer"]
    perceptual = PERCEPTUAL_LOSSES[losses["perceptual"].get("kind", "vgg19")]
    assert set(losses) == {"l1", "perceptual", "adversarial", "feature_matching", "resnet_pl"}
    assert set(losses["l1"]) == {"weight_known", "weight_missing"}
    assert set(losses["feature_matching"]) <= {"weight", "pass_mask"}
    takers: list[tuple[Callable[..., Any], Iterable[str]]] = [
        (perceptual, losses["perceptual"].keys() - {"kind", "weight"}),  # the weight is the training step's
        (make_resnet_pl, losses["resnet_pl"]),
        (EVALUATORS[config["evaluator"]["kind"]], config["evaluator"].keys() - {"kind"}),
        (Trainer, trainer["kwargs"]),
        (ModelCheckpoint, trainer["checkpoint_kwargs"]),
        (torch.optim.Adam, config["optimizers"]["generator"].keys() - {"kind", "scheduler"}),
    ]
    for taker, settings in takers:
        assert set(settings) <= set(inspect.signature(taker).parameters), taker
    make_visualizer(**config["visualizer"])


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("run", RUNS)
def test_a_run_file_holds_only_what_differs_from_its_base(run: str) -> None:
    written = yaml.safe_load((TRAINING / f"{run}.yaml").read_text())
    base, *others = written.pop("defaults")
    choices = {key: name for entry in others if entry != "_self_" for key, name in entry.items()}
    base_config = compose_raw(base)
    for key, name in choices.items():
        assert base_config.hydra.runtime.choices.get(key.removeprefix("override ")) != name, key
    inherited = leaves(as_written(base_config))
    for key, value in leaves(written).items():
        assert inherited.get(key, "not set") != value, key


# ---- the values behind published models -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "millions"),
    [
        ("lama-fourier", 27.05),
        ("lama-fourier-celeba", 27.05),
        ("big-lama", 50.98),
        ("big-lama-celeba", 50.98),
        ("lama-regular", 45.62),
        ("lama_small_train_masks", 45.62),
        ("big-lama-regular", 73.95),
        ("big-lama-regular-celeba", 73.95),
        ("ablv2_work_ffc075", 27.05),
        ("ablv2_work_md", 45.65),
    ],
)
def test_parameter_counts(run: str, millions: float) -> None:
    generator = build_on_meta(make_generator, composed(run)["generator"])
    assert round(count_parameters(generator) / 1e6, 2) == millions


@pytest.mark.parametrize(("run", "batch_size"), [("lama-fourier", 10), ("lama-regular", 10), ("big-lama", 15)])
def test_batch_of_one_gpu(run: str, batch_size: int) -> None:
    assert composed(run)["data"]["train"]["dataloader_kwargs"]["batch_size"] == batch_size


WIDE = {
    "irregular_kwargs": {"max_angle": 4, "max_len": 200, "max_width": 100, "max_times": 5, "min_times": 1},
    "box_kwargs": {"margin": 10, "bbox_min_size": 30, "bbox_max_size": 150, "max_times": 4, "min_times": 1},
}
NARROW = {
    "irregular_kwargs": {"max_angle": 4, "max_len": 80, "max_width": 40, "max_times": 12, "min_times": 4},
    "box_kwargs": {"margin": 0, "bbox_min_size": 30, "bbox_max_size": 128, "max_times": 1, "min_times": 1},
}


@pytest.mark.parametrize(
    ("data", "shapes", "transform"),
    [
        ("abl-04-256-mh-dist", WIDE, "distortions"),
        ("abl-04-256-mh-dist-celeba", WIDE, "no_augs"),
        ("abl-02-thin-bb", NARROW, "default"),
    ],
)
def test_training_masks(data: str, shapes: dict[str, Any], transform: str) -> None:
    train = composed("lama-regular", f"data={data}")["data"]["train"]
    assert train["mask_gen_kwargs"] == {"irregular_proba": 1, "box_proba": 1, "segm_proba": 0, **shapes}
    assert (train["transform_variant"], train["out_size"]) == (transform, 256)
    mask = get_mask_generator("mixed", train["mask_gen_kwargs"])(torch.zeros(3, 256, 256), iter_i=0)
    assert mask.shape == (1, 256, 256)
    assert set(mask.ravel().tolist()) == {0, 1}


LAMA_LOSSES = {
    "l1.weight_known": 10,
    "l1.weight_missing": 0,
    "perceptual.weight": 0,
    "adversarial.kind": "r1",
    "adversarial.weight": 10,
    "adversarial.gp_coef": 0.001,
    "adversarial.mask_as_fake_target": True,
    "adversarial.allow_scale_mask": True,
    "feature_matching.weight": 100,
    "resnet_pl.weight": 30,
    "resnet_pl.weights_path": "${env:TORCH_HOME}",
}
ABLATIONS = {
    "lama-fourier": {},
    "big-lama": {},
    "ablv2_work": {},
    "ablv2_work_no_fm": {"feature_matching.weight": 0},
    "ablv2_work_no_segmpl": {"resnet_pl.weight": 0},
    "ablv2_work_nodil_segmpl": {"resnet_pl.arch_encoder": "resnet50"},
    "ablv2_work_no_segmpl_csdilirpl": {"resnet_pl.weight": 1, "resnet_pl.segmentation": False},
    "ablv2_work_no_segmpl_csirpl": {
        "resnet_pl.weight": 0.3,
        "resnet_pl.arch_encoder": "resnet50",
        "resnet_pl.segmentation": False,
    },
    "ablv2_work_no_segmpl_vgg": {"resnet_pl.weight": 0, "perceptual.weight": 0.03},
}
CELEBA_ABLATIONS = {
    "ablv2_work_no_segmpl_csdilirpl_celeba_csdilirpl1_new": "ablv2_work_no_segmpl_csdilirpl",
    "ablv2_work_no_segmpl_csirpl_celeba_csirpl03_new": "ablv2_work_no_segmpl_csirpl",
    "ablv2_work_no_segmpl_vgg_celeba_l2_vgg003_new": "ablv2_work_no_segmpl_vgg",
}


@pytest.mark.parametrize(("run", "changed"), ABLATIONS.items())
def test_losses(run: str, changed: dict[str, Any]) -> None:
    assert leaves(as_written(compose_raw(run).losses)) == LAMA_LOSSES | changed


@pytest.mark.parametrize(("run", "original"), CELEBA_ABLATIONS.items())
def test_celeba_ablation_has_the_losses_of_its_original(run: str, original: str) -> None:
    assert composed(run)["losses"] == composed(original)["losses"]
    for section in ("generator", "data", "location"):
        assert composed(run)[section] == composed("lama-regular-celeba")[section]


def test_small_holes_differs_from_its_original_in_the_data() -> None:
    narrow = composed("ablv2_work", "data=abl-02-thin-bb")
    assert composed("ablv2_work_small_holes") == composed("lama_small_train_masks") == narrow


# ---- groups and command lines ---------------------------------------------------------------------------------------


def rounds_of_choices() -> list[dict[str, str]]:
    """Choices of one file of every group; together they name every file (composing is slow, so not one by one)."""
    groups = {group: [name for g, name in GROUP_FILES if g == group] for group, _ in GROUP_FILES}
    count = max(map(len, groups.values()))
    return [{group: names[i % len(names)] for group, names in groups.items()} for i in range(count)]


@pytest.mark.parametrize("choices", rounds_of_choices())
def test_every_group_file_can_be_chosen(choices: dict[str, str]) -> None:
    overrides = [f"{group}={name}" for group, name in choices.items()]
    assert choices.items() <= compose_raw("lama-fourier", *overrides).hydra.runtime.choices.items()
    config = composed("lama-fourier", *overrides)
    assert set(config) == set(composed("lama-fourier")) | {"logger", "callbacks"}
    build_on_meta(make_generator, config["generator"])
    assert {"data_root_dir", "out_root_dir", "tb_dir", "pretrained_models"} <= set(config["location"])
    assert config["data"]["train"]["indir"].startswith(config["location"]["data_root_dir"])


@pytest.mark.parametrize("run", ["lama-fourier", "lama-fourier-celeba", "lama_small_train_masks", "lama-tiny"])
def test_data_of_a_run_are_read(run: str, tmp_path: Path) -> None:
    data = composed(run, f"location.data_root_dir={tmp_path}", "data.num_workers=0")["data"]
    size = data["train"]["out_size"]
    white = torch.full((size, size, 3), 255, dtype=torch.uint8).numpy()
    for folder in ("train", "train_256", "val", "val_256", "visual_test"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), white // 2)
        if "train" not in folder:
            cv2.imwrite(str(tmp_path / folder / "a_mask000.png"), white[..., 0])
    module = InpaintingDataModule(**{name: data[name] for name in ("train", "val", "visual_test")})
    assert next(iter(module.train_dataloader()))["image"].shape == (1, 3, size, size)
    for loader in module.val_dataloader():
        assert next(iter(loader))["mask"].shape == (1, 1, size, size)


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("folder", ["+data.train.mask_gen_kwargs.indir={root}/masks"]),
        ("outpainting", []),
        ("outpainting", ["+data.train.mask_gen_kwargs.max_padding_percent=0.3"]),
        ("dumb", ["+data.train.mask_gen_kwargs.is_training=true"]),
    ],
)
def test_another_kind_of_masks_is_chosen_on_the_command_line(kind: str, overrides: list[str], tmp_path: Path) -> None:
    for folder in ("train", "masks"):
        (tmp_path / folder).mkdir()
        picture = torch.zeros(300, 300, dtype=torch.uint8).numpy()
        picture[100:150, 100:150] = 255
        cv2.imwrite(str(tmp_path / folder / "a.png"), picture)
    chosen = [f"+data.train.mask_generator_kind={kind}", *(o.format(root=tmp_path) for o in overrides)]
    settings = composed("lama-fourier", f"location.data_root_dir={tmp_path}", *chosen)["data"]["train"]
    del settings["dataloader_kwargs"]
    samples = make_train_dataset(**settings)
    assert type(samples.mask_generator) is MASK_GENERATORS[kind]
    assert 0 < samples[0]["mask"].mean() < 1
    settings["mask_gen_kwargs"]["box_prob"] = 1
    with pytest.raises(InputError, match=r"data\.train\.mask_gen_kwargs\.box_prob: unknown config key"):
        make_train_dataset(**settings)


def test_usual_command_line_overrides() -> None:
    config = composed(
        "lama-fourier",
        "location=places_example",
        "data.batch_size=7",
        "+trainer.kwargs.resume_from_checkpoint=models/last.ckpt",
        "losses.l1.weight_known=5",
        "trainer.kwargs.limit_train_batches=100",
        "generator=pix2pixhd_global",
        "run_title=mine",
    )
    assert config["data"]["train"]["dataloader_kwargs"]["batch_size"] == 7
    assert config["data"]["train"]["indir"] == "/home/user/lama/places_standard_dataset/train"
    assert config["trainer"]["kwargs"]["resume_from_checkpoint"] == "models/last.ckpt"
    assert config["trainer"]["kwargs"]["val_check_interval"] == 100
    assert config["losses"]["l1"] == {"weight_known": 5, "weight_missing": 0}
    assert config["generator"]["kind"] == "pix2pixhd_global"


def test_mistyped_override_is_refused() -> None:
    with pytest.raises(ConfigCompositionException, match="batchsize"):
        compose_raw("lama-fourier", "data.batchsize=7")


def test_monitored_metric_is_computed() -> None:
    for run in RUNS:
        config = composed(run)
        monitor, evaluator = config["trainer"]["checkpoint_kwargs"]["monitor"], config["evaluator"]
        metric = monitor.removeprefix("val_").removesuffix("_total_mean")
        assert metric == evaluator["integral_kind"] or evaluator[metric] is True, run


# ---- what Hydra does around a run -----------------------------------------------------------------------------------

# Without the package, whose imports would take most of the time.
SCRIPT = """
import logging, os, sys
import hydra
from omegaconf import OmegaConf

OmegaConf.register_new_resolver("env", os.environ.__getitem__)

@hydra.main(config_path=sys.argv.pop(1), config_name=sys.argv.pop(1), version_base="1.3")
def main(config):
    logging.getLogger("some.module").info("in %s", os.getcwd())

main()
"""


def run_script(folder: Path, *arguments: str) -> str:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script.name, *arguments]
    environment = {**os.environ, "USER": "someone"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_run_folder_and_log(tmp_path: Path) -> None:
    output = run_script(
        tmp_path, str(TRAINING), "lama-tiny", "hydra=no_time", "run_title=x", "location.out_root_dir=out"
    )
    message = f"in {tmp_path}"  # the working directory is the user's, not the run's folder
    assert output == f"{message}\n"
    log = (tmp_path / "out" / "someone_train_lama-tiny_x" / "train.log").read_text()
    assert message in log
    assert "some.module" in log
    assert logging.getLevelName(logging.INFO) in log


def test_run_folder_has_the_time_in_its_name() -> None:
    assert as_written(compose_raw("lama-fourier").hydra.run) == {
        "dir": "${location.out_root_dir}/${env:USER}_${now:%Y-%m-%d_%H-%M-%S}_${hydra.job.name}_"
        "${hydra.job.config_name}_${run_title}"
    }


def test_prediction_config_leaves_no_files(tmp_path: Path) -> None:
    output = run_script(tmp_path, str(PREDICTION), "default", "model.path=big-lama", "refine=True")
    assert output == f"in {tmp_path}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_prediction_defaults() -> None:
    settings = composed("default", "indir=a", "outdir=b", "model.path=c", folder=PREDICTION)
    assert settings["model"] == {"path": "c", "checkpoint": "best.ckpt"}
    assert settings["dataset"] == {"kind": "default", "img_suffix": ".png", "pad_out_to_modulo": 8}
    assert (settings["refine"], settings["out_key"], settings["out_ext"]) == (False, "inpainted", ".png")
    assert read_section(RefinerSettings, settings["refiner"], where="refiner") == RefinerSettings()
    assert settings["refiner"]["modulo"] == 8


def test_the_prediction_config_is_whole_without_hydra() -> None:
    plain = OmegaConf.load(PREDICTION / "default.yaml")
    plain.model.path = plain.indir = plain.outdir = "x"
    official = (
        "indir outdir model.path model.checkpoint dataset.kind dataset.img_suffix dataset.pad_out_to_modulo device"
    )
    official += " out_key refine refiner.gpu_ids refiner.modulo refiner.n_iters refiner.lr refiner.min_side"
    for key in f"{official} refiner.max_scales refiner.px_budget".split():
        assert key in leaves(as_written(plain)), key
    del plain["defaults"]
    words = ("indir=x", "outdir=x", "model.path=x")
    assert resolved(plain) == composed("default", *words, folder=PREDICTION)
    demo = composed("demo", "model.path=x", folder=PREDICTION)
    assert demo["model"] | demo["refiner"] == resolved(plain.model) | resolved(plain.refiner)
