"""Programs of others with our exports, each unchanged in an environment of its own, against bin/predict.py.

clients.py [NAME ...] [--folder build/clients] [--json FILE]: makes the environments that are missing, from the
configured package index, and the exports of a small seeded network in the layout of lama-fourier; then runs each
client on images of four sizes. A client is right within a level of 255, and 0 outside of the hole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from benchmarks.common import synthetic_photograph
from benchmarks.predict import calibrated
from saicinpainting.commands.plan import compose_config
from saicinpainting.inference.export import export, exportable
from saicinpainting.io.checkpoint import write_checkpoint
from saicinpainting.networks import make_generator
from tests.helpers import fill

SCRIPTS = ROOT / "benchmarks" / "client_scripts"
SIZES = ((63, 65), (101, 133), (512, 512), (500, 741))
TORCH = "torch"
"""The environment whose PyTorch those that need one share, for it is gigabytes."""


@dataclass(frozen=True)
class Client:
    """A client.

    Args:
        environment: the name of its environment.
        packages: what is installed there; the first one's version is reported.
        script: in `client_scripts`, with further words.
        shares_torch: PyTorch comes from the environment `TORCH`.
        python: the interpreter that the environment needs, if not the one that runs this.
        levels: how far it may be off in the hole.
        fails: why it is known to fail; the table says how it does, and the command ends well.
    """

    environment: str
    packages: tuple[str, ...]
    script: tuple[str, ...]
    shares_torch: bool = False
    python: str = sys.executable
    levels: int = 1
    fails: str = ""


CLIENTS = {
    "opencv 4": Client("opencv4", ("opencv-python-headless<5",), ("run_opencv.py",)),
    "opencv 5, classic": Client("opencv5", ("opencv-python-headless>=5",), ("run_opencv.py", "ENGINE_CLASSIC")),
    "opencv 5, new": Client("opencv5", ("opencv-python-headless>=5",), ("run_opencv.py", "ENGINE_NEW")),
    "onnxruntime, carve": Client("onnxruntime", ("onnxruntime",), ("run_onnxruntime.py", "carve")),
    "onnxruntime, free sizes": Client("onnxruntime", ("onnxruntime",), ("run_onnxruntime.py", "free")),
    "onnxruntime, fp16": Client("onnxruntime", ("onnxruntime",), ("run_onnxruntime.py", "half"), levels=5),
    "openvino, fixed": Client("openvino", ("openvino",), ("run_openvino.py", "fixed")),
    "openvino, free sizes": Client("openvino", ("openvino",), ("run_openvino.py", "free")),
    "MNN": Client("mnn", ("MNN",), ("run_mnn.py",)),
    "ncnn, from ONNX": Client(
        "ncnn", ("ncnn", "pnnx"), ("run_ncnn.py", "onnx"), shares_torch=True, fails="pnnx crashes"
    ),
    "ncnn, from TorchScript": Client("ncnn", ("ncnn", "pnnx"), ("run_ncnn.py", "pt"), shares_torch=True),
    "Core ML, conversion": Client("coreml", ("coremltools",), ("run_coreml.py",), shares_torch=True),
    "simple-lama-inpainting": Client(
        "simple_lama", ("simple-lama-inpainting",), ("run_simple_lama.py",), shares_torch=True
    ),
    "simple-lama-inpainting-updated": Client(
        "simple_lama_updated", ("simple-lama-inpainting-updated",), ("run_simple_lama.py",), python="python3.12"
    ),
    "litelama": Client("litelama", ("litelama",), ("run_litelama.py",), shares_torch=True),
    "iopaint run": Client("iopaint", ("iopaint",), ("run_iopaint.py",), shares_torch=True),
    "onnxruntime-web": Client("web", ("onnxruntime-web",), ("run_web.mjs",)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", nargs="*", help=", ".join(CLIENTS))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "clients", help="of environments and exports")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "clients.json")
    args = parser.parse_args()
    cases = make_cases(args.folder.resolve() / "cases")
    rows = []
    for name in args.clients or CLIENTS:
        rows.append({"client": name, **run(CLIENTS[name], cases, args.folder.resolve())})
        print("| " + " | ".join(map(str, rows[-1].values())) + " |", flush=True)
    args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(row["result"].startswith("fails") and not CLIENTS[row["client"]].fails for row in rows))


# ---- cases ---------------------------------------------------------------------------------------------------------


def make_cases(folder: Path) -> Path:
    """Images, masks, a run, its results by bin/predict.py, and its exports; kept for the next time."""
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    for size in SIZES:
        name = "x".join(map(str, size))
        pixels, mask = synthetic_photograph(*size, seed=size[0]), np.zeros(size, np.uint8)
        mask[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 2] = 255
        mask[size[0] - 9 :, size[1] - 12 :] = 255  # where the image is padded
        np.savez(folder / f"{name}.npz", pixels=pixels, mask=mask)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "images" / f"{name}_mask.png")
        write_raw(folder, name, pixels, mask)
    run_folder = write_run(folder)
    words = (f"model.path={run_folder}", f"indir={folder / 'images'}", f"outdir={folder / 'expected'}")
    subprocess.run([sys.executable, ROOT / "bin" / "predict.py", *words, "device=cpu"], check=True)
    model = exportable(run_folder)
    export(model, folder / "free.onnx")
    export(model, folder / "free.pt")
    for height, width in SIZES:
        name, size = f"{height}x{width}", (-(-height // 8) * 8, -(-width // 8) * 8)
        for interface in ("default", "carve", "opencv"):
            export(model, folder / f"{name}_{interface}.onnx", size=size, interface=interface)
        export(model, folder / f"{name}_half.onnx", size=size, precision="fp16")
        export(model, folder / f"{name}.pt", size=size)
    (folder / "ready").touch()
    return folder


def write_raw(folder: Path, name: str, pixels: np.ndarray, mask: np.ndarray) -> None:
    """The padded inputs for clients that have no NumPy."""
    edges = tuple((0, -side % 8) for side in mask.shape)
    image = np.pad(pixels, (*edges, (0, 0)), mode="symmetric").transpose(2, 0, 1).astype(np.float32) / 255
    (folder / f"{name}.image").write_bytes(image.tobytes())
    (folder / f"{name}.mask").write_bytes((np.pad(mask, edges, mode="symmetric") > 0).astype(np.float32).tobytes())


def write_run(folder: Path) -> Path:
    """A run's folder; beside it `lama.safetensors` and `config.yaml` in the published layout."""
    from safetensors.torch import save_file

    small = ["generator.ngf=16", "generator.n_blocks=3", "+training_model.predict_only=true"]
    config = compose_config("lama-fourier", ["location=places_example", *small])
    settings: Any = OmegaConf.to_container(config.generator, resolve=True)
    generator = calibrated(fill(make_generator(**settings)))
    state = {f"generator.{key}": value.contiguous() for key, value in generator.state_dict().items()}
    (folder / "run").mkdir()
    OmegaConf.save(config, folder / "run" / "config.yaml", resolve=True)
    write_checkpoint({"state_dict": state}, folder / "run" / "models" / "best.ckpt")
    save_file(state, folder / "lama.safetensors")
    official = {key: value for key, value in settings.items() if key != "initial_fill"}
    OmegaConf.save({"generator": official}, folder / "config.yaml")
    return folder / "run"


# ---- clients -------------------------------------------------------------------------------------------------------


def run(client: Client, cases: Path, folder: Path) -> dict[str, str]:
    """Its version and how it did."""
    results = folder / "results" / "_".join([client.environment, *client.script[1:]])
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    try:
        place = environment(client, folder)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"version": "", "result": f"not installed: {error}"[:160]}
    node = client.script[0].endswith(".mjs")
    program = "node" if node else str(place / "bin" / "python")
    done = subprocess.run(
        [program, str(SCRIPTS / client.script[0]), str(cases), str(results), *client.script[1:]],
        cwd=place if node else results, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    return {"version": version(client, place), "result": " ".join(judged(done, cases, results, client.levels))}


def environment(client: Client, folder: Path) -> Path:
    """The folder of its environment, made unless it is there."""
    place = folder / client.environment
    if client.script[0].endswith(".mjs"):
        if not (place / "node_modules").exists():
            place.mkdir(parents=True, exist_ok=True)
            (place / "package.json").write_text("{}")
            subprocess.run(["npm", "install", "--silent", *client.packages], cwd=place, check=True)
        return place
    if client.shares_torch:
        environment(Client(TORCH, ("torch", "torchvision"), ("",)), folder)
    if not (place / "installed").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([client.python, "-m", "venv", place], check=True)
        (packages,) = place.glob("lib/python*/site-packages")
        if client.shares_torch:
            (shared,) = (folder / TORCH).glob("lib/python*/site-packages")
            (packages / "shared_torch.pth").write_text(f"{shared}\n")
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "numpy", *client.packages], check=True)
        (place / "installed").touch()
    return place


def version(client: Client, place: Path) -> str:
    package = client.packages[0].partition("<")[0].partition(">")[0]
    if client.script[0].endswith(".mjs"):
        return json.loads((place / "node_modules" / package / "package.json").read_text())["version"]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([place / "bin" / "python", "-c", code], capture_output=True, text=True).stdout.strip()


def judged(done: subprocess.CompletedProcess[str], cases: Path, results: Path, levels: int) -> Iterator[str]:
    """What the table says: the largest difference of all sizes in the hole, and outside of it."""
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        yield "fails: " + " ".join(reason)[:200]
        return
    if done.stdout.startswith("converted"):
        yield done.stdout.strip()
        return
    inside, outside = 0, 0
    for height, width in SIZES:
        name = f"{height}x{width}"
        got = read(results, name, height, width)
        mask = np.load(cases / f"{name}.npz")["mask"] > 0
        difference = np.abs(got.astype(int) - np.array(Image.open(cases / "expected" / f"{name}_mask.png")).astype(int))
        inside, outside = max(inside, difference[mask].max()), max(outside, difference[~mask].max())
    if inside > levels or outside > 0:
        yield "fails:"
    yield f"{inside} in the hole, {outside} outside"


def read(results: Path, name: str, height: int, width: int) -> np.ndarray:
    raw = results / f"{name}.result"
    if not raw.exists():
        return np.load(results / f"{name}.npy")
    planes = np.fromfile(raw, np.float32).reshape(3, -(-height // 8) * 8, -(-width // 8) * 8)
    return np.rint(np.clip(planes, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)[:height, :width]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
