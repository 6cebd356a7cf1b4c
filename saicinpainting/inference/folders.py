"""Fill a folder of images with masks."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from saicinpainting.config import GENERATOR_SECTIONS, read_experiment_config, resolved_sections
from saicinpainting.data.pairs import batches_of_equal_size, plan_batches
from saicinpainting.inference.backends import Backend, Batch
from saicinpainting.inference.filling import Filled, Filling, Read
from saicinpainting.inference.results import Pair, claim_results, inputs_digest, results_in
from saicinpainting.io.download import digest_of
from saicinpainting.io.extras import read_extras
from saicinpainting.io.files import set_up_reader
from saicinpainting.io.images import check_ending, write_image
from saicinpainting.io.ranks import Progress, Ranks
from saicinpainting.masks.mask_sets import check_outside
from saicinpainting.networks.models import locate_model
from saicinpainting.utils import InputError, check_whole, did_you_mean

EXISTING = ("keep", "overwrite")
INPUT_SETTINGS = ("concat_mask", "add_noise_kwargs", "noise_fill_hole")
"""Of `training_model`: what the network is given."""
WRITERS = 2
WAITING_WRITES = 16
WAITING_BATCHES = 4


class MaskedImages(Protocol):
    """A data set of images with masks that knows the files of both."""

    mask_filenames: list[str]
    img_filenames: list[str]
    names: list[str]
    """Of the results, without an ending."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Batch: ...
    def size_of_sample(self, height: int, width: int) -> tuple[int, int]: ...


@dataclass
class FolderResults:
    """written: the new files; kept: results that were there; skipped: why, by the mask's name."""

    written: list[Path] = field(default_factory=list)
    kept: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{len(self.written)} images written"]
        parts += [f"{self.kept} were there already"] if self.kept else []
        parts += [f"{len(self.skipped)} skipped"] if self.skipped else []
        return ", ".join(parts)


def predict_folder(
    backend: Backend,
    dataset: MaskedImages,
    indir: str | Path,
    outdir: str | Path = "",
    *,
    out: str | Path | None = None,
    out_ext: str = ".png",
    batch_size: int = 1,
    one_size: bool = False,
    num_workers: int = 0,
    existing: str = "keep",
    made_by: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
) -> FolderResults:
    """Fill every image of `dataset` and write it under its name there, whole or not at all.

    A result has the depth, colour profile, resolution and alpha of its image, as far as its format holds them.
    Reading, computing and writing overlap; on CUDA a batch is prepared and copied while the one before it is computed.
    An image that cannot be read or filled, or does not fit its mask, the memory or the results' format, is skipped.

    Batches are those of all images, whoever computes them. One of which a part is there, as after a kill, is computed
    whole, for what is beside an image changes its rounding.

    Args:
        backend: a batch of images of one padded size in, the filled images (B, C, H, W) in [0, 1] out, on any device.
        dataset: images in its channels, with masks, as `make_default_val_dataset` makes them.
        indir: the folder the data set was made from, or one image.
        outdir: where the results go.
        out: the file of the only result, which is overwritten, in place of `outdir`.
        out_ext: `.png` (lossless) or another ending that OpenCV writes; the dot may be left out.
        batch_size: images of equal padded size that are filled at once; fewer where too many others would wait.
        one_size: they have to be of one size without the padding too, as refinement wants them.
        num_workers: processes that read ahead.
        existing: `keep` keeps the results that would come out the same; `overwrite` replaces every file.
        made_by: what decides the results, kept beside them with digests of their images and masks; results of something
            else are made anew, see `claim_results`. None: what is there is not asked where it is from.
        ranks: the processes that share the batches; all of them call this, and rank 0 gets what all have done.

    Raises:
        InputError: `outdir` holds files of unknown origin where results go; it lies in `indir`; two masks have one
            result; there is `out` for several; another rank finds other images.
    """
    ranks = ranks or Ranks()
    if out is not None:
        made_by, existing = None, "overwrite"
    check_folder_settings(out_ext=out_ext, batch_size=batch_size, num_workers=num_workers, existing=existing, out=out)
    outdir = Path(out).parent if out is not None else Path(outdir)
    if not Path(indir).is_file():
        check_outside(outdir, Path(indir))
    names = [name + Path(mask).suffix for name, mask in zip(dataset.names, dataset.mask_filenames, strict=True)]
    files = [outdir / (name + _ending(out_ext)) for name in dataset.names] if out is None else [Path(out)]
    if len(files) != len(names):
        raise InputError(f"out={out}: expected one image with one mask, found {len(names)}; name a folder with outdir")
    _check_results(files, dataset)
    pairs = list(zip(dataset.img_filenames, dataset.mask_filenames, strict=True))

    claim: dict[str, Any] = {"overwrite": existing == "overwrite", "made_by": made_by}
    planned = ranks.share(lambda: _plan(dataset, files, names, outdir, batch_size, one_size=one_size, **claim))
    if planned["names"] != names:
        raise InputError(
            f"{indir}: rank {ranks.rank} finds other images or masks than rank 0; all need the same folder"
        )
    left, stale = set(planned["left"]), set(planned["stale"])
    results = None if made_by is None else results_in(outdir, ranks.rank)
    batches = ranks.mine(planned["batches"])
    stale.intersection_update(itertools.chain.from_iterable(batches))
    tolerant = _Tolerant(dataset, pairs, [index for batch in batches for index in batch])
    reader = DataLoader(tolerant, batch_size=None, num_workers=num_workers, worker_init_fn=set_up_reader)
    made: list[int] = []
    skipped: dict[int, str] = {}
    with ThreadPoolExecutor(WRITERS) as pool, Progress(ranks, len(left), "predict") as progress:
        writes: list[tuple[int, Future[None]]] = []

        def skip(index: int, reason: str) -> None:
            if index in left:
                skipped[index] = reason
                progress.update()

        def cannot_fill(index: int, reason: str) -> None:
            skip(index, f"{dataset.mask_filenames[index]}: {reason}")

        def size_of(read: Read) -> tuple[int, ...]:
            sample: Any = read.sample
            unpadded = sample.get("unpad_to_size", ()) if one_size else ()
            return (*sample["image"].shape, *unpadded, int(read.extras.deep))

        def write(read: Read, image: np.ndarray) -> None:
            if read.item not in left:
                return
            file = files[read.item]
            # Not before there is something in their place, but all of this rank's at once: results of two origins
            # should not lie side by side.
            while stale:
                files[stale.pop()].unlink(missing_ok=True)
            if results is not None:  # before the result, so that an interruption leaves none without
                file.unlink(missing_ok=True)
                results.add(file.relative_to(outdir).as_posix(), read.inputs)
            writes.append((read.item, pool.submit(write_image, file, image, read.extras)))
            made.append(read.item)
            progress.update()
            while len(writes) > WAITING_WRITES:
                end_write()

        def end_write() -> None:
            index, written = writes.pop(0)
            try:
                written.result()
            except InputError as error:  # its format does not hold it
                made.remove(index)
                skipped[index] = str(error)

        filling, under_way = Filling(backend, write, cannot_fill), deque[Filled]()
        reads = iter(reader)
        for batch in batches:
            read = _readable(itertools.islice(reads, len(batch)), skip)
            # Their headers said that they are of one size.
            for samples in batches_of_equal_size(read, batch_size, size_of, waiting=batch_size):
                if left.isdisjoint(one.item for one in samples):
                    continue  # what is not there of this batch cannot be read
                for filled in filling.start(samples):
                    under_way.append(filled)
                    while len(under_way) > filled.images.is_under_way:
                        filling.finish(under_way.popleft())
        while under_way:
            filling.finish(under_way.popleft())
        while writes:
            end_write()
        all_made: list[dict[str, Any]] = ranks.gather({"made": made, "skipped": skipped}, progress)
    if ranks.first and ranks.count > 1 and made_by is not None:
        results_in(outdir).begin(made_by)  # joins what the ranks have noted
    summary = FolderResults(kept=len(files) - len(left))
    for one in all_made:
        summary.written += [files[index] for index in one["made"]]
        skipped |= one["skipped"]
    summary.skipped = {Path(names[index]).as_posix(): skipped[index] for index in sorted(skipped)}
    return summary


def _plan(
    dataset: MaskedImages,
    files: Sequence[Path],
    names: Sequence[str],
    outdir: Path,
    batch_size: int,
    *,
    one_size: bool,
    overwrite: bool,
    made_by: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What rank 0 tells all: which images are `left`, of which `stale` results are there, the `batches` that these are
    in, and the `names` that it knows.

    Claims `outdir` first.
    """
    pairs = zip(dataset.img_filenames, dataset.mask_filenames, strict=True)
    stale: set[Path] = set()
    if made_by is not None:
        stale = claim_results(outdir, dict(zip(files, pairs, strict=True)), made_by, overwrite=overwrite)
    left = [i for i, file in enumerate(files) if overwrite or file in stale or not file.is_file()]
    batches: list[list[int]] = []
    if left:
        size_of = (lambda *size: size) if one_size else dataset.size_of_sample
        waiting = WAITING_BATCHES * batch_size
        batches = plan_batches(dataset.img_filenames, batch_size, size_of, waiting=waiting)
    missing = set(left)
    return {
        "left": left,
        "stale": [i for i in left if files[i] in stale],
        "batches": [one for one in batches if not missing.isdisjoint(one)],
        "names": names,
    }


def check_folder_settings(
    *, out_ext: str, batch_size: int, num_workers: int, existing: str, out: str | Path | None = None
) -> None:
    """An `InputError` for what `predict_folder` cannot follow, for callers that load a network before it."""
    if existing not in EXISTING:
        raise InputError(f"existing: unknown value {existing!r}; {did_you_mean(str(existing), EXISTING)}")
    check_whole("batch_size", batch_size, least=1)
    check_whole("num_workers", num_workers)
    for setting, ending in (("out_ext", _ending(out_ext)), *([] if out is None else [("out", Path(out).suffix)])):
        try:
            check_ending(ending)
        except InputError as error:
            raise InputError(f"{setting}={out if setting == 'out' else out_ext}: {error}") from error


def origin(model: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`made_by` for `predict_folder`: the checkpoint's content and the settings that decide the pixels.

    Of the run's config too, as far as it says what network the weights are for and what it is given.
    """
    files = locate_model(model["path"], model["checkpoint"])
    checkpoint = files.checkpoint
    if not checkpoint.is_file():
        there = sorted(file.name for file in checkpoint.parent.glob("*.*")) or ["nothing"]
        runs = sorted(config.parent for config in Path(model["path"]).glob("*/config.yaml"))
        hint = f"; model.path={runs[0]} is a run's folder" if runs and files.config is None else ""
        raise InputError(f"no checkpoint {checkpoint}; there are: {', '.join(there)}{hint}")
    made_by = {"checkpoint_sha256": digest_of(checkpoint, "sha256"), **settings}
    if files.config is not None and ".onnx" not in checkpoint.name:  # such a file has its network inside
        sections = resolved_sections(read_experiment_config(files.folder), GENERATOR_SECTIONS)
        given = {key: sections["training_model"].get(key) for key in INPUT_SETTINGS}
        content = json.dumps([sections["generator"], given], sort_keys=True, default=str)
        made_by["config_sha256"] = hashlib.sha256(content.encode()).hexdigest()
    return made_by


def _ending(out_ext: str) -> str:
    ending = "." + out_ext.removeprefix(".")
    if not ending[1:].isalnum():
        raise InputError(f"out_ext: expected an ending such as .png, got {out_ext!r}")
    return ending


def _check_results(files: Sequence[Path], dataset: MaskedImages) -> None:
    """An `InputError` if two masks have one result, or a result would replace a file of the data set."""
    mask_of: dict[Path, str] = {}
    for file, mask in zip(files, dataset.mask_filenames, strict=True):
        if file in mask_of:
            raise InputError(f"{mask_of[file]} and {mask} would both give {file}; rename one of the masks")
        mask_of[file] = mask
    own = {os.path.realpath(file) for file in (*dataset.mask_filenames, *dataset.img_filenames)}
    for file in files:
        if os.path.realpath(file) in own:
            raise InputError(f"the result {file} would replace a file of the data set; choose another outdir")


class _Tolerant(Dataset[Read]):
    """The chosen indices of a data set; what cannot be read is no error."""

    def __init__(self, dataset: MaskedImages, pairs: Sequence[Pair], indices: Sequence[int]) -> None:
        self.dataset, self.pairs, self.indices = dataset, pairs, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Read:
        index = self.indices[i]
        try:
            # The digest first: of a file that changes in between, the next start says so.
            inputs = inputs_digest(self.pairs[index])
            sample, extras = self.dataset[index], read_extras(self.pairs[index][0])
            if sample["image"].shape[0] in (2, 4):  # alpha is painted too
                extras = replace(extras, alpha=None)
            return Read(index, sample, inputs, extras)
        except InputError as error:
            return Read(index, str(error))
        except MemoryError:
            return Read(index, f"{self.pairs[index][0]}: too large for this machine's memory")


def _readable(reader: Iterable[Read], skip: Callable[[int, str], None]) -> Iterator[Read]:
    for read in reader:
        if isinstance(read.sample, str):
            skip(read.item, read.sample)
        else:
            yield read
