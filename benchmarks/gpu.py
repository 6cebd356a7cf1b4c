#!/usr/bin/env python3
"""Run the steps that show what works and how fast on a CUDA card, each within its time; `make gpu`, see docs/gpus.md.

Each step is a few commands that write rows of a table as they go. Past a failure the others follow. What was found so
far stands in OUT after every command: `gpu.json`, `gpu.md`, `gpu.log`, and `trace.json.gz` of step 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

from gpu_machine import NEEDED
from gpu_page import page

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
CPU_LIMIT = 900.0  # seconds; shrunk steps take half a minute on a core of their own
LOOK_EVERY = 2.0  # seconds
LOG_LIMIT = 4_000_000  # bytes; the results of a failing machine are to be sent, too
Row = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A benchmark that takes `--json FILE`, or anything that writes a row a line to $LAMA_GPU_ROWS."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    reserve: float = 0  # seconds of the step that are kept for it, should those before it hang


@dataclass(frozen=True)
class Step:
    number: int
    title: str
    limit: float  # seconds, of all its commands
    commands: Sequence[Command]
    needs: Sequence[str] = ()  # modules besides those of training


def benchmark(name: str, *arguments: str, reserve: float = 0) -> Command:
    return Command([str(BENCHMARKS / f"{name}.py"), *arguments, "--json", ROWS], reserve=reserve)


ROWS = "ROWS"  # stands for the command's file of rows


def make_steps(device: str, out: Path) -> list[Step]:
    """What is run; on a CPU, shrunk so that nothing takes long and every line of it is run."""
    small = device == "cpu"
    threads = ["--threads", "1" if small else str(min(8, os.cpu_count() or 1))]
    on = ["--device", device, *threads]
    networks = ["--overrides", "generator.ngf=4", "generator.n_blocks=1"]
    train = [*on, "--rounds", "1", "--size", "64"] if small else [*on, "--rounds", "3"]
    shrunk = [*networks, "discriminator.ndf=4", "losses.resnet_pl.weight=0"] if small else []
    lama, big = (["--config", config, *train, *shrunk] for config in ("lama-fourier", "big-lama"))
    lama, big = [*lama, "--batch", "2" if small else "10"], [*big, "--batch", "2" if small else "30"]
    tests_on = {"LAMA_GPU_TESTS_DEVICE": device, "NVIDIA_TF32_OVERRIDE": "0"}

    def tests(*chosen: str, reserve: float = 0) -> Command:
        """In a process of its own: after an illegal access no other test of a process can use the card."""
        marked = ["-m", "not costly"] if small else []
        return Command(["-m", "pytest", "-p", "no:cacheprovider", *marked, *chosen], tests_on, reserve)

    first = [f"tests/gpu/test_{name}.py" for name in ("transforms", "networks")]
    rest = ["tests/gpu", *(f"--ignore={file}" for file in first)]
    r1 = ["--batch", "2", "--size", "64", "--ndf", "8", "--rounds", "1"] if small else ["--rounds", "5"]
    sizes = ["64"] if small else ["512", "1024", "2048"]
    predict = [*on, "--sizes", *sizes, "--memory", "--rounds", "1" if small else "3", *(networks if small else [])]
    compiled, tests_of_compiled = [], []
    if not small:
        compiled = [benchmark("train_step", *c, "--variants", "fast_compiled", reserve=20) for c in (lama, big)]
        tests_of_compiled = [tests("tests/gpu/test_training.py", "-k", "compiled", reserve=15)]
    run = ["--small"] if small else []
    steps = [
        Step(1, "train, validate, resume, profile", 60, needs=["tensorboard"], commands=[
            benchmark("train_run", *on, *run, "--trace", str(out / TRACE)),
        ]),
        Step(2, "tests/gpu, TF32 off", 75, needs=["pytest"], commands=[
            tests(*first), tests(*rest, "-k", "not compiled", reserve=30), *tests_of_compiled,
        ]),
        Step(3, "R1's backward pass, both ways", 25, [benchmark("r1_backward", *on, *r1)]),
        Step(4, "training steps", 215, [
            benchmark("train_step", *lama, "--variants", *EAGER),
            benchmark("train_step", *big, "--variants", *(["default"] if small else EAGER), reserve=60),
            *compiled,
        ]),
        Step(5, "prediction", 70, [benchmark("predict", *predict, "--variants", *PREDICTION)]),
        Step(6, "DDP on one card", 35, needs=["tensorboard"], commands=[
            benchmark("train_run", *on, "--small", "--strategy", "ddp"),
        ]),
    ]  # fmt: skip
    return steps


TRACE = "trace.json.gz"
EAGER = ("reference", "default", "fast")
PREDICTION = ("reference", "cufft", "no-tf32", "folded", "bf16", "bf16-graphs", "fp16-graphs")
FILES = ("gpu.json", "gpu.md", "gpu.log", TRACE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", default="1,2,3,4,5,6", help="those to run, as 3,4")
    parser.add_argument("--out", default="", help="default: benchmarks/results/gpu/CARD")
    args = parser.parse_args()
    chosen = re.findall(r"[^\s,]+", args.steps)
    if not chosen or not set(chosen) <= set("123456"):
        refuse(f"STEPS={args.steps}: expected some of 1 to 6, as STEPS=3,4")
    machine = asked_facts(args.device)
    card = re.sub(r"[^A-Za-z0-9._-]+", "-", machine["card"]).strip("-")
    folder = card if len(set(chosen)) == 6 else f"{card}-steps-{'-'.join(chosen)}"  # some do not replace all
    out = Path(args.out or ROOT / "benchmarks" / "results" / "gpu" / folder).resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        refuse(f"cannot write results to {out} ({error.strerror}); OUT=FOLDER takes them elsewhere")
    steps = [step for step in make_steps(args.device, out) if str(step.number) in chosen]
    for number in (signal.SIGTERM, signal.SIGHUP):  # end what is running, too, which is a group of its own
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    results = run_steps(steps, machine, out, device=args.device)
    print(f"results: {out}")
    sys.exit(any(result["status"] != "ok" for result in results))


def refuse(reason: str) -> NoReturn:
    """End where nothing can be run."""
    print(reason, file=sys.stderr)
    sys.exit(2)


def run_steps(steps: Iterable[Step], machine: dict[str, Any], out: Path, *, device: str) -> list[dict[str, Any]]:
    """Each step's status, seconds and rows, which are in `out` as soon as they are known."""
    out.mkdir(parents=True, exist_ok=True)
    keep_earlier(out)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lama-gpu-") as folder, (out / "gpu.log").open("w") as file:
        log = Log(file, {out: "OUT", Path(folder): "WORK"})
        if machine["missing"]:
            log.write(f"missing packages: {', '.join(machine['missing'])}\n")
        if machine.get("older_than_asked"):
            log.write(f"older than pyproject.toml asks for: {', '.join(machine['older_than_asked'])}\n")
        spare = 0.0  # what the steps before left of their time
        for step in steps:
            result: dict[str, Any] = {"step": step.number, "title": step.title, "status": "running", "seconds": 0.0}
            result |= {"limit": round(step.limit + spare) if device == "cuda" else CPU_LIMIT, "rows": []}
            results.append(result)
            publish(machine, results, out)  # also what ran when all was killed
            log.write(f"\n==== step {step.number}: {step.title} ({result['limit']:.0f} s at most)\n")
            lacking = [name for name in machine["missing"] if name in NEEDED or name in step.needs]
            if lacking:
                result |= {"status": "failed", "reason": f"needs {', '.join(lacking)}, which is not installed"}
            else:
                try:
                    run_step(step, result, Path(folder), log, publish=lambda: publish(machine, results, out))
                except BaseException:  # Ctrl-C, or the machine is taken away
                    result["status"] = "stopped"
                    publish(machine, results, out)
                    raise
            spare = max(result["limit"] - result["seconds"], 0)
            log.write(f"==== step {step.number}: {result['status']} after {result['seconds']:.0f} s\n")
            publish(machine, results, out)
    return results


def keep_earlier(out: Path) -> None:
    """Move the results of an earlier start into a folder named by their time."""
    there = [out / name for name in FILES if (out / name).exists()]
    if there:
        ended = max(file.stat().st_mtime for file in there)
        folder = out / time.strftime("%Y-%m-%d-%H%M%S", time.localtime(ended))
        folder.mkdir(exist_ok=True)
        for file in there:
            file.replace(folder / file.name)


def run_step(step: Step, result: dict[str, Any], work: Path, log: Log, *, publish: Any) -> None:
    start = time.monotonic()
    status, rows = "ok", []
    for number, command in enumerate(step.commands):
        file = work / f"rows-{step.number}-{number}"

        def look(before: list[Row] = rows, file: Path = file) -> None:
            """Publish what the command has written so far."""
            found = with_ratios([*before, *read_rows(file)])
            if len(found) > len(result["rows"]):
                result.update(rows=found, seconds=round(time.monotonic() - start, 1))
                publish()

        left = result["limit"] - (time.monotonic() - start)
        share = left - sum(later.reserve for later in step.commands[number + 1 :])
        ended = run_command(command, file, work, log, share, look) if share > 0 else None
        rows = result["rows"]
        result["seconds"] = round(time.monotonic() - start, 1)
        if ended is None:
            status = "over its limit"
            result.setdefault("reason", f"stopped after {result['limit'] - left + max(share, 0):.0f} s")
        elif ended != 0:
            status = "failed" if status == "ok" else status
            result.setdefault("reason", next((row["error"] for row in rows if "error" in row), log.last_line))
        publish()
    result["status"] = status


def run_command(
    command: Command, rows: Path, work: Path, log: Log, limit: float, look: Callable[[], None]
) -> int | None:
    """Its exit status; None if it was still running after `limit` seconds and was killed with all it had started.

    look: called every few seconds meanwhile, and at its end.
    """
    arguments = [str(rows) if argument == ROWS else argument for argument in command.arguments]
    (work / "tmp").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "LAMA_OFFLINE": "1",
        "LAMA_GPU_ROWS": str(rows),
        "TORCH_HOME": str(work / "torch"),
        "TMPDIR": str(work / "tmp"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "PYTHONUNBUFFERED": "1",
        **command.environment,
    }
    log.write(f"$ python {' '.join(arguments)}\n")
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, errors="replace",
        preexec_fn=os.setpgrp,  # not a session, which a job system that kills this one leaves running
    )  # fmt: skip
    reader = threading.Thread(target=log.copy, args=(process.stdout,), daemon=True)
    reader.start()
    ended, end = None, time.monotonic() + limit
    try:
        while ended is None and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ended = process.wait(timeout=min(left, LOOK_EVERY))
            look()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it left behind
        process.wait()
        reader.join(timeout=5)
        look()
    return ended


class Log:
    """The log file and the terminal; without the names of this machine's folders, since it is sent to others."""

    def __init__(self, file: TextIO, folders: Mapping[Path, str]) -> None:
        self.file = file
        self.size = 0
        self.last_line = ""
        names = {str(ROOT): ".", str(Path.home()): "~", sys.prefix: "PYTHON"}
        names |= {str(folder): name for folder, name in folders.items()}
        names |= {entry: "SITE" for entry in sys.path if len(entry) > 1 and not Path(entry).is_relative_to(ROOT)}
        self.names = sorted(names.items(), key=lambda item: -len(item[0]))

    def write(self, text: str) -> None:
        for path, name in self.names:
            text = text.replace(path, name)
        print(text, end="", flush=True)
        if self.size < LOG_LIMIT:
            self.file.write(text)
            self.file.flush()
        self.size += len(text)

    def copy(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)
            if line.strip():
                self.last_line = line.strip()[:300]


def read_rows(file: Path) -> list[Row]:
    """What a command has written so far: `{"rows": […]}` of a benchmark, or a row a line."""
    if not file.is_file():
        return []
    text = file.read_text()
    try:
        return json.loads(text)["rows"]
    except (ValueError, KeyError):
        rows = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # one that was being written
                rows.append(json.loads(line))
        return rows


def with_ratios(rows: list[Row]) -> list[Row]:
    """Ratios to the first row of a case, which another command may have measured."""
    firsts: dict[str, float] = {}
    for row in rows:
        if "ratio" in row:
            firsts.setdefault(row["case"], row["seconds"])
    return [{**row, "ratio": firsts[row["case"]] / row["seconds"]} if "ratio" in row else row for row in rows]


def publish(machine: dict[str, Any], results: list[dict[str, Any]], out: Path) -> None:
    for name, text in {
        "gpu.json": json.dumps({"machine": machine, "steps": results}, indent=1) + "\n",
        "gpu.md": page(machine, results),
    }.items():
        part = out / f".{name}"  # a machine that goes away must not leave half a table
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)


def asked_facts(device: str) -> dict[str, Any]:
    """What gpu_machine.py finds, in a process of its own: this one is not to hold memory of the card."""
    asked = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_machine.py"), device], stdout=subprocess.PIPE, text=True, check=False
    )
    if asked.returncode:
        sys.exit(2)
    return json.loads(asked.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
