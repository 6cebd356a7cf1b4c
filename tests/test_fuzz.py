"""Damaged and hostile files of every kind: the right result or an InputError, within 5 s and 1 GB.

`pytest tests/test_fuzz.py --rounds 20000` for more; round i is the same wherever it is run.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from saicinpainting.config import read_experiment_config, resolved_sections
from saicinpainting.data.loading import decode, decode_labels
from saicinpainting.data.preparation.extraction import extract
from saicinpainting.data.shard_index import read_index
from saicinpainting.io.checkpoint import read_checkpoint, write_checkpoint
from saicinpainting.io.images import load_image, read_image
from saicinpainting.utils import InputError
from tests.helpers import packed
from tests.runs import lightning_1_checkpoint

MOST_SECONDS, MOST_BYTES = 5, 1 << 30
HANGS_AFTER = 120
"""Seconds on the clock, on a machine that does other things; those above are of its processor."""
STATE = {"generator.weight": torch.arange(600.0).reshape(20, 30), "generator.n": torch.tensor(3)}
CONFIG = """\
generator: {kind: ffc_resnet, ngf: 64, n_blocks: '${more.blocks}', name: 'x_${env:USER}'}
training_model: &model {kind: default, concat_mask: true, list: [1, 2.5, null, text]}
more: {blocks: 9, same: *model, merged: {<<: *model, kind: other}}
"""
INTERESTING = (
    *(b"\x00", b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x00" * 8, b"../", b"*a", b"${", b"h\x00", b"\x85"),
    *(b"]", b"[" * 40, b"99999999999", b"\x80\x04\x95"),
)


# ---- whole files, and what is made of what is read ------------------------------------------------------------------


def check_state(path: Path) -> None:
    for name, tensor in read_checkpoint(path)["state_dict"].items():
        assert isinstance(name, str)
        assert torch.is_tensor(tensor)
        tensor.clone()  # every element lies in memory that is its own
        if path.suffix == ".ckpt" and name in STATE:  # the checksums hold
            assert torch.equal(tensor, STATE[name])


def check_legacy(path: Path) -> None:
    for tensor in read_checkpoint(path)["state_dict"].values():
        tensor.clone()


def check_config(path: Path) -> None:
    sections = resolved_sections(read_experiment_config(path.parent), ("generator", "training_model"))
    assert all(isinstance(section, dict) for section in sections.values())


def check_archive(path: Path) -> None:
    out = path.with_name("out") / "deep"
    try:
        extract(path, out)
    finally:
        made = {file.name for file in path.parent.iterdir()} | {file.name for file in out.parent.glob("*")}
        shutil.rmtree(out.parent, ignore_errors=True)
    assert made <= {path.name, "out", "deep"}


def check_image(path: Path) -> None:
    data = path.read_bytes()
    results = []
    for read in (read_image, load_image, lambda p: decode(data, str(p)), lambda p: decode_labels(data, str(p))):
        try:
            results.append(read(path))
        except InputError as error:
            last = error
    if not results:
        raise last


def check_index(path: Path) -> None:
    assert all(".." not in shard.name and len(shard.sha256) == 64 for shard in read_index(str(path)))


def packed_state(zip_format: bool) -> bytes:
    file = io.BytesIO()
    torch.save(lightning_1_checkpoint(STATE), file, _use_new_zipfile_serialization=zip_format)
    return file.getvalue()


def safetensors(folder: Path) -> bytes:
    write_checkpoint({"state_dict": STATE}, folder / "a.safetensors")
    return (folder / "a.safetensors").read_bytes()


def archive(kind: str) -> bytes:
    return packed({f"d/{i}.jpg": random.Random(i).randbytes(700) for i in range(4)}, kind)


def image(ending: str, *, deep: bool = False) -> bytes:
    pixels = np.random.RandomState(0).randint(0, 1 << 16 if deep else 256, (40, 30, 3))
    if deep:
        return cv2.imencode(ending, pixels.astype(np.uint16))[1].tobytes()
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, Image.registered_extensions()[ending])
    return file.getvalue()


def index() -> bytes:
    shard = {"name": "a.tar", "bytes": 2048, "sha256": "0" * 64, "images": 1, "companions": ["segm"]}
    return json.dumps({"format": "lama-shards-1", "shards": [shard] * 3}).encode()


Case = tuple[str, bytes, Callable[[Path], None]]


def cases(folder: Path) -> list[Case]:
    """The name of the file, its content, and what reads it."""
    Image.init()
    return [
        ("a.ckpt", packed_state(True), check_state),
        ("inside.pth", packed_state(True), check_legacy),
        ("a.pth", packed_state(False), check_legacy),
        ("a.safetensors", safetensors(folder), check_legacy),
        ("config.yaml", CONFIG.encode(), check_config),
        *((f"a.{kind or 'tar'}", archive(kind), check_archive) for kind in ("zip", "", "gz", "bz2", "xz")),
        *((f"a{ending}", image(ending), check_image) for ending in (".png", ".jpg", ".webp", ".bmp", ".tif", ".gif")),
        ("deep.png", image(".png", deep=True), check_image),
        ("deep.tif", image(".tif", deep=True), check_image),
        ("index.json", index(), check_index),
    ]


# ---- mutants --------------------------------------------------------------------------------------------------------


def mutant(name: str, content: bytes, dice: random.Random) -> bytes:
    if name == "inside.pth":  # what the archive holds, with the right checksums
        return repacked(content, dice)
    return damaged(content, dice)


def repacked(content: bytes, dice: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, damaged(data, dice) if entry.filename.endswith("data.pkl") else data)
    return file.getvalue()


def damaged(content: bytes, dice: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 5, 20))):
        place = dice.randrange(len(data) + 1)
        end = min(len(data), place + dice.choice((1, 4, 30, 300)))
        how = dice.randrange(7)
        if how == 0:
            del data[place:]
        elif how == 1:
            data[place:place] = dice.choice(INTERESTING)
        elif how == 2:
            odd = dice.choice(INTERESTING)
            data[place : place + len(odd)] = odd
        elif how == 3:
            del data[place:end]
        elif how == 4:
            data[place:place] = data[place:end] * dice.choice((1, 3, 50))
        elif how == 5:
            other = dice.randrange(len(data) + 1)
            data[place:end] = data[other : other + end - place]
        elif place < len(data):
            data[place] ^= 1 << dice.randrange(8)
    return bytes(data)


# ---- workers --------------------------------------------------------------------------------------------------------


def memory(kind: str) -> int:
    """`VmRSS`, what the process has, or `VmHWM`, the most it had."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) << 10


def work(pipe: Connection, folder: Path, all_cases: list[Case], first: int, rounds: int) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # progress bars, and what the decoders say
    for number in range(first, rounds):
        pipe.send((number, None))
        pipe.send((number, attempt(folder, all_cases, number)))


def attempt(folder: Path, all_cases: list[Case], number: int) -> str:
    """`right`, `refused`, or what is wrong."""
    dice = random.Random(number)
    name, content, check = all_cases[number % len(all_cases)]
    path = folder / f"case{number % len(all_cases)}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutant(name, content, dice))
    Path("/proc/self/clear_refs").write_text("5")  # the most begins anew
    before, began, outcome = memory("VmRSS"), time.process_time(), "right"
    try:
        check(path)
    except InputError as error:
        outcome = "refused" if "\n" not in str(error) else f"of several lines: {error}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    if (took := time.process_time() - began) > MOST_SECONDS:
        return f"{took:.1f} s"
    if (more := memory("VmHWM") - before) > MOST_BYTES:
        return f"{more >> 20} MiB"
    return outcome


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
def test_a_damaged_file_is_read_right_or_refused(tmp_path: Path, request: pytest.FixtureRequest):
    rounds = request.config.getoption("--rounds")
    all_cases = cases(tmp_path)
    for name, content, check in all_cases:
        (tmp_path / name).write_bytes(content)
        if "inside" not in name:
            (tmp_path / "whole").mkdir(exist_ok=True)
            (tmp_path / "whole" / name).write_bytes(content)
            check(tmp_path / "whole" / name)  # as it is, it is read
            shutil.rmtree(tmp_path / "whole")
    context, done, faults = multiprocessing.get_context("fork"), 0, dict[int, str]()
    counts = {"right": 0, "refused": 0}
    while done < rounds:
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(theirs, tmp_path, all_cases, done, rounds))
        worker.start()
        theirs.close()
        try:
            while done < rounds:
                if not ours.poll(HANGS_AFTER):
                    raise TimeoutError("never ends")
                number, outcome = ours.recv()
                if outcome is None:
                    continue
                done = number + 1
                if outcome in counts:
                    counts[outcome] += 1
                else:
                    faults[number] = outcome
        except (EOFError, TimeoutError) as error:
            faults[done] = str(error) or "the process died"
            done += 1
            worker.kill()
        worker.join()
    shown = {f"round {number} ({all_cases[number % len(all_cases)][0]})": fault for number, fault in faults.items()}
    print(f"{rounds} rounds: {counts['right']} right, {counts['refused']} refused, {len(faults)} faults")
    assert not faults, json.dumps(dict(list(shown.items())[:20]), indent=1)
    assert min(counts.values()) > rounds // 50
