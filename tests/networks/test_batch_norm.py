"""Batch norms counted by their network, against PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.networks.batch_norm import BatchNorm2d, freeze_batch_norms
from saicinpainting.networks.pix2pixhd import NLayerDiscriminator
from saicinpainting.utils import InputError
from tests.helpers import assert_same, fill, rand


def pytorchs(network: nn.Module) -> nn.Module:
    copied = copy.deepcopy(network)
    for part in copied.modules():
        if type(part) is BatchNorm2d:
            part.__class__ = nn.BatchNorm2d
    return copied


class Counts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.additions: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "add_" in function.__name__:
            self.additions.append(function.__name__.partition(".")[0])
        return function(*args, **(kwargs or {}))


def test_a_network_counts_its_batches_by_one_call_and_ends_in_the_same_state():
    ours = fill(NLayerDiscriminator(3, ndf=4, n_layers=4)).train()
    theirs = pytorchs(ours)
    with Counts() as counts:
        for i in range(3):
            ours(rand(i, 2, 3, 64, 64))
    for i in range(3):
        theirs(rand(i, 2, 3, 64, 64))
    assert_same(ours.state_dict(), theirs.state_dict())
    assert ours.get_submodule("model1")[1].num_batches_tracked == 3
    assert counts.additions == ["_foreach_add_"] * 3


def test_evaluation_counts_nothing():
    network = fill(NLayerDiscriminator(3, ndf=4, n_layers=2)).eval()
    before = copy.deepcopy(network.state_dict())
    network(rand(0, 2, 3, 64, 64))
    assert_same(network.state_dict(), before)


def test_a_norm_of_its_own_counts_for_itself():
    norm = BatchNorm2d(3)
    norm(rand(0, 2, 3, 4, 4))
    assert norm.num_batches_tracked == 1


def test_norms_that_are_replaced_by_sync_batch_norm_are_not_counted_twice():
    network = NLayerDiscriminator(3, ndf=4, n_layers=2)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.eval()(rand(0, 2, 3, 32, 32))
    for part in network.modules():
        if isinstance(part, nn.SyncBatchNorm):
            part.training = True  # as in training, which its forward pass needs a GPU for
    from saicinpainting.networks.batch_norm import count_batch

    count_batch(network)
    assert network.get_submodule("model1")[1].num_batches_tracked == 0


def test_frozen_norms_keep_their_statistics_and_learn_their_weights():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), BatchNorm2d(2))
    fill(network)
    expected = network.eval()(rand(0, 2, 3, 8, 8))
    freeze_batch_norms(network)
    before = [buffer.clone() for buffer in network.buffers()]
    found = network.train()(rand(0, 2, 3, 8, 8))
    assert torch.equal(found, expected)
    found.square().mean().backward()
    assert all(torch.equal(old, new) for old, new in zip(before, network.buffers(), strict=True))
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("norms", [[], [nn.SyncBatchNorm(4)], [BatchNorm2d(4), nn.BatchNorm2d(4)]])
def test_norms_that_cannot_be_frozen_are_refused(norms: list[nn.Module]):
    with pytest.raises(InputError, match=r"training_model\.frozen_batch_norm"):
        freeze_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), *norms))
