"""Classes in the hole and metrics by class, with a network whose classes are known."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saicinpainting.metrics import FIDScore, SSIMScore
from saicinpainting.metrics import segmentation as module
from saicinpainting.metrics.evaluator import InpaintingEvaluator
from saicinpainting.metrics.segmentation import SegmentationStats, by_class, fid_contributions
from saicinpainting.metrics.ssim import ssim
from saicinpainting.metrics.transport import first_order_contributions
from saicinpainting.networks.ade20k import (
    CLASSES,
    PyramidPoolingDecoder,
    best_classes,
    make_segmentation,
    weight_files,
)
from saicinpainting.networks.resnet_encoder import ResNetEncoder
from saicinpainting.utils import InputError
from tests.helpers import MEASURED, ROOT, fill, rand
from tests.samples import BrightIsSky, features
from tests.server import serving


def two_images() -> dict[str, torch.Tensor]:
    """10 x 10: the first all sky with a hole of 20 pixels, the second half sky with a hole of 40, half of it sky."""
    image, mask = torch.zeros(2, 3, 10, 10), torch.zeros(2, 1, 10, 10)
    image[0], image[1, :, :, :5] = 1, 1
    mask[0, :, :2], mask[1, :, :4] = 1, 1
    inpainted = image.clone()
    inpainted[1, :, :4] = 0  # the sky in the hole is gone
    return {"image": image, "mask": mask, "inpainted": inpainted}


def test_a_class_of_more_pixels_than_float32_counts_one_by_one_is_counted_whole() -> None:
    pixels = 2**24 + 64
    classes = torch.zeros(1, 1, dtype=torch.int64).expand(1, pixels)
    counts = module._counts(classes, torch.ones(1, 1, dtype=torch.bool).expand(1, pixels))
    assert counts[0, 0] == pixels


def test_results_by_hand() -> None:
    evaluator = InpaintingEvaluator(
        metrics={
            "ssim": SSIMScore(),
            "fid": FIDScore(network=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), features=3),
            "segm_stats": SegmentationStats(network=BrightIsSky()),
        }
    )
    batch = two_images()
    evaluator.update(batch)
    results = {key: value["mean"] for key, value in evaluator.compute().items()}
    by_class = {key: value for key, value in results.items() if key[0] != "segm_stats" and "segm_" in key[0]}
    # In the holes: 20 + 20 pixels of sky, 20 of wall; predicted: 20 of sky, 40 of wall.
    assert results["segm_stats", "total"] == pytest.approx(1 - 0.5 * (20 / 60 + 20 / 60))
    assert by_class["segm_total_freq", "sky"] == pytest.approx(150 / 200)
    assert by_class["segm_total_freq", "wall"] == pytest.approx(50 / 200)
    assert by_class["segm_mask_freq", "sky"] == pytest.approx(40 / 60)
    assert by_class["segm_mask_freq_diff", "sky"] == pytest.approx(-0.5)
    assert by_class["segm_mask_freq_diff", "wall"] == pytest.approx(1.0)
    values = ssim(batch["inpainted"], batch["image"])
    assert by_class["segm_ssim", "sky"] == pytest.approx(values.mean().item(), abs=1e-6)
    assert by_class["segm_ssim", "wall"] == pytest.approx(values[1].item(), abs=1e-6)
    # The first image is as it was, so all of FID is the second's.
    assert by_class["segm_fid", "wall"] == pytest.approx(results["fid", "total"])
    assert by_class["segm_fid", "sky"] == pytest.approx(results["fid", "total"] / 2)
    assert {label for _, label in by_class} == {"sky", "wall"}


def test_a_value_of_nan_concerns_the_classes_of_its_image() -> None:
    counts = torch.zeros(2, len(CLASSES))
    counts[0, 2], counts[1, 0], counts[1, 5] = 30, 20, 10
    means = by_class(torch.tensor([0.5, float("nan")]), counts)
    assert means["sky"] == 0.5
    assert math.isnan(means["wall"])
    assert math.isnan(means["ceiling"])


def test_contributions_to_fid_by_their_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against FID computed anew for each image; the changes are small, the derivative is near."""
    target = features(1, 3000, 16)
    pred = target + 0.02 * features(2, 3000, 16)
    monkeypatch.setattr(module, "EXACT_IMAGES", 10**6)
    exact = fid_contributions(pred[:3000], target)
    derived = first_order_contributions(pred, target)
    assert torch.corrcoef(torch.stack([exact, derived]))[0, 1] > 0.999
    assert (exact - derived).norm() < 0.05 * exact.norm()


def test_too_few_images_for_the_derivative_leave_fid_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EXACT_IMAGES", 1)
    metric, stats = FIDScore(network=torch.nn.Flatten(), features=300), SegmentationStats(network=BrightIsSky())
    batch = two_images()
    evaluator = InpaintingEvaluator(metrics={"fid": metric, "segm_stats": stats})
    evaluator.update(batch)
    assert "segm_fid" not in {name for name, _ in evaluator.compute()}
    assert "segm_fid is left out: it needs 2 to 1 images, or at least 1200" in caplog.text


def test_nothing_measured_gives_nothing() -> None:
    evaluator = InpaintingEvaluator(metrics={"segm_stats": SegmentationStats(network=BrightIsSky())})
    assert evaluator.compute() == {}


# ---- the network -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in files as the benchmark publishes them, with the branch of deep supervision."""
    folder = tmp_path_factory.mktemp("weights")
    where = folder / "ade20k" / "ade20k-resnet50dilated-ppm_deepsup"
    where.mkdir(parents=True)
    torch.save(fill(ResNetEncoder("resnet50dilated")).state_dict(), where / "encoder_epoch_20.pth")
    decoder = fill(PyramidPoolingDecoder()).state_dict()
    deepsup = {"cbr_deepsup.0.weight": torch.zeros(512, 1024, 3, 3), "conv_last_deepsup.weight": torch.zeros(150, 512)}
    torch.save({**decoder, **deepsup}, where / "decoder_epoch_20.pth")
    return folder


def test_the_network_names_150_classes_at_the_size_of_the_image(weights: Path) -> None:
    network = make_segmentation(*weight_files(weights)).eval()
    with torch.no_grad():
        classes = network(rand(1, 1, 3, 48, 40))
        scores = network.decoder(network.encoder(network.normalize(rand(1, 1, 3, 48, 40)))[-1])
    assert classes.shape == (1, 48, 40)
    assert classes.max() < len(CLASSES) == 150
    assert scores.shape == (1, 150, 6, 5)
    assert len(classes.unique()) > 1


@pytest.mark.parametrize("size", [(48, 40), (50, 37)])
def test_classes_are_those_of_all_scores_at_once(size: tuple[int, int]) -> None:
    scores = torch.randn(2, 150, 6, 5, generator=torch.Generator().manual_seed(0))
    enlarged = torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)
    assert torch.equal(best_classes(scores, size), enlarged.argmax(dim=1))


LARGE = """
import torch
from saicinpainting.networks.ade20k import ADE20KSegmentation
from tests.helpers import peak_memory
encoder = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Unflatten(0, (1, -1)))
network = ADE20KSegmentation(encoder, torch.nn.Conv2d(3, 150, 1)).requires_grad_(False)
network(torch.rand(1, 3, 64, 64))  # what libraries load and allot at their first use differs between machines
images, before = torch.rand(4, 3, 768, 768), peak_memory()
print(network(images).shape, peak_memory() - before)
"""


def test_large_images_need_little_memory() -> None:
    """The scores of all classes of these four at once are 1.4 GB."""
    command = [sys.executable, "-c", LARGE]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=MEASURED)
    shape, _, more = run.stdout.strip().rpartition(" ")
    assert shape == "torch.Size([4, 768, 768])"
    assert 4 * 768 * 768 * 8 <= int(more) < 200 * 2**20  # the result's own bytes at least


def test_pooling_sees_the_whole_picture() -> None:
    """One bright corner changes the scores of the opposite one, by way of the pooled means."""
    decoder = fill(PyramidPoolingDecoder(channels=4)).eval()
    x = rand(1, 1, 4, 12, 12)
    changed = x.clone()
    changed[:, :, :2, :2] += 1
    with torch.no_grad():
        difference = (decoder(changed) - decoder(x)).abs()
    assert difference[..., -1, -1].max() > 1e-4


def test_the_files_may_lie_anywhere(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file and an address with its checksum; the published ones come unencrypted and have none."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LAMA_OFFLINE", raising=False)
    encoder, decoder = weight_files(weights)
    checksum = hashlib.sha256(decoder.read_bytes()).hexdigest()
    with serving(decoder.parent) as files:
        address = f"{files.address}/{decoder.name}"
        found = weight_files([encoder, f"{address}#sha256={checksum}"])
        with pytest.raises(InputError, match=r"ADE20K decoder: .* has sha256 .*, expected 00000000"):
            weight_files([encoder, f"{address}#sha256=00000000"])
    assert found[0] == encoder
    assert found[1].read_bytes() == decoder.read_bytes()
    for place in (address, [address], [encoder, decoder, decoder], []):
        with pytest.raises(InputError, match=r"segm_weights: expected a folder, or \[ENCODER, DECODER\]"):
            weight_files(place)


def test_a_missing_file_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    with pytest.raises(InputError, match=r"ADE20K encoder.*by hand at .*ppm_deepsup/encoder_epoch_20\.pth"):
        weight_files(tmp_path)
