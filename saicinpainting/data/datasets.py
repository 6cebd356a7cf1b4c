"""Training images with random masks, and the makers of data sets and loaders from config settings."""

from __future__ import annotations

import inspect
import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch.utils.data import ConcatDataset, DataLoader, Dataset, get_worker_info

from saicinpainting.data.aug import Augmentation, get_transforms
from saicinpainting.data.loading import Fitting, ImageLoader
from saicinpainting.data.pairs import InpaintingDataset, InpaintingEvalOnlineDataset, OurInpaintingDataset, Sample
from saicinpainting.data.sampler import SampleKey
from saicinpainting.data.shards import ShardSource
from saicinpainting.data.sources import MASK, SEGM, WHERE, FolderSource, ImageSource, PathLike
from saicinpainting.data.workers import RunDataLoader, set_up_worker
from saicinpainting.io.connection import without_secrets
from saicinpainting.masks.generators import MaskGenerator, MaskRandom
from saicinpainting.masks.mixed import get_mask_generator
from saicinpainting.utils import InputError, build, call_with_settings, check_kind, check_known_keys, check_whole

LOGGER = logging.getLogger(__name__)


class InpaintingTrainDataset(Dataset[Sample]):
    """Augmented crops of a source's images with random masks.

    Samples: `image` float32 (C, H, W) in [0, 1]; `mask` float32 (1, H, W), 1 = hole; `segm` int64 (H, W), classes,
    where the source has semantic maps. A `SampleKey` decides all of a sample; asked for by its plain index, a sample
    takes its randomness from torch's generator, which a loader seeds in each worker and epoch.

    Args:
        mask_generator: draws the masks; None takes each image's own, which the source must have.
        out_size: the side that every image must have after `transform`; None leaves it open.
        max_failures: the share of unusable images that stops a run.
        channels: of the images, which `transform` has to take.
    """

    def __init__(
        self,
        source: ImageSource,
        mask_generator: MaskGenerator | None,
        transform: Augmentation,
        out_size: int | None = None,
        max_failures: float = 0.05,
        channels: int = 3,
    ) -> None:
        wanted = [name for name in (SEGM, *([MASK] if mask_generator is None else [])) if name in source.labels]
        if mask_generator is None and MASK not in wanted:
            raise InputError(f"{WHERE}.mask_generator_kind: paired needs each image's own mask; set {WHERE}.mask_indir")
        fitting = Fitting(out_size, crops=transform.crops, channels=channels)
        self.images = ImageLoader(source, fitting=fitting, max_failures=max_failures, labels=wanted)
        self.mask_generator, self.transform = mask_generator, transform
        self._random = MaskRandom.seeded(0)
        self._drawn = 0

    @property
    def source(self) -> ImageSource:
        return self.images.source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int | SampleKey) -> Sample:
        key = item if isinstance(item, SampleKey) else self._drawn_key(item)
        _, loaded = self.images.load(key.image)
        image, labels = self.transform(loaded.pixels, key.seed, loaded.labels)
        if self.mask_generator is None:
            mask = (labels[MASK] > 0).astype(np.float32)[None]
        else:
            mask = self.mask_generator(image, iter_i=key.samples_before, rng=self._random.reseed(key.seed))
        segm = {SEGM: labels[SEGM].astype(np.int64)} if SEGM in labels else {}
        return {"image": image, "mask": mask, **segm}

    def _drawn_key(self, item: int) -> SampleKey:
        # The index takes part because ranks may start from the same seed; they see different images.
        seed = (int(torch.randint(2**31, ()).item()) + item * 0x9E3779B1) % 2**32
        worker = get_worker_info()
        # Each worker counts its own share of the samples.
        samples_before = self._drawn if worker is None else self._drawn * worker.num_workers + worker.id
        self._drawn += 1
        return SampleKey(item, seed, samples_before)


def _folder_source(
    *,
    indir: PathLike | Sequence[PathLike] | Mapping[str, float] | None = None,
    file_list: PathLike | None = None,
    mask_indir: PathLike | None = None,
    segm_indir: PathLike | None = None,
    semantic_seg_n_classes: int | None = None,
) -> FolderSource:
    if not indir and not file_list:
        raise InputError(f"{WHERE}.indir: missing config key; set it to a folder of images")
    if semantic_seg_n_classes is not None:
        LOGGER.warning("%s.semantic_seg_n_classes: has no effect; segm holds the numbers of the classes", WHERE)
    labels = {name: folder for name, folder in ((MASK, mask_indir), (SEGM, segm_indir)) if folder}
    return FolderSource(indir or None, file_list=file_list, labels=labels)


TRAIN_SOURCES: dict[str, Callable[..., ImageSource]] = {
    "default": _folder_source,
    "img_with_segm": _folder_source,
    "shards": ShardSource,
}
FOLDER_KINDS = ("default", "img_with_segm")


def make_train_dataset(
    indir: PathLike | Sequence[PathLike] | Mapping[str, float] | None = None,
    kind: str = "default",
    out_size: int = 512,
    mask_gen_kwargs: Mapping[str, Any] | None = None,
    transform_variant: str | Mapping[str, Any] = "default",
    mask_generator_kind: str = "mixed",
    max_failures: float = 0.05,
    image_channels: int = 3,
    **source: Any,
) -> InpaintingTrainDataset:
    """The training data set; arguments are the keys of config section `data.train`.

    Args:
        kind: of the source, one of `TRAIN_SOURCES`; `source` and `indir` are its settings.
        mask_generator_kind: a kind of mask generator, or `paired` for each image's own mask.
        max_failures: the share of unusable images that stops a run.
        image_channels: no key: `generator.output_nc`.
    """
    if kind == "default_web":  # the official code's shards
        raise InputError(
            f"{WHERE}.kind: {kind} is gone; set kind=shards and indir to the folder or address of the shards' index "
            "(bin/make_shards.py --index makes it), and remove shuffle_buffer"
        )
    settings = {**source, "kind": kind, **({"indir": indir} if indir else {})}
    if source.get("_target_") is None:
        check_whole(f"{WHERE}.out_size", out_size, least=1)
        if isinstance(indir, Mapping) and kind not in FOLDER_KINDS:
            raise InputError(f"{WHERE}.indir: only folders of images have shares, not kind={kind}; name one place")
        check_kind(kind, TRAIN_SOURCES, where=WHERE)  # before its settings, which another kind may not have
        makers: list[Callable[..., Any]] = [make_train_dataset, TRAIN_SOURCES[kind]]
        known = {name for maker in makers for name in inspect.signature(maker).parameters}
        known -= {"source", "image_channels"}
        check_known_keys(settings, known, where=WHERE)
    if kind == "img_with_segm" and not source.get("segm_indir"):
        raise InputError(f"{WHERE}.segm_indir: missing config key; set it to the folder of the semantic maps")
    place = without_secrets(str(indir or source.get("file_list")))
    LOGGER.info("training images: %s (%s), masks: %s", place, source.get("_target_") or kind, mask_generator_kind)
    masks = None
    if mask_generator_kind != "paired":
        masks = get_mask_generator(mask_generator_kind, plain(mask_gen_kwargs), where=f"{WHERE}.mask_gen_kwargs")
        if source.get("mask_indir"):
            raise InputError(f"{WHERE}.mask_indir: only mask_generator_kind=paired uses it, not {mask_generator_kind}")
    return InpaintingTrainDataset(
        build(TRAIN_SOURCES, settings, where=WHERE, interface=ImageSource),
        masks,
        get_transforms(transform_variant, out_size, image_channels),
        out_size,
        max_failures,
        image_channels,
    )


def make_default_train_dataloader(
    *args: Any, dataloader_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
) -> DataLoader[Sample]:
    """Training loader of `make_train_dataset(*args, **kwargs)`."""
    return make_dataloader(make_train_dataset(*args, **kwargs), dataloader_kwargs, where=WHERE)


def _make_online_dataset(
    indir: PathLike,
    mask_generator_kind: str | None = None,
    mask_gen_kwargs: Mapping[str, Any] | None = None,
    img_suffix: str | None = ".jpg",
    pad_out_to_modulo: int | None = None,
    scale_factor: float | None = None,
) -> InpaintingEvalOnlineDataset:
    masks = get_mask_generator(mask_generator_kind, plain(mask_gen_kwargs))
    return InpaintingEvalOnlineDataset(indir, masks, img_suffix, pad_out_to_modulo, scale_factor)


VAL_DATASETS: dict[str, Callable[..., Dataset[Sample]]] = {
    "default": InpaintingDataset,
    "our_eval": OurInpaintingDataset,
    "online": _make_online_dataset,
}


def make_default_val_dataset(
    indir: PathLike | Sequence[PathLike],
    kind: str = "default",
    out_size: int | None = None,
    transform_variant: str | None = None,
    *,
    where: str = "dataset",
    **kwargs: Any,
) -> Dataset[Sample]:
    """Images with masks for validation and prediction; several folders are joined.

    `kwargs`: `img_suffix`, `pad_out_to_modulo`, `scale_factor`; kind `online` also `mask_generator_kind` and
    `mask_gen_kwargs`. `out_size` and `transform_variant` come from old configs; giving them is reported, since
    evaluation neither crops nor changes images.
    """
    if out_size is not None or transform_variant is not None:
        LOGGER.warning("%s: out_size and transform_variant have no effect on evaluation images", where)
    if not isinstance(indir, (str, os.PathLike)):
        return ConcatDataset([make_default_val_dataset(folder, kind, where=where, **kwargs) for folder in indir])
    LOGGER.info("evaluation images: %s (%s)", indir, kind)
    folder = "datadir" if kind in ("default", "our_eval") else "indir"
    return build(VAL_DATASETS, {**plain(kwargs), "kind": kind, folder: indir}, where=where)


def check_prediction_dataset(settings: Mapping[str, Any]) -> None:
    """An `InputError` unless these are settings for `make_default_val_dataset` of images that have mask files.

    The folder and the masks are named outside of them.
    """
    check_kind(settings["kind"], ("default", "our_eval"), where="dataset")
    known = {"kind", *inspect.signature(InpaintingDataset).parameters, "out_size", "transform_variant"}
    check_known_keys(settings, known - {"datadir", "mask_path"}, where="dataset")


def make_default_val_dataloader(
    *args: Any, dataloader_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
) -> DataLoader[Sample]:
    """Loader of `make_default_val_dataset(*args, **kwargs)`."""
    dataset = make_default_val_dataset(*args, **kwargs)
    return make_dataloader(dataset, dataloader_kwargs, where=kwargs.get("where", "dataset"))


def make_dataloader(
    dataset: Dataset[Sample], dataloader_kwargs: Mapping[str, Any] | None, *, where: str
) -> DataLoader[Sample]:
    """`RunDataLoader`, whose workers live as long as the loader.

    Workers that restarted every epoch would take seconds of it, and restart the masks' ramps where samples are asked
    for by plain indices.
    """
    settings = plain(dataloader_kwargs)
    workers = settings.get("num_workers", 0)
    check_whole(f"{where}.dataloader_kwargs.num_workers", workers)
    settings.setdefault("persistent_workers", workers > 0)
    settings.setdefault("worker_init_fn", set_up_worker)
    if workers:  # as everywhere on this system: ranks of ddp_spawn would spawn theirs, which takes seconds for each
        settings.setdefault("multiprocessing_context", multiprocessing.get_all_start_methods()[0])
    return call_with_settings(RunDataLoader, {**settings, "dataset": dataset}, where=f"{where}.dataloader_kwargs")


def plain(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """A dict of plain containers from a config section, a mapping or None."""
    if OmegaConf.is_config(settings):
        return OmegaConf.to_container(settings, resolve=True)  # type: ignore[return-value]
    return dict(settings or {})
