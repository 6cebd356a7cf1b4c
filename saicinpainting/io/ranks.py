"""One command as several processes, each a rank: started here for `devices`, or by torchrun on any machines."""

from __future__ import annotations

import io
import itertools
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing import connection
from typing import Any, NoReturn, TypeVar

import torch
from torch.distributed import PrefixStore, TCPStore, rendezvous
from tqdm import tqdm

from saicinpainting.io.signals import GRACE
from saicinpainting.utils import InputError, check_whole

T = TypeVar("T")
HOST = "127.0.0.1"
PATIENCE = timedelta(days=20)
"""How long a rank waits for the others, which may have more to do; one that has ended ends all."""
CHUNK = 4 << 20
"""Bytes of a value in the store, which takes 8 MiB at most."""
LOOK_EVERY = 0.1
"""Seconds between two looks of rank 0 at how far the others are."""
_JOBS = itertools.count()
"""Numbers of the commands that this process has been a rank of: Hydra's sweeps run several, with one store."""


class Ranks:
    """The ranks of a command. Rank 0 plans, collects and writes what there is one of.

    Without arguments: one process, which does all by itself.

    Args:
        rank: of this process, from 0.
        count: of all ranks.
        store: where they exchange values, the same ones in the same order.
        local_rank, local_count: among those of this machine.
    """

    def __init__(
        self, rank: int = 0, count: int = 1, store: Any = None, *, local_rank: int = 0, local_count: int = 1
    ) -> None:
        self.rank, self.count, self.local_rank, self.local_count = rank, count, local_rank, local_count
        self._store = store
        self._numbers = itertools.count()  # of what is exchanged

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share of `items`, which all ranks have: every `count`-th."""
        return items[self.rank :: self.count]

    def share(self, make: Callable[[], T]) -> T:
        """What `make` gives rank 0, which alone calls it; the others wait for it.

        A value is a nest of containers with tensors, texts and numbers.
        """
        if self.count == 1:
            return make()
        key = self._next_key()
        if self.first:
            value = make()
            self._put(key, value)
            return value
        return self._get(key)

    def wait_for_first(self) -> None:
        """Until rank 0 is here, too."""
        self.share(lambda: None)

    def gather(self, value: T, progress: Progress | None = None) -> list[T]:
        """The values of all ranks by rank at rank 0, which waits for them; none at the others. Values: as in `share`.

        progress: shown while rank 0 waits.
        """
        if self.count == 1:
            return [value]
        key = self._next_key()
        if not self.first:
            self._put(f"{key}/{self.rank}", value)
            return []
        values = [value]
        for rank in range(1, self.count):
            while not self._store.check([f"{key}/{rank}"]):
                time.sleep(LOOK_EVERY)
                if progress is not None:
                    progress.update(0)
            values.append(self._get(f"{key}/{rank}", forget=True))
        return values

    def running_sum(self) -> Callable[[int], int]:
        """A function that adds a number to a sum over all ranks, which begins with 0, and returns it."""
        total, key = 0, self._next_key()

        def add(number: int) -> int:
            nonlocal total
            total = total + number if self.count == 1 else int(self._store.add(key, number))
            return total

        return add

    def _next_key(self) -> str:
        return str(next(self._numbers))

    def _put(self, key: str, value: Any) -> None:
        file = io.BytesIO()
        torch.save(value, file)
        data = file.getvalue()
        parts = [data[first : first + CHUNK] for first in range(0, len(data), CHUNK)]
        for number, part in enumerate(parts):
            self._store.set(f"{key}/part{number}", part)
        self._store.set(key, str(len(parts)))  # last: whoever finds it finds all

    def _get(self, key: str, *, forget: bool = False) -> Any:
        keys = [f"{key}/part{number}" for number in range(int(self._store.get(key)))]
        data = b"".join(map(self._store.get, keys))
        for one in keys if forget else ():
            self._store.delete_key(one)
        return torch.load(io.BytesIO(data), weights_only=True)


class Progress:
    """One bar over what all ranks do, shown by rank 0."""

    def __init__(self, ranks: Ranks, total: int, desc: str, unit: str = "image") -> None:
        self._add, self._done = ranks.running_sum(), 0
        self._bar = tqdm(total=total, desc=desc, unit=unit, disable=not ranks.first)

    def update(self, number: int = 1) -> None:
        done = self._add(number)
        self._bar.update(done - self._done)
        self._done = done

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


# ---- which processes there are ---------------------------------------------------------------------------------------


def run_ranks(work: Callable[[dict[str, Any], Ranks], None], settings: Mapping[str, Any]) -> None:
    """Call `work(settings, ranks)` in as many processes as `settings["devices"]` says, or in this one of torchrun's.

    `settings["device"]` becomes the rank's own.

    Args:
        work: a function of a module, and `settings` plain containers, so that other processes can be given both.

    Raises:
        InputError: there are not as many cards; a process was killed.
        Exception: what `work` raised in one of them. It ends all.
    """
    devices, device = settings["devices"], str(settings["device"] or "auto")
    if devices != "auto":
        check_whole("devices", devices, least=1)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ:
        if devices != 1:
            raise InputError(f"devices={devices}: torchrun has started the processes; leave devices out")
        _work_as(_launched_rank(), work, settings)
        return
    cards = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    count = max(cards, 1) if devices == "auto" else devices
    if count == 1:
        work({**settings}, Ranks())
        return
    _own_device(device, 0, count)  # before they start
    _start(work, settings, count)


def _launched_rank() -> Ranks:
    try:
        store, rank, count = next(rendezvous("env://"))
        local_rank, local_count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    except (ValueError, KeyError) as error:  # of a variable that is missing
        raise InputError(f"RANK and WORLD_SIZE are set, but {error}; start it by torchrun") from error
    store.set_timeout(PATIENCE)
    own = PrefixStore(f"lama/{next(_JOBS)}", store)
    return Ranks(rank, count, own, local_rank=local_rank, local_count=local_count)


def _own_device(device: str, local_rank: int, local_count: int) -> str:
    """The device of a rank among `local_count` of its machine, where the setting is `device`."""
    if device == "cpu":
        return device
    if device not in ("auto", "cuda"):
        raise InputError(
            f"device={device} is one device, but there are {local_count} processes; set device=auto or device=cpu"
        )
    cards = torch.cuda.device_count()
    if local_count > cards:
        raise InputError(
            f"{local_count} processes need as many cards, {cards} found; lower devices, or set device=cpu to share it"
        )
    return f"cuda:{local_rank}"


def _work_as(ranks: Ranks, work: Callable[[dict[str, Any], Ranks], None], settings: Mapping[str, Any]) -> None:
    device = _own_device(str(settings["device"] or "auto"), ranks.local_rank, ranks.local_count)
    if device != "cpu":
        torch.cuda.set_device(device)
    if "OMP_NUM_THREADS" not in os.environ:  # each would take all cores
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks.local_count))
    if not ranks.first:
        logging.getLogger().setLevel(logging.WARNING)  # what all have to say, rank 0 says
    work({**settings, "device": device}, ranks)


# ---- starting them ---------------------------------------------------------------------------------------------------


def _start(work: Callable[[dict[str, Any], Ranks], None], settings: Mapping[str, Any], count: int) -> None:
    """Start `count` processes and wait for them; the first that fails ends all."""
    device = str(settings["device"] or "auto")
    server = socket.create_server((HOST, 0))  # TCPStore's own would listen to other machines too
    port = server.getsockname()[1]
    store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach())
    context = multiprocessing.get_context("spawn")  # a fork has no use of CUDA
    running: dict[Any, tuple[int, Any, Any]] = {}
    watched, alive = context.Pipe(duplex=False)  # closed when this process ends the others, or is killed
    handler = signal.signal(signal.SIGTERM, _exit)
    try:
        for rank in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(work, settings, rank, count, port, sender, watched))
            process.start()
            sender.close()
            running[process.sentinel] = rank, process, receiver
        while running:
            for sentinel in connection.wait(list(running)):
                rank, process, receiver = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    raise _error_of(receiver) or InputError(
                        f"rank {rank} of {count} ({_own_device(device, rank, count)}) {_how(process.exitcode)}; the "
                        "others were ended. What is computed stays: the same command goes on from there"
                    )
    finally:
        alive.close()
        deadline = time.monotonic() + GRACE
        for _, process, _ in running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        signal.signal(signal.SIGTERM, handler)
        del store  # which has served them


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


class _RemoteError(Exception):
    """The traceback of an error in another process, as text."""


def _error_of(receiver: Any) -> BaseException | None:
    """What a process has raised; None: it was killed."""
    try:
        error, text = receiver.recv()
    except EOFError:
        return None
    error.__cause__ = _RemoteError(f"\n{text}")
    return error


def _how(status: int) -> str:
    """How a process ended."""
    if status > 0:
        return f"ended with status {status}"
    reason = ", most often because the memory is full" if -status == getattr(signal, "SIGKILL", 0) else ""
    return f"was killed by {signal.Signals(-status).name}{reason}"


def _run(
    work: Callable[[dict[str, Any], Ranks], None],
    settings: Mapping[str, Any],
    rank: int,
    count: int,
    port: int,
    sender: Any,
    watched: Any,
) -> None:
    """A rank, in its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the one that started this, which ends it
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of names that are no UTF-8
    try:
        store = TCPStore(HOST, port, is_master=False)
        store.set_timeout(PATIENCE)
        _work_as(Ranks(rank, count, store, local_rank=rank, local_count=count), work, settings)
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # not every error comes back
            error = RuntimeError(repr(error))
        sender.send((error, text))
        sys.exit(1)


def _end_with(watched: Any) -> None:
    """End this process, and those that read images for it, when the other end of `watched` is closed.

    In a thread, for the main one may be computing, or waiting for another rank.
    """
    connection.wait([watched])
    for reader in multiprocessing.active_children():
        reader.kill()
    os._exit(1)
