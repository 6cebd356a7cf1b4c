#!/usr/bin/env python3
"""The Fourier unit's transform by FFT and by matrix products: time of a training pass, across sizes and types.

    benchmarks/fourier_unit.py [--sizes 8 16 32 64 128 256] [--devices cpu cuda] [--json FILE]

The unit is that of lama-fourier's blocks (192 channels); forward and backward, in maps of the layout channels_last, and
for the FFT, which prefers it, in contiguous ones too. `ratio`: time of the FFT in channels_last, the layout that the
convolutions around it want / this time. `difference`: largest difference of the results of FFT and products, relative
to the largest result. The rows where `auto` changes from products to the FFT decide `_largest_for_products` in
saicinpainting/networks/fourier.py.
"""

from collections.abc import Callable, Iterator
from functools import partial

from common import alternate, arguments, report, seconds_of  # isort: skip  (makes the package importable)

import torch

from saicinpainting.networks.fourier import FourierUnit, set_fft_backend

CHANNELS = 192
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256], help="sides of the maps")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each variant (default: 7)")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    parser.add_argument("--devices", nargs="+", default=devices, help="default: the CPU, and a GPU if there is one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = (row for device in args.devices for size in args.sizes for row in compare(device, size, args.rounds))
    report(rows, threads=args.threads, json_file=args.json)


def compare(device: str, size: int, rounds: int) -> Iterator[dict]:
    batch = max(1, (8192 if device == "cpu" else 65536) // size**2)
    for name, dtype in TYPES.items():
        torch.manual_seed(0)
        unit = FourierUnit(CHANNELS, CHANNELS).to(device)
        x = torch.randn(batch, CHANNELS, size, size, device=device)
        last = x.to(memory_format=torch.channels_last)
        passes = {
            "fft": training_pass(unit, last, dtype, "fft"),
            "fft, contiguous": training_pass(unit, x, dtype, "fft"),
            "products": training_pass(unit, last, dtype, "products"),
        }
        results = {variant: run().detach().float() for variant, run in passes.items()}  # also warms up
        difference = (results["products"] - results["fft"]).abs().max() / results["fft"].abs().max()
        times = 1 if device == "cpu" else 8
        timed = {variant: partial(seconds_of, run, device, times=times) for variant, run in passes.items()}
        seconds = alternate(timed, rounds)
        unit.fft_backend = "auto"
        chosen = "products" if unit.uses_products(x.to(dtype)) else "fft"
        for variant, took in seconds.items():
            yield {
                "case": f"{device} {size}x{size} batch {batch} {name}",
                "variant": variant + (" (auto)" if variant == chosen else ""),
                "seconds": took,
                "ratio": seconds["fft"] / took,
                "peak_mb": None,
                "difference": float(difference) if variant == "products" else 0.0,
            }


def training_pass(unit: FourierUnit, x: torch.Tensor, dtype: torch.dtype, backend: str) -> Callable[[], torch.Tensor]:
    """A function that runs forward and backward."""
    x = x.detach().requires_grad_()
    device = x.device.type

    def run() -> torch.Tensor:
        set_fft_backend(unit, backend)
        unit.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = unit(x.to(dtype))
        y.sum().backward()
        return y

    return run


if __name__ == "__main__":
    main()
