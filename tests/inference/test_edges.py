"""The edge of a hole: grown masks, faded fills, matched colours; in arrays, tensors, folders, parts, refinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from kornia.morphology import dilation
from PIL import Image
from torch import Tensor, nn

from saicinpainting.inference.backends import load_array_backend, load_backend
from saicinpainting.inference.edges import EdgedBackend, EdgeSettings, fill_weight, grow_hole
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.io.images import planes_of
from saicinpainting.utils import InputError
from tests.helpers import photo, run_script, write_run
from tests.samples import refining


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


def blots(height: int = 90, width: int = 110) -> np.ndarray:
    """bool: specks, one at a corner, and a box."""
    hole = np.random.RandomState(0).rand(height, width) > 0.998
    hole[0, -1] = True
    hole[30:44, 20:39] = True
    return hole


@pytest.mark.parametrize("radius", [0, 1, 2, 7, 20])
def test_growing_is_the_dilation_by_a_disk_of_opencv_and_kornia(radius: int) -> None:
    hole, kernel = blots(), disk(radius)
    grown = grow_hole(hole, radius)
    np.testing.assert_array_equal(grown, cv2.dilate(hole.astype(np.uint8), kernel) > 0)
    by_kornia = dilation(torch.from_numpy(hole)[None, None].float(), torch.from_numpy(kernel).float())
    np.testing.assert_array_equal(grown, by_kornia[0, 0].numpy() > 0)


def test_nothing_grows_from_nothing() -> None:
    assert not grow_hole(np.zeros((5, 7), bool), 3).any()
    np.testing.assert_array_equal(fill_weight(np.ones((5, 7), bool), np.ones((5, 7), bool), 2), 1)


def test_the_fill_fades_in_from_the_grown_edge_and_is_opaque_in_the_mask() -> None:
    hole = np.zeros((60, 60), bool)
    hole[20:40, :12] = True  # at the image's border, where there is nothing to fade into
    grown = grow_hole(hole, 8)
    weight = fill_weight(hole, grown, 3)
    np.testing.assert_array_equal(weight[11:16, 5], np.float32([0, 1 / 4, 2 / 4, 3 / 4, 1]))
    np.testing.assert_array_equal(weight[30, 15:21], np.float32([1, 1, 3 / 4, 2 / 4, 1 / 4, 0]))
    assert (weight[20:40, 0] == 1).all()
    assert (weight[~grown] == 0).all()
    assert (weight[grown] > 0).all()
    assert (fill_weight(hole, grown, 8)[hole] == 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grow": -1}, "mask.grow: expected a whole number of at least 0, got -1"),
        ({"grow": 2, "feather": 2.5}, "mask.feather: expected a whole number"),
        ({"grow": 2, "feather": 3}, "mask.feather=3: .* the 2 pixels that mask.grow adds; set mask.grow=3 or more"),
        ({"match_colors": "no"}, "mask.match_colors: expected true or false, got 'no'"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EdgeSettings(**settings)


# ---- what it does to images ----------------------------------------------------------------------------------------


class Cast(nn.Module):
    """Paints the image it was told, with a cast over everything; as a network that gives all but the colours."""

    size_multiple, min_size = 8, 8

    def __init__(self, image: Tensor, cast: float) -> None:
        super().__init__()
        self.image, self.cast, self.seen = image, cast, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x[:, 3:]
        height, width = x.shape[2:]
        return (self.image + self.cast).repeat(1, 1, 2, 2)[:, :, :height, :width]


def square(height: int = 64, width: int = 64) -> np.ndarray:
    hole = np.zeros((height, width), np.uint8)
    hole[24:40, 20:44] = 255
    return hole


def inpainter(cast: float, **options: Any) -> tuple[Inpainter, Cast, np.ndarray]:
    image = photo("coffee.png", 64, offset=100)
    network = Cast(torch.from_numpy(image / 255).float().permute(2, 0, 1)[None] * 0.8, cast)
    filling = Inpainter(network, device="cpu", fold=False, **options)
    return filling, filling.network, np.rint(image * 0.8).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_outside_the_grown_mask_every_bit_stays_and_the_network_knows_nothing_inside(dtype: type) -> None:
    fill, network, image = inpainter(0.2)
    image = image.astype(dtype) * (257 if dtype is np.uint16 else 1)
    grown = cv2.dilate(square(), disk(6)) > 0
    filled = fill(image, square(), grow=6, feather=4)
    np.testing.assert_array_equal(filled[~grown], image[~grown])
    assert (filled[grown] != image[grown]).any(axis=1).all()
    np.testing.assert_array_equal(network.seen[0, 0].numpy() > 0, grown)
    # The mask itself is as without feather: what it covers does not shine through.
    opaque = fill(image, square(), grow=6)
    hole = square() > 0
    np.testing.assert_array_equal(filled[hole], opaque[hole])
    change, full = (np.abs(x.astype(int) - image)[20, :, 0] for x in (filled, opaque))
    np.testing.assert_allclose(change[30] / full[30], 3 / 5, atol=0.02)  # third row from row 18, four fade


def test_tensors_and_arrays_agree() -> None:
    fill, _, image = inpainter(0.1)
    settings: dict[str, Any] = {"grow": 5, "feather": 5, "match_colors": True}
    both = [torch.from_numpy(image / 255).float().permute(2, 0, 1), torch.from_numpy(square() / 255).float()[None]]
    pairs = [torch.stack([x, x.flip(2)]) for x in both]
    tensor = fill(*pairs, **settings)
    expected = fill(image, square(), **settings)
    np.testing.assert_array_equal((tensor[0] * 255).round().permute(1, 2, 0).numpy(), expected)
    torch.testing.assert_close(tensor[1:], fill(*(x[1:] for x in pairs), **settings), atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"strategy": "whole"}, {"strategy": "crop"}])
def test_matching_takes_a_cast_off_at_the_edge(options: dict[str, Any]) -> None:
    fill, _, image = inpainter(0.15, **options)
    hole = square() > 0
    rim = hole & ~(cv2.erode(square(), disk(1)) > 0)

    def error(**settings: Any) -> np.ndarray:
        return np.abs(fill(image, square(), **settings).astype(int) - image).max(axis=2)

    assert error()[hole].min() > 35
    matched = error(match_colors=True)
    assert matched[rim].max() <= 2
    assert (matched[~hole] == 0).all()
    assert error(match_colors=True, grow=4, feather=2)[rim].max() < 38  # deeper behind the edge, ever less


def test_a_cast_of_the_network_is_matched_in_refinement_too(tmp_path: Path) -> None:
    model = {"path": write_run(tmp_path), "checkpoint": "best.ckpt"}
    image = torch.from_numpy(photo("coffee.png", 96) / 255).float().permute(2, 0, 1)[None]
    mask = torch.zeros(1, 1, 96, 96)
    mask[:, :, 30:60, 30:60] = 1
    batch = {"image": image, "mask": mask, "unpad_to_size": (96, 96)}
    plain, matched = (refining(model, edge=EdgeSettings(match_colors=on))(batch) for on in (False, True))

    def step(filled: Tensor) -> float:
        """How far rows on both sides of the hole's upper edge are apart on average, colour by colour."""
        return float((filled[:, :, 30, 30:60] - filled[:, :, 29, 30:60]).mean(dim=2).abs().max())

    assert torch.equal(matched[mask.expand_as(image) == 0], image[mask.expand_as(image) == 0])
    assert step(matched) < 0.3 * step(plain)
    grown = refining(model, edge=EdgeSettings(grow=5))(batch)
    outside = torch.from_numpy(cv2.dilate(mask[0, 0].numpy(), disk(5)) == 0).expand_as(image)
    assert torch.equal(grown[outside], image[outside])
    assert (grown[~outside] != image[~outside]).float().mean() > 0.99


def test_a_refined_fill_of_a_padded_image_fades_in_as_without_padding(tmp_path: Path) -> None:
    model = {"path": write_run(tmp_path), "checkpoint": "best.ckpt"}
    image = torch.from_numpy(photo("coffee.png", 96) / 255).float().permute(2, 0, 1)[None]
    mask = torch.zeros(1, 1, 96, 96)
    mask[:, :, 60:80, 30:60] = 1
    batches = [
        {"image": image[:, :, :height, :width], "mask": mask[:, :, :height, :width], "unpad_to_size": (93, 90)}
        for height, width in ((96, 96), (93, 90))
    ]
    refined = refining(model, edge=EdgeSettings(grow=4, feather=4))
    padded, alone = (refined(batch)[:, :, :93, :90] for batch in batches)
    assert torch.equal(padded, alone)


def test_padding_grows_as_the_image_does() -> None:
    """An object's shadow at the border must not stay known in the mirrored pixels."""
    fill, network, image = inpainter(0.1)
    image, mask = image[:50, :61], np.zeros((50, 61), np.uint8)
    mask[20:30, 40:53] = 1  # 8 pixels from the border: mirrored, it begins outside the padding
    fill(image, mask, grow=10)
    alone = network.seen
    edge = EdgeSettings(grow=10)
    sides = {"unpad_to_size": (torch.tensor([50, 56]), torch.tensor([61, 64]))}
    x, holes = torch.rand(2, 3, 56, 64), torch.zeros(2, 1, 56, 64)
    holes[0, 0, :50, :61] = torch.from_numpy(mask)
    EdgedBackend(fill.fill_batch, edge)({"image": x, "mask": holes, **sides})
    assert torch.equal(network.seen[:1], alone)
    assert alone[0, 0, 25, 63] == 1


# ---- backends and the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checkpoint", "options", "message"),
    [
        ("lama.onnx", {"edge": EdgeSettings(match_colors=True)}, r"mask.match_colors=true: lama\.onnx is an ONNX file"),
        (
            "best.ckpt",
            {"edge": EdgeSettings(3, 2), "out_key": "predicted_image"},
            "out_key=predicted_image: nothing meets the image there; leave mask.feather and mask.match_colors out",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(checkpoint: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backend({"path": "run", "checkpoint": checkpoint}, "cpu", **options)


def test_an_onnx_file_fills_the_grown_mask(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests.inference.test_onnx import exported

    model = {"path": str(exported(tmp_path / "dark.onnx", top=1)), "checkpoint": ""}
    fill, image = load_array_backend(model, "cpu"), photo("coffee.png", 64)
    planes, hole = planes_of(image), square() > 0
    filled = fill(planes, hole, EdgeSettings(grow=6, feather=3))
    grown = cv2.dilate(square(), disk(6)) > 0
    np.testing.assert_array_equal(filled[~grown], image[~grown])
    assert (filled != image).any(axis=2)[grown].mean() > 0.99
    with pytest.raises(InputError, match=r"mask.match_colors=true: .*dark\.onnx is an ONNX file"):
        fill(planes, hole, EdgeSettings(match_colors=True))


def test_the_command_grows_masks_of_16_bit_images_and_makes_results_of_other_settings_anew(tmp_path: Path) -> None:
    run, images, out = write_run(tmp_path), tmp_path / "images", tmp_path / "out"
    images.mkdir()
    image = (photo("coffee.png", 70)[:50].astype(np.uint16) * 257) ^ 3
    cv2.imwrite(str(images / "a.png"), image)
    mask = np.zeros((50, 70), np.uint8)
    mask[20:30, 50:60] = 255
    Image.fromarray(mask).save(images / "a_mask.png")

    def predict(*words: str) -> tuple[str, np.ndarray]:
        where = (f"model.path={run}", f"indir={images}", f"outdir={out}", "device=cpu")
        done = run_script("predict.py", *where, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr, cv2.imread(str(out / "a_mask.png"), cv2.IMREAD_UNCHANGED)

    _, before = predict()
    told, after = predict("mask.grow=7", "mask.feather=3", "mask.match_colors=true")
    assert "made anew" in told
    assert after.dtype == np.uint16
    grown = cv2.dilate(mask, disk(7)) > 0
    np.testing.assert_array_equal((before != image).any(axis=2), mask > 0)
    np.testing.assert_array_equal(after[~grown], image[~grown])
    assert (after != image).any(axis=2)[grown].all()
    told, _ = predict("mask.grow=7", "mask.feather=3", "mask.match_colors=true")
    assert "0 images written, 1 were there already" in told
