"""Pictures of batches as JPEG files in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saicinpainting.evaluation.writing import write_picture
from saicinpainting.training.visualizers.picture import visualize_batch


class DirectoryVisualizer:
    """Writes `{outdir}/epoch0000{suffix}/batch0000000.jpg`; the options are `visualize_batch`'s."""

    def __init__(
        self,
        *,
        outdir: str | Path = "samples",
        key_order: Sequence[str] = ("image", "predicted_image", "inpainted"),
        max_items_in_batch: int = 10,
        last_without_mask: bool = True,
        rescale_keys: Sequence[str] | None = None,
    ) -> None:
        self.outdir = Path(outdir)
        self.key_order = tuple(key_order)
        self.max_items_in_batch = max_items_in_batch
        self.last_without_mask = last_without_mask
        self.rescale_keys = tuple(rescale_keys or ())

    def __call__(self, epoch_i: int, batch_i: int, batch: Mapping[str, Any], suffix: str = "") -> None:
        picture = visualize_batch(
            batch,
            key_order=self.key_order,
            max_items=self.max_items_in_batch,
            last_without_mask=self.last_without_mask,
            rescale_keys=self.rescale_keys,
        )
        write_picture(self.outdir / f"epoch{epoch_i:04d}{suffix}" / f"batch{batch_i:07d}.jpg", picture)
