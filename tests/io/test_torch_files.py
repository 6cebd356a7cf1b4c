"""Files of torch.save and torch.jit.save: what they hold, and what they only claim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from saicinpainting.io.checkpoint import read_checkpoint
from saicinpainting.networks import make_generator
from saicinpainting.networks.load import load_generator
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values, rand

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")


class Wrapped(nn.Module):
    """As people export it: the training module inside another one."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.generator = generator

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        known = image * (1 - mask)
        return self.model.generator(torch.cat([known, mask], dim=1)) * mask + known


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_names_and_numbers_are_those_that_torch_reads(tmp_path: Path, dtype: torch.dtype):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    traced = torch.jit.trace(network, torch.zeros(1, 3, 8, 8)).to(dtype)
    traced.save(str(tmp_path / "x.pt"))
    state = read_checkpoint(tmp_path / "x.pt")["state_dict"]
    expected = traced.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


@pytest.mark.slow
def test_an_exported_generator_is_a_model(tmp_path: Path):
    generator = fill(make_generator(**golden_values()["ffc"])).eval()
    example = rand(1, 1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    torch.jit.trace(Wrapped(generator), example, strict=False).save(str(tmp_path / "big-lama.pt"))
    loaded = load_generator(tmp_path / "big-lama.pt").generator.eval()
    x = rand(2, 1, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), generator(x))


def test_a_program_of_torch_export_is_told_what_it_is_for(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "lama.pt2")
    with pytest.raises(InputError, match=r"lama\.pt2 is a program of torch\.export, .*; give the checkpoint"):
        read_checkpoint(tmp_path / "lama.pt2")
