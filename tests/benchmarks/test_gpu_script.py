"""`make gpu`: what its frame does with steps that fail, hang and tell too much; and all of its steps, shrunk."""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers import ROOT, is_running

ROW = "import json, os, sys; print(json.dumps({'case': 'x', 'n': 1}), file=open(os.environ['LAMA_GPU_ROWS'], 'w'))\n"
MACHINE = {"card": "a card", "missing": ["pytest"]}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    return gpu


def run(gpu: Any, out: Path, *codes: str, limit: float = 60, **more: Any) -> list[dict[str, Any]]:
    """Steps of one Python program each."""
    steps = [gpu.Step(i, f"step {i}", limit, [gpu.Command(["-c", c])], **more) for i, c in enumerate(codes, start=1)]
    results = gpu.run_steps(steps, MACHINE, out, device="cuda")
    assert json.loads((out / "gpu.json").read_text()) == {"machine": MACHINE, "steps": results}
    return results


def test_steps_go_on_past_failures(gpu: Any, tmp_path: Path) -> None:
    good, bad, last = run(gpu, tmp_path, ROW, ROW + "print('why it failed'); sys.exit(3)", ROW)
    assert [step["status"] for step in (good, bad, last)] == ["ok", "failed", "ok"]
    assert bad["reason"] == "why it failed"
    assert all(step["rows"] == [{"case": "x", "n": 1}] for step in (good, bad, last))
    page = (tmp_path / "gpu.md").read_text()
    assert "# a card" in page
    assert "| 2 | step 2 | failed |" in page
    assert page.count("| x | 1 |") == 3


def test_a_step_that_hangs_is_killed_with_all_it_started(gpu: Any, tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = ROW + (
        "import subprocess, time\n"
        "process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(child)!r}, 'w').write(str(process.pid))\n"
        "time.sleep(600)"
    )
    start = time.monotonic()
    hung, after = run(gpu, tmp_path / "out", code, ROW, limit=5)
    assert time.monotonic() - start < 60
    assert (hung["status"], hung["limit"]) == ("over its limit", 5)
    assert hung["rows"] == [{"case": "x", "n": 1}]
    assert after["status"] == "ok"
    for _ in range(100):
        if not Path(f"/proc/{child.read_text()}").exists() or "Z" in state_of(child.read_text()):
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process that the step had started runs on")


def state_of(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_steps_stay_in_the_session_that_started_them_so_that_who_ends_it_frees_the_card(
    gpu: Any, tmp_path: Path
) -> None:
    code = "import json, os; json.dump({'group': os.getpgid(0), 'session': os.getsid(0)}, "
    (step,) = run(gpu, tmp_path, code + "open(os.environ['LAMA_GPU_ROWS'], 'w'))")
    (row,) = step["rows"]
    assert row["session"] == os.getsid(0)
    assert row["group"] != os.getpgid(0)


def test_a_step_has_the_time_that_those_before_it_left(gpu: Any, tmp_path: Path) -> None:
    first, second = run(gpu, tmp_path, "", "", limit=100)
    assert (first["limit"], second["limit"]) == (100, 200 - round(first["seconds"]))


def test_rows_are_there_while_later_steps_run(gpu: Any, tmp_path: Path) -> None:
    code = f"import shutil; shutil.copytree({str(tmp_path / 'out')!r}, {str(tmp_path / 'seen')!r})"
    run(gpu, tmp_path / "out", ROW, code)
    first, second = json.loads((tmp_path / "seen" / "gpu.json").read_text())["steps"]
    assert (first["status"], first["rows"]) == ("ok", [{"case": "x", "n": 1}])
    assert (second["status"], second["rows"]) == ("running", [])
    assert "| x | 1 |" in (tmp_path / "seen" / "gpu.md").read_text()


def test_the_machine_is_described_before_the_first_row(gpu: Any, tmp_path: Path) -> None:
    code = f"import shutil; shutil.copytree({str(tmp_path / 'out')!r}, {str(tmp_path / 'seen')!r})"
    run(gpu, tmp_path / "out", code)
    assert json.loads((tmp_path / "seen" / "gpu.json").read_text())["machine"] == MACHINE


def test_rows_are_there_while_the_command_that_wrote_them_runs_on(gpu: Any, tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    code = ROW + (
        "import pathlib, time\n"
        f"page = pathlib.Path({str(page)!r})\n"
        "while not page.exists() or '| x | 1 |' not in page.read_text(): time.sleep(0.1)"
    )
    (step,) = run(gpu, tmp_path, code, limit=30)
    assert step["status"] == "ok"


def test_a_command_that_hangs_leaves_the_next_ones_of_its_step_their_time(gpu: Any, tmp_path: Path) -> None:
    hang, row = gpu.Command(["-c", ROW + "import time; time.sleep(600)"]), gpu.Command(["-c", ROW], reserve=20)
    (step,) = gpu.run_steps([gpu.Step(1, "step", 28, [hang, row])], MACHINE, tmp_path, device="cuda")
    assert (step["status"], step["reason"]) == ("over its limit", "stopped after 8 s")
    assert step["rows"] == [{"case": "x", "n": 1}] * 2


def test_results_of_an_earlier_start_are_kept(gpu: Any, tmp_path: Path) -> None:
    run(gpu, tmp_path, ROW)
    first = (tmp_path / "gpu.json").read_text()
    run(gpu, tmp_path, "")
    (kept,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    assert (kept / "gpu.json").read_text() == first
    assert sorted(os.listdir(kept)) == ["gpu.json", "gpu.log", "gpu.md"]


def test_a_signal_ends_what_runs_and_leaves_its_rows(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = ROW + f"import time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    main = (
        "import gpu\n"
        f"gpu.asked_facts = lambda device: {MACHINE!r}\n"
        f"gpu.make_steps = lambda device, out: [gpu.Step(1, 'step', 60, [gpu.Command(['-c', {code!r}])])]\n"
        "gpu.main()"
    )
    command = [sys.executable, "-c", main, "--steps", "1", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT / "benchmarks", stdout=subprocess.DEVNULL)
    for _ in range(300):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    (step,) = json.loads((tmp_path / "out" / "gpu.json").read_text())["steps"]
    assert (step["status"], step["rows"]) == ("stopped", [{"case": "x", "n": 1}])
    assert not is_running(pid.read_text())


def test_missing_packages_fail_the_steps_that_need_them(gpu: Any, tmp_path: Path) -> None:
    (without,) = run(gpu, tmp_path, ROW, needs=["pytest"])
    (other,) = run(gpu, tmp_path, ROW, needs=["tensorboard"])
    assert (without["status"], without["reason"]) == ("failed", "needs pytest, which is not installed")
    assert other["status"] == "ok"


@pytest.mark.usefixtures("gpu")
def test_a_machine_without_nccl_and_nvidia_smi_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_machine

    def version() -> tuple[int, ...]:
        raise AttributeError("module 'torch._C' has no attribute '_nccl_version'")

    card = SimpleNamespace(name="a card", major=8, minor=6, total_memory=10**10, multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda.nccl, "version", version)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90000)
    monkeypatch.setenv("PATH", "")
    found = gpu_machine.facts("cuda")
    assert (found["card"], found["driver"]) == ("a card", "")
    assert "nccl" not in found


@pytest.mark.usefixtures("gpu")
def test_a_driver_that_cannot_be_asked_has_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_machine

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_machine.driver() == ""


@pytest.mark.usefixtures("gpu")
def test_packages_that_are_older_than_asked_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_machine

    assert gpu_machine.older_than_asked() == []
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.0.7" if name == "filelock" else version(name))
    assert gpu_machine.older_than_asked() == ["filelock 4.0.7 (4.1)"]


def test_the_files_name_no_folder_of_the_machine(gpu: Any, tmp_path: Path) -> None:
    code = (
        f"import os, json; print({str(ROOT)!r}, os.path.expanduser('~/x'), os.environ['TMPDIR'], json.__file__)\n1 / 0"
    )
    (step,) = run(gpu, tmp_path, code)
    written = "".join((tmp_path / name).read_text() for name in ("gpu.json", "gpu.md", "gpu.log"))
    assert step["reason"] == "ZeroDivisionError: division by zero"
    for path in (str(ROOT), str(Path.home() / "x"), sys.prefix, str(Path(json.__file__).parent)):
        assert path not in written
    assert "~/x" in written
    assert "WORK/tmp" in written


def test_ratios_are_to_the_first_row_of_a_case(gpu: Any) -> None:
    rows = [{"case": c, "seconds": s, "ratio": 1.0} for c, s in (("a", 4.0), ("b", 3.0), ("a", 2.0))]
    assert [row["ratio"] for row in gpu.with_ratios([*rows, {"case": "a", "error": "why"}])[:3]] == [1, 1, 2]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_all_limits_together_are_eight_minutes_and_all_scripts_exist(gpu: Any, tmp_path: Path, device: str) -> None:
    steps = gpu.make_steps(device, tmp_path)
    assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6]
    assert sum(step.limit for step in steps) <= 480
    for command in [command for step in steps for command in step.commands]:
        assert command.arguments[0] == "-m" or Path(command.arguments[0]).is_file()


def make(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    given = [f"{name}={value}" for name, value in {"PYTHON": sys.executable, "OUT": out, **variables}.items()]
    return subprocess.run(["make", "gpu", *given], cwd=ROOT, capture_output=True, text=True, timeout=3600)


@pytest.mark.gpu_script
def test_every_step_runs_and_leaves_its_rows(tmp_path: Path) -> None:
    done = make(tmp_path, DEVICE="cpu")
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {step["step"]: step["status"] for step in results["steps"]} == dict.fromkeys(range(1, 7), "ok"), done.stdout
    assert done.returncode == 0
    train, tests, penalty, steps, prediction, ddp = (step["rows"] for step in results["steps"])
    assert [row["case"].partition(",")[0] for row in train[:4]] == ["train", "validation", "resume", "profile"]
    assert (train[0]["steps"], train[2]["steps"]) == (6, 12)
    assert sum(row["outcome"] == "passed" for row in tests) > 50
    assert {row["outcome"] for row in tests} <= {"passed", "skipped"}  # what CUDA alone has
    assert [row["variant"] for row in penalty] == ["plain", "ours"] * 2
    assert [row["variant"] for row in steps] == ["reference", "default", "fast", "default"]
    assert [row["variant"] for row in prediction] == [
        "reference",
        "cufft",
        "no-tf32",
        "folded",
        "bf16",
        "bf16-graphs",
        "fp16-graphs",
    ]
    assert ddp[0]["case"] == "DDP over gloo, one process"

    assert sorted(os.listdir(tmp_path)) == ["gpu.json", "gpu.log", "gpu.md", "trace.json.gz"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 16e6
    assert json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    log, page = (tmp_path / "gpu.log").read_text(), (tmp_path / "gpu.md").read_text()
    assert page.count("\n## ") == 6
    assert "No rows" not in page
    assert all(f"==== step {number}: ok" in log for number in range(1, 7))
    assert str(ROOT) not in log + page


@pytest.mark.gpu_script
def test_some_steps_alone(tmp_path: Path) -> None:
    done = make(tmp_path, DEVICE="cpu", STEPS="3")
    assert done.returncode == 0, done.stdout
    (step,) = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert (step["step"], step["status"]) == (3, "ok")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"STEPS": "3,7", "DEVICE": "cpu"}, "STEPS=3,7: expected some of 1 to 6, as STEPS=3,4"),
        ({"DEVICE": "cuda"}, "needs a CUDA device"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if variables["DEVICE"] == "cuda" else {}
    given = [f"{name}={value}" for name, value in {"PYTHON": sys.executable, "OUT": tmp_path, **variables}.items()]
    done = subprocess.run(
        ["make", "gpu", *given], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **hidden}
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert [line.partition(":")[0] for line in lines] == [message.partition(":")[0]]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "7"], "STEPS=7: expected some of 1 to 6, as STEPS=3,4"),
        (["--out", f"{__file__}/results"], f"cannot write results to {__file__}/results (Not a directory)"),
    ],
)
def test_where_nothing_can_be_run_the_status_is_2(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(gpu, "asked_facts", lambda device: MACHINE)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", *arguments])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(message)
