"""Move a generator to a device, or spread its residual blocks over several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from saicinpainting.io.device import move_to_device
from saicinpainting.utils import InputError

GpuIds = str | int | Sequence[int] | None


def gpus(gpu_ids: GpuIds) -> list[torch.device]:
    """The GPUs that `refiner.gpu_ids` names: 0, "0", "0,1" or [0, 1]; none of None and "None".

    Raises:
        InputError: it names something else, one GPU twice, or a GPU that is not there.
    """
    listed = list(gpu_ids) if isinstance(gpu_ids, (list, tuple)) else str(gpu_ids).split(",")
    numbers = [str(part).strip() for part in listed if str(part).strip()]
    if numbers in ([], ["None"]):
        return []
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise InputError(
            f"refiner.gpu_ids: expected numbers of GPUs such as 0 or [0,1], each GPU once, got {gpu_ids!r}"
        )
    there = torch.cuda.device_count()
    for number in numbers:
        if int(number) >= there:
            raise InputError(
                f"refiner.gpu_ids: GPU {number} asked for, {there} found; set refiner.gpu_ids=null for none"
            )
    return [torch.device("cuda", int(number)) for number in numbers]


def decoder_parts(generator: Any) -> list[list[nn.Module]]:
    """The layers behind the cut; a part is a residual block, or the layers of one doubling of the resolution.

    None of a generator that does not show its layers as `model` and `first_block`.
    """
    parts: list[list[nn.Module]] = []
    for layer in list(getattr(generator, "model", ()))[getattr(generator, "first_block", 0) :]:
        # What has no weights of its own, or only a norm's, belongs to the part before it.
        light = all(parameter.dim() < 2 for parameter in layer.parameters())
        if parts and light:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return parts


def spread_over(generator: Any, devices: Sequence[torch.device]) -> None:
    """Move `generator` to the device, or spread it over several; what lies where it should is not moved again.

    The encoder goes to the first device, as many residual blocks to each as to the others, the upsampling part to
    the last. From then on each part takes its input to where its weights are.

    Raises:
        InputError: there are fewer residual blocks than devices.
    """
    if len(devices) == 1:
        generator.to(devices[0])
        return
    parts = decoder_parts(generator)
    numbers = assign(parts, len(devices))
    for layer in generator.model[: generator.first_block]:
        layer.to(devices[0])
    for part, number in zip(parts, numbers, strict=True):
        for layer in part:
            layer.to(devices[number])
        if _to_its_weights not in part[0]._forward_pre_hooks.values():
            part[0].register_forward_pre_hook(_to_its_weights)


def assign(parts: Sequence[Sequence[nn.Module]], n_devices: int) -> list[int]:
    """The number of each part's device; parts: those of `decoder_parts`."""
    doublings = [i for i, part in enumerate(parts) if isinstance(part[0], nn.ConvTranspose2d)]
    n_blocks = doublings[0] if doublings else len(parts)
    if n_blocks < n_devices:
        raise InputError(
            f"refiner.gpu_ids: {n_devices} GPUs asked for, but the generator has {n_blocks} residual blocks to "
            f"spread; name {max(n_blocks, 1)} at most"
        )
    return [min(i, n_blocks - 1) * n_devices // n_blocks for i in range(len(parts))]


def _to_its_weights(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook."""
    return move_to_device(inputs, next(layer.parameters()).device)
