"""The data of a training run: one training set and the evaluation sets that are scored after every epoch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from saicinpainting.data.datasets import (
    FOLDER_KINDS,
    InpaintingTrainDataset,
    make_dataloader,
    make_default_val_dataset,
    make_train_dataset,
    plain,
)
from saicinpainting.data.loading import ImageIssue
from saicinpainting.data.pairs import InpaintingDataset, InpaintingEvalOnlineDataset, Sample
from saicinpainting.data.sampler import MicroBatchSampler, TrainSampler, count_batches, equal_size_batches, share_of
from saicinpainting.data.sources import folders_of
from saicinpainting.data.verification import verify_images
from saicinpainting.io.images import ceil_modulo
from saicinpainting.utils import InputError, call_with_settings, check_whole

LOGGER = logging.getLogger(__name__)
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Config section `data`.

    Args:
        train: the training set: arguments of `make_train_dataset`, `epoch_images` and `dataloader_kwargs`.
        val: the set that checkpoints are judged by: arguments of `make_default_val_dataset` and `dataloader_kwargs`;
            with null nothing is validated, `visual_test` and `extra_val` neither, and there is no `best.ckpt`.
        visual_test: a set of which every image is drawn; null for none.
        extra_val: further validation sets by name; null for none.
        batch_size: training images of a process in a micro-batch, for `train.dataloader_kwargs` to refer to.
        total_batch_size: training images of a step over all processes. Each of them computes as many micro-batches,
            one after another, as that takes; null: one.
        val_batch_size: images of a process in a batch of validation, to refer to.
        num_workers: processes that read images, to refer to.
    """

    train: dict[str, Any]
    val: dict[str, Any] | None
    visual_test: dict[str, Any] | None = None
    extra_val: dict[str, Any] | None = None
    batch_size: int | None = None
    total_batch_size: int | None = None
    val_batch_size: int | None = None
    num_workers: int | None = None


class Start(NamedTuple):
    """Where training begins: in which epoch, after how many of its images over all processes, with which batch."""

    epoch: int = 0
    images: int = 0
    batches: int = 0


class _EvaluationSet(NamedTuple):
    """The set of config section `where`; sizes: (H, W) of its samples."""

    where: str
    dataset: Dataset[Sample]
    sizes: list[tuple[int, int]]
    loader_settings: dict[str, Any]


class InpaintingDataModule(pl.LightningDataModule):
    """Builds the loaders of config section `data`.

    `train`, `val`, `visual_test` and the entries of `extra_val`: arguments of the data sets' makers, and
    `dataloader_kwargs`. `prepare_hint`: the command that prepares the data, told where a folder is missing.
    `image_channels`: of all images, see `io.images.in_channels`. `seed` decides order, augmentation and masks.
    `val_titles`: the names of the evaluation sets in the order of
    `val_dataloader()`. The processes of a trainer share the images among them. `micro_batches`: how many a training
    batch is made of, one after another; each has the images that a process of its own would have.
    """

    def __init__(
        self,
        *,
        train: Settings,
        val: Settings | None,
        visual_test: Settings | None = None,
        extra_val: Mapping[str, Settings] | None = None,
        prepare_hint: str = "",
        seed: int = 0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.prepare_hint, self.seed, self.image_channels = prepare_hint, seed, image_channels
        self._train_settings = plain(train)
        self._train_loader = plain(self._train_settings.pop("dataloader_kwargs", None))
        sections = {"val": ("data.val", val)} if val else {}
        if val and visual_test:
            sections["test"] = ("data.visual_test", visual_test)
        for name, settings in (extra_val or {}).items() if val else ():
            sections[f"extra_val_{name}"] = (f"data.extra_val.{name}", settings)
        self.val_titles = list(sections)
        self._val_sections = [(where, plain(settings)) for where, settings in sections.values()]
        self._train_set: InpaintingTrainDataset | None = None
        self._val_sets: list[_EvaluationSet] | None = None
        self.micro_batches = 1
        self._start = Start()
        self._copies: torch.cuda.Stream | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find the files; `stage` `validate` needs no training images. Those of the evaluation sets are looked at."""
        if self._train_set is None and stage in (None, "fit"):
            self._train_set = self._make_train_set()
        if self._val_sets is None:
            self._val_sets = [self._make_val_set(where, s) for where, s in self._val_sections]

    def teardown(self, stage: str) -> None:
        """At the end of a run, tell what was unusual about its images."""
        if stage == "fit" and self._train_set is not None and self._processes()[0] == 0:
            found = self._train_set.images.issues()
            unusual = [f"{n} {issue.name.lower()}" for issue, n in found.items() if issue != ImageIssue.ORDINARY]
            if unusual:
                LOGGER.warning("data.train: of %d images seen %s", sum(found.values()), ", ".join(unusual))

    # ---- training -----------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Sample]:
        rank, world_size = self._processes()
        samplers = [self._sampler(rank * self.micro_batches + i, world_size) for i in range(self.micro_batches)]
        for sampler in samplers:
            sampler.begin_at(self._start.epoch, self._start.images)
        settings = _without_order(self._train_loader, where="data.train")
        if self.micro_batches == 1:
            return self._loader(self._images(), {**settings, "sampler": samplers[0]}, where="data.train")
        drop_last = bool(settings.pop("drop_last", False))
        settings.pop("batch_size", None)
        batches = MicroBatchSampler(samplers, self.micro_batch_size(), drop_last=drop_last)
        return self._loader(self._images(), {**settings, "batch_sampler": batches}, where="data.train")

    def train_images(self) -> int:
        """How many training images there are."""
        return len(self._images())

    def epoch_images(self) -> int:
        """Training images of an epoch, over all processes: `data.train.epoch_images`, unless told otherwise all."""
        wanted = self._train_settings.get("epoch_images")
        if wanted is not None and (type(wanted) is not int or wanted < 1):
            raise InputError(f"data.train.epoch_images: expected a number of images or null, got {wanted!r}")
        return wanted or self.train_images()

    def images(self) -> dict[str, int]:
        """How many images each set has, by its config section."""
        self.setup()
        assert self._val_sets is not None
        return {"data.train": self.train_images(), **{one.where: len(one.sizes) for one in self._val_sets}}

    def batch_size(self, world_size: int | None = None) -> int:
        """Training images of a step, over all of `world_size` processes; None asks the trainer how many there are."""
        return self.micro_batch_size() * self.micro_batches * (world_size or self._processes()[1])

    def train_batches(self, world_size: int | None = None) -> int:
        """Batches of an epoch in each of `world_size` processes; None asks the trainer how many there are."""
        batches = self._batches_of(len(self._sampler(0, world_size or self._processes()[1])))
        if not batches:
            raise InputError(
                f"data.train.dataloader_kwargs.drop_last=true leaves no batch: {self.train_images()} images, batches "
                f"of {self.micro_batch_size()} in every process; lower data.batch_size or set drop_last=false"
            )
        return batches

    def begin_at(self, epoch: int, images: int, *, steps: int = 0, limit: int | None = None) -> int:
        """Begin with `epoch` after its first `images`, counted over all processes.

        Args:
            steps: of the epoch that are done; they count where `limit` does.
            limit: the most steps of an epoch, whatever their batches hold.

        Returns:
            The number of the batch to begin with, such that the batches that are left end with the epoch.
        """
        rank, world_size = self._processes()
        sampler = self._sampler(rank * self.micro_batches, world_size)
        left = self._batches_of(len(sampler) - sampler.begin_at(epoch, images))
        total = self.train_batches()
        batches = total - left
        if limit is not None and limit < total:
            batches = max(min(steps, limit), limit - left)
        self._start = Start(epoch, images, batches)
        return batches

    def images_done(self, epoch: int, batches: int) -> int:
        """Images that all processes together have seen after `batches` of `epoch`."""
        before = self._start if epoch == self._start.epoch else Start()
        done = before.images + (batches - before.batches) * self.batch_size()
        return min(done, self.epoch_images())

    def _images(self) -> InpaintingTrainDataset:
        self.setup("fit")
        assert self._train_set is not None
        return self._train_set

    def _sampler(self, rank: int, world_size: int) -> TrainSampler:
        """rank: of a micro-batch among those of all `world_size` processes."""
        return TrainSampler(
            self.train_images(),
            seed=self.seed,
            shuffle=bool(self._train_loader.get("shuffle")),
            rank=rank,
            world_size=world_size * self.micro_batches,
            epoch_images=self.epoch_images(),
            shuffler=self._images().source.shuffler(),
            mixture=self._images().source.mixture(),
        )

    def shares(self) -> list[float]:
        """Of the training folders, with the sum 1; empty where a pass has each image once."""
        mixture = self._images().source.mixture()
        return [] if mixture is None else mixture.shares.tolist()

    def describe_shares(self) -> Iterator[str]:
        """A line on each training folder that has a share: what it means in images."""
        mixture, epoch = self._images().source.mixture(), self.epoch_images()
        if mixture is None:
            return
        for folder, share, size in zip(self._train_settings["indir"], self.shares(), mixture.sizes, strict=True):
            yield (
                f"{folder}: {share:.1%}, {share * epoch:,.0f} of an epoch's {epoch:,} images; each of its {size:,} "
                f"comes {share * epoch / size:.2f} times"
            )

    def _processes(self) -> tuple[int, int]:
        """Rank and number of the trainer's processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def micro_batch_size(self) -> int:
        """Training images of a micro-batch in one process."""
        return _batch_size(self._train_loader, where="data.train")

    def _batches_of(self, images: int) -> int:
        return count_batches(images, self.micro_batch_size(), drop_last=bool(self._train_loader.get("drop_last")))

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        self.setup("validate")
        assert self._val_sets is not None
        return [self._val_loader(one) for one in self._val_sets]

    def require_sizes(self, multiple: int, least: int) -> None:
        """Refuse crops and evaluation images whose sides are not what a network takes, multiples of `multiple` from
        `least` on.

        Raises:
            InputError: it names the key, and the first image.
        """
        crop = None if self._train_set is None else self._train_set.images.fitting.out_size
        if crop is not None and (crop < least or crop % multiple):
            raise InputError(
                f"data.train.out_size={crop}: the network takes multiples of {multiple} from {least} on; set it to "
                f"{ceil_modulo(max(crop, least), multiple)}"
            )
        for where, dataset, sizes, _ in self._val_sets or []:
            names = (name for part in _parts(dataset) for name in part.img_filenames)
            for name, (height, width) in zip(names, sizes, strict=True):
                if min(height, width) < least or height % multiple or width % multiple:
                    raise InputError(
                        f"{where}: {name} comes to {width}x{height} pixels, but the network takes multiples of "
                        f"{multiple} from {least} on; remove it, or set {where}.pad_out_to_modulo="
                        f"{ceil_modulo(least, multiple)}"
                    )

    def _val_loader(self, one: _EvaluationSet) -> DataLoader[Sample]:
        where, dataset, sizes, kwargs = one
        if kwargs.get("shuffle"):
            raise InputError(f"{where}.dataloader_kwargs.shuffle=true: evaluation images keep their order; remove it")
        if kwargs.get("drop_last"):
            raise InputError(f"{where}.dataloader_kwargs.drop_last=true: every evaluation image counts; remove it")
        rank, world_size = self._processes()
        images = len(sizes)
        if images < world_size and rank == 0:
            LOGGER.warning(
                "%s: %d images for %d processes; some count more than once in the metrics", where, images, world_size
            )
        share = share_of(images, rank=rank, world_size=world_size)
        kwargs = _without_order(kwargs, where=where)
        batch_size = _batch_size(kwargs, where=where)
        if batch_size == 1 or len(set(sizes)) == 1:
            return self._loader(dataset, {**kwargs, "sampler": share}, where=where)
        own = {key: value for key, value in kwargs.items() if key not in ("batch_size", "drop_last")}
        batches = equal_size_batches(share, sizes, batch_size)
        return self._loader(dataset, {**own, "batch_sampler": batches}, where=where)

    def _loader(self, dataset: Dataset[Sample], kwargs: dict[str, Any], *, where: str) -> DataLoader[Sample]:
        """For a GPU batches lie in pinned memory, from which they are copied while the host goes on."""
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return make_dataloader(dataset, {"pin_memory": on_gpu, **kwargs}, where=where)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """On a GPU by a stream of its own: the copy runs while the device still computes the step before."""
        if device.type != "cuda":
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        self._copies = self._copies or torch.cuda.Stream(device)
        with torch.cuda.stream(self._copies):
            batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        current = torch.cuda.current_stream(device)
        current.wait_stream(self._copies)
        for value in batch.values():
            if torch.is_tensor(value):
                value.record_stream(current)  # its memory is free again only when that stream is done with it
        return batch

    # ---- data sets ----------------------------------------------------------------------------------------------

    def _make_train_set(self) -> InpaintingTrainDataset:
        settings = {key: value for key, value in self._train_settings.items() if key != "epoch_images"}
        if settings.get("kind", "default") in FOLDER_KINDS and (settings.get("indir") or not settings.get("file_list")):
            self._require_folders("data.train", settings)
        if "image_channels" in settings:
            raise InputError("data.train.image_channels: unknown config key; generator.output_nc decides it")
        settings["image_channels"] = self.image_channels
        return call_with_settings(make_train_dataset, settings, where="data.train")

    def _make_val_set(self, where: str, settings: dict[str, Any]) -> _EvaluationSet:
        self._require_folders(where, settings)
        own = {key: value for key, value in settings.items() if key != "dataloader_kwargs"}
        dataset = make_default_val_dataset(**own, where=where)
        sizes: list[tuple[int, int]] = []
        for part in _parts(dataset):
            part.channels = self.image_channels
            # Another image cannot take an image's place as in training, and the first validation is hours away.
            masks = part.mask_filenames if isinstance(part, InpaintingDataset) else None
            found = verify_images(part.img_filenames, masks, where=where)
            sizes += [part.size_of_sample(height, width) for width, height in found]
        return _EvaluationSet(where, dataset, sizes, plain(settings.get("dataloader_kwargs")))

    def _require_folders(self, where: str, settings: dict[str, Any]) -> None:
        """The data sets would complain too, but know neither the config key nor the command that helps."""
        indir = settings.get("indir")
        if not indir:
            raise InputError(f"{where}.indir: missing config key; set it to a folder of images")
        for folder in folders_of(indir):
            if not os.path.isdir(folder):
                hint = f", or prepare the data: {self.prepare_hint}" if self.prepare_hint else ""
                without = f", or {where}=null to train without" if where in ("data.val", "data.visual_test") else ""
                raise InputError(f"{where}.indir: no folder {folder}; set it or location.data_root_dir{hint}{without}")


def _parts(dataset: Dataset[Sample]) -> list[InpaintingDataset | InpaintingEvalOnlineDataset]:
    parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
    assert all(isinstance(part, (InpaintingDataset, InpaintingEvalOnlineDataset)) for part in parts)
    return cast("list[InpaintingDataset | InpaintingEvalOnlineDataset]", parts)


def _without_order(kwargs: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The loader's settings without the order of the images, which samplers of ours decide."""
    for name in kwargs.keys() & {"sampler", "batch_sampler"}:
        raise InputError(f"{where}.dataloader_kwargs.{name} cannot be set: shuffle and trainer.seed decide the order")
    return {key: value for key, value in kwargs.items() if key != "shuffle"}


def _batch_size(dataloader_kwargs: dict[str, Any], *, where: str) -> int:
    size = dataloader_kwargs.get("batch_size", 1)
    check_whole(f"{where}.dataloader_kwargs.batch_size", size, least=1)
    return int(size)
