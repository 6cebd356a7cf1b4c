"""The data module: titles, order, batches, and errors that name the config key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.data.datamodule import InpaintingDataModule
from saicinpainting.training.run import make_data_module
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


def test_without_a_validation_set_nothing_is_validated(sections):
    data = InpaintingDataModule(**{**sections, "val": None})
    data.setup("fit")
    assert data.val_titles == data.val_dataloader() == []
    assert data.images() == {"data.train": 4}


def test_crops_of_no_size_are_refused(sections):
    sections["train"]["out_size"] = 0
    with pytest.raises(InputError, match=r"data\.train\.out_size: expected a whole number of at least 1, got 0"):
        InpaintingDataModule(**sections).setup("fit")


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
    assert (f"{key}=null to train without" in message) == (section != "train")
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
def test_evaluation_images_of_several_sizes_are_batched_by_size(sections, tmp_path, kind):
    """In two folders; 24 and 22 px come to the same size by padding."""
    for i, (folder, side) in enumerate([("val", 22), ("val", 40), ("thick", 24), ("thick", 40), ("thick", 24)]):
        save(tmp_path / folder / f"{i}.png", side)
        save(tmp_path / folder / f"{i}_mask000.png", side)
    indir = [str(tmp_path / "val"), str(tmp_path / "thick")]
    settings = {"kind": kind, "indir": indir, "pad_out_to_modulo": 8, "dataloader_kwargs": {"batch_size": 2}}
    if kind == "online":
        settings["mask_gen_kwargs"] = {"box_proba": 0}
    data = InpaintingDataModule(**{**sections, "val": {**sections["val"], **settings}})
    loader = data.val_dataloader()[0]
    sides = [tuple(batch["image"].shape[i] for i in (0, -1)) for batch in loader]
    assert len(sides) == len(loader)
    if kind == "default":
        assert sorted(sides) == [(1, 16), (1, 24), (1, 48), (2, 24), (2, 40)]
    else:  # there a mask beside an image is an image
        assert sorted(sides) == [(2, 16), (2, 24), (2, 24), (2, 24), (2, 40), (2, 40), (2, 48)]


def test_how_a_png_is_turned_may_stand_behind_its_pixels(sections, tmp_path):
    """Its samples have another shape than the header says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, more in (("b", {}), ("c", {"exif": exif})):
        file = tmp_path / "val" / f"{name}.png"
        Image.fromarray(np.zeros((24, 16, 3), np.uint8)).save(file, **more)
        Image.fromarray(np.zeros((24, 16), np.uint8)).save(file.with_name(f"{name}_mask000.png"), **more)
        chunks = file.read_bytes()
        if more:  # Pillow writes it first
            first = chunks.index(b"eXIf") - 4
            chunk = chunks[first : first + 12 + int.from_bytes(chunks[first : first + 4], "big")]
            file.write_bytes(chunks.replace(chunk, b"")[:-12] + chunk + chunks[-12:])
    sections["val"]["dataloader_kwargs"] = {"batch_size": 3}
    loader = InpaintingDataModule(**sections).val_dataloader()[0]
    assert [tuple(batch["image"].shape[2:]) for batch in loader] == [(16, 16), (24, 16), (16, 24)]


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        (
            "val",
            {"batch_size": None},
            r"data\.val\.dataloader_kwargs\.batch_size: expected a whole number .* got None",
        ),
        ("train", {"batch_size": 0}, r"data\.train\.dataloader_kwargs\.batch_size: expected a whole number .* got 0"),
        ("val", {"drop_last": True}, r"data\.val\.dataloader_kwargs\.drop_last=true: every evaluation image counts"),
    ],
)
def test_wrong_batches(sections, section, settings, message):
    sections[section]["dataloader_kwargs"] = settings
    data = InpaintingDataModule(**sections)
    with pytest.raises(InputError, match=message):
        data.val_dataloader() if section == "val" else data.train_batches(1)


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
@pytest.mark.slow
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


def test_steps_are_what_a_limited_epoch_counts(sections):
    """After one step of two images, in steps of one: the images go on as ever, the steps up to the limit."""
    sections["train"]["dataloader_kwargs"]["batch_size"] = 1
    data = InpaintingDataModule(**sections)
    assert data.begin_at(3, 2, steps=1, limit=2) == 1
    assert data.images_done(3, 2) == 3
    assert data.begin_at(3, 3, steps=1, limit=3) == 2  # one image is left
    assert data.begin_at(3, 2, steps=1, limit=9) == 2  # an epoch is shorter than its limit


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


def data_on(device: str, sections: dict) -> InpaintingDataModule:
    data = InpaintingDataModule(**sections)
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)
    return data


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("cuda", True)])
def test_batches_for_a_gpu_lie_in_pinned_memory(sections, device, expected):
    data = data_on(device, sections)
    loaders = [data.train_dataloader(), *data.val_dataloader()]
    assert [loader.pin_memory for loader in loaders] == [expected] * len(loaders)
    sections["train"]["dataloader_kwargs"] |= {"pin_memory": False}
    assert not data_on(device, sections).train_dataloader().pin_memory


def test_evaluation_images_that_the_network_cannot_take_are_named_before_training(sections, tmp_path):
    Image.new("RGB", (1, 2000)).save(tmp_path / "val" / "thin.png")
    Image.new("L", (1, 2000), 255).save(tmp_path / "val" / "thin_mask000.png")
    data = InpaintingDataModule(**sections)
    data.setup("fit")
    with pytest.raises(
        InputError, match=r"data\.val: .*thin\.png comes to 1x2000 .* set data\.val\.pad_out_to_modulo=16"
    ):
        data.require_sizes(8, 16)
    data.require_sizes(1, 1)
    sections["val"]["pad_out_to_modulo"] = 16
    data = InpaintingDataModule(**sections)
    data.setup("fit")
    data.require_sizes(8, 16)


@pytest.mark.parametrize(("size", "better"), [(100, 104), (8, 16)])
def test_a_crop_that_the_network_cannot_take_is_named_by_its_key(sections, size, better):
    sections["train"]["out_size"] = size
    data = InpaintingDataModule(**sections)
    data.setup("fit")
    with pytest.raises(InputError, match=rf"data\.train\.out_size={size}: .* multiples of 8 from 16 .* to {better}"):
        data.require_sizes(8, 16)


# ---- folders with shares --------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(sections, tmp_path: Path) -> dict:
    """Training folders of 8 dark and 2 bright images, drawn half and half."""
    for folder, count, level in (("places", 8, 20), ("mine", 2, 220)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(tmp_path / folder / f"{i}.png")
    shares = {str(tmp_path / "places"): 1, str(tmp_path / "mine"): 1}
    return {**sections, "train": {**sections["train"], "indir": shares, "transform_variant": "default"}}


def brightness_of(data: InpaintingDataModule) -> list[float]:
    return [round(image.mean().item(), 4) for batch in data.train_dataloader() for image in batch["image"]]


def test_folders_are_drawn_by_their_shares(mixed):
    data = InpaintingDataModule(**mixed)
    assert sum(bright > 0.5 for bright in brightness_of(data)) == 5  # of 10, though 2 of 10 images are bright
    assert data.shares() == [0.5, 0.5]
    places, mine = data.describe_shares()
    assert places.endswith("places: 50.0%, 5 of an epoch's 10 images; each of its 8 comes 0.62 times")
    assert mine.endswith("mine: 50.0%, 5 of an epoch's 10 images; each of its 2 comes 2.50 times")


def test_draws_by_shares_are_the_same_with_workers_and_after_a_resume(mixed):
    whole = brightness_of(InpaintingDataModule(**mixed))
    with_workers = {**mixed["train"], "dataloader_kwargs": {**mixed["train"]["dataloader_kwargs"], "num_workers": 2}}
    assert brightness_of(InpaintingDataModule(**{**mixed, "train": with_workers})) == whole
    resumed = InpaintingDataModule(**mixed)
    resumed.begin_at(0, 4)
    assert brightness_of(resumed) == whole[4:]


def test_an_unusable_image_is_replaced_from_its_own_folder(mixed, tmp_path: Path):
    (tmp_path / "mine" / "0.png").write_bytes(b"no image")
    assert sum(bright > 0.5 for bright in brightness_of(InpaintingDataModule(**mixed))) == 5


def test_shares_count_from_the_location(mixed, tmp_path: Path):
    train = {**mixed["train"], "indir": {"places": 3, str(tmp_path / "mine"): 1}}
    settings = {"data": {"train": train, "val": mixed["val"]}, "location": {"data_root_dir": str(tmp_path)}}
    data = make_data_module(settings)
    assert data.shares() == [0.75, 0.25]
    assert [line.split(":")[0] for line in data.describe_shares()] == [str(tmp_path / n) for n in ("places", "mine")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indir": {"PLACE/places": 0}}, r"the share of .*places: expected a number above 0, got 0"),
        ({"indir": {"PLACE/places": "much"}}, r"expected a number above 0, got 'much'"),
        ({"indir": {"PLACE/nowhere": 1}}, r"data\.train\.indir: no folder .*nowhere"),
        ({"file_list": "list.txt"}, r"data\.train\.file_list: shares of data\.train\.indir draw from whole folders"),
        ({"kind": "shards"}, r"data\.train\.indir: only folders of images have shares, not kind=shards"),
    ],
)
def test_mistakes_about_shares_are_one_line(mixed, tmp_path: Path, change: dict, message: str):
    if "indir" in change:
        change = {"indir": {key.replace("PLACE", str(tmp_path)): share for key, share in change["indir"].items()}}
    with pytest.raises(InputError, match=message):
        InpaintingDataModule(**{**mixed, "train": {**mixed["train"], **change}}).setup("fit")
