"""Convolutions with several dilations side by side, for the generator `pix2pixhd_multidilated`."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

from saicinpainting.networks.base import PaddingMode, choose
from saicinpainting.networks.padding import Conv2d
from saicinpainting.utils import InputError

# Whether each convolution takes a part of the input channels, and makes a part of the output channels.
COMB_MODES = {
    "sum": (False, False),
    "cat_in": (True, False),
    "cat_out": (False, True),
    "cat_both": (True, True),
}


class MultidilatedConv(nn.Module):
    """`dilation_num` convolutions with dilations `min_dilation` times 1, 2, 4, ..., combined to one map.

    `x`: (B, in_dim, H, W) to (B, out_dim, H, W). With `comb_mode` `sum` all of them see all of `x` and their
    results add up; `cat_in` gives each an equal part of the input channels; `cat_out` takes an equal part of
    the output channels from each, interleaved; `cat_both` does both.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel_size: int = 3,
        dilation_num: int = 3,
        comb_mode: str = "sum",
        min_dilation: int = 1,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.cat_in, self.cat_out = choose(COMB_MODES, comb_mode, where="comb_mode")
        for cut, dim in ((self.cat_in, in_dim), (self.cat_out, out_dim)):
            if cut and dim % dilation_num:
                raise InputError(
                    f"comb_mode {comb_mode}: {dim} channels do not divide into {dilation_num} equal parts; "
                    "change dilation_num or ngf"
                )
        self.dilations = [min_dilation * 2**i for i in range(dilation_num)]
        self.convs = nn.ModuleList(
            Conv2d(
                in_dim // dilation_num if self.cat_in else in_dim,
                out_dim // dilation_num if self.cat_out else out_dim,
                kernel_size,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                padding_mode=padding_mode,
            )
            for dilation in self.dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        n = len(self.convs)
        parts = x.chunk(n, dim=1) if self.cat_in else [x] * n
        outs = [conv(part) for conv, part in zip(self.convs, parts, strict=True)]
        return torch.stack(outs, dim=2).flatten(1, 2) if self.cat_out else reduce(torch.add, outs)
