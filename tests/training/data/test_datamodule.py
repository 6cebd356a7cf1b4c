"""The data module: titles, order, batches, and errors that name the config key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.training.data.datamodule import InpaintingDataModule
from saicinpainting.utils import InputError
from tests.helpers import photo


def save(path: Path, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), side, np.uint8)).save(path)


@pytest.fixture
def sections(tmp_path: Path) -> dict:
    for i in range(4):
        save(tmp_path / "train" / f"{i}.jpg", 40)
    sides = {"val": 16, "visual": 24, "thin": 32, "thick": 48}
    for name, side in sides.items():
        save(tmp_path / name / "a.png", side)
        save(tmp_path / name / "a_mask000.png", side)

    def evaluation(name: str) -> dict:
        return {"indir": str(tmp_path / name), "img_suffix": ".png", "dataloader_kwargs": {"batch_size": 1}}

    return {
        "train": {
            "indir": str(tmp_path / "train"),
            "out_size": 32,
            "mask_gen_kwargs": {"box_proba": 0},
            "transform_variant": "distortions",
            "dataloader_kwargs": {"batch_size": 2, "shuffle": True},
        },
        "val": evaluation("val"),
        "visual_test": evaluation("visual"),
        "extra_val": {"thin": evaluation("thin"), "thick": evaluation("thick")},
    }


@pytest.mark.parametrize("wrap", [dict, OmegaConf.create])
def test_titles_follow_the_loaders(sections, wrap):
    data = InpaintingDataModule(**wrap(sections))
    data.setup("fit")
    assert data.val_titles == ["val", "test", "extra_val_thin", "extra_val_thick"]
    sides = [next(iter(loader))["image"].shape[-1] for loader in data.val_dataloader()]
    assert sides == [16, 24, 32, 48]
    batches = list(data.train_dataloader())
    assert [tuple(b["image"].shape) for b in batches] == [(2, 3, 32, 32)] * 2


def test_only_validation_is_needed(sections):
    data = InpaintingDataModule(train={"indir": "absent"}, val=sections["val"])
    data.setup("validate")
    assert data.val_titles == ["val"]
    assert len(data.val_dataloader()) == 1


@pytest.mark.parametrize(
    ("section", "key"),
    [("train", "data.train"), ("val", "data.val"), ("visual_test", "data.visual_test")],
)
def test_missing_folders_name_the_key_and_the_command(sections, section, key):
    sections[section]["indir"] = "/nowhere/at/all"
    data = InpaintingDataModule(**sections, prepare_hint="bin/prepare_example.py OUT")
    with pytest.raises(InputError) as error:
        data.setup("fit")
    message = str(error.value)
    assert message.startswith(f"{key}.indir: no folder /nowhere/at/all")
    assert "location.data_root_dir" in message
    assert "bin/prepare_example.py OUT" in message
    assert "\n" not in message


def test_wrong_settings_name_their_section(sections):
    sections["train"]["outsize"] = 3
    with pytest.raises(InputError, match=r"data\.train\.outsize: unknown config key.*'out_size'"):
        InpaintingDataModule(**sections).setup("fit")
    del sections["train"]["outsize"]
    sections["extra_val"]["thin"]["img_sufix"] = ".png"
    with pytest.raises(InputError, match=r"data\.extra_val\.thin\.img_sufix"):
        InpaintingDataModule(**sections).setup("fit")


def test_the_official_shards_are_told_their_new_name(sections):
    sections["train"] |= {"kind": "default_web", "indir": "/data/train/{000000..000146}.tar", "shuffle_buffer": 200}
    with pytest.raises(InputError, match=r"data\.train\.kind: default_web is gone; set kind=shards"):
        InpaintingDataModule(**sections).setup("fit")


def test_internal_parameters_are_no_config_keys(sections):
    sections["train"]["where"] = "x"
    with pytest.raises(InputError, match=r"data\.train\.where: unknown config key") as error:
        InpaintingDataModule(**sections).setup("fit")
    assert "where" not in str(error.value).split("known: ")[1]


@pytest.mark.parametrize("wrap", [dict, OmegaConf.create])
def test_training_folders_may_be_several(sections, tmp_path, wrap):
    save(tmp_path / "more" / "z.png", 40)
    sections["train"]["indir"] = [str(tmp_path / "train"), str(tmp_path / "more")]
    sections["train"]["dataloader_kwargs"] = {"batch_size": 5}
    data = InpaintingDataModule(**wrap(sections))
    assert [len(batch["image"]) for batch in data.train_dataloader()] == [5]
    sections["train"]["indir"].append("/nowhere")
    with pytest.raises(InputError, match=r"^data\.train\.indir: no folder /nowhere"):
        InpaintingDataModule(**wrap(sections)).setup("fit")


@pytest.mark.parametrize(("section", "folder"), [("val", "val"), ("visual_test", "visual")])
def test_evaluation_files_are_looked_at_before_training(sections, tmp_path, section, folder):
    """Not at the first validation, a day later."""
    save(tmp_path / folder / "b.png", 16)
    save(tmp_path / folder / "b_mask000.png", 12)
    (tmp_path / folder / "c.png").write_text("this is no image")
    save(tmp_path / folder / "c_mask000.png", 12)
    for settings in ({}, {"indir": [str(tmp_path / "thin"), str(tmp_path / folder)]}):
        sections[section] |= settings
        with pytest.raises(InputError, match=rf"^data\.{section}: 2 of 6 files cannot be used") as error:
            InpaintingDataModule(**sections).setup("fit")
        for reason in (r"c.png: it is no image", r"b_mask000.png is 12x12 pixels, its image 16x16"):
            assert reason in str(error.value)
    sections[section] |= {"kind": "online", "indir": str(tmp_path / folder)}
    with pytest.raises(InputError, match=r"1 of 6 files cannot be used.*c\.png: it is no image"):
        InpaintingDataModule(**sections).setup("fit")


@pytest.mark.parametrize("kind", ["default", "online"])
def test_evaluation_images_of_several_sizes_are_scored_one_by_one(sections, tmp_path, kind, caplog):
    settings = {"kind": kind, "dataloader_kwargs": {"batch_size": 2}}
    if kind == "online":
        settings["mask_gen_kwargs"] = {"box_proba": 0}

    def batches() -> list[int]:
        data = InpaintingDataModule(**{**sections, "val": {**sections["val"], **settings}})
        return [len(batch["image"]) for batch in data.val_dataloader()[0]]

    save(tmp_path / "val" / "b.png", 16)
    save(tmp_path / "val" / "b_mask000.png", 16)
    one_size = batches()
    assert set(one_size) == {2}
    assert not caplog.records
    save(tmp_path / "val" / "c.png", 24)
    save(tmp_path / "val" / "c_mask000.png", 24)
    assert batches() == [1] * (2 * len(one_size) + (2 if kind == "online" else 1))
    assert "data.val: images of 2 sizes; they are scored one by one" in caplog.text


def test_a_section_without_folder(sections):
    del sections["val"]["indir"]
    with pytest.raises(InputError, match=r"data\.val\.indir: missing config key"):
        InpaintingDataModule(**sections).setup("validate")


@pytest.fixture
def photos(sections, tmp_path) -> dict:
    """The sections with training images that differ."""
    for i in range(6):
        Image.fromarray(photo("astronaut.png", 48, 40 * i)).save(tmp_path / "train" / f"{i}.jpg")
    return sections


def epochs(sections: dict, *, seed: int = 0, workers: int = 0, start: tuple[int, int] = (0, 0)) -> list[torch.Tensor]:
    """Two epochs of training samples, (N, 4, H, W): image and mask."""
    sections["train"]["dataloader_kwargs"]["num_workers"] = workers
    data = InpaintingDataModule(**sections, seed=seed)
    data.begin_at(*start)
    loader = data.train_dataloader()
    result = []
    for epoch in (start[0], start[0] + 1):
        loader.sampler.set_epoch(epoch)
        result.append(torch.cat([torch.cat([batch["image"], batch["mask"]], 1) for batch in loader]))
    return result


def test_samples_depend_on_seed_and_epoch_alone(photos):
    """Whatever torch's own seed and the number of workers, which live through both epochs."""
    torch.manual_seed(1)
    alone = epochs(photos)
    torch.manual_seed(2)
    for workers in (1, 4):
        for ours, expected in zip(epochs(photos, workers=workers), alone, strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    first, second = alone
    assert not torch.equal(first, second)
    assert not torch.equal(epochs(photos, seed=1)[0], first)
    rest, after = epochs(photos, start=(0, 2))
    torch.testing.assert_close(rest, first[2:], rtol=0, atol=0)
    torch.testing.assert_close(after, second, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 4])
def test_two_ranks_share_the_samples_of_one(photos, workers):
    photos["train"]["dataloader_kwargs"] |= {"batch_size": 1, "num_workers": workers}

    def samples(rank: int, world_size: int) -> list[bytes]:
        data = InpaintingDataModule(**photos, seed=3)
        data._processes = lambda: (rank, world_size)
        return [torch.cat([b["image"], b["mask"]], 1).numpy().tobytes() for b in data.train_dataloader()]

    alone = samples(0, 1)
    assert len(set(alone)) == 6
    assert samples(0, 2) == alone[::2]
    assert samples(1, 2) == alone[1::2]


def test_the_batches_of_an_epoch_that_is_gone_on_with(sections):
    """Batches left and batches passed over make an epoch, whatever the size of a batch was before."""
    data = InpaintingDataModule(**sections)
    assert (data.train_images(), data.train_batches(), data.train_batches(world_size=2)) == (4, 2, 1)
    assert data.begin_at(3, 2) == 1
    assert [data.images_done(3, batches) for batches in (1, 2)] == [2, 4]
    assert data.images_done(4, 1) == 2
    sections["train"]["dataloader_kwargs"]["batch_size"] = 3
    data = InpaintingDataModule(**sections)
    assert data.begin_at(3, 2) == 1  # of two; the other has the two images that are left
    assert [len(batch["image"]) for batch in data.train_dataloader()] == [2]
    assert data.images_done(3, 2) == 4


def test_the_order_is_not_given_to_the_loader(sections):
    sections["train"]["dataloader_kwargs"]["shuffle"] = False
    loader = InpaintingDataModule(**sections).train_dataloader()
    assert [key.image for key in loader.sampler] == [0, 1, 2, 3]
    sections["train"]["dataloader_kwargs"]["sampler"] = "random"
    with pytest.raises(InputError, match=r"data\.train\.dataloader_kwargs\.sampler cannot be set"):
        InpaintingDataModule(**sections).train_dataloader()
    sections["val"]["dataloader_kwargs"]["shuffle"] = True
    with pytest.raises(InputError, match=r"data\.val\.dataloader_kwargs\.shuffle=true: evaluation images keep"):
        InpaintingDataModule(**sections).val_dataloader()


def test_too_few_images_for_one_whole_batch(sections):
    sections["train"]["dataloader_kwargs"] |= {"batch_size": 3, "drop_last": True}
    data = InpaintingDataModule(**sections)
    assert data.train_batches(world_size=1) == 1
    with pytest.raises(InputError, match=r"drop_last=true leaves no batch: 4 images, batches of 3"):
        data.train_batches(world_size=2)
