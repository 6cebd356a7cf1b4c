"""Training and validation data sets and their loaders, on small images written here."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.data.aug import get_transforms
from saicinpainting.data.datasets import (
    InpaintingTrainDataset,
    make_dataloader,
    make_default_train_dataloader,
    make_default_val_dataloader,
    make_default_val_dataset,
)
from saicinpainting.data.sampler import SampleKey
from saicinpainting.data.sources import FolderSource
from saicinpainting.utils import InputError

MASKS = {"irregular_kwargs": {"max_len": 20, "max_width": 8, "min_times": 1}, "box_proba": 0}


def save(path: Path, size: tuple[int, int] = (48, 64), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(["b.jpg", "a.JPG", "sub/c.jpeg", "sub/deep/d.png", "e.webp", "f.bmp"]):
        save(tmp_path / "photos" / name, seed=i)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def loader(indir: Path, **settings):
    defaults = {"out_size": 32, "mask_gen_kwargs": MASKS, "dataloader_kwargs": {"batch_size": 2}}
    return make_default_train_dataloader(indir, **{**defaults, **settings})


def test_batches_of_every_image_kind(photos):
    batches = list(loader(photos, transform_variant="distortions"))
    assert [Path(f).name for f in loader(photos).dataset.source.files] == [
        "a.JPG",
        "b.jpg",
        "e.webp",
        "f.bmp",
        "c.jpeg",
        "d.png",
    ]
    for batch in batches:
        assert batch["image"].shape == (2, 3, 32, 32)
        assert batch["mask"].shape == (2, 1, 32, 32)
        assert batch["image"].dtype == batch["mask"].dtype == torch.float32
        assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
        assert set(batch["mask"].unique().tolist()) <= {0, 1}
        assert batch["mask"].mean((1, 2, 3)).min() > 0
    assert len(batches) == 3


def test_settings_may_be_omegaconf(photos):
    config = OmegaConf.create({"n": 3, "masks": MASKS, "loader": {"batch_size": "${n}"}})
    batch = next(iter(loader(photos, mask_gen_kwargs=config.masks, dataloader_kwargs=config.loader)))
    assert len(batch["image"]) == 3


@pytest.mark.parametrize("workers", [-1, None, "2"])
def test_a_number_of_workers_that_cannot_be_is_named(photos, workers):
    message = rf"data\.train\.dataloader_kwargs\.num_workers: expected a whole number of at least 0, got {workers!r}"
    with pytest.raises(InputError, match=message):
        loader(photos, dataloader_kwargs={"batch_size": 3, "num_workers": workers})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_the_torch_seed_determines_samples_and_epochs_differ(photos, workers):
    def two_epochs() -> list[torch.Tensor]:
        torch.manual_seed(3)
        data = loader(photos, dataloader_kwargs={"batch_size": 3, "num_workers": workers})
        return [torch.cat([torch.cat([b["image"], b["mask"]], 1) for b in data]) for _ in range(2)]

    first, second = two_epochs()
    again, second_again = two_epochs()
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(second, second_again, rtol=0, atol=0)
    assert (first != second).flatten(1).any(1).all()  # every sample is drawn anew
    masks = first[:, 3]
    assert len({mask.numpy().tobytes() for mask in masks}) == 6  # workers do not repeat each other


def test_ranks_with_one_seed_still_draw_different_masks(photos):
    """Two ranks start from the same torch seed, but with different images."""
    dataset, masks = loader(photos).dataset, []
    for item in range(3):
        torch.manual_seed(0)
        masks.append(dataset[item]["mask"].tobytes())
    assert len(set(masks)) == 3


class _IterationMask:
    """Records the iteration as the mask's value."""

    def __call__(self, img, iter_i=None, raw_image=None, *, rng=None):
        return np.full((1, *img.shape[1:]), iter_i, np.float32)


@pytest.mark.parametrize("workers", [0, 2])
def test_ramps_advance_by_one_a_sample_over_all_workers_and_epochs(photos, workers):
    dataset = InpaintingTrainDataset(FolderSource(photos), _IterationMask(), get_transforms("default", 32))
    data = make_dataloader(dataset, {"batch_size": 1, "num_workers": workers}, where="data.train")
    seen = [batch["mask"].max().item() for _ in range(2) for batch in data]
    assert seen == list(range(12))


def test_a_key_decides_all_of_a_sample(photos):
    """Not torch's generator, nor what was drawn before; the ramp's position comes with the key."""
    dataset = InpaintingTrainDataset(FolderSource(photos), _IterationMask(), get_transforms("distortions", 32))
    first = dataset[SampleKey(image=1, seed=7, samples_before=123)]
    torch.manual_seed(9)
    again = dataset[SampleKey(image=1, seed=7, samples_before=124)]
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["mask"].max(), again["mask"].max()) == (123, 124)
    assert not np.array_equal(first["image"], dataset[SampleKey(image=1, seed=8, samples_before=0)]["image"])


def test_variants_that_do_not_crop_need_images_of_the_right_size(photos, tmp_path):
    with pytest.raises(InputError, match=r"6 images in a row.* is 64x48 pixels but out_size is 32; .*one that crops"):
        loader(photos, transform_variant="no_augs").dataset[3]
    save(tmp_path / "faces" / "a.png", (32, 32))
    batch = next(iter(loader(tmp_path / "faces", transform_variant="no_augs")))
    expected = np.asarray(Image.open(tmp_path / "faces" / "a.png")).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_allclose(batch["image"][0].numpy(), expected, atol=1e-7)


def test_another_image_takes_the_place_of_an_unreadable_one(photos, caplog):
    (photos / "b.jpg").write_bytes(b"\xff\xd8 broken")
    data = loader(photos, dataloader_kwargs={"batch_size": 6})
    with caplog.at_level(logging.WARNING):
        assert len(next(iter(data))["image"]) == 6
    assert "b.jpg is unreadable; another image takes its place" in caplog.text
    with pytest.raises(InputError, match=r"cannot read the image .*b\.jpg"):
        next(iter(loader(photos, max_failures=0, dataloader_kwargs={"batch_size": 6})))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "web", "shuffle": 1}, r"data\.train\.kind: unknown kind 'web'; known: default"),
        ({"kind": "default_web", "shuffle_buffer": 200}, r"data\.train\.kind: default_web is gone; set kind=shards"),
        ({"mask_gen_kwargs": {"boxes": 1}}, r"data\.train\.mask_gen_kwargs\.boxes: unknown config key"),
        ({"dataloader_kwargs": {"batchsize": 1}}, r"data\.train\.dataloader_kwargs\.batchsize: unknown.*batch_size"),
        ({"transform_variant": "none"}, "transform_variant: unknown 'none'"),
    ],
)
def test_wrong_settings_are_named(photos, settings, message):
    with pytest.raises(InputError, match=message):
        loader(photos, **settings)


def test_missing_and_empty_training_folders(tmp_path):
    with pytest.raises(InputError, match=r"data\.train\.indir: no folder .*nowhere"):
        loader(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data\.train\.indir: no image \(\.jpg, .*\) under .*empty"):
        loader(tmp_path / "empty")


def test_training_folders_are_joined(photos, tmp_path):
    save(tmp_path / "more" / "z.png")
    folders = OmegaConf.create([str(tmp_path / "more"), str(photos / "sub")])
    files = loader(folders).dataset.source.files
    assert [Path(f).name for f in files] == ["z.png", "c.jpeg", "d.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"data\.train\.indir: no image .* under .*empty"):
        loader([photos, tmp_path / "empty"])


def masked(folder: Path, name: str) -> None:
    save(folder / f"{name}.png")
    save(folder / f"{name}_mask000.png")


def test_validation_folders_are_joined(tmp_path):
    masked(tmp_path / "one", "a")
    masked(tmp_path / "two", "b")
    folders = OmegaConf.create([str(tmp_path / "one"), str(tmp_path / "two")])
    dataset = make_default_val_dataset(folders, img_suffix=".png", pad_out_to_modulo=32)
    assert len(dataset) == 2
    assert dataset[1]["image"].shape == (3, 64, 64)
    data = make_default_val_dataloader(folders, img_suffix=".png", dataloader_kwargs={"batch_size": 2})
    assert next(iter(data))["mask"].shape == (2, 1, 48, 64)


def test_online_validation(photos):
    dataset = make_default_val_dataset(photos, kind="online", mask_generator_kind="mixed", mask_gen_kwargs=MASKS)
    assert len(dataset) == 1  # b.jpg and a.JPG differ in case; c.jpeg in ending
    assert 0 < dataset[0]["mask"].mean() < 1


def test_validation_settings_are_checked_and_ineffective_ones_reported(tmp_path, caplog):
    masked(tmp_path, "a")
    with pytest.raises(InputError, match=r"data\.val\.kind: unknown kind 'img_with_segm'; known: default, online"):
        make_default_val_dataset(tmp_path, kind="img_with_segm", where="data.val")
    with pytest.raises(InputError, match=r"dataset\.img_sufix: unknown config key.*'img_suffix'"):
        make_default_val_dataset(tmp_path, img_sufix=".png")
    with caplog.at_level(logging.WARNING):
        make_default_val_dataset(tmp_path, img_suffix=".png", out_size=256)
    assert "no effect" in caplog.text
