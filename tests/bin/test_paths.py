"""Commands with paths that hold all the letters a shell lets through."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from saicinpainting.config import read_experiment_config
from tests.helpers import ROOT, photo, run_script, shrunk, write_data


def test_any_letters_in_every_path(tmp_path: Path) -> None:
    root = tmp_path / "a (copy) [1] {x,y}, it's \"#~=é $ 图"
    write_data(root / "data")
    Image.fromarray(photo(size=300)).save(root / "x [1].jpg")
    run, val, table = root / "run", root / "data" / "val", root / "t=1.csv"

    def call(name: str, *words: str | Path) -> str:
        done = run_script(name, *map(str, words), cwd=root)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("train.py", "-cn", "lama-fourier", *shrunk(root, f"hydra.run.dir={run}"))
    assert read_experiment_config(run).data.train.indir == str(root / "data" / "train")
    assert list((root / "tb" / "run").rglob("events.*"))
    (named,) = (run / "models").glob("epoch=*.ckpt")
    words = (f"model.path={run}", f"model.checkpoint={named.name}", f"indir={val}", f"outdir={root / 'results'}")
    assert "2 images written" in call("predict.py", *words)
    call("evaluate_predicts.py", ROOT / "configs" / "eval2_ssim.yaml", val, root / "results", table)
    assert table.is_file()
    call("gen_mask_dataset.py", ROOT / "configs" / "data_gen" / "random_thick_256.yaml", root, root.parent / "(set)")
    assert list((root.parent / "(set)").glob("x [[]1]*_mask*.png"))
    call("report_from_tb.py", run, "--out", root / "report.tsv")
