"""FID against pytorch-fid: the distance on given features, and the features of one random Inception."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_fid.inception
import torch
from pytorch_fid.fid_score import calculate_frechet_distance

from saicinpainting.metrics import FIDScore, make_metrics
from saicinpainting.metrics.fid import discriminative_scores, frechet_distance
from saicinpainting.metrics.inception import _make_inception
from saicinpainting.utils import InputError
from tests.helpers import MEASURED, ROOT, fill, rand
from tests.samples import features

pytestmark = pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # pytorch-fid's use of SciPy


class TinyFID(FIDScore):
    """FID on eight random features instead of Inception's."""

    def __init__(self) -> None:
        layers = (torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        super().__init__(network=fill(torch.nn.Sequential(*layers)), features=8)


def pytorch_fid_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    moments = [(f.numpy().mean(axis=0), np.cov(f.numpy(), rowvar=False)) for f in (x, y)]
    return float(calculate_frechet_distance(*moments[0], *moments[1]))


@pytest.mark.parametrize(("count1", "count2"), [(500, 500), (300, 90)])
def test_distance_equals_pytorch_fid(count1: int, count2: int) -> None:
    x, y = features(1, count1, 64), features(2, count2, 64)
    assert frechet_distance(x, y) == pytest.approx(pytorch_fid_distance(x, y), rel=1e-6)


def test_distance_of_one_dimension_is_the_closed_form() -> None:
    x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0], [6.0]])
    # Means 2 and 2, standard deviations sqrt(2) and sqrt(12).
    assert frechet_distance(x, y) == pytest.approx((2**0.5 - 12**0.5) ** 2)


def test_distance_of_fewer_images_than_features() -> None:
    """Where covariances are singular: a rotation into as many dimensions as the images span changes nothing."""
    x, y = features(1, 5, 2048), features(2, 5, 2048)
    basis = torch.linalg.qr(torch.cat([x, y]).T).Q
    expected = pytorch_fid_distance(x @ basis, y @ basis)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-3)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 1) == pytest.approx(2048)


def test_distance_of_nan_features_is_nan() -> None:
    x = features(1, 5, 8)
    assert np.isnan(frechet_distance(x, x * float("nan")))


def test_groups_equal_the_distance_of_their_images() -> None:
    metric = TinyFID()
    pred, target = rand(1, 12, 3, 8, 8) * 1.5 - 0.2, rand(2, 12, 3, 8, 8)
    groups = torch.tensor([0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 9])
    for part in (slice(0, 5), slice(5, 12)):
        metric.update(pred[part], target[part], groups[part])
    with torch.no_grad():
        x, y = metric.network(pred.clamp(0, 1)), metric.network(target)
    result = metric.compute()
    # One image has no covariance, so group 9 has no distance.
    assert list(result) == ["total", 0, 1]
    assert result["total"] == {"mean": pytest.approx(frechet_distance(x, y), rel=1e-5)}
    assert result[1]["mean"] == pytest.approx(frechet_distance(x[groups == 1], y[groups == 1]), rel=1e-5)


def test_few_images_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    metric = TinyFID()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            metric.update(rand(1, 5, 3, 8, 8), rand(2, 5, 3, 8, 8), torch.tensor([0, 0, 1, 1, 1]))
            assert np.isfinite([s["mean"] for s in metric.compute().values()]).all()
            metric.reset()
    assert [record.getMessage()[:15] for record in caplog.records] == ["FID of 5 images"]


@pytest.fixture(scope="module")
def inceptions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """Random weights in a file of pytorch-fid's format, and that package's network with them."""
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(fill(_make_inception()).state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *args, **kwargs: torch.load(path))
        return path, pytorch_fid.inception.InceptionV3([3]).eval()


@pytest.mark.slow
def test_inception_equals_pytorch_fid(inceptions: tuple[Path, torch.nn.Module]) -> None:
    path, reference = inceptions
    metric = FIDScore(weights_path=path)
    pred, target = rand(1, 2, 3, 64, 64), rand(2, 2, 3, 64, 64)
    metric.update(pred, target)
    with torch.no_grad():
        expected = reference(torch.cat([pred, target]))[0].flatten(1)
    got = torch.cat([metric.pred_features[0], metric.target_features[0]])
    assert got.shape == (4, 2048)
    assert got.std() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert metric.compute()["total"]["mean"] == pytest.approx(frechet_distance(expected[:2], expected[2:]), rel=1e-3)
    assert not metric.state_dict()


def test_file_of_another_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"other\.pth holds weights of another network"):
        FIDScore(weights_path=path)


@pytest.mark.slow
def test_a_score_equals_pytorch_fid_from_pictures_on(inceptions: tuple[Path, torch.nn.Module]) -> None:
    """Both packages from pictures to the distance; of 8 features, whose covariance 12 pictures determine."""
    path, reference = inceptions
    metric = FIDScore(weights_path=path)
    pred, target = rand(1, 12, 3, 32, 32), rand(2, 12, 3, 32, 32) ** 2
    metric.update(pred, target)
    with torch.no_grad():
        x, y = (reference(images)[0].flatten(1)[:, :8].double() for images in (pred, target))
    rows = metric.gathered_rows()
    ours = metric.summarize({name: rows[name][:, :8] for name in ("pred_features", "target_features")})
    assert ours["mean"] == pytest.approx(pytorch_fid_distance(x, y), rel=1e-4)


def test_more_images_than_a_part_equal_pytorch_fid() -> None:
    x, y = features(1, 5000, 40), features(2, 4100, 40)
    assert frechet_distance(x, y) == pytest.approx(pytorch_fid_distance(x, y), rel=1e-6)


THIRTY_THOUSAND = """
import torch
from saicinpainting.metrics import FIDScore
from tests.helpers import peak_memory
metric = FIDScore(network=torch.nn.Identity())
generator = torch.Generator().manual_seed(0)
for start in range(0, 30_000, 500):
    pred, target = torch.rand(2, 500, 2048, generator=generator)
    groups = torch.arange(500) % 2  # two bins: benchmarks/metrics.py has ten
    metric.append({"pred_features": pred, "target_features": target}, groups)
print(sorted(map(str, metric.compute())), peak_memory())
"""


@pytest.mark.slow
def test_thirty_thousand_pairs_stay_below_two_gigabytes() -> None:
    command = [sys.executable, "-c", THIRTY_THOUSAND]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=MEASURED)
    groups, _, peak = run.stdout.strip().rpartition(" ")
    assert groups == "['0', '1', 'total']"
    assert int(peak) < 2 * 2**30


# ---- P-IDS and U-IDS -----------------------------------------------------------------------------------------------


def test_discriminative_scores_in_closed_form() -> None:
    """Mirrored sets: the border lies at 0, three of four pictures on their own side of it.

    Of the pairs (real, filled): (-1, 1) four times, judged right; (-1, -1) and (1, 1), a draw; (1, -1), judged wrong.
    """
    target = torch.tensor([[-1.0]] * 5 + [[1.0]] * 2 + [[-1.0]])
    pred = torch.tensor([[1.0]] * 5 + [[-1.0]] + [[1.0]] + [[-1.0]])
    scores = discriminative_scores(pred, target)
    assert scores == {"p_ids": pytest.approx(1 / 8), "u_ids": pytest.approx(4 / 16)}


def test_sets_that_cannot_or_can_be_told_apart() -> None:
    x = features(1, 200, 4)
    assert discriminative_scores(x, x) == {"p_ids": 0, "u_ids": pytest.approx(0.5, abs=1e-9)}
    assert discriminative_scores(x + 100, x) == {"p_ids": 0, "u_ids": pytest.approx(0, abs=1e-9)}
    assert np.isnan(discriminative_scores(x * float("nan"), x)["p_ids"])


def test_scores_are_asked_for_with_fid() -> None:
    metric = FIDScore(network=torch.nn.Flatten(), features=12, ids=True)
    metric.update(rand(1, 40, 3, 2, 2), rand(2, 40, 3, 2, 2))
    assert set(metric.compute()["total"]) == {"mean", "p_ids", "u_ids"}
    with pytest.raises(InputError, match=r"ids: .* switch fid on"):
        make_metrics(ssim=False, lpips=False, fid=False, ids=True)
