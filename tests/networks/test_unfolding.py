"""An exported generator is read back: what folding multiplied out computes the same in the layers it came from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saicinpainting.inference.fast.folding import fold
from saicinpainting.networks import make_generator
from saicinpainting.networks.load import load_generator
from tests.helpers import fill, rand
from tests.networks.test_recognition import SECTIONS

PLAIN = ("fourier", "all local", "half global", "local Fourier units", "narrow", "regular", "two halvings")


@pytest.mark.parametrize("section", [SECTIONS[name] for name in PLAIN], ids=PLAIN)
def test_a_folded_generator_is_read_under_its_own_names(section: dict[str, Any], tmp_path: Any) -> None:
    network = fill(make_generator(**section)).eval()
    state = {f"network.{name}": tensor for name, tensor in fold(network).state_dict().items()}
    torch.save(state, tmp_path / "folded.pth")
    config = {"generator": section, "training_model": {"concat_mask": True}}
    x = rand(1, 1, 4, 64, 64)
    with torch.no_grad():
        for read in (load_generator(tmp_path / "folded.pth"), load_generator(tmp_path / "folded.pth", config)):
            torch.testing.assert_close(read.generator.eval()(x), network(x), atol=1e-4, rtol=0)
