"""Focal frequency loss against the formula in NumPy, written with the DFT's own sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saicinpainting.losses.focal_frequency import FocalFrequencyLoss
from saicinpainting.training.factory import make_training_model
from saicinpainting.utils import InputError
from tests.helpers import rand
from tests.runs import compose_run


def dft(side: int) -> np.ndarray:
    places = np.arange(side)
    return np.exp(-2j * np.pi * np.outer(places, places) / side) / side**0.5


def by_hand(pred: np.ndarray, target: np.ndarray, alpha: float, patches: int) -> float:
    """Jiang et al. 2021: spectra of each image, patch and channel apart, then the mean of all."""
    (count, channels, height, width), terms = pred.shape, []
    h, w = height // patches, width // patches
    for b in range(count):
        for c in range(channels):
            for y in range(0, height, h):
                for x in range(0, width, w):
                    spectra = [dft(h) @ one[b, c, y : y + h, x : x + w] @ dft(w) for one in (pred, target)]
                    size = np.abs(spectra[0] - spectra[1])
                    terms.append(size**alpha / (size**alpha).max() * size**2)
    return float(np.mean(terms))


@pytest.mark.parametrize(("alpha", "patches"), [(1.0, 1), (0.5, 1), (2.0, 1), (1.0, 2), (1.0, 4)])
def test_loss_is_the_papers_formula(alpha: float, patches: int) -> None:
    pred, target = rand(1, 2, 3, 8, 12), rand(2, 2, 3, 8, 12)
    loss = FocalFrequencyLoss(alpha=alpha, patch_factor=patches)(pred, target)
    assert loss.item() == pytest.approx(by_hand(pred.numpy(), target.numpy(), alpha, patches), rel=1e-5)


def test_without_focus_it_is_the_mean_squared_error() -> None:
    """Parseval's theorem, for an orthonormal transform."""
    pred, target = rand(1, 2, 3, 16, 16), rand(2, 2, 3, 16, 16)
    assert FocalFrequencyLoss(alpha=0)(pred, target).item() == pytest.approx(
        (pred - target).square().mean().item(), rel=1e-5
    )


def test_weights_have_no_gradient() -> None:
    """With w held fixed, the derivative of mean(w |F d|²) by d is 2/n of the inverse transform of w F d."""
    pred, target = rand(1, 1, 1, 8, 8).requires_grad_(), rand(2, 1, 1, 8, 8)
    FocalFrequencyLoss()(pred, target).backward()
    spectrum = np.fft.fft2((pred - target).detach().numpy()[0, 0], norm="ortho")
    weight = np.abs(spectrum) / np.abs(spectrum).max()
    expected = 2 / 64 * np.fft.ifft2(weight * spectrum, norm="ortho").real
    assert pred.grad is not None
    np.testing.assert_allclose(pred.grad[0, 0].numpy(), expected, rtol=1e-4, atol=1e-8)


def test_equal_images_cost_nothing_and_have_a_gradient_of_zero() -> None:
    image = rand(1, 2, 3, 8, 8)
    pred = image.clone().requires_grad_()
    loss = FocalFrequencyLoss()(pred, image)
    loss.backward()
    assert loss.item() == 0
    assert pred.grad is not None
    assert torch.equal(pred.grad, torch.zeros_like(image))


def test_patches_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="patch_factor: 3 does not divide images of 12 x 8 pixels"):
        FocalFrequencyLoss(patch_factor=3)(rand(1, 1, 3, 8, 12), rand(2, 1, 3, 8, 12))


def test_a_config_names_it_by_its_kind(tmp_path: Path) -> None:
    config = compose_run(tmp_path, "+losses.extra.frequencies={kind: focal_frequency, weight: 3, patch_factor: 2}")
    (name, loss), *others = make_training_model(config).loss_extra.items()
    assert not others
    assert name == "frequencies"
    assert isinstance(loss, FocalFrequencyLoss)
    assert (loss.alpha, loss.patch_factor) == (1, 2)
    wrong = compose_run(tmp_path, "+losses.extra.frequencies={kind: focal_frequenc}")
    with pytest.raises(InputError, match=r"losses\.extra\.frequencies.*unknown kind 'focal_frequenc'.*focal_frequency"):
        make_training_model(wrong)
