"""File lists, labels beside images, and what the data set makes of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saicinpainting.data.datasets import make_dataloader, make_train_dataset
from saicinpainting.data.sampler import SampleKey
from saicinpainting.data.sources import FolderSource, PathList
from saicinpainting.masks.folder import FolderMaskGenerator
from saicinpainting.masks.generators import MaskRandom
from saicinpainting.utils import InputError
from tests.helpers import photo

MASKS = {"irregular_kwargs": {"max_len": 20, "max_width": 8, "min_times": 1}, "box_proba": 0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """images/ with labels of the same names in segm/ and mask/: where the picture is bright, and its left half."""
    for i, name in enumerate(["a", "sub/b", "sub/c"]):
        pixels = photo("astronaut.png", 80, 60 + 30 * i)
        bright = (pixels.mean(2) > 120).astype(np.uint8)
        left = np.zeros_like(bright)
        left[:, :40] = 255
        for folder, picture in (("images", pixels), ("segm", bright * 7 + 3), ("mask", left)):
            file = tmp_path / folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    return tmp_path


def test_a_file_list_decides_images_and_order(root):
    listed = root / "train.txt"
    listed.write_text("# two of three\nsub/c.png\n\na.png\nsub/c.png\n")
    source = FolderSource(root / "images", file_list=listed)
    assert list(source.files) == [str(root / "images" / "sub/c.png"), str(root / "images" / "a.png")]
    assert source.read(1) == (root / "images" / "a.png").read_bytes()
    beside = root / "images" / "list.txt"
    beside.write_text("a.png\n")
    assert list(FolderSource(None, file_list=beside).files) == [str(root / "images" / "a.png")]


def test_a_file_list_of_windows_is_read(root):
    listed = root / "train.txt"
    listed.write_bytes("\ufeffsub/c.png\r\na.png\r\n".encode())
    source = FolderSource(root / "images", file_list=listed)
    assert list(source.files) == [str(root / "images" / "sub/c.png"), str(root / "images" / "a.png")]


def test_wrong_file_lists_are_named(root):
    listed = root / "train.txt"
    listed.write_text("a.png\nb.png\nsub/d.png\n")
    with pytest.raises(InputError, match=r"2 of 3 files of .*train\.txt do not exist: b\.png, sub/d\.png"):
        FolderSource(root / "images", file_list=listed)
    with pytest.raises(InputError, match=r"paths count from data\.train\.indir \(.*images\)"):
        FolderSource(root / "images", file_list=listed)
    with pytest.raises(InputError, match=rf"paths count from the list's own folder, {root}$"):
        FolderSource(None, file_list=listed)
    listed.write_text("# nothing\n")
    with pytest.raises(InputError, match=r"train\.txt names no file"):
        FolderSource(root / "images", file_list=listed)
    with pytest.raises(InputError, match=r"data\.train\.file_list: cannot read .*absent"):
        FolderSource(root / "images", file_list=root / "absent")


def test_paths_are_kept_in_one_buffer():
    """No string for each of them, which forked workers would copy by reading it; a spawned one gets the same."""
    names = ["a/b.png", "", "ü/漢.jpg", "not \udcff UTF-8.png", "c"]
    for paths in (PathList(names), pickle.loads(pickle.dumps(PathList(names)))):
        assert list(paths) == names
        assert (len(paths), paths[-1], paths[1:4]) == (5, "c", names[1:4])
        assert {type(part) for part in vars(paths).values()} == {bytes, np.ndarray}
        with pytest.raises(IndexError):
            paths[5]
    assert not list(PathList([]))


def test_a_source_keeps_no_list_of_its_files(root):
    source = FolderSource(root / "images", labels={"segm": root / "segm"})
    assert isinstance(source.files, PathList)
    assert source.read_label(2, "segm") == (root / "segm" / "sub" / "c.png").read_bytes()
    assert isinstance(source._labels["segm"], PathList)


def dataset(root: Path, **settings):
    defaults = {"indir": root / "images", "out_size": 64, "mask_gen_kwargs": MASKS}
    return make_train_dataset(**{**defaults, **settings})


@pytest.mark.parametrize("variant", ["distortions", "default"])
def test_semantic_maps_follow_their_images(root, variant):
    samples = dataset(root, kind="img_with_segm", segm_indir=root / "segm", transform_variant=variant)
    for seed in range(20):
        sample = samples[SampleKey(seed % 3, seed, 0)]
        assert sample["segm"].dtype == np.int64
        assert sample["segm"].shape == (64, 64)
        assert set(np.unique(sample["segm"])) <= {3, 10}
        contrast = [sample["image"].mean(0)[sample["segm"] == value] for value in (3, 10)]
        if min(map(len, contrast)) > 100:
            assert contrast[0].mean() < contrast[1].mean()


def test_an_image_may_bring_its_own_mask(root):
    samples = dataset(
        root, mask_generator_kind="paired", mask_indir=root / "mask", transform_variant="no_augs", out_size=80
    )
    for i in range(3):
        mask = samples[SampleKey(i, i, 0)]["mask"]
        assert mask.shape == (1, 80, 80)
        assert mask.dtype == np.float32
        np.testing.assert_array_equal(mask[0, :, :40], 1)
        np.testing.assert_array_equal(mask[0, :, 40:], 0)
    assert "segm" not in samples[0]


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "RGBA"])
def test_an_image_s_own_mask_may_have_any_colours(root, mode):
    """As evaluation reads it: by its brightness, whatever editors save it as."""
    for file in (root / "mask").rglob("*.png"):
        Image.open(file).convert(mode).save(file)
    settings = {"mask_generator_kind": "paired", "transform_variant": "no_augs", "out_size": 80, "max_failures": 0}
    mask = dataset(root, mask_indir=root / "mask", **settings)[SampleKey(1, 1, 0)]["mask"]
    np.testing.assert_array_equal(mask[0], np.arange(80)[None].repeat(80, 0) < 40)


@pytest.mark.parametrize("value", [np.uint16(1), np.uint16(128), np.uint8([0, 0, 4])], ids=["1", "128", "blue"])
def test_masks_of_labels_are_holes_in_training(root, value):
    for file in (root / "mask").rglob("*.png"):
        where = np.asarray(Image.open(file).convert("L")) > 0
        Image.fromarray((where[..., None] * value).squeeze().astype(value.dtype)).save(file)
    paired = {"mask_generator_kind": "paired", "transform_variant": "no_augs", "out_size": 80, "max_failures": 0}
    mask = dataset(root, mask_indir=root / "mask", **paired)[SampleKey(1, 1, 0)]["mask"]
    np.testing.assert_array_equal(mask[0], np.arange(80)[None].repeat(80, 0) < 40)
    drawn = dataset(root, mask_generator_kind="folder", mask_gen_kwargs={"indir": root / "mask"})
    assert 0 < drawn[SampleKey(0, 1, 0)]["mask"].mean() < 1


def test_an_image_and_its_mask_are_stood_upright(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder in ("images", "mask"):
        pixels = np.asarray(Image.open(root / folder / "a.png"))[:, :60]
        Image.fromarray(pixels).save(root / folder / "a.png", exif=exif)
    settings = {"mask_generator_kind": "paired", "transform_variant": "distortions", "max_failures": 0}
    labels = dataset(root, mask_indir=root / "mask", **settings).images.load(0)[1].labels
    expected = np.zeros((60, 80), np.uint8)
    expected[:40] = 255
    np.testing.assert_array_equal(labels["mask"], expected)


def test_the_number_of_classes_of_official_configs_is_taken(root, caplog):
    samples = dataset(root, kind="img_with_segm", segm_indir=root / "segm", semantic_seg_n_classes=11)
    assert "data.train.semantic_seg_n_classes: has no effect" in caplog.text
    assert samples[0]["segm"].shape == (64, 64)


def test_masks_may_come_from_a_folder(root):
    samples = dataset(root, mask_generator_kind="folder", mask_gen_kwargs={"indir": root / "mask"})
    masks = [samples[SampleKey(0, seed, 0)]["mask"] for seed in range(12)]
    assert all(0 < mask.mean() < 1 for mask in masks)
    assert {bool(mask[0, 32, 0]) for mask in masks} == {True, False}  # flipped or not
    np.testing.assert_array_equal(masks[3], samples[SampleKey(2, 3, 9)]["mask"])  # the seed alone decides


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_indir": "mask"}, "mask_indir: only mask_generator_kind=paired uses it, not mixed"),
        ({"mask_generator_kind": "paired"}, r"paired needs each image's own mask; set data\.train\.mask_indir"),
        ({"kind": "img_with_segm"}, r"data\.train\.segm_indir: missing config key"),
        ({"segm_indir": "nowhere"}, r"data\.train\.segm_indir: no folder nowhere"),
        ({"segm_dir": "segm"}, r"data\.train\.segm_dir: unknown config key; .*'segm_indir'"),
        ({"mask_generator_kind": "folder", "mask_gen_kwargs": {}}, r"mask_gen_kwargs\.indir: missing config key"),
        ({"kind": "shards"}, r"images/index\.json: cannot read the index of the shards"),
        ({"kind": "shards", "indir": None}, r"data\.train\.indir: missing config key"),
        ({"indir": None}, r"data\.train\.indir: missing config key"),
    ],
)
def test_wrong_settings_are_named(root, monkeypatch, settings, message):
    monkeypatch.chdir(root)
    with pytest.raises(InputError, match=message):
        dataset(root, **settings)


def test_every_image_needs_its_label(root):
    (root / "segm" / "sub" / "c.png").unlink()
    with pytest.raises(InputError, match=r"c\.png has no .*segm/sub/c\.png; every image needs one"):
        dataset(root, segm_indir=root / "segm")


def test_labels_of_another_size_make_an_image_unusable(root, caplog):
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(root / "segm" / "a.png")
    dataset(root, segm_indir=root / "segm")[SampleKey(0, 0, 0)]
    assert "a.png is unreadable; another image takes its place" in caplog.text
    assert "80x80 pixels, its segm 20x10" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_mask_pictures_are_named_once_and_passed_over(root, caplog, workers):
    Image.new("L", (90, 90)).save(root / "mask" / "none.png")
    (root / "mask" / "broken.png").write_bytes(b"no image")
    samples = dataset(root, mask_generator_kind="folder", mask_gen_kwargs={"indir": root / "mask"})
    keys = [SampleKey(0, seed, 0) for seed in range(24)]
    data = make_dataloader(samples, {"batch_size": 4, "num_workers": workers, "sampler": keys}, where="data.train")
    masks = np.concatenate([batch["mask"].numpy() for batch in data])
    assert all(0 < mask.mean() < 1 for mask in masks)
    np.testing.assert_array_equal(masks[5], samples[keys[5]]["mask"])  # the seed alone decides
    if not workers:
        assert caplog.text.count("none.png: 20 parts of 64x64 pixels were all hole or had none; another mask") == 1
        assert caplog.text.count("another mask takes its place") == 2
    for key in keys:
        samples[key]
    assert caplog.text.count("another mask takes its place") == (0 if workers else 2)  # workers have named them


@pytest.mark.parametrize("size", [2000, 2001])
def test_thin_strokes_of_a_large_mask_picture_stay(tmp_path, size):
    pixels = np.zeros((size, size), np.uint8)
    pixels[1005, 300:1700] = 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mask = FolderMaskGenerator(indir=tmp_path).sample((64, 64), MaskRandom.seeded(0))
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=1)), [32])
    assert 44 <= mask.sum() <= 47


def test_a_folder_of_full_masks_is_an_error(root):
    Image.fromarray(np.full((90, 90), 255, np.uint8)).save(root / "full.png")
    (root / "full").mkdir()
    (root / "full.png").rename(root / "full" / "full.png")
    with pytest.raises(
        InputError, match=r"full: 100 mask images in a row.*full\.png: 20 parts of 64x64 pixels were all hole"
    ):
        dataset(root, mask_generator_kind="folder", mask_gen_kwargs={"indir": root / "full"})[0]
