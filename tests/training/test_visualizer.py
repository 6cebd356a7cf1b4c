"""Pictures of batches, read back from the files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from saicinpainting.training.visualizer import OUTLINE_RGB, make_visualizer, visualize_batch
from saicinpainting.utils import InputError

H, W = 32, 48


def flat_batch(n: int = 2) -> dict[str, torch.Tensor]:
    """Images of one colour each, so that every tile of the picture is known; the hole is 16 x 16."""
    mask = torch.zeros(n, 1, H, W)
    mask[:, :, 8:24, 16:32] = 1
    colours = {"image": (1.0, 0.0, 0.0), "predicted_image": (0.0, 1.0, 0.0), "inpainted": (0.0, 0.0, 1.0)}
    flat = {key: torch.tensor(rgb).view(1, 3, 1, 1).expand(n, 3, H, W) for key, rgb in colours.items()}
    return {"mask": mask, **flat}


def test_tiles_are_where_rows_and_columns_say():
    picture = visualize_batch(flat_batch(n=3), max_items=2)
    assert picture.shape == (2 * H, 3 * W, 3)
    assert picture.dtype == np.uint8
    for row in range(2):
        corners = picture[row * H, ::W]
        assert corners.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("last_without_mask", [True, False])
def test_hole_is_outlined_in_all_but_the_last_column(last_without_mask):
    picture = visualize_batch(flat_batch(n=1), last_without_mask=last_without_mask)
    outlined = (picture == OUTLINE_RGB).all(-1)
    expected = np.zeros((H, W), dtype=bool)
    expected[7:25, 15:33] = True
    expected[9:23, 17:31] = False
    for column in range(3):
        tile = outlined[:, column * W : (column + 1) * W]
        assert (tile == (expected if column < 2 or not last_without_mask else False)).all()


def test_scores_are_stretched_and_enlarged_and_missing_keys_left_out():
    score = torch.tensor([[-3.0, 1.0], [1.0, 5.0]]).view(1, 1, 2, 2)
    batch = {**flat_batch(n=1), "score": score}
    picture = visualize_batch(batch, key_order=("image", "absent", "score"), rescale_keys=["score"])
    assert picture.shape == (H, 2 * W, 3)
    tile = picture[:, W:]
    quarters = [tile[0, 0], tile[0, -1], tile[-1, 0], tile[-1, -1]]
    assert [q.tolist() for q in quarters] == [[0] * 3, [128] * 3, [128] * 3, [255] * 3]


def test_constant_score_is_drawn_black():
    batch = {**flat_batch(n=1), "score": torch.full((1, 1, 2, 2), 7.0)}
    picture = visualize_batch(batch, key_order=["score"], rescale_keys=["score"])
    assert not picture.any()


def test_values_outside_the_range_are_clamped_and_the_batch_is_untouched():
    batch = {
        "mask": torch.zeros(1, 1, 2, 2),
        "image": torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2),
    }
    picture = visualize_batch(batch, key_order=["image"])
    assert picture[0, 0].tolist() == [0, 128, 255]
    assert batch["image"].max() == 2


def test_no_known_key_is_an_error_that_lists_both_sides():
    with pytest.raises(InputError, match=r"key_order.*nothing.*mask, image"):
        visualize_batch(flat_batch(), key_order=["nothing"])


def test_directory_writes_a_jpeg_with_the_official_name(tmp_path):
    visualizer = make_visualizer("directory", outdir=tmp_path / "samples", max_items_in_batch=1)
    visualizer(3, 42, flat_batch(), suffix="_train")
    folder = tmp_path / "samples" / "epoch0003_train"
    assert sorted(p.name for p in folder.iterdir()) == ["batch0000042.jpg"]
    bgr = cv2.imread(str(folder / "batch0000042.jpg"))
    assert bgr.shape == (H, 3 * W, 3)
    # Red, green, blue in this order: the channels were not swapped on the way to the file.
    assert np.abs(bgr[2, [2, W + 20, 2 * W + 20], ::-1].astype(int) - 255 * np.eye(3)).max() < 8


def test_directory_that_cannot_be_written_is_an_error(tmp_path):
    visualizer = make_visualizer("directory", outdir=tmp_path)
    (tmp_path / "epoch0000" / "batch0000000.jpg").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"batch0000000\.jpg"):
        visualizer(0, 0, flat_batch())


def test_noop_takes_the_settings_of_directory_and_writes_nothing(tmp_path):
    make_visualizer("noop", outdir=tmp_path / "samples", rescale_keys=["score"])(0, 0, flat_batch())
    assert not list(tmp_path.iterdir())


def test_unknown_kind_and_setting_name_the_config_key():
    with pytest.raises(InputError, match=r"visualizer\.kind.*directory"):
        make_visualizer("direktory")
    with pytest.raises(InputError, match=r"visualizer\.out_dir.*outdir"):
        make_visualizer("directory", out_dir="x")
