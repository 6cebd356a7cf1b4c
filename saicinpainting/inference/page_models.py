"""The models that the page offers: the one it was started with, and the published ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from saicinpainting.inference.backends import ArrayBackend
from saicinpainting.networks.models import published_models
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)
Load = Callable[[Mapping[str, Any], bool], ArrayBackend]
"""Loads `path` and `checkpoint`, with refinement or without."""


class PageModels:
    """Loads the models as they are asked for; the one that was asked for last is kept.

    Args:
        path: of the model to begin with: a run, a file or a published model's name.
        checkpoint: of the model to begin with.
        load: loads a model.
    """

    def __init__(self, path: str, checkpoint: str, load: Load) -> None:
        published = published_models()
        self._load, self._kept = load, ""
        self._loaded: dict[bool, ArrayBackend] = {}
        # A server's folders are nobody's business.
        self.first = path if path in published else PurePath(urlsplit(path).path).name or "model"
        self._models = {name: {"path": name, "checkpoint": model.checkpoint} for name, model in published.items()}
        self._models[self.first] = {"path": path, "checkpoint": checkpoint}

    def choices(self) -> list[tuple[str, str]]:
        """What the list shows, and the name, of each; the first one is the one to begin with."""
        published = published_models()
        choices = [] if self.first in published else [(self.first, self.first)]
        for name, model in published.items():
            cost = f"downloads {model.bytes / 1e6:.0f} MB" if model.missing() else "here"
            choices.append((f"{name} ({cost})", name))
        return sorted(choices, key=lambda choice: choice[1] != self.first)

    def describe(self, name: str) -> str:
        model = published_models().get(name)
        return "The model this page was started with." if model is None else f"{model.what}. Licence: {model.licence}."

    def get(self, name: str, *, refine: bool = False) -> ArrayBackend:
        """The model of this name, loaded, and downloaded before if it is not here.

        Raises:
            InputError: it cannot be had or read; why is in the log, for that has the paths of the server.
        """
        if name not in self._models:
            raise InputError(f"there is no model {name}")
        if name != self._kept:
            self._loaded, self._kept = {}, name
        if refine not in self._loaded:
            try:
                self._loaded[refine] = self._load(self._models[name], refine)
            except InputError as error:
                LOGGER.error("%s: %s", name, error)
                how = "refined" if refine else "loaded"
                raise InputError(f"{name} cannot be {how} here; the log of the server says why") from error
        return self._loaded[refine]
