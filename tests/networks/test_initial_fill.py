"""The initial fill against a membrane solved exactly, and generators that start from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from saicinpainting.inference.export import ExportableInpainter, export
from saicinpainting.inference.fast.folding import fold
from saicinpainting.inference.refinement import refine_predict
from saicinpainting.networks import make_generator
from saicinpainting.networks.initial_fill import PyramidFill, fill_smoothly
from saicinpainting.utils import InputError
from tests.helpers import fill, photo, rand
from tests.samples import Inpainter

SMALL = {
    "kind": "ffc_resnet", "input_nc": 4, "output_nc": 3, "ngf": 4, "n_blocks": 1, "add_out_act": "tanh",
    "initial_fill": "pyramid",
    "init_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0},
    "downsample_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0},
    "resnet_conv_kwargs": {"ratio_gin": 0.5, "ratio_gout": 0.5, "enable_lfu": False},
}  # fmt: skip


def membrane(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Each pixel of the hole is the mean of its neighbours: a linear system."""
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    system, right = lil_matrix((hole.sum(), hole.sum())), np.zeros((hole.sum(), image.shape[2]))
    for (y, x), i in np.ndenumerate(number):
        if i < 0:
            continue
        around = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        around = [(v, u) for v, u in around if 0 <= v < hole.shape[0] and 0 <= u < hole.shape[1]]
        system[i, i] = len(around)
        for place in around:
            if number[place] < 0:
                right[i] += image[place]
            else:
                system[i, number[place]] = -1
    result = image.copy()
    result[hole] = spsolve(system.tocsr(), right)
    return result


def test_the_fill_is_near_to_the_membrane_and_known_pixels_stay() -> None:
    image = photo("astronaut.png", 96).astype(np.float64) / 255
    hole = np.zeros((96, 96), bool)
    hole[20:70, 30:60] = hole[80:, 80:] = True
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    mask = torch.from_numpy(hole)[None, None].double()
    filled = fill_smoothly(x * (1 - mask) + 9 * mask, mask)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(filled[~hole], image[~hole])
    expected = membrane(image, hole)
    spread = np.abs(image[~hole].mean(0) - expected)[hole].mean()
    assert np.abs(filled - expected)[hole].mean() < 0.15 * spread


@pytest.mark.parametrize("size", [(16, 16), (24, 1000), (511, 37)])
def test_any_size_and_a_hole_of_everything(size: tuple[int, int]) -> None:
    x = torch.cat([rand(0, 2, 3, *size), torch.ones(2, 1, *size)], dim=1)
    x[1, 3, :1] = 0
    filled = PyramidFill()(x)
    assert filled[0, :3].abs().max() == 0
    assert filled[1, :3].isfinite().all()
    assert filled[1, :3].min() > 0.5 * x[1, :3, :1].min()


def test_a_generator_adds_to_its_fill_and_does_not_see_what_the_hole_held() -> None:
    generator = fill(make_generator(**SMALL)).eval()
    image, mask = rand(0, 1, 3, 32, 40), torch.zeros(1, 1, 32, 40)
    mask[..., 8:20, 10:30] = 1
    x = torch.cat([image * (1 - mask), mask], dim=1)
    other = torch.cat([image * (1 - mask) + 0.7 * mask, mask], dim=1)
    y = generator(x)
    assert torch.equal(y, generator(other))
    assert y.min() >= 0
    assert y.max() <= 1
    change = generator.decode(generator.encode(generator.filled(x)))
    assert change.std() > 1e-3
    expected = (fill_smoothly(image * (1 - mask), mask) + change).clamp(0, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(fold(generator)(x), y, rtol=0, atol=1e-5)


def test_refinement_adds_to_the_fill_of_each_scale() -> None:
    inpainter = Inpainter("ffc")
    inpainter.generator = fill(make_generator(**SMALL)).double()
    with torch.no_grad():
        inpainter.generator.model[-2].weight.zero_()  # nothing is added: the result is the fill itself
        inpainter.generator.model[-2].bias.zero_()
    image, mask = rand(0, 1, 3, 64, 64).double(), torch.zeros(1, 1, 64, 64).double()
    mask[..., 20:40, 20:50] = 1
    batch = {"image": image, "mask": mask, "unpad_to_size": [torch.tensor([64]), torch.tensor([64])]}
    result = refine_predict(batch, inpainter, min_side=32, max_scales=2, n_iters=2)
    torch.testing.assert_close(result * mask, fill_smoothly(image * (1 - mask), mask) * mask, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".onnx", ".pt", ".pt2"])
@pytest.mark.slow
def test_an_export_fills_at_other_sizes(ending: str, tmp_path: Path) -> None:
    model = ExportableInpainter(fold(fill(make_generator(**SMALL)))).eval()
    assert export(model, tmp_path / f"small{ending}", sizes=[(1, 64, 64), (2, 128, 256), (1, 520, 72)]) < 1e-4


def test_an_unknown_fill_is_named() -> None:
    with pytest.raises(InputError, match=r"generator\.initial_fill.*'membrane'.*pyramid"):
        make_generator(**{**SMALL, "initial_fill": "membrane"})
