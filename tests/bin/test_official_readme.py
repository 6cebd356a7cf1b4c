"""The commands of the official README, letter by letter and in its order, in a checkout whose files are edited smaller.

`<size>` stands for medium or thick there, `<user>_<date:time>` for a folder's name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from saicinpainting.io.checkpoint import read_checkpoint
from tests.helpers import ROOT, photo, write_run
from tests.runs import lightning_1_checkpoint

EDITED: dict[str, dict[str, Any]] = {
    "training/generator/ffc_resnet_075.yaml": {"ngf": 4, "n_blocks": 1},
    "training/discriminator/pix2pixhd_nlayer.yaml": {"ndf": 4},
    "training/_base_lama.yaml": {"losses.resnet_pl.weight": 0},
    "training/evaluator/default_inpainted.yaml": {"lpips": False, "fid": False},
    "training/data/abl-04-256-mh-dist.yaml": {"train.out_size": 64, "num_workers": 0},
    "training/data/abl-04-256-mh-dist-celeba.yaml": {"train.out_size": 256},
    "training/trainer/any_gpu_large_ssim_ddp_final.yaml": {"kwargs.max_epochs": 1, "kwargs.num_sanity_val_steps": 0},
    "eval2_gpu.yaml": {"evaluator_kwargs.lpips": False, "evaluator_kwargs.fid": False},
}
"""What a user without the networks of losses and metrics edits, and without a GPU."""


class Checkout:
    """A copy of this repository, and its shell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("bin", "configs", "saicinpainting"):
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
        for name, changes in EDITED.items():
            content = yaml.safe_load((root / "configs" / name).read_text())
            for key, value in changes.items():
                *way, last = key.split(".")
                section = content
                for part in way:
                    section = section[part]
                section[last] = value
            (root / "configs" / name).write_text(yaml.safe_dump(content, sort_keys=False))

    def run(self, commands: str) -> str:
        """What commands print that a user types in the checkout."""
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TORCH_HOME")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **{"LAMA_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "USER": "ann"},
        }
        exported = "export TORCH_HOME=$(pwd) && export PYTHONPATH=$(pwd)"
        done = subprocess.run(
            ["bash", "-ec", f"{exported}\n{commands}"], cwd=self.root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_folder(self, config: str) -> str:
        """The name of the one run of a config."""
        (folder,) = (self.root / "experiments").glob(f"ann_*_{config}_")
        return folder.name


@pytest.fixture(scope="module")
def lama(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("official") / "lama")


def save(file: Path, size: int, offset: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo("astronaut.png", size, offset)).save(file, quality=95)


def test_predict_and_refine(lama: Checkout) -> None:
    write_run(lama.root).rename(lama.root / "big-lama")
    best = lama.root / "big-lama" / "models" / "best.ckpt"
    torch.save(lightning_1_checkpoint(read_checkpoint(best)["state_dict"]), best)
    hole = Image.new("L", (90, 90))
    hole.paste(255, (20, 30, 50, 60))
    images = lama.root / "LaMa_test_images"
    for name in ("image1", "image2"):
        save(images / f"{name}.png", 90)
        hole.save(images / f"{name}_mask001.png")
    command = "model.path=$(pwd)/big-lama indir=$(pwd)/LaMa_test_images outdir=$(pwd)/output"
    assert "2 images written" in lama.run(f"python3 bin/predict.py {command}")
    assert "2 images written" in lama.run(f"python3 bin/predict.py refine=True {command}")
    assert {file.name for file in (lama.root / "output").glob("[!.]*")} == {"image1_mask001.png", "image2_mask001.png"}


def test_create_your_data(lama: Checkout) -> None:
    for folder in ("train", "val_source", "visual_test_source", "eval_source"):
        for i in range(2):
            save(lama.root / "my_dataset" / folder / f"image{i}.jpg", 512 - 8 * i)
    lama.run("""
    python3 bin/gen_mask_dataset.py \\
    $(pwd)/configs/data_gen/random_medium_512.yaml \\
    my_dataset/val_source/ \\
    my_dataset/val/random_medium_512.yaml \\
    --ext jpg

    python3 bin/gen_mask_dataset.py \\
    $(pwd)/configs/data_gen/random_thick_512.yaml \\
    my_dataset/visual_test_source/ \\
    my_dataset/visual_test/random_thick_512/ \\
    --ext jpg

    python3 bin/gen_mask_dataset.py \\
    $(pwd)/configs/data_gen/random_medium_512.yaml \\
    my_dataset/eval_source/ \\
    my_dataset/eval/random_medium_512/ \\
    --ext jpg
    """)
    names = ["image0_crop000.png", "image0_crop000_mask000.png", "image1_crop000.png", "image1_crop000_mask000.png"]
    assert lama.run("ls my_dataset/eval/random_medium_512/").split() == names
    lama.run("""
    touch my_dataset.yaml
    echo "data_root_dir: $(pwd)/my_dataset/" >> my_dataset.yaml
    echo "out_root_dir: $(pwd)/experiments/" >> my_dataset.yaml
    echo "tb_dir: $(pwd)/tb_logs/" >> my_dataset.yaml
    mv my_dataset.yaml ${PWD}/configs/training/location/

    python3 bin/train.py -cn lama-fourier location=my_dataset data.batch_size=10
    """)
    run = lama.run_folder("lama-fourier")
    (best,) = (lama.root / "experiments" / run / "models").glob("epoch=0*.ckpt")
    lama.run(f"""
    python3 bin/predict.py \\
    model.path=$(pwd)/experiments/{run}/ \\
    indir=$(pwd)/my_dataset/eval/random_medium_512/ \\
    outdir=$(pwd)/inference/my_dataset/random_medium_512 \\
    model.checkpoint={best.name}

    python3 bin/evaluate_predicts.py \\
    $(pwd)/configs/eval2_gpu.yaml \\
    $(pwd)/my_dataset/eval/random_medium_512/ \\
    $(pwd)/inference/my_dataset/random_medium_512 \\
    $(pwd)/inference/my_dataset/random_medium_512_metrics.csv
    """)
    table = (lama.root / "inference" / "my_dataset" / "random_medium_512_metrics.csv").read_text()
    assert table.startswith("metric\tgroup\tmean\tstd\nssim\ttotal\t0.")


def test_faces(lama: Checkout) -> None:
    """After what the official preparation leaves: its layout, and its keys behind those of the location file."""
    faces = lama.root / "celeba-hq-dataset"
    for folder, count in (("train_256", 10), ("val_source_256", 2)):
        for i in range(count):
            save(faces / folder / f"{i}.jpg", 256, 20 * i)
    for key in ("data_root_dir: ${PWD}/celeba-hq-dataset/", "out_root_dir: ${PWD}/experiments/"):
        lama.run(f'echo "{key}" >> ${{PWD}}/configs/training/location/celeba.yaml')
    lama.run("""
    python3 bin/gen_mask_dataset.py \\
    $(pwd)/configs/data_gen/random_thick_256.yaml \\
    celeba-hq-dataset/val_source_256/ \\
    celeba-hq-dataset/val_256/random_thick_256/

    python3 bin/train.py -cn lama-fourier-celeba data.batch_size=10
    """)
    models = lama.root / "experiments" / lama.run_folder("lama-fourier-celeba") / "models"
    assert (models / "last.ckpt").is_file()
