"""The training data of lama-small: tiles of photographs that packages ship, drawn patterns, photographs held out."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from saicinpainting.data.preparation.patterns import draw_pattern
from saicinpainting.data.preparation.photographs import Found
from saicinpainting.data.preparation.tiles import Cutting, activity, cut_tiles
from saicinpainting.io.files import write_whole
from saicinpainting.io.folders import images_in
from saicinpainting.io.images import read_image, save_image
from saicinpainting.utils import InputError

SOURCES = "sources.json"
FOLDERS = ("train", "val", "held_out")


@dataclass(frozen=True)
class Recipe:
    """How the data is made.

    Args:
        seed: of all draws; the same photographs, seed and version of numpy give the same files.
        quality: of the tiles' JPEG files.
        patterns: share of the training tiles that are drawn.
        held_out_side, val_side: the shorter side of these photographs at most, in pixels.
    """

    seed: int = 0
    quality: int = 95
    patterns: float = 0.12
    held_out_side: int = 1024
    val_side: int = 512
    cutting: Cutting = field(default_factory=Cutting)


def write_data(found: Sequence[Found], outdir: Path, recipe: Recipe) -> dict[str, Any]:
    """Write train/ (JPEG tiles), val/ and held_out/ (PNG photographs) and sources.json into `outdir`.

    Returns:
        What sources.json says: the recipe, the number of tiles, and every photograph with its author and licence.

    Raises:
        InputError: nothing to train on, or `outdir` has been written before.
    """
    if not any(one.photograph.role == "train" for one in found):
        raise InputError("no photograph to train on: all packages are left out or missing; give --photos FOLDER")
    for name in FOLDERS:
        if (outdir / name).exists():
            raise InputError(f"{outdir / name} exists; give an empty folder: a training may be reading this one")
    unfinished = outdir / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a start that was interrupted
    for name in FOLDERS:
        (unfinished / name).mkdir(parents=True)
    tiles: Counter[str] = Counter()
    for one in tqdm(found, desc="photographs", unit="photograph"):
        name, role = one.photograph.name, one.photograph.role
        image = read_image(one.path)
        if role == "train":
            rng = np.random.default_rng([recipe.seed, zlib.crc32(name.encode())])
            for tile in cut_tiles(image, recipe.cutting, rng):
                path = unfinished / "train" / f"{name}_{tile.side}_{tile.left}_{tile.top}.jpg"
                save_image(tile.image, path, quality=recipe.quality)
                tiles[name] += 1
        else:
            side = recipe.val_side if role == "val" else recipe.held_out_side
            save_image(shrink(image, side), unfinished / role / f"{name}.png")
    drawn = _write_patterns(unfinished / "train", recipe)
    facts = {
        "recipe": asdict(recipe),
        "tiles": {"photographs": sum(tiles.values()), "patterns": drawn},
        "photographs": [{**one.describe(), "tiles": tiles[one.photograph.name]} for one in found],
    }
    write_whole(unfinished / SOURCES, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    for name in (*FOLDERS, SOURCES):
        os.replace(unfinished / name, outdir / name)
    unfinished.rmdir()
    return facts


def _write_patterns(folder: Path, recipe: Recipe) -> int:
    """Draw patterns until they are the recipe's share of the tiles; tiles of photographs lie behind fences."""
    tiles = images_in(folder)
    count = round(len(tiles) * recipe.patterns / (1 - recipe.patterns))
    for i in tqdm(range(count), desc="patterns", unit="pattern"):
        rng = np.random.default_rng([recipe.seed, i])
        behind = np.asarray(read_image(folder / tiles[int(rng.integers(len(tiles)))]))
        image = Image.fromarray(draw_pattern(recipe.cutting.size, behind, rng))
        while activity(image) < recipe.cutting.dull:  # the colours drawn for its parts are nearly the same
            image = Image.fromarray(draw_pattern(recipe.cutting.size, behind, rng))
        save_image(image, folder / f"pattern_{i:05d}.jpg", quality=recipe.quality)
    return count


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The photograph with its shorter side at most `side`."""
    scale = min(1.0, side / min(image.size))
    width, height = (round(length * scale) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def describe(facts: dict[str, Any], missing: Iterable[str]) -> str:
    """Where everything comes from, a line for each photograph, and what is missing."""
    photographs, tiles = facts["photographs"], facts["tiles"]
    roles = Counter(p["role"] for p in photographs)
    lines = [
        f"{p['role']:9}{p['name']:18}{p['package']} {p['version']}: {p['file']} ({p['author']}, {p['licence']})"
        for p in photographs
    ]
    lines += [f"missing  {line}" for line in missing]
    total = f"{tiles['photographs']} tiles of {roles['train']} photographs, {tiles['patterns']} drawn patterns"
    lines.append(f"train/: {total}; val/: {roles['val']}; held_out/: {roles['held_out']}")
    return "\n".join(lines)
