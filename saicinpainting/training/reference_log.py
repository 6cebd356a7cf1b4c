"""Where a run stands beside a public log of the official code's training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from saicinpainting.training.log_reports import RunLog

REFERENCE: Mapping[int, Mapping[str, float]] = {
    24_999: {
        "val_fid_total_mean": 14.28,
        "val_lpips_total_mean": 0.134,
        "val_ssim_total_mean": 0.875,
        "val_ssim_fid100_f1_total_mean": 0.866,
    }
}
"""Step, as TensorBoard counts it (the first validation of the default config) -> what a model on Places had there.

The public log has no figures of another step; between two there would be a line, before the first and past the last
there is nothing to compare with.
"""
NAMES = {
    "val_fid_total_mean": "FID {:.2f}",
    "val_lpips_total_mean": "LPIPS {:.3f}",
    "val_ssim_total_mean": "SSIM {:.3f}",
    "val_ssim_fid100_f1_total_mean": "F1 {:.3f}",
}


def beside_reference(log: RunLog, reference: Mapping[int, Mapping[str, float]] = REFERENCE) -> Iterator[str]:
    """A line for each step that the reference has figures of, or one that says when there will be some."""
    last = max(int(series.index[-1]) for series in log.scalars.values())
    for step, values in sorted(reference.items()):
        title = f"reference, a public log on Places, at step {step:,}: {_text(values)}"
        own = {tag: value for tag in values if (value := value_at(log, tag, step)) is not None}
        if last < step:
            yield f"{title}; this run is at step {last:,} and has not reached it"
        elif not own:
            yield f"{title}; this run has none of these there"
        else:
            between = "" if all(step in log.scalars[tag].index for tag in own) else " (between two validations)"
            yield f"{title}; this run{between}: {_text(own)}"
    if last > max(reference):
        yield f"the reference has no figures past step {max(reference):,}; this run is at step {last:,}"


def value_at(log: RunLog, tag: str, step: int) -> float | None:
    """The value of `tag` at `step`, on the line between those before and after it; None beyond them."""
    series = log.scalars.get(tag)
    if series is None or not series.index[0] <= step <= series.index[-1]:
        return None
    return float(np.interp(step, series.index.to_numpy(float), series.to_numpy(float)))


def _text(values: Mapping[str, float]) -> str:
    return ", ".join(NAMES[tag].format(value) for tag, value in values.items())
