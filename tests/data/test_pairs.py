"""Image reading, padding and the folder data sets, on files written here."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from saicinpainting.data.pairs import (
    InpaintingDataset,
    InpaintingEvalOnlineDataset,
    OurInpaintingDataset,
    PrecomputedInpaintingResultsDataset,
    plan_batches,
)
from saicinpainting.io.device import move_to_device
from saicinpainting.io.images import ceil_modulo, load_image, pad_img_to_modulo, pad_tensor_to_modulo, scale_image
from saicinpainting.masks.mixed import get_mask_generator
from saicinpainting.utils import InputError


def picture(height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3), smooth, so that JPEG keeps it."""
    coarse = np.random.RandomState(seed).randint(0, 256, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def save(path: Path, pixels: np.ndarray, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


def hole(height: int = 20, width: int = 30) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[5:10, 5:12] = 255
    return mask


def pair(folder: Path, name: str, image_suffix: str = ".png", mask_suffix: str = "_mask000.png") -> None:
    save(folder / f"{name}{image_suffix}", picture())
    save(folder / f"{name}{mask_suffix}", hole())


def test_an_ending_may_be_given_without_its_dot(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a", ".jpg")
    save(tmp_path / "set" / "a.png", picture())
    assert InpaintingDataset(tmp_path / "set", img_suffix="jpg").img_filenames == [str(tmp_path / "set" / "a.jpg")]
    save(tmp_path / "out" / "a_mask000.png", picture())
    predictions = PrecomputedInpaintingResultsDataset(tmp_path / "set", tmp_path / "out", "png", img_suffix="png")
    assert predictions.img_filenames == [str(tmp_path / "set" / "a.png")]
    assert predictions.pred_filenames == [str(tmp_path / "out" / "a_mask000.png")]


# --- reading


@pytest.mark.parametrize(("suffix", "mean_error"), [("png", 0), ("bmp", 0), ("tiff", 0), ("jpg", 4), ("webp", 4)])
def test_rgb_formats(tmp_path, suffix, mean_error):
    pixels = picture()
    settings = {"quality": 95} if mean_error else {}
    image = load_image(save(tmp_path / f"a.{suffix}", pixels, **settings))
    assert image.shape == (3, 20, 30)
    assert image.dtype == np.float32
    assert np.abs(image.transpose(1, 2, 0) * 255 - pixels).mean() <= mean_error + 1e-4


def test_grey_becomes_rgb_and_l_stays_flat(tmp_path):
    path = save(tmp_path / "grey.png", picture()[..., 0])
    image, flat = load_image(path), load_image(path, mode="L")
    assert flat.shape == (20, 30)
    np.testing.assert_array_equal(image, np.stack([flat] * 3))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 600).reshape(20, 30).round().astype(np.uint16)
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), values)
    np.testing.assert_allclose(load_image(path, mode="L"), values / 65535, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(load_image(path)[1], values / 65535, atol=0.5 / 255 + 1e-6)


def test_16_bit_colour(tmp_path):
    values = np.random.RandomState(0).randint(0, 65536, (20, 30, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., ::-1])
    image = load_image(tmp_path / "deep.png").transpose(1, 2, 0)
    np.testing.assert_allclose(image, values / 65535, atol=1 / 255)


def test_alpha_is_dropped(tmp_path):
    alpha = np.full((20, 30, 1), 7, np.uint8)
    path = save(tmp_path / "a.png", np.concatenate([picture(), alpha], axis=2))
    np.testing.assert_array_equal(load_image(path).transpose(1, 2, 0), picture().astype(np.float32) / 255)


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency(tmp_path):
    palette = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30) % 3).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255, 128]))
    image = load_image(tmp_path / "p.png")
    np.testing.assert_array_equal(image[:, 0, :3], np.eye(3, dtype=np.float32))


def test_cmyk_jpeg(tmp_path):
    pixels = np.full((16, 16, 3), (250, 128, 10), np.uint8)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "c.jpg", quality=95)
    image = load_image(tmp_path / "c.jpg")
    np.testing.assert_allclose(image.mean((1, 2)) * 255, (250, 128, 10), atol=4)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to show
    path = save(tmp_path / "turned.jpg", picture(), exif=exif, quality=95)
    image = load_image(path)
    assert image.shape == (3, 30, 20)
    expected = np.rot90(picture(), k=-1).transpose(2, 0, 1)
    assert np.abs(image * 255 - expected).mean() < 4


def test_unreadable_files_are_named(tmp_path):
    whole = save(tmp_path / "whole.jpg", picture(200, 300), quality=95).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    for name, reason in [
        ("cut.jpg", "truncated"),
        ("text.png", "it is no image"),
        ("float.tiff", "floating-point pixels"),
        ("absent.png", "no such file"),
    ]:
        with pytest.raises(InputError, match=rf"cannot read the image .*{name}: .*{reason}"):
            load_image(tmp_path / name)


# --- padding, scaling, devices


def test_ceil_modulo():
    assert [ceil_modulo(x, 8) for x in (0, 1, 8, 9, 16)] == [0, 8, 8, 16, 16]


def test_padding_mirrors_at_the_right_and_the_bottom():
    image = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
    padded = pad_img_to_modulo(image, 4)
    assert padded.shape == (2, 4, 8)
    np.testing.assert_array_equal(padded[:, :3, 5:], image[:, :, :1:-1])  # the last column twice
    np.testing.assert_array_equal(padded[:, 3, :5], image[:, 2])

    tensor = pad_tensor_to_modulo(torch.from_numpy(image)[None], 4)[0].numpy()
    np.testing.assert_array_equal(tensor[:, :3, 5:], image[:, :, 3:0:-1])  # the last column once
    np.testing.assert_array_equal(tensor[:, 3, :5], image[:, 1])


def test_scale_image_keeps_the_channel_axis_and_averages():
    image = np.random.RandomState(0).rand(3, 8, 12).astype(np.float32)
    mean_of_four = image.reshape(3, 4, 2, 6, 2).mean((2, 4))
    np.testing.assert_allclose(scale_image(image, 0.5), mean_of_four, atol=1e-6)
    assert scale_image(image[:1], 0.5).shape == (1, 4, 6)


def test_move_to_device_keeps_the_structure():
    nest = {"a": torch.ones(2), "b": [torch.zeros(1), ("text", 3, None)]}
    moved = move_to_device(nest, "meta")
    assert moved["a"].device.type == moved["b"][0].device.type == "meta"
    assert moved["b"][1] == ("text", 3, None)
    assert nest["a"].device.type == "cpu"


# --- images with masks


@pytest.mark.parametrize(
    ("image_suffix", "mask_suffix"),
    [
        (".png", "_mask000.png"),
        (".jpg", "_mask000.png"),
        (".jpg", "_mask.jpg"),
        (".jpeg", "_mask_b.png"),
        (".jfif", "_mask000.gif"),
        (".gif", "_mask.png"),
    ],
)
def test_nested_pairs_are_found_whatever_their_endings(tmp_path, image_suffix, mask_suffix):
    pair(tmp_path / "b", "two", image_suffix, mask_suffix)
    pair(tmp_path, "one", image_suffix, mask_suffix)
    dataset = InpaintingDataset(tmp_path, img_suffix=image_suffix)
    assert dataset.img_filenames == [str(tmp_path / f"{n}{image_suffix}") for n in ("b/two", "one")]
    assert dataset.mask_filenames == [str(tmp_path / f"{n}{mask_suffix}") for n in ("b/two", "one")]
    sample = dataset[0]
    assert set(sample) == {"image", "mask"}
    assert sample["image"].shape == (3, 20, 30)
    assert sample["mask"].shape == (1, 20, 30)
    assert sample["mask"].dtype == np.float32
    assert set(np.unique(sample["mask"])) == {0, 1}


@pytest.mark.parametrize(
    "value", [np.uint16(1), np.uint16(128), np.uint8([1, 0, 0]), np.uint8([0, 0, 4])], ids=["1", "128", "red", "blue"]
)
def test_masks_of_labels_are_holes_in_prediction_and_evaluation(tmp_path, value):
    save(tmp_path / "set" / "a.png", picture())
    where = hole() > 0
    save(tmp_path / "set" / "a_mask000.png", (where[..., None] * value).squeeze().astype(value.dtype))
    save(tmp_path / "out" / "a_mask000.png", picture(seed=1))
    predicted = InpaintingDataset(tmp_path / "set", ".png")
    evaluated = PrecomputedInpaintingResultsDataset(tmp_path / "set", tmp_path / "out", ".png", img_suffix=".png")
    for dataset in (predicted, evaluated):
        np.testing.assert_array_equal(dataset[0]["mask"], where[None].astype(np.float32))


def test_soft_mask_edges_count_as_hole(tmp_path):
    save(tmp_path / "a.png", picture())
    soft = np.zeros((20, 30), np.uint8)
    soft[3, :4] = (1, 100, 200, 255)
    save(tmp_path / "a_mask000.png", soft)
    assert InpaintingDataset(tmp_path, ".png")[0]["mask"].sum() == 4


def test_an_image_may_be_called_mask_itself(tmp_path):
    pair(tmp_path, "face_mask")
    pair(tmp_path, "face")
    names = [Path(f).name for f in InpaintingDataset(tmp_path, ".png").mask_filenames]
    assert names == ["face_mask000.png", "face_mask_mask000.png"]


def test_scaling_then_padding(tmp_path):
    pair(tmp_path, "a")
    sample = InpaintingDataset(tmp_path, ".png", pad_out_to_modulo=8, scale_factor=0.5)[0]
    assert sample["image"].shape == (3, 16, 16)
    assert sample["mask"].shape == (1, 16, 16)
    assert sample["unpad_to_size"] == (10, 15)
    assert set(np.unique(sample["mask"])) == {0, 1}
    height, width = default_collate([sample])["unpad_to_size"]
    assert (int(height), int(width)) == (10, 15)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        InpaintingDataset(tmp_path / "nowhere")


def test_images_without_any_mask(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.jpg", picture())
    with pytest.raises(InputError, match=r"NAME\.png with masks NAME_mask\*\.png, found .* 3 \.jpg") as error:
        InpaintingDataset(tmp_path, ".png")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG"])
def test_endings_are_found_by_the_names_whatever_the_setting_says(tmp_path, suffix):
    pair(tmp_path, "a", ".jpg")
    pair(tmp_path, "b", ".png", "_mask.png")
    pair(tmp_path, "sub/c", ".JPG", "_mask001.jpg")
    dataset = InpaintingDataset(tmp_path, suffix)
    names = [Path(f).relative_to(tmp_path).as_posix() for f in (*dataset.img_filenames, *dataset.mask_filenames)]
    assert names == ["a.jpg", "b.png", "sub/c.JPG", "a_mask000.png", "b_mask.png", "sub/c_mask001.jpg"]


def test_the_setting_decides_where_a_name_has_several_endings(tmp_path):
    pair(tmp_path, "a", ".jpg")
    pair(tmp_path, "a", ".webp")
    save(tmp_path / "a_mask000.jpg", hole())  # a preview beside the mask
    dataset = InpaintingDataset(tmp_path, ".webp")
    assert dataset.img_filenames == [str(tmp_path / "a.webp")]
    assert dataset.mask_filenames == [str(tmp_path / "a_mask000.png")]
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.webp: .* set img_suffix to \.jpg or \.webp"):
        InpaintingDataset(tmp_path, ".png")


def test_one_image_has_the_masks_beside_it(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "ab")
    dataset = InpaintingDataset(tmp_path / "a.png", ".jpg")
    assert dataset.mask_filenames == [str(tmp_path / "a_mask000.png")]
    assert dataset.names == ["a_mask000"]


def test_one_mask_serves_all_frames_in_their_order(tmp_path):
    for number in (2, 10, 1):
        save(tmp_path / "frames" / f"frame_{number}.jpg", picture())
    save(tmp_path / "frames" / "logo.png", hole())
    dataset = InpaintingDataset(tmp_path / "frames", ".png", mask_path=tmp_path / "frames" / "logo.png")
    assert dataset.names == ["frame_1", "frame_2", "frame_10"]
    assert {sample["mask"].sum() for sample in dataset} == {35}


def test_masks_in_a_folder_of_their_own(tmp_path, caplog):
    for name in ("v/1", "v/2", "a_mask", "bare"):
        save(tmp_path / "in" / f"{name}.jpg", picture())
    for name in ("v/1.png", "v/2_mask000.png", "v/2_mask001.webp", "a_mask_mask.png", "other.png"):
        save(tmp_path / "masks" / name, hole())
    dataset = InpaintingDataset(tmp_path / "in", mask_path=tmp_path / "masks")
    assert dataset.names == ["a_mask_mask", "v/1", "v/2_mask000", "v/2_mask001"]
    assert [Path(f).stem for f in dataset.img_filenames] == ["a_mask", "1", "2", "2"]
    assert "1 images have no mask and are left out" in caplog.text
    assert "bare.jpg" in caplog.text
    with pytest.raises(InputError, match=r"none: no such mask, nor folder"):
        InpaintingDataset(tmp_path / "in", mask_path=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: expected masks NAME\.\* or NAME_mask.* found nothing for 4 \.jpg"):
        InpaintingDataset(tmp_path / "in", mask_path=tmp_path / "empty")


def test_a_name_that_only_begins_like_a_masks_is_an_images(tmp_path, caplog):
    for name in ("my", "my_masked_ball", "my_mask001"):
        save(tmp_path / "in" / f"{name}.png", picture())
    for name in ("my", "my_masked_ball", "my_mask2"):
        save(tmp_path / "masks" / f"{name}.png", hole())
    dataset = InpaintingDataset(tmp_path / "in", mask_path=tmp_path / "masks")
    pairs = {name: Path(image).stem for name, image in zip(dataset.names, dataset.img_filenames, strict=True)}
    assert pairs == {"my": "my", "my_mask2": "my", "my_masked_ball": "my_masked_ball"}
    one = InpaintingDataset(tmp_path / "in", mask_path=tmp_path / "masks" / "my.png")
    assert one.names == ["my", "my_masked_ball"]
    assert "1 files are taken for masks of others and left out: " in caplog.text
    assert "my_mask001.png" in caplog.text


@pytest.mark.parametrize("ending", [".avif", ".ppm", ".jpe", ".jp2"])
def test_images_of_rarer_endings_are_found(tmp_path, ending):
    pair(tmp_path, "a", ending)
    dataset = InpaintingDataset(tmp_path, img_suffix=ending)
    assert dataset.img_filenames == [str(tmp_path / f"a{ending}")]
    assert dataset[0]["image"].shape == (3, *hole().shape)


def test_a_size_error_names_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.png", picture(), exif=exif)
    save(tmp_path / "a_mask000.png", hole())
    with pytest.raises(InputError, match=r"a\.png is 20x30 .* as 30x20 and turned by its EXIF orientation \(6\)"):
        InpaintingDataset(tmp_path, ".png")[0]


def test_mask_without_image(tmp_path):
    pair(tmp_path, "a")
    save(tmp_path / "b_mask000.png", hole())
    with pytest.raises(InputError, match=r"b_mask000\.png: its image .*b\.png is missing"):
        InpaintingDataset(tmp_path, ".png")


def test_some_images_without_mask_are_reported(tmp_path, caplog):
    pair(tmp_path, "a")
    for i in range(4):
        save(tmp_path / f"bare{i}.png", picture())
    with caplog.at_level(logging.WARNING):
        assert len(InpaintingDataset(tmp_path, ".png")) == 1
    assert "4 images have no mask" in caplog.text
    assert "bare2.png, ..." in caplog.text


def test_mask_of_another_size(tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "a_mask000.png", hole(20, 31))
    with pytest.raises(InputError, match=r"a\.png is 30x20 pixels but .*a_mask000\.png is 31x20"):
        InpaintingDataset(tmp_path, ".png")[0]


def test_our_layout(tmp_path):
    save(tmp_path / "img" / "a.jpg", picture())
    save(tmp_path / "mask" / "thick" / "a_mask-0.png", hole())
    dataset = OurInpaintingDataset(tmp_path)
    assert dataset.img_filenames == [str(tmp_path / "img" / "a.jpg")]
    assert dataset[0]["mask"].sum() == 35


# --- predictions


def test_predictions_carry_the_masks_name(tmp_path):
    pair(tmp_path / "data" / "sub", "a")
    prediction = picture(seed=3)
    save(tmp_path / "out" / "sub" / "a_mask000_inpainted.png", prediction)
    dataset = PrecomputedInpaintingResultsDataset(
        tmp_path / "data", tmp_path / "out", "_inpainted.png", img_suffix=".png", pad_out_to_modulo=8
    )
    sample = dataset[0]
    assert {v.shape[1:] for v in (sample["image"], sample["mask"], sample["inpainted"])} == {(24, 32)}
    np.testing.assert_array_equal(sample["inpainted"][:, :20, :30], prediction.transpose(2, 0, 1) / np.float32(255))


def test_missing_predictions_are_counted(tmp_path):
    for name in "abcde":
        pair(tmp_path / "data", name)
    save(tmp_path / "out" / "a_mask000.png", picture())
    with pytest.raises(InputError, match=r"4 of 5 predictions are missing in .*b_mask000\.png, .*, \.\.\.;"):
        PrecomputedInpaintingResultsDataset(tmp_path / "data", tmp_path / "out", ".png", img_suffix=".png")


def test_prediction_of_another_size(tmp_path):
    pair(tmp_path / "data", "a")
    save(tmp_path / "out" / "a_mask000.png", picture(24, 32))
    dataset = PrecomputedInpaintingResultsDataset(tmp_path / "data", tmp_path / "out", ".png", img_suffix=".png")
    with pytest.raises(InputError, match=r"a\.png is 30x20 pixels but .*a_mask000\.png is 32x24"):
        dataset[0]


def test_predictions_may_have_another_ending(tmp_path):
    pair(tmp_path / "data", "a")
    save(tmp_path / "out" / "a_mask000.jpg", picture())
    dataset = PrecomputedInpaintingResultsDataset(tmp_path / "data", tmp_path / "out", ".png", img_suffix=".png")
    assert dataset[0]["inpainted"].shape == (3, 20, 30)


@pytest.mark.parametrize("copied", [False, True])
def test_masks_are_no_predictions(tmp_path, copied):
    pair(tmp_path / "data", "a")
    folder = shutil.copytree(tmp_path / "data", tmp_path / "copy") if copied else tmp_path / "data"
    with pytest.raises(InputError, match=r"what should be predictions are the masks of .*data"):
        PrecomputedInpaintingResultsDataset(tmp_path / "data", folder, ".png", img_suffix=".png")


# --- masks drawn on the fly


def test_online_masks_stay_with_their_image(tmp_path):
    for name in ("a", "b", "sub/c"):
        save(tmp_path / f"{name}.png", picture(64, 64))
    generator = get_mask_generator("mixed", {"box_proba": 0, "irregular_kwargs": {"min_times": 2}})
    dataset = InpaintingEvalOnlineDataset(tmp_path, generator, ".png", pad_out_to_modulo=48)
    first = [dataset[i]["mask"] for i in range(3)]
    again = [dataset[i]["mask"] for i in reversed(range(3))][::-1]
    np.testing.assert_array_equal(first, again)
    assert first[0].shape == (1, 96, 96)
    assert not np.array_equal(first[0], first[1])

    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(InpaintingEvalOnlineDataset(tmp_path, generator, ".png", 48)[0]["mask"], first[1])


def test_online_set_takes_any_ending_or_says_what_is_there(tmp_path):
    save(tmp_path / "a.png", picture())
    assert len(InpaintingEvalOnlineDataset(tmp_path, get_mask_generator())) == 1
    (tmp_path / "a.png").rename(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"expected images \*\.jpg, found 1 \.txt"):
        InpaintingEvalOnlineDataset(tmp_path, get_mask_generator())


def test_a_side_does_not_vanish_when_an_image_is_scaled():
    assert scale_image(np.zeros((3, 1, 200), np.float32), 0.25).shape == (3, 1, 50)
    assert scale_image(np.zeros((1, 200, 1), np.float32), 0.25, cv2.INTER_NEAREST).shape == (1, 50, 1)


# --- batches


def test_batches_are_planned_from_headers(tmp_path, monkeypatch):
    """By the upright size and the depth; what has no header is a batch of its own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying, upright, deep = picture(30, 20), picture(20, 30), picture(20, 30)[..., 0].astype(np.uint16) * 257
    files = [
        save(tmp_path / "0.png", upright),
        save(tmp_path / "1.jpg", lying, exif=exif),
        save(tmp_path / "2.jpg", lying),
        save(tmp_path / "3.png", deep),
        tmp_path / "4.png",
        save(tmp_path / "5.webp", upright),
    ]
    files[4].write_text("no image")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    names = list(map(str, [*files, files[0]]))
    batches = plan_batches(names, 3, lambda *size: size, waiting=9)
    assert sorted(batches) == [[0, 1, 5], [2], [3], [4], [6]]
    assert sorted(plan_batches(names, 3, lambda *size: (), waiting=9)) == [[0, 1, 2], [3], [4], [5, 6]]
    assert plan_batches(names, 3, lambda *size: size)[0] == [0, 1]  # in order
    assert plan_batches(names, 1, lambda *size: pytest.fail("asked")) == [[i] for i in range(7)]
