"""Weights of an exported generator, folded by `inference.fast.folding`, under the names that they were trained with."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

StateDict = Mapping[str, Tensor]
_FOLDED = re.compile(r"^(.*)\.(from_local|from_global|spectral)\.(.+)$")


def unfolded(state: StateDict) -> dict[str, Tensor]:
    """`state` with the layers `from_local`, `from_global` and `spectral` as those of an `FFC_BN_ACT`; others as is.

    Batch norms are in the kernels: those that take their place only add the bias.
    """
    layers = dict.fromkeys(match[1] for name in state if (match := _FOLDED.match(name)))
    if not layers:
        return dict(state)
    result = {name: tensor for name, tensor in state.items() if not _FOLDED.match(name)}
    following = [*list(layers)[1:], None]
    for layer, after in zip(layers, following, strict=True):
        result |= _ffc(state, layer, None if after is None else state.get(f"{after}.from_local.weight"))
    return result


def _ffc(state: StateDict, layer: str, after: Tensor | None) -> dict[str, Tensor]:
    """One layer; after: the kernel that reads its local channels."""
    own = {name[len(layer) + 1 :]: tensor for name, tensor in state.items() if name.startswith(f"{layer}.")}
    kernel, bias = own["from_local.weight"], own["from_local.bias"]
    from_global, shift = own.get("from_global.weight"), own.get("spectral.conv2.bias")
    readers = from_global.shape[0] if from_global is not None else len(kernel) if after is None else after.shape[1]
    parts: dict[str, Tensor] = {"ffc.convl2l.weight": kernel[:readers], **_norm("bn_l", bias[:readers])}
    if from_global is not None:
        parts["ffc.convg2l.weight"] = from_global
    if len(kernel) > readers:
        parts |= {"ffc.convl2g.weight": kernel[readers:], **_norm("bn_g", bias[readers:])}
    if shift is not None:
        parts["bn_g.bias"] = parts["bn_g.bias"] + shift
        parts["ffc.convg2g.conv2.weight"] = own["spectral.conv2.weight"]
        parts["ffc.convg2g.conv1.0.weight"] = own["spectral.conv1.0.weight"]
        parts |= _norm("ffc.convg2g.conv1.1", own["spectral.conv1.0.bias"])
        for unit in sorted({name.split(".")[1] for name in own if name.endswith(".conv.weight")}):
            parts |= _fourier_unit(own, unit)
    return {f"{layer}.{name}": tensor for name, tensor in parts.items()}


def _fourier_unit(own: StateDict, unit: str) -> dict[str, Tensor]:
    """Real and imaginary parts are neighbours again; folded, the real parts of all channels come first."""
    kernel, bias = own[f"spectral.{unit}.conv.weight"], own[f"spectral.{unit}.conv.bias"]
    rows, columns = (torch.arange(size).view(2, -1).T.flatten() for size in kernel.shape[:2])
    name = f"ffc.convg2g.{unit}"
    return {f"{name}.conv_layer.weight": kernel[rows][:, columns], **_norm(f"{name}.bn", bias[rows])}


def _norm(name: str, bias: Tensor, eps: float = 1e-5) -> dict[str, Tensor]:
    """A batch norm that only adds."""
    return {
        f"{name}.weight": torch.ones_like(bias),
        f"{name}.bias": bias,
        f"{name}.running_mean": torch.zeros_like(bias),
        f"{name}.running_var": torch.full_like(bias, 1 - eps),
        f"{name}.num_batches_tracked": torch.tensor(0),
    }


def with_idle_norms(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """`state` with batch norms that change nothing where it has none of those of `model`, whose names it shares."""
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    idle = {name: norm for name, norm in norms.items() if f"{name}.running_mean" not in state}
    added = (_norm(name, torch.zeros(norm.num_features), norm.eps) for name, norm in idle.items())
    return {**state, **{name: tensor for one in added for name, tensor in one.items()}}
