"""What is in the hole: classes of ADE20K, and the other metrics class by class, as the official evaluation has them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from saicinpainting.metrics.base import NetworkMetric, Row, Statistics
from saicinpainting.metrics.fid import frechet_distance
from saicinpainting.metrics.transport import first_order_contributions
from saicinpainting.networks.ade20k import CLASSES, Places, make_segmentation, weight_files

EXACT_IMAGES = 256
"""Up to so many images, compute FID without each of them; above, use its derivative."""
OVERSAMPLING = 4
"""The derivative is near the truth from about so many images a feature on."""
LOGGER = logging.getLogger(__name__)


class SegmentationStats(NetworkMetric):
    """Pixels of each class in the original (in the hole, and anywhere) and in the prediction (in the hole).

    `mean` is how much of the mixture of classes in the holes the predictions keep: 1 - half the sum of the absolute
    differences of the classes' shares.

    `weights_path`: the network's files or their folder, see `ade20k.weight_files`. `network`: another one, images
    (B, 3, H, W) in [0, 1] to classes (B, H, W).
    """

    higher_is_better = True

    def __init__(self, *, weights_path: Places = None, network: nn.Module | None = None) -> None:
        weights: tuple[Path, ...] = ()
        if network is None:
            weights = weight_files(weights_path)
            network = make_segmentation(*weights)
        counts = (len(CLASSES),)
        rows = {
            "target": Row(("target", "mask"), (2, *counts)),
            "pred": Row(("pred", "mask"), counts),
        }
        super().__init__(network, rows=rows, weights=weights)

    def measure(self, row: str, *inputs: Tensor) -> Tensor:
        image, mask = inputs
        classes = self.network(image).flatten(1)
        in_hole = _counts(classes, (mask > 0.5).flatten(1))
        if row == "pred":
            return in_hole
        return torch.stack([in_hole, _counts(classes, torch.ones_like(classes, dtype=torch.bool))], dim=1)

    def summarize(self, rows: Mapping[str, Tensor]) -> Statistics:
        target, pred = rows["target"][:, 0].double().sum(dim=0), rows["pred"].double().sum(dim=0)
        if target.sum() == 0:
            return {}
        return {"mean": 1 - 0.5 * (target / target.sum() - pred / pred.sum()).abs().sum().item()}


def _counts(classes: Tensor, chosen: Tensor) -> Tensor:
    """Pixels of each class among the chosen, (B, classes) float32; classes, chosen: (B, pixels)."""
    counts = torch.zeros(len(classes), len(CLASSES), dtype=torch.int32, device=classes.device)
    return counts.scatter_add_(1, classes, chosen.int()).float()  # float32 stops counting ones at 2 ** 24


def class_statistics(rows: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Shares of pixels by class of `SegmentationStats`' rows.

    `total_freq`: of the originals; `mask_freq`: of the originals in the holes; `mask_freq_diff`: how much more of the
    class the predictions have in the holes, relative to the originals (-1: all of it is gone).
    """
    target, pred = rows["target"].double().sum(dim=0), rows["pred"].double().sum(dim=0)
    hole, anywhere = target
    difference = (pred - hole) / hole
    return {
        "total_freq": _by_class(anywhere / anywhere.sum(), anywhere),
        "mask_freq": _by_class(hole / hole.sum(), hole),
        "mask_freq_diff": _by_class(difference, hole),
    }


def class_results(rows: Mapping[str, Mapping[str, Tensor]]) -> dict[tuple[str, str], Statistics]:
    """Results by class from the rows of all metrics by name, `segm_stats` among them, in one order of images.

    `segm_ssim`, `segm_lpips`: means weighted by the class's pixels in the originals' holes. `segm_fid`: the mean, so
    weighted, of how much lower FID would be without that image's prediction (see `fid_contributions`).
    """
    stats = rows["segm_stats"]
    if not len(stats["pred"]):
        return {}
    tables = {f"segm_{name}": shares for name, shares in class_statistics(stats).items()}
    holes = stats["target"][:, 0]
    for name in ("ssim", "lpips"):
        if name in rows:
            tables[f"segm_{name}"] = by_class(rows[name]["values"], holes)
    if "fid" in rows:
        pred, target = rows["fid"]["pred_features"], rows["fid"]["target_features"]
        if len(pred) < 2 or EXACT_IMAGES < len(pred) < OVERSAMPLING * pred.shape[1]:
            LOGGER.warning(
                "segm_fid is left out: it needs 2 to %d images, or at least %d",
                EXACT_IMAGES,
                OVERSAMPLING * pred.shape[1],
            )
        else:
            tables["segm_fid"] = by_class(fid_contributions(pred, target), holes)
    return {(name, label): {"mean": value} for name, table in tables.items() for label, value in table.items()}


def by_class(values: Tensor, hole_counts: Tensor) -> dict[str, float]:
    """Mean of `values` (N,) weighted by the pixels that each class has in the originals' holes, (N, classes)."""
    weights = hole_counts.double()
    total = weights.sum(dim=0)
    # A value that is NaN concerns only the classes of its image.
    weighted = (weights * values.double()[:, None]).where(weights > 0, 0.0)
    return _by_class(weighted.sum(dim=0) / total, total)


def _by_class(values: Tensor, counts: Tensor) -> dict[str, float]:
    return {CLASSES[i]: values[i].item() for i in torch.nonzero(counts).flatten().tolist()}


def fid_contributions(pred: Tensor, target: Tensor) -> Tensor:
    """How much lower FID would be, were each prediction as the original: (N,), for features (N, D).

    Up to `EXACT_IMAGES` images FID is computed anew for each of them; beyond, by its derivative.
    """
    if len(pred) > EXACT_IMAGES:
        return first_order_contributions(pred, target)
    pred = pred.clone()
    whole, contributions = frechet_distance(pred, target), []
    for i in range(len(pred)):
        kept = pred[i].clone()
        pred[i] = target[i]
        contributions.append(whole - frechet_distance(pred, target))
        pred[i] = kept
    return torch.tensor(contributions, dtype=torch.float64)
