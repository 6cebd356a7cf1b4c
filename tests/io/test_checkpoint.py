from __future__ import annotations

import errno
import importlib.util
import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from saicinpainting.io.checkpoint import (
    average_state_dicts,
    read_checkpoint,
    remove_parts,
    without_prefixes,
    write_checkpoint,
)
from saicinpainting.utils import InputError
from tests.runs import lightning_1_checkpoint

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), half=torch.ones(2, dtype=torch.bfloat16), n=torch.tensor(3))


def assert_same_state(state: dict, expected: dict) -> None:
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("zip_format", [True, False])
def test_reads_what_lightning_1_wrote(tmp_path: Path, zip_format: bool):
    torch.save(lightning_1_checkpoint(STATE), tmp_path / "best.ckpt", _use_new_zipfile_serialization=zip_format)
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert_same_state(checkpoint["state_dict"], STATE)
    assert checkpoint["epoch"] == 39
    assert not OmegaConf.is_config(checkpoint["hyper_parameters"])  # an inert stand-in, not the class itself


class Payload:
    def __init__(self, function, *args) -> None:
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("place", ["callbacks", "state_dict", "key"])
def test_a_planted_payload_does_not_run(tmp_path: Path, place: str, zip_format: bool):
    marker = tmp_path / "owned"
    payloads = {
        "system": Payload(os.system, f"touch {marker}"),
        "exec": Payload(exec, f"open({str(marker)!r}, 'w')"),
        "open": Payload(open, str(marker), "w"),
        "getattr": Payload(getattr, os, "mkdir"),
    }
    checkpoint = lightning_1_checkpoint(STATE)
    for name, payload in payloads.items():
        if place == "state_dict":
            checkpoint["state_dict"][name] = payload
        elif place == "callbacks":
            checkpoint["callbacks"][name] = payload
        else:
            checkpoint[payload] = 1
    path = tmp_path / "evil.ckpt"
    # os is a module, which pickle cannot store: it is fetched by import, as an attacker would do it.
    payloads["getattr"].reduced = (getattr, (Payload(__import__, "os"), "system"))
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zip_format)
    assert_same_state(read_checkpoint(path)["state_dict"], STATE)
    assert not marker.exists()
    # The same file does run its payload where pickle is trusted, so the test can fail.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_pickle_cannot_change_the_functions_that_rebuild_tensors(tmp_path: Path):
    # GLOBAL torch._utils _rebuild_tensor_v2, then BUILD with ({}, {"_call": None}).
    evil = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\x00\x00\x00_callNs\x86b."
    path = tmp_path / "evil.ckpt"
    path.write_bytes(evil)
    with pytest.raises(InputError, match=r"evil\.ckpt cannot be read"):
        read_checkpoint(path)
    torch.save({"state_dict": STATE}, tmp_path / "good.ckpt")
    assert_same_state(read_checkpoint(tmp_path / "good.ckpt")["state_dict"], STATE)


def test_a_torchscript_program_is_not_run(tmp_path: Path):
    """Its `__setstate__` would write a file while torch.load reads the archive."""
    marker = tmp_path / "owned"
    source = tmp_path / "program.py"
    source.write_text(
        "import torch\n"
        "class Program(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.w = torch.zeros(1)\n"
        "        self.training = False\n"
        "    @torch.jit.export\n"
        "    def __getstate__(self):\n"
        "        return (self.w, self.training)\n"
        "    @torch.jit.export\n"
        "    def __setstate__(self, state: tuple[torch.Tensor, bool]):\n"
        f"        self.w = torch.from_file({str(marker)!r}, True, 16, dtype=torch.uint8).fill_(65)\n"
        "        self.training = state[1]\n"
        "    def forward(self, x):\n"
        "        return x + self.w\n"
    )
    spec = importlib.util.spec_from_file_location("program", source)
    program = importlib.util.module_from_spec(spec)
    sys.modules["program"] = program
    spec.loader.exec_module(program)
    torch.jit.script(program.Program()).save(str(tmp_path / "evil.ckpt"))
    marker.unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"evil\.ckpt.*no weights in it"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not marker.exists()
    torch.jit.load(str(tmp_path / "evil.ckpt"))
    assert marker.exists()  # so the test can fail


def test_what_is_no_weight_is_left_out(tmp_path: Path):
    torch.save({"state_dict": {**STATE, 3: torch.ones(1), "text": "x"}}, tmp_path / "odd.ckpt")
    assert_same_state(read_checkpoint(tmp_path / "odd.ckpt")["state_dict"], STATE)


def test_a_forced_weights_only_load_keeps_nothing_from_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(lightning_1_checkpoint(STATE), tmp_path / "a.ckpt")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    assert_same_state(read_checkpoint(tmp_path / "a.ckpt")["state_dict"], STATE)


def test_a_bare_state_dict_is_read(tmp_path: Path):
    torch.save(STATE, tmp_path / "generator.pth")
    assert_same_state(read_checkpoint(tmp_path / "generator.pth")["state_dict"], STATE)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_written_checkpoints_come_back(tmp_path: Path, name: str):
    write_checkpoint({"state_dict": STATE, "epoch": 3}, tmp_path / "models" / name)
    state = read_checkpoint(tmp_path / "models" / name)["state_dict"]
    assert_same_state({k: state[k] for k in STATE}, STATE)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [name]  # no half-written file is left


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"state_dict": STATE}, path)
    with pytest.raises(Exception, match=r"pickle|local"):
        write_checkpoint({"state_dict": STATE, "bad": lambda: None}, path)
    assert_same_state(read_checkpoint(path)["state_dict"], STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"ftrt: not a checkpoint", "is no file of torch.save; give the checkpoint"),
        (pickle.dumps([1]), "cannot be read|expected"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(tmp_path / "last.ckpt")
    assert str(tmp_path / "last.ckpt") in str(error.value)


def test_a_truncated_file_is_named(tmp_path: Path):
    torch.save({"state_dict": {"w": torch.rand(1000)}}, tmp_path / "last.ckpt")
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_missing_file_is_an_error_that_lists_what_is_there(tmp_path: Path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(InputError, match=r"best\.ckpt does not exist; there are: last\.ckpt"):
        read_checkpoint(tmp_path / "best.ckpt")


def test_averaging_is_the_mean_of_floats_and_the_first_of_counters():
    states = ({"w": torch.full((2,), float(i), dtype=torch.float16), "n": torch.tensor(i)} for i in (1, 2, 6))
    average = average_state_dicts(states)
    assert average["w"].tolist() == [3, 3]
    assert average["w"].dtype == torch.float16
    assert average["n"] == 1


def test_averaging_different_networks_is_refused():
    with pytest.raises(InputError, match="different networks"):
        average_state_dicts([{"a": torch.ones(1)}, {"b": torch.ones(1)}])


def test_without_prefixes():
    assert without_prefixes({"loss_pl.a": torch.ones(1), "generator.a": torch.ones(1)}, ("loss_pl.",)).keys() == {
        "generator.a"
    }


@pytest.mark.parametrize("how", ["cut", "empty", "zeros", "missing"])
def test_damage_is_found_by_the_checksums(tmp_path: Path, how: str):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"state_dict": {"a": torch.randn(5000, generator=torch.Generator().manual_seed(0))}}, path)
    read_checkpoint(path)
    content = path.read_bytes()
    half = len(content) // 2
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"cut": content[:half], "empty": b"", "zeros": content[:half] + bytes(64) + content[half + 64 :]}[how]
        )
    with pytest.raises(InputError, match=r"last\.ckpt (cannot be read|does not exist)"):
        read_checkpoint(path)


def test_no_damage_to_any_byte_gives_other_weights(tmp_path: Path):
    """Each byte of a small file is changed, and the file cut there: an InputError, or padding that says nothing.

    The last third of the bytes are the archive's directory, which no checksum covers.
    """
    generator = torch.Generator().manual_seed(0)
    state = {f"layer{i}.weight": torch.randn(20, generator=generator) for i in range(3)}
    path = tmp_path / "last.ckpt"
    write_checkpoint({"state_dict": state, "epoch": 3}, path)
    content = path.read_bytes()
    directory = content.index(b"PK\1\2")
    refused = 0
    places = [*range(0, directory, 7), *range(directory, len(content))]
    for i, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= (0x01, 0x10, 0xFF)[i % 3]
        path.write_bytes(content[:place] if i % 10 == 0 else damaged)
        try:
            read = read_checkpoint(path)
        except InputError:
            refused += 1
        else:
            assert read["epoch"] == 3
            assert_same_state(read["state_dict"], state)
    assert len(places) // 4 < refused < len(places)


@pytest.mark.parametrize(
    ("field", "value"), [(46, 0xFF), (10, 99), (8, 1), (38, 0x10)], ids=["name", "method", "encrypted", "folder"]
)
def test_a_damaged_directory_at_the_end_is_named(tmp_path: Path, field: int, value: int):
    path = tmp_path / "last.ckpt"
    write_checkpoint({"state_dict": STATE}, path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\1\2") + field] = value
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"last\.ckpt cannot be read"):
        read_checkpoint(path)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors"])
@pytest.mark.parametrize("limit", [100, 15_000, 20_000])
def test_what_the_disk_refuses_is_told_and_the_old_file_stays(tmp_path: Path, name: str, limit: int):
    """At the first byte, in the weights, and in what torch writes after them."""
    import resource

    write_checkpoint({"state_dict": STATE}, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written: file too large; .*give another path"):
            write_checkpoint({"state_dict": {"a": torch.ones(5000)}}, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(("number", "advice"), [("EIO", "fails; check it"), ("ENOSPC", "; make room")])
def test_only_a_full_disk_wants_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, advice: str):
    def fails(descriptor: int) -> None:
        raise OSError(getattr(errno, number), "It says")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(InputError, match=rf"last\.ckpt cannot be written: it says.*{advice}") as error:
        write_checkpoint({"state_dict": STATE}, tmp_path / "last.ckpt")
    assert ("make room" in str(error.value)) == (number == "ENOSPC")
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_is_not_taken_for_a_full_disk(tmp_path: Path):
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        write_checkpoint({"state_dict": {}, "function": lambda: None}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_half_written_files_are_removed_and_nothing_else(tmp_path: Path):
    for name in ("last.ckpt.part", "best.ckpt.part", "last.ckpt", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "last.ckpt"]


def test_a_name_that_torch_cannot_open_is_told(tmp_path: Path):
    path = tmp_path / os.fsdecode(b"caf\xe9.ckpt")
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"its name is no UTF-8, as torch needs it; rename it"):
        read_checkpoint(path)
