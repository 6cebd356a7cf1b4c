"""The commands as their user runs them: real processes, real configs shrunk, real files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from saicinpainting.commands.make_checkpoint import find_checkpoint
from saicinpainting.io.checkpoint import average_state_dicts, read_checkpoint
from saicinpainting.networks.load import load_model
from tests.helpers import photo, run_script, shrunk, write_data
from tests.runs import lightning_1_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and the experiment `run`, made by bin/train.py."""
    root = tmp_path_factory.mktemp("trained")
    write_data(root / "data")
    run = run_script(
        "train.py", "-cn", "lama-fourier", *shrunk(root, f"hydra.run.dir={root / 'run'}"),
        "trainer.kwargs.max_epochs=2", cwd=root,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return root


def predict(root: Path, indir: Path, outdir: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return run_script(
        "predict.py", f"model.path={root / 'run'}", f"indir={indir}", f"outdir={outdir}", *extra, cwd=root
    )


def read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def one_line(run: subprocess.CompletedProcess[str]) -> str:
    """The error of a failed command: exactly one line, no traceback, status 1."""
    assert run.returncode == 1, (run.stdout, run.stderr)
    lines = [
        line for line in run.stderr.splitlines() if not re.search(r"it/s|image/s|s/image|\| 0/", line) and line.strip()
    ]
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in run.stdout
    return lines[0]


# ---- training -------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_folder_and_a_log(trained: Path):
    assert {p.name for p in (trained / "run").iterdir()} >= {"config.yaml", "models", "samples", "train.log"}
    assert "val metrics after epoch 1, 8 steps" in (trained / "run" / "train.log").read_text()


def test_without_a_run_folder_the_name_is_the_official_one(trained: Path, tmp_path: Path):
    run = run_script(
        "train.py", "-cn", "lama-fourier", *shrunk(trained, f"location.out_root_dir={tmp_path}", "generator.kind=nope"),
        cwd=tmp_path, USER="jane",
    )  # fmt: skip
    assert run.returncode == 1
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("jane_2")
    assert folder.name.endswith("_train_lama-fourier_")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "generator.kind=ffc_resnett",
            r"generator.kind: unknown kind 'ffc_resnett'; known: ffc_resnet, pix2pixhd_global",
        ),
        ("location.data_root_dir=/no/such/place", "data.train.indir: no folder /no/such/place/train"),
        ("data.batch_sise=3", "data.batch_sise"),
        ("+losses.l1.wieght=3", "losses.l1.wieght: unknown config key; known: weight_known, weight_missing"),
        ("losses.resnet_pl.weight=30", "encoder_epoch_20.pth (LAMA_OFFLINE is set); put the file by hand at"),
        ("evaluator=default_inpainted", "evaluator.lpips=false evaluator.fid=false"),
        ("trainer.resume_from_checkpoint=/no/last.ckpt", "/no/last.ckpt does not exist"),
        ("location=nowhere", "location/nowhere"),
        ("trainer.kwargs.accelerator=dp", "strategy=ddp"),
    ],
)
def test_a_mistake_is_one_line(trained: Path, tmp_path: Path, override: str, message: str):
    arguments = shrunk(trained, f"hydra.run.dir={tmp_path / 'run'}", override)
    if "=" in override and override.startswith("evaluator="):
        arguments = [a for a in arguments if not a.startswith(("evaluator=", "trainer.checkpoint_kwargs"))] + [override]
    run = run_script("train.py", "-cn", "lama-fourier", *arguments, cwd=tmp_path, TORCH_HOME=str(tmp_path))
    assert message in one_line(run)
    assert not (tmp_path / "run" / "models").exists()


def test_the_error_says_how_to_prepare_the_data(tmp_path: Path):
    run = run_script("train.py", "-cn", "lama-tiny", f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert (
        "no folder demo/data/train; set it or location.data_root_dir, or prepare the data: make demo-data"
        in one_line(run)
    )


def test_an_unreadable_training_image_is_named_through_a_worker(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "data", tmp_path / "data")
    for i in range(8):
        (tmp_path / "data" / "train" / f"{i}.png").write_bytes(b"not a picture")
    run = run_script(
        "train.py", "-cn", "lama-fourier", *shrunk(tmp_path, f"hydra.run.dir={tmp_path / 'run'}", "data.num_workers=1"),
        cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if "error: " in line]
    assert "cannot read the image" in line
    assert "Traceback" not in line


# ---- published files -----------------------------------------------------------------------------------------------

PUBLISHED = """
run_title: b18_ffc075_batch8x15
training_model: {{kind: default, visualize_each_iters: 1000, concat_mask: true, store_discr_outputs_for_vis: true}}
losses:
  l1: {{weight_missing: 0, weight_known: 10}}
  perceptual: {{weight: 0}}
  adversarial: {{kind: r1, weight: 10, gp_coef: 0.001, mask_as_fake_target: true, allow_scale_mask: true}}
  feature_matching: {{weight: 100}}
  resnet_pl: {{weight: {resnet_pl}, weights_path: '${{env:TORCH_HOME}}'}}
optimizers: {{generator: {{kind: adam, lr: 0.001}}, discriminator: {{kind: adam, lr: 0.0001}}}}
visualizer:
  key_order: [image, predicted_image, discr_output_fake, discr_output_real, inpainted]
  rescale_keys: [discr_output_fake, discr_output_real]
  kind: directory
  outdir: '/group-volume/${{env:USER}}/inpainting/experiments/x/samples'
location: {{data_root_dir: {data}, out_root_dir: '/group-volume/${{env:USER}}', tb_dir: {tb}, pretrained_models: /x}}
data:
  batch_size: 2
  val_batch_size: 2
  num_workers: 0
  train:
    indir: '${{location.data_root_dir}}/train'
    out_size: 64
    mask_gen_kwargs:
      irregular_proba: 1
      irregular_kwargs: {{max_angle: 4, max_len: 50, max_width: 25, max_times: 5, min_times: 1}}
      box_proba: 1
      box_kwargs: {{margin: 10, bbox_min_size: 10, bbox_max_size: 30, max_times: 3, min_times: 1}}
      segm_proba: 0
    transform_variant: distortions
    dataloader_kwargs: {{batch_size: '${{data.batch_size}}', shuffle: true, num_workers: '${{data.num_workers}}'}}
  val:
    indir: '${{location.data_root_dir}}/val'
    img_suffix: .png
    dataloader_kwargs: {{batch_size: '${{data.val_batch_size}}', shuffle: false, num_workers: 0}}
  visual_test: null
generator:
  kind: ffc_resnet
  input_nc: 4
  output_nc: 3
  ngf: 4
  n_downsampling: 3
  n_blocks: 1
  add_out_act: sigmoid
  init_conv_kwargs: {{ratio_gin: 0, ratio_gout: 0, enable_lfu: false}}
  downsample_conv_kwargs:
    ratio_gin: '${{generator.init_conv_kwargs.ratio_gout}}'
    ratio_gout: '${{generator.downsample_conv_kwargs.ratio_gin}}'
    enable_lfu: false
  resnet_conv_kwargs: {{ratio_gin: 0.75, ratio_gout: '${{generator.resnet_conv_kwargs.ratio_gin}}', enable_lfu: false}}
discriminator: {{kind: pix2pixhd_nlayer, input_nc: 3, ndf: 4, n_layers: 4}}
evaluator: {{kind: default, inpainted_key: inpainted, integral_kind: ssim_fid100_f1, lpips: false, fid: false}}
trainer:
  kwargs:
    gpus: {gpus}
    accelerator: ddp
    max_epochs: 1
    gradient_clip_val: 1
    log_gpu_memory: None
    limit_train_batches: 25000
    val_check_interval: '${{trainer.kwargs.limit_train_batches}}'
    log_every_n_steps: 250
    precision: 32
    terminate_on_nan: false
    check_val_every_n_epoch: 1
    num_sanity_val_steps: 8
    replace_sampler_ddp: false
  checkpoint_kwargs: {{save_top_k: 5, save_last: true, period: 1, monitor: val_ssim_total_mean, mode: max}}
"""


def write_published(root: Path, folder: Path, **values: object) -> Path:
    """A run's folder as the authors published them: old config, Lightning-1.2.9 checkpoint, no discriminator."""
    settings = {"data": root / "data", "tb": folder / "tb", "resnet_pl": 30, "gpus": -1, **values}
    (folder / "models").mkdir(parents=True)
    (folder / "config.yaml").write_text(PUBLISHED.format(**settings))
    state = read_checkpoint(root / "run" / "models" / "last.ckpt")["state_dict"]
    generator = {name: tensor for name, tensor in state.items() if name.startswith("generator.")}
    evaluators = {"val_evaluator.scores.fid.block.weight": torch.ones(1)}
    torch.save(lightning_1_checkpoint({**generator, **evaluators}), folder / "models" / "best.ckpt")
    return folder


def test_a_published_experiment_predicts(trained: Path, tmp_path: Path):
    published = write_published(trained, tmp_path / "big-lama")
    unset = {"USER": "", "TORCH_HOME": "", "LOGNAME": ""}
    paths = (f"indir={trained / 'data' / 'val'}", f"outdir={tmp_path / 'out'}")
    run = run_script("predict.py", f"model.path={published}", *paths, cwd=tmp_path, **unset)
    assert run.returncode == 0, run.stderr
    predict(trained, trained / "data" / "val", tmp_path / "ours", "model.checkpoint=last.ckpt")
    for name in ("0_mask000.png", "1_mask000.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_a_published_config_trains(trained: Path, tmp_path: Path):
    published = write_published(trained, tmp_path / "big-lama", resnet_pl=0, gpus=0)
    run = run_script(
        "train.py", "--config-path", str(published), "--config-name", "config", f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    log = (tmp_path / "run" / "train.log").read_text()
    for key in ("gpus=0", "accelerator=ddp", "replace_sampler_ddp", "log_gpu_memory", "period=1"):
        assert key in log
    assert (tmp_path / "run" / "models" / "best.ckpt").is_file()
    assert (tmp_path / "run" / "samples" / "epoch0000_train").is_dir()


# ---- prediction -----------------------------------------------------------------------------------------------------


def write_kinds(folder: Path) -> dict[str, np.ndarray]:
    """Images of many kinds and odd sizes with masks; what each shows as uint8 RGB."""
    rgb = photo("coffee.png", 128)[:75, :101]
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    folder.mkdir()
    Image.fromarray(rgb).save(folder / "plain.png")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, np.full_like(grey, 90)])).save(folder / "rgba.png")
    cv2.imwrite(str(folder / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: shown turned by 90 degrees clockwise
    Image.fromarray(rgb).save(folder / "turned.png", exif=exif)
    shown = {"plain": rgb, "rgba": rgb, "deep": rgb}
    shown |= {"grey": np.repeat(grey[..., None], 3, axis=2), "turned": np.rot90(rgb, -1)}
    for name, picture in shown.items():
        mask = np.zeros(picture.shape[:2], np.uint8)
        mask[20:50, 30:60] = 255
        Image.fromarray(mask).save(folder / f"{name}_mask000.png")
    return shown


@pytest.mark.parametrize("padding", ["8", "null"])
def test_only_the_hole_changes_whatever_kind_the_image_is(trained: Path, tmp_path: Path, padding: str):
    shown = write_kinds(tmp_path / "in")
    if padding == "null":  # unpadded, sizes must suit the network
        for name in list(shown):
            for file in tmp_path.glob(f"in/{name}*"):
                file.unlink()
        shown = {"even": photo("coffee.png", 96)[:72]}
        Image.fromarray(shown["even"]).save(tmp_path / "in" / "even.png")
        mask = np.zeros((72, 96), np.uint8)
        mask[20:50, 30:60] = 255
        Image.fromarray(mask).save(tmp_path / "in" / "even_mask000.png")
    run = predict(trained, tmp_path / "in", tmp_path / "out", f"dataset.pad_out_to_modulo={padding}")
    assert run.returncode == 0, run.stderr
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {f"{name}_mask000.png" for name in shown}
    for name, picture in shown.items():
        result = read_rgb(tmp_path / "out" / f"{name}_mask000.png")
        hole = np.zeros(picture.shape[:2], bool)
        hole[20:50, 30:60] = True
        assert result.shape == picture.shape
        np.testing.assert_array_equal(result[~hole], picture[~hole])
        assert (result[hole] != picture[hole]).mean() > 0.5


def test_prediction_equals_the_networks_own_output(trained: Path, tmp_path: Path):
    """The command against the generator called by hand, on an image that needs no padding."""
    from saicinpainting.config import read_experiment_config
    from saicinpainting.training.factory import make_training_model

    predict(
        trained, trained / "data" / "val", tmp_path / "out", "out_key=predicted_image", "model.checkpoint=last.ckpt"
    )
    config = read_experiment_config(trained / "run")
    config.training_model.predict_only = True
    model = make_training_model(config).eval()
    state = read_checkpoint(trained / "run" / "models" / "last.ckpt")["state_dict"]
    model.load_state_dict({k: v for k, v in state.items() if k.startswith("generator.")})
    image = torch.from_numpy(read_rgb(trained / "data" / "val" / "0.png")).permute(2, 0, 1)[None] / 255
    mask = torch.from_numpy(cv2.imread(str(trained / "data" / "val" / "0_mask000.png"), 0))[None, None] / 255
    with torch.no_grad():
        expected = model.generator(torch.cat([image * (1 - mask), mask], dim=1))[0].permute(1, 2, 0).numpy()
    result = read_rgb(tmp_path / "out" / "0_mask000.png").astype(float)
    assert np.abs(result - expected * 255).max() <= 0.51  # rounding to 8 bits


def test_refined_prediction_runs_on_the_cpu(trained: Path, tmp_path: Path):
    run = predict(
        trained,
        trained / "data" / "val",
        tmp_path / "out",
        "refine=true",
        "refiner.min_side=16",
        "refiner.n_iters=2",
        "batch_size=2",
    )
    assert run.returncode == 0, run.stderr
    assert "without refinement" not in run.stdout
    image, mask = (cv2.imread(str(trained / "data" / "val" / name)) for name in ("0.png", "0_mask000.png"))
    result = cv2.imread(str(tmp_path / "out" / "0_mask000.png"))
    np.testing.assert_array_equal(result[mask == 0], image[mask == 0])
    assert (result[mask > 0] != image[mask > 0]).mean() > 0.5


def test_sub_folders_are_kept(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "data" / "val", tmp_path / "in" / "a" / "b")
    run = predict(trained, tmp_path / "in", tmp_path / "out", "out_ext=jpg", "refiner.n_iters=3")
    assert run.returncode == 0, run.stderr
    assert sorted(p.name for p in (tmp_path / "out" / "a" / "b").iterdir()) == ["0_mask000.jpg", "1_mask000.jpg"]
    # Without refinement its settings decide nothing, and a start with others goes on.
    assert json.loads((tmp_path / "out" / ".predicted.json").read_text())["refiner"] is None


def test_mistakes_of_prediction_are_one_line(trained: Path, tmp_path: Path):
    good = trained / "data" / "val"
    (tmp_path / "empty").mkdir()
    (tmp_path / "unmasked").mkdir()
    shutil.copy(good / "0.png", tmp_path / "unmasked")
    other_size = tmp_path / "other_size"
    shutil.copytree(good, other_size)
    Image.new("L", (10, 20)).save(other_size / "0_mask000.png")
    unreadable = tmp_path / "unreadable"
    shutil.copytree(good, unreadable)
    (unreadable / "0.png").write_bytes((good / "0.png").read_bytes()[:300])
    out = tmp_path / "out"
    for indir, extra, message in (
        (tmp_path / "empty", (), "found no such mask but nothing"),
        (tmp_path / "unmasked", (), "with masks NAME_mask*.png, found no such mask but 1 .png"),
        (other_size, (), "is 64x64 pixels but"),
        (unreadable, (), "cannot read the image"),
        (tmp_path / "nowhere", (), "no folder"),
        (good, ("model.checkpoint=epoch7.ckpt",), "there are: best.ckpt, epoch=0-step=4.ckpt"),
        (good, ("out_key=filled",), "expected inpainted or predicted_image"),
        (good, ("dataset.image_suffix=.png",), "image_suffix"),
        (good, ("+dataset.image_suffix=.png",), "dataset.image_suffix: unknown config key"),
        (good, ("+refien=true",), "refien: unknown config key"),
        (good, ("device=cuda",), "device=auto"),
        (good, ("out_ext=.nope", "model.checkpoint=none.ckpt"), "out_ext=.nope: "),  # before it is looked for
        (good, ("num_workers=-1", "model.checkpoint=none.ckpt"), "num_workers: "),
    ):
        assert message in one_line(predict(trained, indir, out, *extra)), (indir, extra)


# ---- make_checkpoint ------------------------------------------------------------------------------------------------


def test_make_checkpoint_averages_and_strips(trained: Path, tmp_path: Path):
    models = trained / "run" / "models"
    for arguments, file in (
        (("--epochs", "0,1"), "best.ckpt"),
        (("--epochs", "0,1", "--safetensors", "--overwrite"), "best.safetensors"),
    ):
        run = run_script("make_checkpoint.py", str(trained / "run"), str(tmp_path / "small"), *arguments, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        made = read_checkpoint(tmp_path / "small" / "models" / file)
        assert [path.name for path in (tmp_path / "small" / "models").iterdir()] == [file]
        assert made["config"].keys() == {"generator", "training_model"}
        epochs = [read_checkpoint(models / f"epoch={i}-step={4 * i + 4}.ckpt")["state_dict"] for i in (0, 1)]
        expected = average_state_dicts(epochs)
        assert set(made["state_dict"]) == {name for name in expected if name.startswith("generator.")}
        for name, tensor in made["state_dict"].items():
            torch.testing.assert_close(tensor, expected[name])
    run = run_script(
        "predict.py", f"model.path={tmp_path / 'small'}",
        f"indir={trained / 'data' / 'val'}", f"outdir={tmp_path / 'out'}", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_make_checkpoint_makes_a_compact_model_to_pass_on(trained: Path, tmp_path: Path):
    arguments = ("--compact", "--safetensors")
    run = run_script("make_checkpoint.py", str(trained / "run"), str(tmp_path / "small"), *arguments, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    whole = load_model(trained / "run", "last.ckpt").generator.state_dict()
    made = load_model(tmp_path / "small").generator.state_dict()
    assert made.keys() == whole.keys()
    for name, weight in made.items():
        expected = whole[name].half().float() if weight.ndim > 1 else whole[name]
        torch.testing.assert_close(weight, expected, rtol=0, atol=0)
    assert set(yaml.safe_load((tmp_path / "small" / "config.yaml").read_text())) == {"generator", "training_model"}


def test_make_checkpoint_takes_the_last_of_several_checkpoints_of_an_epoch(tmp_path: Path):
    """By spelling step=900 would come after step=1200."""
    for name in ("epoch=3-step=900.ckpt", "epoch=3-step=1200.ckpt", "epoch=31-step=9999.ckpt"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path, "3").name == "epoch=3-step=1200.ckpt"
    assert find_checkpoint(tmp_path, "epoch=3-step=900").name == "epoch=3-step=900.ckpt"


def test_make_checkpoint_keeps_the_discriminator_on_request(trained: Path, tmp_path: Path):
    run_script("make_checkpoint.py", str(trained / "run"), str(tmp_path), "--leave-discriminators", cwd=tmp_path)
    state = read_checkpoint(tmp_path / "models" / "best.ckpt")["state_dict"]
    assert any(name.startswith("discriminator.") for name in state)


def test_make_checkpoint_names_what_is_missing(trained: Path, tmp_path: Path):
    run = run_script("make_checkpoint.py", str(trained / "run"), str(tmp_path), "--epochs", "7", cwd=tmp_path)
    assert "--epochs 7: no such checkpoint" in one_line(run)


def test_make_checkpoint_replaces_nothing_unasked(trained: Path, tmp_path: Path):
    def make(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_script("make_checkpoint.py", str(trained / "run"), str(out), *arguments, cwd=tmp_path)

    best = trained / "run" / "models" / "best.ckpt"
    before = best.read_bytes()
    (tmp_path / "alias").symlink_to(trained / "run")
    for itself in (trained / "run", tmp_path / "alias"):
        assert f"{itself} is INDIR itself" in one_line(make(itself, "--overwrite"))
    assert best.read_bytes() == before
    for name in ("config.yaml", "models/best.ckpt", "models/best.safetensors"):
        out = tmp_path / name.replace("/", "_")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        assert f"{out} holds {name}; name another folder, or --overwrite replaces it" in one_line(make(out))
        assert [file for file in out.rglob("*") if file.is_file()] == [out / name]
        assert (out / name).read_text() == "mine"
    done = make(tmp_path / "models_best.safetensors", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "models_best.safetensors" / "models").iterdir()] == ["best.ckpt"]
