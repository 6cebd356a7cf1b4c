"""What several tests share: the golden recipe for weights and inputs, and the golden files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.scripts import run_forked

GOLDEN = Path(__file__).parent / "golden"
M = TypeVar("M", bound=nn.Module)


def fill(module: M) -> M:
    """Fill `module` with the seeded weights of tests/golden/README.md, in place; each tensor keeps its dtype."""
    state = module.state_dict()
    module.load_state_dict({key: _filled(key, tensor) for key, tensor in state.items()})
    return module


def _filled(key: str, tensor: torch.Tensor) -> torch.Tensor:
    rng = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    shape = tuple(tensor.shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros_like(tensor)
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith(("running_mean", "bias")):
        value = rng.standard_normal(shape) * 0.05
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.2, shape)
    else:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.as_tensor(value).to(torch.float32).to(tensor.dtype)


def rand(seed: int, *shape: int) -> torch.Tensor:
    """Uniform float32 input of the golden recipe."""
    return torch.from_numpy(np.random.RandomState(seed).rand(*shape).astype("float32"))


@cache
def golden_values() -> dict[str, Any]:
    return json.loads((GOLDEN / "values.json").read_text())


@cache
def golden_arrays() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "arrays.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@cache
def golden_keys() -> dict[str, dict[str, list[int]]]:
    return json.loads((GOLDEN / "state_dict_keys.json").read_text())


ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Tensors made within, and on the device given, have shapes and a device but no values: no card is needed."""
    initialize = torch._C._cuda_init
    torch._C._cuda_init = lambda: None
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield torch.device("cuda", 0)
    except RuntimeError as error:
        if torch.__version__.startswith("2.6.") and "CUDA driver" in str(error):
            import pytest  # not of benchmarks, which take helpers from here

            pytest.skip("PyTorch 2.6 asks a driver to set the device, of fake tensors too")
        raise
    finally:
        torch._C._cuda_init = initialize


def on_fake_cuda(module: M, device: torch.device) -> M:
    """`module` with its weights and buffers on the device of `fake_cuda`, within which it is called; in place."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    moved = torch.empty_like(tensor, device=device)
                    tensors[name] = nn.Parameter(moved, tensor.requires_grad) if name in part._parameters else moved
    return module


def is_running(pid: int | str) -> bool:
    """Whether a process is there, and more than a name whose end nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


MEASURED = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""The environment of a process whose `peak_memory` a test compares: what it frees goes back to the system at once.

By itself glibc keeps large blocks, more or fewer by chance; and threads that wait for a busy core spin.
"""


def peak_memory() -> int:
    """The most bytes that this process has had in memory, libraries included.

    On Linux getrusage() would give what the parent had, if that was more.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # macOS, which counts bytes
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def photo(name: str = "astronaut.png", size: int = 64, offset: int = 0) -> np.ndarray:
    """A square crop of a photograph of the scikit-image wheel, uint8 RGB (size, size, 3)."""
    import skimage
    from PIL import Image

    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        pixels = np.asarray(image.convert("RGB"))
    return pixels[offset : offset + size, offset : offset + size]


def make_deb(folder: Path, package: str, images: dict[str, np.ndarray]) -> Path:
    """A package of Debian with images at these paths, in `folder`; needs dpkg-deb."""
    from PIL import Image

    tree = folder / f"tree_{package}"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = {"Package": package, "Version": "1.0-1", "Architecture": "all", "Maintainer": "Ann <ann@example.org>"}
    control = "".join(f"{key}: {value}\n" for key, value in {**fields, "Description": "images"}.items())
    (tree / "DEBIAN" / "control").write_text(control)
    for path, pixels in images.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tree / path)
    deb = folder / f"{package}_1.0-1_all.deb"
    subprocess.run(["dpkg-deb", "-b", "--root-owner-group", str(tree), str(deb)], check=True, capture_output=True)
    return deb


def write_data(root: Path, *, size: int = 64, train_images: int = 8, val_images: int = 2) -> Path:
    """The layout of a training location: train/, val/ and visual_test/ with masks, of real photographs."""
    from PIL import Image

    (root / "train").mkdir(parents=True)
    for i in range(train_images):
        Image.fromarray(photo("astronaut.png", size, 12 * i)).save(root / "train" / f"{i}.png")
    for folder in ("val", "visual_test"):
        (root / folder).mkdir()
        for i in range(val_images):
            mask = np.zeros((size, size), np.uint8)
            mask[8 : 8 + size // 3, 8 + 4 * i : size // 2 + 4 * i] = 255
            Image.fromarray(photo("coffee.png", size, 40 * i)).save(root / folder / f"{i}.png")
            Image.fromarray(mask).save(root / folder / f"{i}_mask000.png")
    return root


def dirty_folder(root: Path) -> dict[str, Any]:
    """Twelve good JPEGs and eleven files that are not; returns what is to be found in which."""
    from PIL import Image

    from saicinpainting.data.loading import ImageIssue

    root.mkdir(parents=True, exist_ok=True)
    for i in range(12):
        Image.fromarray(photo("astronaut.png", 96, 20 * i)).save(root / f"good{i}.jpg")
    colour = Image.fromarray(photo("coffee.png", 96, 100))
    grey, exif = colour.convert("L"), Image.Exif()
    exif[0x0112] = 8
    (root / "no_image.jpg").write_text("this is no image")
    (root / "truncated.jpg").write_bytes((root / "good0.jpg").read_bytes()[:1500])
    (root / "empty.png").write_bytes(b"")
    grey.save(root / "grey.jpg")
    colour.convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(root / "sixteen.png")
    colour.convert("P", palette=Image.Palette.ADAPTIVE).save(root / "palette.png")
    see_through = colour.copy()
    see_through.putalpha(grey)
    see_through.save(root / "alpha.webp", lossless=True)
    colour.save(root / "turned.jpg", exif=exif)
    colour.resize((12, 9)).save(root / "tiny.jpg")
    colour.resize((600, 1)).save(root / "thread.png")  # enlarged to a crop it would be longer than OpenCV can warp
    return {
        **dict.fromkeys(("no_image.jpg", "truncated.jpg", "empty.png", "thread.png"), ImageIssue.UNREADABLE),
        "grey.jpg": ImageIssue.GREY,
        "cmyk.jpg": ImageIssue.CMYK,
        "sixteen.png": ImageIssue.SIXTEEN_BIT,
        "palette.png": ImageIssue.PALETTE,
        "alpha.webp": ImageIssue.ALPHA,
        "turned.jpg": ImageIssue.TURNED,
        "tiny.jpg": ImageIssue.TINY,
    }


def shrunk(root: Path, *extra: str) -> list[str]:
    """Overrides that let a real run file train on `write_data(root / "data")` in seconds, without other weights."""
    return [
        f"location.data_root_dir={root / 'data'}",
        f"location.out_root_dir={root / 'out'}",
        f"location.tb_dir={root / 'tb'}",
        "generator.ngf=4",
        "generator.n_blocks=1",
        "discriminator.ndf=4",
        "losses.resnet_pl.weight=0",
        "evaluator=ssim_inpainted",
        "data.batch_size=2",
        "data.total_batch_size=null",
        "data.num_workers=0",
        "data.train.out_size=64",
        "trainer.kwargs.accelerator=cpu",
        "trainer.kwargs.devices=1",
        "trainer.kwargs.max_epochs=1",
        "trainer.kwargs.log_every_n_steps=1",
        "trainer.kwargs.num_sanity_val_steps=0",
        "trainer.checkpoint_kwargs.monitor=val_ssim_total_mean",
        *extra,
    ]


def write_run(root: Path, *overrides: str) -> Path:
    """The folder of a small `lama-fourier` with seeded weights, as training would leave it in `root`."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from saicinpainting.config import register_resolvers
    from saicinpainting.io.checkpoint import write_checkpoint
    from saicinpainting.training.factory import make_training_model

    register_resolvers()
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        config = compose("lama-fourier", shrunk(root, "+training_model.predict_only=true", *overrides))
    run = root / "run"
    run.mkdir()
    OmegaConf.save(config, run / "config.yaml", resolve=True)
    model = make_training_model(config)
    fill(model.generator)
    write_checkpoint({"state_dict": model.state_dict()}, run / "models" / "best.ckpt")
    return run


def run_script(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `bin/NAME` as its user would: another working directory, no PYTHONPATH, no downloads."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1", "LAMA_OFFLINE": "1", **environment}
    return run_forked([str(ROOT / "bin" / name), *arguments], cwd=cwd, env=env, timeout=300)


def assert_same(value: Any, expected: Any, where: str = "") -> None:
    """Equal in every bit, containers within containers."""
    if torch.is_tensor(expected):
        assert torch.equal(value, expected), where
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys(), where
        for key in expected:
            assert_same(value[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(value) == len(expected), where
        for i, item in enumerate(expected):
            assert_same(value[i], item, f"{where}.{i}")
    else:
        assert value == expected, where


def packed(members: dict[str, bytes], kind: str = "gz") -> bytes:
    """An archive of these files: `zip`, or a tar by its compression."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=file, mode=f"w:{kind}") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()
