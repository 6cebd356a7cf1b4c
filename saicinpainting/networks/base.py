"""What the networks share: the generator interface and the choices a config makes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, Literal, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saicinpainting.networks.batch_norm import BatchNorm2d, count_batch, leave_counting_to, statistics_kept
from saicinpainting.networks.casting import casts_weights, weights_in_autocast_dtype
from saicinpainting.networks.padding import Conv2d
from saicinpainting.utils import InputError, did_you_mean

T = TypeVar("T")
FastConvT = TypeVar("FastConvT", bound="FastConv2d")
NormLayer = Callable[[int], nn.Module]
Features = Any  # (B, C, h, w), or a pair (z_l, z_g) of such tensors in networks of Fourier convolutions

NORM_LAYERS: dict[str, NormLayer] = {"bn": BatchNorm2d, "in": nn.InstanceNorm2d}


class Sigmoid(nn.Sigmoid):
    """The logistic function, (B, C, H, W) to (0, 1); of half-precision input in float32.

    Between 1/2 and 1 bfloat16 knows 128 numbers, which is coarser than the 8 bits of an image.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(at_least_float32(x))


class Tanh(nn.Tanh):
    """As `Sigmoid`, to (-1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(at_least_float32(x))


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 if it comes in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def set_memory_format(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay out all convolution kernels of `module` so in memory, which decides the layout of the maps.

    1x1 kernels are the same in either format. Their strides are left alone: gradients come with strides of their own
    choice, and DDP has to copy those that differ from the parameter's.
    """
    for parameter in module.parameters():
        if parameter.dim() == 4 and parameter.shape[2:] != (1, 1):
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def fastest_memory_format(device: torch.device) -> torch.memory_format:
    """The layout of maps that convolutions on `device` are fastest in.

    On CPUs without AVX-512 oneDNN computes the gradients of float32 kernels two to four times slower in channels_last.
    """
    if device.type == "cpu" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return torch.contiguous_format
    return torch.channels_last


OUTPUT_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"sigmoid": Sigmoid, "tanh": Tanh}
# Both spellings of zero padding occur in configs: pix2pixHD's "zero" and torch's "zeros".
PaddingMode = Literal["reflect", "replicate", "zeros"]
PADDING_MODES: dict[str, PaddingMode] = {
    "reflect": "reflect",
    "replicate": "replicate",
    "zero": "zeros",
    "zeros": "zeros",
}


def choose(table: Mapping[str, T], name: str, *, where: str) -> T:
    """`table[name]`, or an `InputError` that says what the setting `where` accepts."""
    if name not in table:
        raise InputError(f"{where}: unknown value {name!r}; {did_you_mean(str(name), table)}")
    return table[name]


def get_norm_layer(kind: str | NormLayer) -> NormLayer:
    """`bn`, `in`, or a callable that makes a normalisation of that many channels."""
    return choose(NORM_LAYERS, kind, where="generator.norm_layer") if isinstance(kind, str) else kind


def output_activation(kind: bool | str | None) -> list[nn.Module]:
    """The last layer(s) of a generator: `sigmoid`, `tanh` (also `True`), or none (`False`, `None`)."""
    if kind is None or kind is False:
        return []
    name = "tanh" if kind is True else kind
    return [choose(OUTPUT_ACTIVATIONS, name, where="generator.add_out_act")()]


def channels_per_level(ngf: int, n_downsampling: int, *, max_features: int) -> list[int]:
    """Channels at full, half, quarter ... resolution: each halving doubles them, up to `max_features`."""
    return [min(max_features, ngf * 2**level) for level in range(n_downsampling + 1)]


def upsampling(widths: Sequence[int], *, norm_layer: NormLayer) -> list[nn.Module]:
    """Layers from the last of `widths` back to the first; each step doubles height and width."""
    layers: list[nn.Module] = []
    for c_out, c_in in reversed(list(pairwise(widths))):
        layers += [
            nn.ConvTranspose2d(c_in, c_out, kernel_size=3, stride=2, padding=1, output_padding=1),
            norm_layer(c_out),
            nn.ReLU(inplace=True),
        ]
    return layers


# Before 2.7 torch says of an export that it compiles.
_torch_exports: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_exporting() -> bool:
    """Whether a file is made, which may run on other sizes and devices."""
    return torch.jit.is_tracing() or _torch_exports()


class FastConv2d(Conv2d):
    """Another way to compute a `Conv2d`; subclasses say by `fits` of which."""

    @staticmethod
    def is_plain(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether it is an ordinary `Conv2d` without stride, dilation and groups."""
        if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, Conv2d):
            return False
        return conv.stride == conv.dilation == (1, 1) and conv.groups == 1

    @classmethod
    def of(cls: type[FastConvT], conv: nn.Conv2d) -> FastConvT:
        """`conv` itself, its class changed: the parameters stay where they are."""
        conv.__class__ = cls
        assert isinstance(conv, cls)
        return conv


class Generator(nn.Module):
    """A stack of layers `model` with a cut in front of the first residual block.

    Refinement optimises the features at the cut, so `forward(x)` equals
    `finished(decode(encode(x)), x)` of an `x` that went through `filled`.

    Args:
        layers: the whole stack.
        first_block: index of the first residual block.
        n_downsampling: how many times the stack halves the resolution.
        min_feature_size: smallest height and width that the residual blocks can pad.
        even_features: whether the residual blocks need features of even height and width.
        initial_fill: fills the hole of (B, input_nc, H, W), whose last channel is the mask, before the first layer; the
            stack then gives what to add to that, and the sum is cut to [0, 1].
    """

    checkpoint_blocks = False
    """Whether training computes the residual blocks anew for the backward pass in place of keeping their maps."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        first_block: int,
        n_downsampling: int,
        min_feature_size: int = 1,
        even_features: bool = False,
        initial_fill: Any = None,
    ) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.initial_fill = initial_fill
        self.first_block = first_block
        self.stride = 2**n_downsampling
        self.size_multiple = self.stride * (2 if even_features else 1)
        # The 7x7 convolutions at both ends reflect three pixels, which takes images of at least four.
        self.min_size = max(4, min_feature_size * self.stride)
        leave_counting_to(self)

    def has_own(self, *methods: str) -> bool:
        """Whether a subclass has one of these methods of its own, so that the order of the layers is not known."""
        return any(getattr(type(self), name) is not getattr(Generator, name) for name in methods)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: (B, input_nc, H, W) to (B, output_nc, H, W)."""
        self._check_size(x)
        x = self.filled(x)
        y = self._in_order(self.model, x)
        count_batch(self)
        return self.finished(y, x)

    def filled(self, x: Tensor) -> Tensor:
        """`x` with its initial fill; `x` itself in a generator without one."""
        return x if self.initial_fill is None else self.initial_fill(x)

    def finished(self, y: Tensor, x: Tensor) -> Tensor:
        """The image of what the last layer gave, `y`, for the input `x` as `filled` gave it."""
        return y if self.initial_fill is None else (x[:, :-1] + y).clamp(0, 1)

    def encode(self, x: Tensor) -> Features:
        """The features in front of the first residual block, at 1 / `stride` of the resolution.

        x: as `filled` gave it.
        """
        self._check_size(x)
        return self._in_order(self.model[: self.first_block], x)

    def decode(self, features: Features) -> Tensor:
        """What the last layer gives for what `encode` gave; `finished` makes the image of it."""
        return self._in_order(self.model[self.first_block :], features)

    def _in_order(self, layers: nn.Sequential, x: Features) -> Features:
        """layers(x). Under autocast each layer's weights are cast together, so that DDP has their gradients early."""
        device = next(half.device for half in (x if isinstance(x, tuple) else (x,)) if half is not None)
        casts, saves = casts_weights(device), self.checkpoint_blocks and self.training and torch.is_grad_enabled()
        if not casts and not saves:
            return layers(x)
        block = type(self.model[self.first_block])
        for layer in layers:
            run = partial(_with_cast_weights, layer, device) if casts else layer
            if saves and type(layer) is block:
                both = partial(_contexts_of_both_passes, layer)
                x = checkpoint(run, x, use_reentrant=False, context_fn=both)
            else:
                x = run(x)
        return x

    def _check_size(self, x: Tensor) -> None:
        if is_exporting():  # sizes are symbols there
            return
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple or min(height, width) < self.min_size:
            raise InputError(
                f"generator input: expected height and width to be multiples of {self.size_multiple} and at "
                f"least {self.min_size}, got {height}x{width}; pad the image (saicinpainting.io.images "
                "has pad_img_to_modulo)"
            )


def _with_cast_weights(layer: nn.Module, device: torch.device, x: Features) -> Features:
    with weights_in_autocast_dtype(layer, device):
        return layer(x)


def _contexts_of_both_passes(layer: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Of a layer that is computed twice: its norms count a batch once."""
    return nullcontext(), statistics_kept(layer)
