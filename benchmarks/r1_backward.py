#!/usr/bin/env python3
"""The backward pass through the R1 penalty: torch's derivative of a convolution's derivative against the product's.

    benchmarks/r1_backward.py [--batch 10] [--size 256] [--device cpu] [--json FILE]

The discriminator of lama-fourier on seeded images; what is measured is the backward pass of softplus(-D(x)) and the
penalty, float32 and under bfloat16's autocast.

plain   `nn.Conv2d`: torch writes the derivative of a kernel's gradient as convolutions with kernels as large as images
ours    `DoubleBackwardConv2d`: the same gradients, each asked for by its own operator

`ratio`: plain / this one. `large_kernels`: how many of its convolutions have such a kernel. `difference`: the largest
of the gradients from plain's, relative to the largest gradient.
"""

import copy
import sys
from collections.abc import Callable, Iterator

from common import alternate, arguments, error_row, failed, report, seconds_of  # isort: skip

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from saicinpainting.losses.adversarial import r1_penalty
from saicinpainting.networks import make_discriminator
from tests.helpers import fill

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LARGE_KERNEL = 16  # the discriminator's own have four rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--size", type=int, default=256, help="side of the images (default: 256)")
    parser.add_argument("--ndf", type=int, default=64, help="channels of the discriminator's first maps (default: 64)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each variant (default: 10)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sys.exit(failed(report(compare(args), threads=args.threads, json_file=args.json)))


def compare(args) -> Iterator[dict]:
    plain = with_plain_convolutions(
        fill(make_discriminator(kind="pix2pixhd_nlayer", input_nc=3, ndf=args.ndf, n_layers=4))
    )
    plain = plain.to(args.device, memory_format=torch.channels_last).train()
    variants = {"plain": plain}
    broken: dict[str, dict] = {}
    try:
        variants["ours"] = with_own_double_backward(copy.deepcopy(plain))
    except ImportError as error:
        broken["ours"] = error_row(error)
    torch.manual_seed(0)
    image = torch.rand(args.batch, 3, args.size, args.size, device=args.device)
    image = image.contiguous(memory_format=torch.channels_last)
    for name, dtype in TYPES.items():
        case = f"{args.device} {args.size} px batch {args.batch} {name}"
        counts = {variant: large_kernels(network, image, dtype) for variant, network in variants.items()}
        gradients = {variant: [p.grad for p in network.parameters()] for variant, network in variants.items()}
        for network in variants.values():
            network.zero_grad()
        timed = {variant: timer(network, image, dtype) for variant, network in variants.items()}
        for measure in timed.values():  # the first choose algorithms
            measure()
        seconds = alternate(timed, args.rounds)
        for variant, took in seconds.items():
            row = {"case": case, "variant": variant, "seconds": took, "ratio": seconds["plain"] / took}
            row["peak_mb"] = peak_mb(timed[variant], args.device)
            row["large_kernels"] = counts[variant]
            yield row | {"difference": largest_difference(gradients[variant], gradients["plain"])}
        for variant, reason in broken.items():
            yield {"case": case, "variant": variant, **reason}


def with_plain_convolutions(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d
    return network


def with_own_double_backward(network: nn.Module) -> nn.Module:
    from saicinpainting.networks.conv_double_backward import DoubleBackwardConv2d

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            DoubleBackwardConv2d.of(layer)
    return network


def loss(network: nn.Module, image: Tensor, dtype: torch.dtype) -> Tensor:
    """softplus(-D(x)) + R1 (Mescheder et al. 2018, eq. 9), as the step of the discriminator has it."""
    real = image.detach().requires_grad_()
    with torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        score = network(real)[0].float()
        return F.softplus(-score).mean() + 0.001 * r1_penalty(score, real)


def timer(network: nn.Module, image: Tensor, dtype: torch.dtype) -> Callable[[], float]:
    """A function that measures one backward pass, without the forward pass before it."""
    return lambda: seconds_of(loss(network, image, dtype).backward, image.device)


def large_kernels(network: nn.Module, image: Tensor, dtype: torch.dtype) -> int:
    """Of one backward pass, which leaves its gradients in the network."""
    total = loss(network, image, dtype)
    with CountLargeKernels() as counted:
        total.backward()
    return counted.number


class CountLargeKernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.number += max(args[1].shape[2:]) >= LARGE_KERNEL
        return function(*args, **(kwargs or {}))


def peak_mb(measure: Callable[[], float], device: str) -> float | None:
    """Of a GPU's memory, forward pass included."""
    if device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    measure()
    return torch.cuda.max_memory_allocated() / 2**20


def largest_difference(gradients: list[Tensor], expected: list[Tensor]) -> float:
    """Not of each parameter by itself: biases in front of a batch norm have rounding alone for gradient."""
    largest = max(gradient.abs().max() for gradient in expected)
    return float(max((a - b).abs().max() for a, b in zip(gradients, expected, strict=True)) / largest)


if __name__ == "__main__":
    main()
