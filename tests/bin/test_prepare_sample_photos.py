"""The demo's data are what the runs that name them train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from saicinpainting.training.run import make_data_module
from saicinpainting.utils import InputError
from tests.helpers import run_script
from tests.runs import composed


def test_lama_tiny_trains_on_the_demos_photographs(tmp_path: Path) -> None:
    done = run_script("prepare_sample_photos.py", str(tmp_path / "data"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    words = (f"location.data_root_dir={tmp_path / 'data'}", "data.num_workers=0")
    data = make_data_module(composed("lama-tiny", *words))
    assert data.images() == {"data.train": 50, "data.val": 1, "data.visual_test": 1}
    data.require_sizes(8, 16)
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 128, 128)
    other = make_data_module(composed("lama-tiny", *words, "data.train.out_size=100"))
    other.setup("fit")
    with pytest.raises(InputError, match=r"data\.train\.out_size=100: .* set it to 104"):
        other.require_sizes(8, 16)
