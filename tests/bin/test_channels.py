"""Images of other channels than RGB through the commands: trained, evaluated and filled as their files are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.training.run import make_data_module
from saicinpainting.utils import InputError
from tests.helpers import photo, run_script, shrunk

SIZE = 64
ONE_CHANNEL = ("generator.input_nc=2", "generator.output_nc=1")


def deep_grey(name: str, offset: int) -> np.ndarray:
    """uint16 (H, W): a photograph in grey, with low bits that 8 bits cannot hold."""
    grey = photo(name, SIZE, offset).mean(axis=2) * 257
    low = np.random.RandomState(offset).randint(0, 257, (SIZE, SIZE))
    return np.minimum(grey + low, 65535).astype(np.uint16)


def write_deep_data(root: Path) -> Path:
    """The layout of a training location, of one-channel 16-bit PNGs."""
    for folder, name, count in (
        ("train", "astronaut.png", 4),
        ("val", "coffee.png", 2),
        ("visual_test", "coffee.png", 1),
    ):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(root / folder / f"{i}.png"), deep_grey(name, 12 * i))
            if folder != "train":
                mask = np.zeros((SIZE, SIZE), np.uint8)
                mask[8:32, 12:40] = 255
                cv2.imwrite(str(root / folder / f"{i}_mask000.png"), mask)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grey")
    write_deep_data(root / "data")
    run = run_script(
        "train.py", "-cn", "lama-fourier", *shrunk(root, f"hydra.run.dir={root / 'run'}", *ONE_CHANNEL), cwd=root
    )
    assert run.returncode == 0, run.stderr
    return root


def test_both_networks_follow_the_channels_of_the_images(trained: Path) -> None:
    config = OmegaConf.load(trained / "run" / "config.yaml")
    assert config.discriminator.input_nc == 1
    state = read_checkpoint(trained / "run" / "models" / "last.ckpt")["state_dict"]
    assert state["generator.model.1.ffc.convl2l.weight"].shape[1] == 2  # grey and the mask
    heads = [name for name in state if name.startswith("generator.") and state[name].shape[:1] == (1,)]
    assert heads
    assert state["discriminator.model0.0.weight"].shape[1] == 1


def test_training_and_validation_see_all_sixteen_bits(trained: Path) -> None:
    config = OmegaConf.to_container(OmegaConf.load(trained / "run" / "config.yaml"))
    config["data"]["train"]["transform_variant"] = "no_augs"
    data = make_data_module(config)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    files = [cv2.imread(str(trained / "data" / "train" / f"{i}.png"), cv2.IMREAD_UNCHANGED) for i in range(4)]
    assert batch["image"].shape == (2, 1, SIZE, SIZE)
    for image in batch["image"]:
        levels = (image[0].double() * 65535).numpy()
        assert any(np.abs(levels - file).max() < 0.01 for file in files)
    seen = next(iter(data.val_dataloader()[0]))["image"]
    expected = cv2.imread(str(trained / "data" / "val" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs((seen[0, 0].double() * 65535).numpy() - expected).max() < 0.01


def test_results_are_one_channel_of_sixteen_bits_and_known_pixels_stay(trained: Path, tmp_path: Path) -> None:
    indir = trained / "data" / "val"
    run = run_script(
        "predict.py", f"model.path={trained / 'run'}", f"indir={indir}", f"outdir={tmp_path}", "device=cpu",
        "num_workers=0", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    inpainter = Inpainter.from_pretrained(trained / "run", device="cpu")
    for i in range(2):
        image, mask = (cv2.imread(str(indir / name), cv2.IMREAD_UNCHANGED) for name in (f"{i}.png", f"{i}_mask000.png"))
        filled = cv2.imread(str(tmp_path / f"{i}_mask000.png"), cv2.IMREAD_UNCHANGED)
        assert filled.shape == (SIZE, SIZE)
        assert filled.dtype == np.uint16
        np.testing.assert_array_equal(filled[mask == 0], image[mask == 0])
        assert (filled[mask > 0] != image[mask > 0]).mean() > 0.9
        assert len(np.unique(filled[mask > 0] % 257)) > 20  # no levels of 8 bits
        # The Python API gives the same, and keeps the shape that it was given.
        for shape in ((SIZE, SIZE), (SIZE, SIZE, 1)):
            by_call = inpainter(image.reshape(shape), mask)
            assert by_call.shape == shape
            assert np.abs(by_call.reshape(SIZE, SIZE).astype(int) - filled).max() <= 1
    with pytest.raises(InputError, match="fills images of 1 channels, got 3"):
        inpainter(np.zeros((SIZE, SIZE, 3), np.uint8), np.ones((SIZE, SIZE), np.uint8))
    with pytest.raises(InputError, match=r"expected floats \(B, 1, H, W\)"):
        inpainter(torch.rand(1, 3, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE))


def test_an_evaluation_predicts_and_measures_one_channel(trained: Path, tmp_path: Path) -> None:
    run = run_script(
        "evaluate.py", f"model.path={trained / 'run'}", f"indir={trained / 'data' / 'val'}", f"outdir={tmp_path}",
        f"sets=[{trained / 'data' / 'val'}]", "dataset.img_suffix=.png", "metrics=[ssim,l1,psnr]", "num_workers=0",
        "device=cpu", "examples=1", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    (name,) = (results := json.loads((tmp_path / "run" / "results.json").read_text())["sets"])
    (folder,) = (tmp_path / "run" / "predictions").iterdir()
    distances = []
    for i in range(2):
        filled = cv2.imread(str(folder / f"{i}_mask000.png"), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(trained / "data" / "val" / f"{i}.png"), cv2.IMREAD_UNCHANGED)
        assert filled.shape == image.shape
        assert filled.dtype == image.dtype
        distances.append(np.abs(filled.astype(float) - image).mean() / 65535)
    assert results[name]["results"]["l1"]["total"]["mean"] == pytest.approx(np.mean(distances), rel=1e-5)
