"""Finding unusual and broken images of a training set before a run meets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
from tqdm import tqdm

from saicinpainting.data.loading import WORDS, Finding, Fitting, failure_of, reason_of
from saicinpainting.data.sources import ImageSource
from saicinpainting.io.files import map_in_processes
from saicinpainting.utils import InputError

CHUNK = 32


class Report(NamedTuple):
    """What was found out about one image; `reason`: why it cannot be used."""

    name: str
    width: int | None
    height: int | None
    finding: Finding
    reason: str = ""

    def __str__(self) -> str:
        detail = f" ({self.reason})" if self.reason else ""
        return f"{self.name} is {WORDS[self.finding]}{detail}"


def check(source: ImageSource, fitting: Fitting, *, n_jobs: int = 1) -> Iterator[Report]:
    """A report of every image, in the order of the source, with a progress bar; `n_jobs` processes read."""
    work = partial(_check_one, source=source, fitting=fitting)
    reports = map_in_processes(
        work,
        range(len(source)),
        n_jobs,
        name_of=source.name,
        chunksize=CHUNK,
        initializer=cv2.setNumThreads,
        initargs=(0,),
    )
    yield from tqdm(reports, total=len(source), unit="image")


def _check_one(index: int, *, source: ImageSource, fitting: Fitting) -> Report:
    try:
        image = fitting.load(source, index, source.companions)
    except (InputError, OSError) as error:
        name = source.name(index)
        return Report(name, None, None, failure_of(error), reason_of(error, name))
    height, width = image.pixels.shape[:2]
    return Report(source.name(index), width, height, image.finding)


@dataclass
class Totals:
    """Counts over the reports of a set."""

    images: int
    found: dict[Finding, int]

    @classmethod
    def of(cls, reports: list[Report]) -> Totals:
        found = [report.finding for report in reports]
        return cls(len(reports), {finding: found.count(finding) for finding in Finding if finding in found})

    @property
    def unusable(self) -> int:
        return sum(count for finding, count in self.found.items() if not finding.usable)

    def __str__(self) -> str:
        ordinary = self.found.get(Finding.ORDINARY, 0)
        lines = [f"{self.images} images, {ordinary} ordinary, {self.unusable} unusable"]
        others = (finding for finding in self.found if finding != Finding.ORDINARY)
        return "\n".join([*lines, *(f"{self.found[finding]:8d} {WORDS[finding]}" for finding in others)])
