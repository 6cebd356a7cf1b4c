"""The machine that `make gpu` runs on: card, versions, and which modules are missing; as a program it prints them."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Modules that every step imports; what pip calls them is in docs/gpus.md.
NEEDED = (
    *("torch", "torchvision", "pytorch_lightning", "torchmetrics", "hydra", "omegaconf", "kornia", "albumentations"),
    *("cv2", "numpy", "scipy", "pandas", "PIL", "filelock", "lpips", "pytorch_fid", "safetensors", "simplejpeg"),
    *("tqdm", "webdataset", "yaml"),
)
VERSIONS = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "triton", "numpy", "albumentations", "kornia")


def facts(device: str) -> dict[str, Any]:
    """What decides how fast and how right things are, and which modules are missing."""
    missing = [name for name in (*NEEDED, "pytest", "tensorboard") if importlib.util.find_spec(name) is None]
    if "torch" in missing:
        sys.exit(f"{sys.executable} has no torch; PYTHON=/path/to/python names one that has")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("needs a CUDA device: torch.cuda.is_available() is false; DEVICE=cpu runs the same steps shrunk")
    versions = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found: dict[str, Any] = {"card": "cpu", "missing": missing, "commit": commit(), "python": platform.python_version()}
    found |= {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), **versions}
    found["older_than_asked"] = older_than_asked()
    found |= {"system": f"{platform.system()} {platform.machine()}", "cpu_cores": os.cpu_count()}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "capability": f"{card.major}.{card.minor}"}
        found |= {"memory_gb": round(card.total_memory / 1e9, 1), "multiprocessors": card.multi_processor_count}
        found |= {"driver": driver(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        with contextlib.suppress(AttributeError, RuntimeError):  # PyTorch can be built without it
            found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        found["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
        found["tf32_products"] = torch.backends.cuda.matmul.allow_tf32
    return found


def older_than_asked() -> list[str]:
    """Packages that are older than pyproject.toml asks for, as "filelock 3.20 (4.1)"."""
    older = []
    for name, least in re.findall(r'^    "([\w-]+)>=([\d.]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            if numbers(version) < numbers(least):
                older.append(f"{name} {version} ({least})")
    return older


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]


def commit() -> str:
    return output_of("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")


def driver() -> str:
    return output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]


def output_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ended.returncode else ended.stdout.strip()  # nvidia-smi says there why it failed


if __name__ == "__main__":
    print(json.dumps(facts(sys.argv[1])))
