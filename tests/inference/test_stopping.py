"""A fill that is asked to stop: soon, and without a trace in what is filled after it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saicinpainting.inference import refinement
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.inference.stopping import StoppedError, check_stop, stopping_when
from tests.helpers import photo, rand, write_run
from tests.samples import generator, refining


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_refinement_ends_with_the_iteration_that_runs_and_the_next_one_is_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    fill = refining({"path": write_run(tmp_path), "checkpoint": "best.ckpt"})
    image, mask = rand(1, 1, 3, 96, 80), torch.zeros(1, 1, 96, 80)
    mask[:, :, 20:60, 20:50] = 1
    batch = {"image": image, "mask": mask, "unpad_to_size": (96, 80)}
    iterations: list[None] = []
    real = refinement._set_gradients

    def counted(*args: Any) -> torch.Tensor:
        iterations.append(None)
        return real(*args)

    monkeypatch.setattr(refinement, "_set_gradients", counted)
    expected = fill(batch)
    assert len(iterations) == 4  # two scales above the coarsest
    iterations.clear()
    with stopping_when(lambda: len(iterations) >= last), pytest.raises(StoppedError):
        fill(batch)
    assert len(iterations) == last
    assert torch.equal(fill(batch), expected)


@pytest.mark.parametrize("last", [0, 2])
def test_a_fill_in_parts_ends_with_the_part_that_is_filled(last: int) -> None:
    inpainter = Inpainter(generator("lama-fourier"), device="cpu", strategy="crop")
    image, mask = photo("coffee.png", 400), np.zeros((400, 400), bool)
    mask[5:12, 5:12] = mask[5:12, 380:390] = mask[380:390, 5:12] = True  # each with 128 pixels around it
    before = image.copy()
    parts: list[None] = []
    inpainter.network.register_forward_pre_hook(lambda *_: parts.append(None))
    expected = inpainter(image, mask)
    assert len(parts) == 3
    parts.clear()
    with stopping_when(lambda: len(parts) >= last), pytest.raises(StoppedError):
        inpainter(image, mask)
    assert len(parts) == last
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(inpainter(image, mask), expected)


def test_only_what_its_own_thread_does_meanwhile_is_stopped() -> None:
    check_stop()
    with stopping_when(lambda: True):
        with ThreadPoolExecutor() as other:
            other.submit(check_stop).result()
        with pytest.raises(StoppedError):
            check_stop()
    check_stop()
