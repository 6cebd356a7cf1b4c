"""Losses, augmentation and layers by their official calls, as training scripts of others make them."""

from __future__ import annotations

import random
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from saicinpainting.training.data.datasets import InpaintingTrainDataset, get_mask_generator, get_transforms
from saicinpainting.training.losses.adversarial import NonSaturatingWithR1, make_discrim_loss, make_r1_gp
from saicinpainting.training.losses.distance_weighting import BlurMask, EmulatedEDTMask, make_mask_distance_weighter
from saicinpainting.training.losses.perceptual import IMAGENET_MEAN, IMAGENET_STD, PerceptualLoss
from saicinpainting.training.modules.spatial_transform import LearnableSpatialTransformWrapper
from saicinpainting.training.visualizers import DirectoryVisualizer
from tests.helpers import photo, rand


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


@pytest.mark.parametrize("masked", [True, False])
def test_an_adversarial_training_calls_the_steps_and_losses_as_the_official_trainer_does(masked: bool) -> None:
    """D(x) is linear, so that the penalty is |w|² an output, in float64."""
    weights = rand(1, 1, 3, 8, 8).double() - 0.5
    real, fake = rand(2, 2, 3, 32, 32).double(), rand(3, 2, 3, 32, 32).double()
    mask = (rand(4, 2, 1, 4, 4) > 0.5).double().repeat_interleave(8, 2).repeat_interleave(8, 3)
    loss = make_discrim_loss(
        "r1", gp_coef=0.01, weight=10, mask_as_fake_target=masked, allow_scale_mask=True, mask_scale_mode="nearest"
    )
    loss.pre_discriminator_step(real_batch=real, fake_batch=fake, generator=None, discriminator=None)
    scores = {
        "discr_real_pred": F.conv2d(real, weights, stride=8),
        "discr_fake_pred": F.conv2d(fake, weights, stride=8),
    }
    total, logs = loss.discriminator_loss(real_batch=real, fake_batch=fake, **scores, mask=mask)
    r, f, hole = (x.detach().numpy() for x in (*scores.values(), mask[:, :, ::8, ::8]))
    penalty = 0.01 * 16 * float(weights.square().sum())
    of_fakes = softplus(f) * hole + softplus(-f) * (1 - hole) if masked else softplus(f)
    assert float(total.detach()) == pytest.approx((softplus(-r) + penalty + of_fakes).mean(), rel=1e-12)
    assert float(logs["discr_real_gp"]) == pytest.approx(penalty, rel=1e-12)
    assert not real.requires_grad
    loss.pre_generator_step(real_batch=real, fake_batch=fake, generator=None, discriminator=None)
    total, _ = loss.generator_loss(real, fake, *scores.values(), mask)
    assert float(total.detach()) == pytest.approx(10 * softplus(-f).mean(), rel=1e-12)


def test_the_penalty_alone_and_by_position() -> None:
    x = rand(1, 2, 3, 4, 4).double().requires_grad_()
    score = (x**2).sum(dim=(1, 2, 3))
    expected = 4 * (x.detach() ** 2).sum(dim=(1, 2, 3)).mean()
    assert float(make_r1_gp(score, x).detach()) == pytest.approx(float(expected), rel=1e-12)
    assert (NonSaturatingWithR1(3, 7).gp_coef, NonSaturatingWithR1(3, 7).weight) == (3, 7)
    with torch.no_grad():
        _, logs = NonSaturatingWithR1().discriminator_loss(x, x, score, score)
    assert logs["discr_real_gp"] == 0


def test_distance_weighters_are_called_with_image_prediction_and_mask() -> None:
    mask = torch.zeros(1, 1, 20, 20)
    mask[:, :, 5:15, 5:15] = 1
    image = rand(1, 1, 3, 20, 20)
    assert torch.equal(make_mask_distance_weighter()(image, image, mask), mask)
    # Far from the edge both are the mask; at its corner a 3 x 3 window holds four pixels of the hole.
    g = np.exp(-1 / 3)
    corner = (1 + 2 * g + g * g) / (1 + 4 * g + 4 * g * g)
    blurred = BlurMask(3)(image, image, mask)
    assert float(blurred[0, 0, 10, 10]) == pytest.approx(1)
    assert float(blurred[0, 0, 5, 5]) == pytest.approx(corner, rel=1e-6)
    weighed = EmulatedEDTMask(dilate_kernel_size=3, blur_kernel_size=3)(image, image, mask)
    assert (float(weighed[0, 0, 5, 5]), float(weighed[0, 0, 4, 4])) == (pytest.approx(g * g / (1 + 2 * g) ** 2), 0)


def test_perceptual_loss_of_images_that_are_normalized_already(tmp_path: Path) -> None:
    from torchvision.models import vgg19

    torch.manual_seed(0)
    torch.save(vgg19(weights=None).state_dict(), tmp_path / "vgg19.pth")
    pred, target = rand(1, 1, 3, 32, 32), rand(2, 1, 3, 32, 32)
    expected = PerceptualLoss(weights_path=tmp_path / "vgg19.pth")(pred, target)
    normalized = [(x - IMAGENET_MEAN) / IMAGENET_STD for x in (pred, target)]
    loss = PerceptualLoss(normalize_inputs=False, weights_path=tmp_path / "vgg19.pth")
    torch.testing.assert_close(loss(*normalized), expected)


def test_augmentation_is_called_with_an_image_and_gives_one() -> None:
    pixels = photo(size=96)
    unchanged = get_transforms("no_augs", 64)(image=pixels)["image"]
    np.testing.assert_allclose(unchanged, pixels / 255, atol=1e-7)
    random.seed(3)
    first = get_transforms("distortions", 64)(image=pixels)["image"]
    random.seed(3)
    assert np.array_equal(get_transforms("distortions", 64)(image=pixels)["image"], first)
    assert first.shape == (64, 64, 3)


def test_training_images_are_a_folder_a_generator_of_masks_and_an_augmentation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels = photo(size=96)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    masks = get_mask_generator("mixed", {"irregular_proba": 1, "irregular_kwargs": {"max_times": 5}, "box_proba": 0})
    for augmentation, expected in (
        (get_transforms("no_augs", 96), pixels),
        (A.Compose([A.CenterCrop(32, 48), A.ToFloat(max_value=255)]), pixels[32:64, 24:72]),
    ):
        dataset = InpaintingTrainDataset(indir=tmp_path, mask_generator=masks, transform=augmentation)
        sample = dataset[0]
        np.testing.assert_allclose(sample["image"], expected.transpose(2, 0, 1) / 255, atol=1e-7)
        assert sample["mask"].shape == (1, *expected.shape[:2])
        assert set(np.unique([dataset[0]["mask"] for _ in range(8)])) == {0, 1}
    assert InpaintingTrainDataset(tmp_path, masks, get_transforms("default", 64))[0]["image"].shape == (3, 64, 64)


def test_layers_in_a_rotated_frame() -> None:
    class Flip(nn.Module):
        def forward(self, x):
            return tuple(one.flip(2) for one in x) if isinstance(x, tuple) else x.flip(2)

    wrapper = LearnableSpatialTransformWrapper(Flip(), train_angle=False)
    wrapper.angle = torch.tensor([90.0])
    x = rand(1, 2, 3, 16, 16)
    expected = torch.from_numpy(np.fliplr(x[0, 0].numpy()).copy())  # turned, upside down, turned back
    torch.testing.assert_close(wrapper(x)[0, 0], expected, atol=1e-4, rtol=0)
    pair = wrapper((x, x[:1]))
    torch.testing.assert_close(pair[0], wrapper(x))
    assert pair[1].shape == x[:1].shape
    assert isinstance(LearnableSpatialTransformWrapper(nn.Identity()).angle, nn.Parameter)


def test_a_visualizer_takes_its_folder_by_position(tmp_path: Path) -> None:
    batch = {"image": rand(1, 1, 3, 8, 8), "mask": torch.zeros(1, 1, 8, 8)}
    DirectoryVisualizer(tmp_path, ["image"])(3, 5, batch, suffix="_val")
    assert (tmp_path / "epoch0003_val" / "batch0000005.jpg").is_file()
