"""The data of a training run: one training set and the evaluation sets that are scored after every epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from saicinpainting.evaluation.data import Sample
from saicinpainting.training.data.datasets import (
    folders_of,
    make_dataloader,
    make_default_val_dataset,
    make_train_dataset,
    plain,
)
from saicinpainting.utils import InputError, call_with_settings

Settings = Mapping[str, Any]


class InpaintingDataModule(pl.LightningDataModule):
    """Builds the loaders of config section `data`.

    `train`, `val`, `visual_test` and the entries of `extra_val`: arguments of the data sets' makers, and
    `dataloader_kwargs`. `prepare_hint`: the command that prepares the data, told where a folder is missing.
    `val_titles`: the names of the evaluation sets in the order of `val_dataloader()`.
    """

    def __init__(
        self,
        *,
        train: Settings,
        val: Settings,
        visual_test: Settings | None = None,
        extra_val: Mapping[str, Settings] | None = None,
        prepare_hint: str = "",
    ) -> None:
        super().__init__()
        self.prepare_hint = prepare_hint
        self._train_settings = plain(train)
        sections = {"val": ("data.val", val)}
        if visual_test:
            sections["test"] = ("data.visual_test", visual_test)
        for name, settings in (extra_val or {}).items():
            sections[f"extra_val_{name}"] = (f"data.extra_val.{name}", settings)
        self.val_titles = list(sections)
        self._val_sections = [(where, plain(settings)) for where, settings in sections.values()]
        self._train_set: Dataset[Sample] | None = None
        self._val_sets: list[Dataset[Sample]] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find the files; `stage` `validate` needs no training images."""
        if self._train_set is None and stage in (None, "fit"):
            self._train_set = self._make_train_set()
        if self._val_sets is None:
            self._val_sets = [self._make_val_set(where, s) for where, s in self._val_sections]

    def train_dataloader(self) -> DataLoader[Sample]:
        self.setup("fit")
        assert self._train_set is not None
        return make_dataloader(self._train_set, self._train_settings.get("dataloader_kwargs"), where="data.train")

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        self.setup("validate")
        assert self._val_sets is not None
        return [
            make_dataloader(dataset, settings.get("dataloader_kwargs"), where=where)
            for dataset, (where, settings) in zip(self._val_sets, self._val_sections, strict=True)
        ]

    def _make_train_set(self) -> Dataset[Sample]:
        self._require_folders("data.train", self._train_settings)
        settings = _without_loader(self._train_settings)
        return call_with_settings(make_train_dataset, settings, where="data.train")

    def _make_val_set(self, where: str, settings: dict[str, Any]) -> Dataset[Sample]:
        self._require_folders(where, settings)
        return make_default_val_dataset(**_without_loader(settings), where=where)

    def _require_folders(self, where: str, settings: dict[str, Any]) -> None:
        """The data sets would complain too, but know neither the config key nor the command that helps."""
        indir = settings.get("indir")
        if not indir:
            raise InputError(f"{where}.indir: missing config key; set it to a folder of images")
        for folder in folders_of(indir):
            if not os.path.isdir(folder):
                hint = f", or prepare the data: {self.prepare_hint}" if self.prepare_hint else ""
                raise InputError(f"{where}.indir: no folder {folder}; set it or location.data_root_dir{hint}")


def _without_loader(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "dataloader_kwargs"}
