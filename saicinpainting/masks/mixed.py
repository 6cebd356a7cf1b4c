"""The mixture of mask kinds that models train and are tested with, and the table of kinds."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from saicinpainting.masks.folder import FolderMaskGenerator
from saicinpainting.masks.generators import (
    DrawMethod,
    DumbAreaMaskGenerator,
    MaskGenerator,
    MaskRandom,
    OutpaintingMaskGenerator,
    RandomIrregularMaskGenerator,
    RandomRectangleMaskGenerator,
    RandomSuperresMaskGenerator,
    Size,
)
from saicinpainting.utils import InputError, build_target, call_with_settings, did_you_mean

LOGGER = logging.getLogger(__name__)


class MixedMaskGenerator(MaskGenerator):
    """One of several kinds a mask, by their probabilities (any positive weights), then perhaps inverted.

    Unless told otherwise half of the masks are irregular and half are boxes. The official code has 1/3 each for
    irregular, box and segmentation masks; the last would run a network for every sample, so `segm_proba` is 0 and the
    other two keep equal shares. `segm_kwargs`, which published configs carry, counts only with `segm_proba`.

    `where` is the config key that errors about the kinds' own settings name. It is positional, so no key of a
    config can set it.
    """

    def __init__(
        self,
        where: str = "mask_gen_kwargs",
        /,
        *,
        irregular_proba: float = 1,
        irregular_kwargs: Mapping[str, Any] | None = None,
        box_proba: float = 1,
        box_kwargs: Mapping[str, Any] | None = None,
        segm_proba: float = 0,
        segm_kwargs: Mapping[str, Any] | None = None,
        squares_proba: float = 0,
        squares_kwargs: Mapping[str, Any] | None = None,
        superres_proba: float = 0,
        superres_kwargs: Mapping[str, Any] | None = None,
        outpainting_proba: float = 0,
        outpainting_kwargs: Mapping[str, Any] | None = None,
        invert_proba: float = 0,
    ) -> None:
        if segm_proba > 0:
            raise InputError(
                f"{where}.segm_proba: {segm_proba} asks for object masks in a mixture, which would run a network for "
                "every sample; set segm_proba: 0. Evaluation sets of them: configs/data_gen/segm_512.yaml. For "
                "training make mask images first, then mask_generator_kind=folder"
            )
        squares = {**(squares_kwargs or {}), "draw_method": DrawMethod.SQUARE}
        parts: list[tuple[float, str, type[MaskGenerator], Mapping[str, Any] | None]] = [
            (irregular_proba, "irregular", RandomIrregularMaskGenerator, irregular_kwargs),
            (box_proba, "box", RandomRectangleMaskGenerator, box_kwargs),
            (squares_proba, "squares", RandomIrregularMaskGenerator, squares),
            (superres_proba, "superres", RandomSuperresMaskGenerator, superres_kwargs),
            (outpainting_proba, "outpainting", OutpaintingMaskGenerator, outpainting_kwargs),
        ]
        parts = [part for part in parts if part[0] > 0]
        if not parts:
            raise InputError(f"{where}: no kind of mask has a probability above 0; set irregular_proba: 1")
        self.gens = [
            call_with_settings(kind, settings or {}, where=f"{where}.{name}_kwargs")
            for _, name, kind, settings in parts
        ]
        weights = np.array([part[0] for part in parts], dtype="float32")
        self.probas = weights / weights.sum()
        self.invert_proba = invert_proba

    def sample(self, size: Size, rng: MaskRandom, iter_i: int | None = None, raw_image: Any = None) -> np.ndarray:
        generator = self.gens[rng.numpy.choice(len(self.gens), p=self.probas)]
        mask = generator.sample(size, rng, iter_i, raw_image)
        inverted = self.invert_proba > 0 and rng.python.random() < self.invert_proba
        return 1 - mask if inverted else mask


MASK_GENERATORS: dict[str, type[MaskGenerator]] = {
    "mixed": MixedMaskGenerator,
    "outpainting": OutpaintingMaskGenerator,
    "dumb": DumbAreaMaskGenerator,
    "folder": FolderMaskGenerator,
}


def get_mask_generator(
    kind: str | None = None, kwargs: Mapping[str, Any] | None = None, *, where: str = "mask_gen_kwargs"
) -> MaskGenerator:
    """The generator of `kind` (`mixed` unless given); `where` is the config key of `kwargs`, for errors.

    Settings of the mixture, which shipped configs hold, may stay there when another kind is chosen. `_target_` among
    the settings names a `MaskGenerator` of anybody's, whatever `kind` says.
    """
    settings = dict(kwargs or {})
    if settings.get("_target_") is not None:
        own = {name: value for name, value in settings.items() if name not in _MIXTURE}
        offered = {name: value for name, value in settings.items() if name in _MIXTURE}
        return build_target(own, where=where, interface=MaskGenerator, offered=offered)
    kind = kind or "mixed"
    if kind not in MASK_GENERATORS:
        raise InputError(f"mask_generator_kind: unknown kind {kind!r}; {did_you_mean(kind, MASK_GENERATORS)}")
    if kind == "mixed":  # it has nested settings to report about
        return call_with_settings(partial(MixedMaskGenerator, where), settings, where=where)
    unused = [name for name in settings if name in _MIXTURE - _settings_of(MASK_GENERATORS[kind])]
    if unused:
        LOGGER.info("%s: masks are %s; %s of the mixture have no effect", where, kind, ", ".join(unused))
    used = {name: value for name, value in settings.items() if name not in unused}
    return call_with_settings(MASK_GENERATORS[kind], used, where=where)


def _settings_of(maker: Callable[..., MaskGenerator]) -> set[str]:
    return {p.name for p in inspect.signature(maker).parameters.values() if p.kind is p.KEYWORD_ONLY}


_MIXTURE = _settings_of(MixedMaskGenerator)
