"""LPIPS against the lpips package with the same VGG16."""

from __future__ import annotations

import copy
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from saicinpainting.evaluation.predictions import evaluate_predictions
from saicinpainting.metrics import LPIPSScore
from saicinpainting.utils import InputError
from tests.helpers import fill, photo, rand


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights named and stored like torchvision's file, which has the format from before PyTorch 1.6."""
    features = fill(make_layers(cfgs["D"]))
    state = {f"features.{key}": tensor for key, tensor in features.state_dict().items()}
    state["classifier.6.bias"] = torch.zeros(1000)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def metric(vgg16_file: Path) -> LPIPSScore:
    return LPIPSScore(weights_path=vgg16_file)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_equals_the_lpips_package(metric: LPIPSScore, vgg16_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def random_vgg16(pretrained: bool) -> torch.nn.Module:
        network = torchvision.models.VGG(make_layers(cfgs["D"]), num_classes=1, init_weights=False)
        state = torch.load(vgg16_file)
        network.load_state_dict({key: state[key] for key in state if key.startswith("features")}, strict=False)
        return network

    # The package asks torchvision for the pretrained VGG16; here it gets the one in our file.
    monkeypatch.setattr(lpips.pretrained_networks.tv, "vgg16", random_vgg16)
    reference = lpips.LPIPS(net="vgg", verbose=False)
    pred, target = rand(1, 3, 3, 48, 40), rand(2, 3, 3, 48, 40)
    with torch.no_grad():
        expected = reference(pred, target, normalize=True).flatten()
    metric.reset()
    metric.update(pred, target)
    torch.testing.assert_close(metric.values[0], expected, rtol=1e-4, atol=0)
    assert metric.compute()["total"]["mean"] == pytest.approx(expected.mean().item(), rel=1e-4)


def test_values_outside_the_range_are_clamped(metric: LPIPSScore) -> None:
    target, pred = rand(1, 1, 3, 32, 32), rand(2, 1, 3, 32, 32) * 3 - 1
    metric.reset()
    metric.update(pred, target)
    metric.update(pred.clamp(0, 1), target)
    values = metric.gathered_rows()["values"]
    assert values[0] == values[1]
    assert metric.network(pred, target, normalize=True).item() != pytest.approx(values[0].item(), rel=1e-3)


def test_network_is_neither_trained_nor_saved_but_moves(metric: LPIPSScore) -> None:
    model = torch.nn.ModuleDict({"metric": copy.deepcopy(metric)}).train().double()
    network = model["metric"].network
    assert not model.state_dict()
    assert not list(model.parameters())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    model.to("meta")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


def test_file_of_another_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"other\.pth holds weights of another network .*it lacks slice1\.0\.weight"):
        LPIPSScore(weights_path=path)


def test_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"broken\.pth is no file of torch"):
        LPIPSScore(weights_path=path)


def test_missing_weights_name_address_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        LPIPSScore()
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in str(caught.value)


def test_images_too_small_for_the_network_are_continued_by_their_border(metric: LPIPSScore) -> None:
    pred, target = rand(3, 2, 3, 1, 50), rand(4, 2, 3, 1, 50)
    measured = metric.measured("values", {"pred": pred, "target": target})
    rows = metric.measured("values", {"pred": pred.expand(-1, -1, 16, -1), "target": target.expand(-1, -1, 16, -1)})
    torch.testing.assert_close(measured, rows)
    assert measured.isfinite().all()


def test_images_too_small_for_the_network_are_named_and_the_table_is_whole(
    tmp_path: Path, vgg16_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "predicted").mkdir()
    for name, size in (("little", 15), ("large", 16)):
        pixels, mask = photo(size=size), np.zeros((size, size), np.uint8)
        mask[4:9, 4:9] = 255
        Image.fromarray(pixels).save(tmp_path / "set" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "set" / f"{name}_mask000.png")
        Image.fromarray(255 - pixels).save(tmp_path / "predicted" / f"{name}_mask000.png")
    config = {
        "dataset_kwargs": {"img_suffix": ".png", "inpainted_suffix": ".png"},
        "evaluator_kwargs": {"fid": False, "lpips_weights": str(vgg16_file), "device": "cpu"},
    }
    results = evaluate_predictions(config, tmp_path / "set", tmp_path / "predicted")
    assert results["lpips", "total"]["mean"] > 0
    assert results["ssim", "total"]["mean"] < 1
    assert "lpips: 1 images are too small for it, under 16 pixels" in caplog.text
    assert "little.png" in caplog.text
    assert "large.png" not in caplog.text
