"""Which generator a file of weights holds: its config section, from names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from saicinpainting.networks.multidilated import COMB_MODES
from saicinpainting.utils import InputError

StateDict = Mapping[str, Tensor]
PREFIX = "generator."

# The generators of shipped configs. The celeba variants are the same networks.
CONFIG_OF_NETWORK: dict[tuple[Any, Any], str] = {
    ("ffc_resnet", 9): "lama-fourier",
    ("ffc_resnet", 18): "big-lama",
    ("pix2pixhd_global", 9): "lama-regular",
    ("pix2pixhd_global", 15): "big-lama-regular",
    ("pix2pixhd_multidilated", 9): "ablv2_work_md",
}
CONFIG_OF_FILLED_FIRST: dict[tuple[Any, ...], str] = {
    ("ffc_resnet", 32, 2, 5): "lama-small",
    ("ffc_resnet", 32, 2, 6): "lama-ablation",
}
"""Networks whose layers no other shipped config has, by kind, ngf, n_downsampling and n_blocks."""
FILLED_FIRST = {"initial_fill": "pyramid", "identity_init": True, "add_out_act": False}
"""What no weight of these shows."""


def as_generator(state: StateDict) -> dict[str, Tensor]:
    """`state` with the generator's weights called `generator.model.…`, whatever wraps them in the file.

    A generator alone (`model.1.…`) or in dicts (`model.model.1.…`), one inside `module.` (DDP), `_orig_mod.`
    (torch.compile) or both. Of several the average is taken: `generator_average.…`, or one called `ema`.
    """
    layer = re.compile(r"^(.*?)model\.\d+\.")
    prefixes = sorted({match[1] for name in state if (match := layer.match(name))})
    chosen = next((found for fits in _PREFERRED if len(found := list(filter(fits, prefixes))) == 1), [])
    if not chosen:
        return dict(state)
    (outer,) = chosen
    others = tuple(prefix for prefix in prefixes if _GENERATOR.search(prefix) and prefix != outer)
    return {
        PREFIX + name[len(outer) :] if name.startswith(outer) else name: tensor
        for name, tensor in state.items()
        if name.startswith(outer) or not others or not name.startswith(others)
    }


_GENERATOR = re.compile(r"(^|\.)generator(_average)?\.")
_DISCRIMINATOR = re.compile(r"(^|\.)(d|net_?d|disc\w*|critic)\.", re.IGNORECASE)
_AVERAGES = (re.compile(r"(^|\.)generator_average\."), re.compile(r"(^|[._])ema\."))
_PREFERRED: tuple[Callable[[str], object], ...] = (
    *(average.search for average in _AVERAGES),
    PREFIX.__eq__,
    _GENERATOR.search,
    lambda prefix: not _DISCRIMINATOR.search(prefix),
    lambda prefix: True,
)
"""Prefixes of the generator's weights, the first that a file has exactly one of."""


def has_average(state: StateDict) -> bool:
    """Whether the file has averaged weights of a generator, which `as_generator` takes."""
    return any(average.search(name) for name in state for average in _AVERAGES)


def recognize_generator(state: StateDict, path: str | Path) -> dict[str, Any]:
    """The config section `generator` that fits the weights `generator.*` of the file `path`.

    What cannot be told is as in the shipped config of such layers: a sigmoid at the end (lama-small and lama-ablation
    have none, but an initial fill), reflected borders, batch norm. A file of another network is refused where its
    weights are loaded.

    Raises:
        InputError: the weights are of no generator of LaMa's.
    """
    try:
        section = _section(state)
    except (IndexError, KeyError, StopIteration, ValueError):  # names that look like those of a generator by chance
        section = None
    if section is None or section["n_downsampling"] < 0:
        raise InputError(
            f"checkpoint {path}: its weights are of no generator that is known here; give the run's folder, with its "
            "config.yaml"
        )
    return section


def _section(state: StateDict) -> dict[str, Any] | None:
    settings = generator_settings(state)
    if "input_nc" not in settings or settings["n_blocks"] < 1:
        return None
    weights = {name.removeprefix(PREFIX): t for name, t in state.items() if name.startswith(f"{PREFIX}model.")}
    first, _ = _blocks(weights)
    outer = {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False}
    head = max((name for name in weights if name.endswith(".weight")), key=lambda name: int(name.split(".")[1]))
    section: dict[str, Any] = {**settings, "output_nc": weights[head].shape[0], "add_out_act": "sigmoid"}
    if settings["kind"] == "ffc_resnet":
        section |= {"init_conv_kwargs": outer, "downsample_conv_kwargs": outer}
        section["resnet_conv_kwargs"] = _ffc_settings(weights, f"model.{first}.conv1.ffc.")
        width = sum(weights[f"model.{first}.conv1.{norm}.weight"].numel() for norm in _norms(weights, first))
    else:
        width = weights[_convolutions(weights, first)[-1]].shape[0]
    if settings["kind"] == "pix2pixhd_multidilated":
        section["multidilation_kwargs"] = _multidilation(weights, f"model.{first}.conv_block.0.convs.", width)
    if 0 < width < settings["ngf"] << section["n_downsampling"]:
        section["max_features"] = width
    return {**section, **FILLED_FIRST} if _filled_first(section) else section


def _filled_first(section: Mapping[str, Any]) -> str | None:
    """The config of such a network that fills the hole before its first layer."""
    return CONFIG_OF_FILLED_FIRST.get(tuple(map(section.get, ("kind", "ngf", "n_downsampling", "n_blocks"))))


def generator_remedy(own_state: StateDict, file_state: StateDict) -> str:
    """Which settings of the generator differ in a file, and the config that has them; empty where nothing tells."""
    own, file = generator_settings(own_state), generator_settings(file_state)
    if config := _filled_first(file):  # no weight shows all that it takes
        return f"the generator in the file is {config}'s; take the config {config}"
    differing = [name for name in file if name in own and own[name] != file[name]]
    if not differing:
        return ""
    found = ", ".join(f"{name}={file[name]} (config: {own[name]})" for name in differing)
    settings = " ".join(f"generator.{name}={file[name]}" for name in differing)
    config = CONFIG_OF_NETWORK.get((file.get("kind"), file.get("n_blocks")))
    shipped = f", or take the config {config}" if config and (file.get("ngf"), file.get("input_nc")) == (64, 4) else ""
    return f"the generator in the file has {found}; set {settings}{shipped}"


def generator_settings(state: StateDict) -> dict[str, Any]:
    """`kind`, `n_blocks`, `n_downsampling` and, where the first convolution is an ordinary one, `ngf` and `input_nc`.

    Empty if unknown. state: has the weights `generator.*`.
    """
    weights = {name.removeprefix(PREFIX): t for name, t in state.items() if name.startswith(PREFIX)}
    kinds = {
        "ffc_resnet": ".ffc.",
        "pix2pixhd_multidilated": ".conv_block.0.convs.",
        "pix2pixhd_global": ".conv_block.",
    }
    kind = next((kind for kind, part in kinds.items() if any(part in name for name in weights)), None)
    if kind is None:
        return {}
    first, last = _blocks(weights)
    halvings = first - 2 if kind == "ffc_resnet" else len(_convolutions(weights, first)) - 1
    settings: dict[str, Any] = {"kind": kind, "n_blocks": last - first + 1, "n_downsampling": halvings}
    stem = "model.1" + (".ffc.convl2l" if kind == "ffc_resnet" else "")
    first_kernel = weights.get(f"{stem}.weight")
    if first_kernel is not None and first_kernel.dim() == 4 and f"{stem.removesuffix('l2l')}l2g.weight" not in weights:
        settings["ngf"], settings["input_nc"] = first_kernel.shape[:2]
    return settings


def _blocks(weights: StateDict) -> tuple[int, int]:
    """The first and the last layer of the residual blocks; one at full resolution (`out_ffc`) does not follow them."""
    found = [re.match(r"model\.(\d{1,3})\.(?:conv1|conv_block)\.", name) for name in weights]
    places = sorted({int(match[1]) for match in found if match})
    if not places:
        return 0, -1
    return places[0], max(place for i, place in enumerate(places) if place - places[0] == i)


def _convolutions(weights: StateDict, first: int) -> list[str]:
    """The plain ones before layer `first`."""
    plain = [name for name in weights if re.fullmatch(r"model\.\d+\.weight", name) and weights[name].dim() == 4]
    return [name for name in plain if int(name.split(".")[1]) < first]


def _norms(weights: StateDict, block: int) -> list[str]:
    return [norm for norm in ("bn_l", "bn_g") if f"model.{block}.conv1.{norm}.weight" in weights]


def _ffc_settings(weights: StateDict, ffc: str) -> dict[str, Any]:
    """Settings of the residual blocks' `FFC`; ffc: what the names of one of them begin with."""
    local, to_global = (weights.get(f"{ffc}conv{way}.weight") for way in ("l2l", "l2g"))
    n_local = 0 if local is None else local.shape[0]
    n_global = 0 if to_global is None else to_global.shape[0]
    ratio = n_global / max(n_local + n_global, 1)
    settings = {"ratio_gin": ratio, "ratio_gout": ratio, "enable_lfu": any(f"{ffc}convg2g.lfu." in n for n in weights)}
    spectral = f"{ffc}convg2g.fu."
    traces = {"gated": f"{ffc}gate.weight", "use_se": f"{spectral}se.fc.0.weight"}
    settings |= {name: True for name, trace in traces.items() if trace in weights}
    kernel = weights.get(f"{spectral}conv_layer.weight")
    if kernel is not None and kernel.shape[1] == kernel.shape[0] + 2:
        settings["spectral_pos_encoding"] = True
    return settings


def _multidilation(weights: StateDict, convs: str, width: int) -> dict[str, Any]:
    kernels = [t for name, t in weights.items() if name.startswith(convs) and name.endswith(".weight")]
    cut = (kernels[0].shape[1] < width, kernels[0].shape[0] < width)
    mode = next(name for name, parts in COMB_MODES.items() if parts == cut)
    return {"dilation_num": len(kernels), "comb_mode": mode}
