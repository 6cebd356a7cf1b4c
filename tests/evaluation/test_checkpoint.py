"""Evaluations of a checkpoint whose network is a stand-in: what belongs together, what is refused and when."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from saicinpainting.evaluation.checkpoint import _nested, evaluate_checkpoint
from saicinpainting.evaluation.paper_results import dataset_of, published_name
from saicinpainting.evaluation.qualitative import find_failures, write_failures
from saicinpainting.evaluation.report import summary_table
from saicinpainting.evaluation.sets import draw_set, find_sets
from saicinpainting.metrics.inception import _make_inception
from saicinpainting.utils import InputError
from tests.helpers import ROOT, fill, photo
from tests.samples import BrightIsSky

PHOTOS = 3
Evaluate = Callable[..., Path]


class Grey:
    """Stands in for `load_backend` and what it loads: fills with grey."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.image_channels = 3
        self.batches: list[int] = []

    def load(self, model: Any, device: Any, **options: Any) -> Grey:
        self.options = options
        return self

    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        self.batches.append(len(batch["image"]))
        return torch.where(batch["mask"] > 0, 0.5, batch["image"])


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> Grey:
    grey = Grey()
    monkeypatch.setattr("saicinpainting.evaluation.checkpoint.load_backend", grey.load)
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    return grey


def settings_of(root: Path, *extra: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "configs" / "evaluation"), version_base="1.3"):
        config = compose(
            "default",
            [f"model.path={root / 'run'}", f"outdir={root / 'out'}", "metrics=[psnr]", "num_workers=0", "device=cpu",
             "batch_size=2", "examples=1", *extra],
        )  # fmt: skip
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


@pytest.fixture
def evaluate(tmp_path: Path, grey: Grey) -> Evaluate:
    (tmp_path / "run" / "models").mkdir(parents=True)
    (tmp_path / "run" / "models" / "best.ckpt").write_bytes(b"weights")
    return lambda *extra: evaluate_checkpoint(settings_of(tmp_path, *extra))


def write_photos(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(PHOTOS):
        Image.fromarray(photo("coffee.png", 300, 25 * i)).save(folder / f"{i}.png")
    return folder


def write_set(folder: Path, *, hole: slice = slice(10, 30), side: int = 64) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((side, side), np.uint8)
    mask[hole, hole] = 255
    for i in range(PHOTOS):
        Image.fromarray(photo("coffee.png", side, 25 * i)).save(folder / f"{i}.png")
        Image.fromarray(mask).save(folder / f"{i}_mask000.png")
    return folder


def means(folder: Path, name: str) -> dict[str, float]:
    results = json.loads((folder / "results.json").read_text())["sets"][name]["results"]
    return {metric: groups["total"]["mean"] for metric, groups in results.items() if "total" in groups}


# ---- what belongs together -----------------------------------------------------------------------------------------


def test_predictions_of_another_set_are_not_measured(evaluate: Evaluate, grey: Grey, tmp_path: Path) -> None:
    first = write_set(tmp_path / "a" / "mine")
    evaluate(f"sets=[{first}]")
    assert sum(grey.batches) == PHOTOS
    second = write_set(tmp_path / "b" / "mine", hole=slice(30, 60))
    with pytest.raises(InputError, match=r"predictions/mine holds predictions of other images or masks than .*b/mine"):
        evaluate(f"sets=[{second}]")
    shutil.copytree(first, tmp_path / "copy" / "mine")
    evaluate(f"sets=[{tmp_path / 'copy' / 'mine'}]")  # the same contents are the same set
    write_set(first, hole=slice(30, 60))
    with pytest.raises(InputError, match=r"remove it to predict anew"):
        evaluate(f"sets=[{first}]")
    assert sum(grey.batches) == PHOTOS
    shutil.rmtree(tmp_path / "out" / "run" / "predictions" / "mine")
    evaluate(f"sets=[{first}]")
    assert sum(grey.batches) == 2 * PHOTOS


def test_a_set_is_measured_again_only_where_predictions_or_metrics_changed(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saicinpainting.evaluation import checkpoint as module

    measured: list[int] = []
    measure_predictions = module.measure_predictions

    def counted(evaluator: Any, dataset: Any, **options: Any) -> Any:
        measured.append(len(dataset))
        return measure_predictions(evaluator, dataset, **options)

    monkeypatch.setattr(module, "measure_predictions", counted)
    mine = write_set(tmp_path / "mine")
    folder = evaluate(f"sets=[{mine}]")
    tables = [(folder / name).read_text() for name in ("results.csv", "images.csv")]
    evaluate(f"sets=[{mine}]")
    assert [(folder / name).read_text() for name in ("results.csv", "images.csv")] == tables
    assert len(measured) == 1
    evaluate(f"sets=[{mine}]", "metrics=[psnr,l1]")
    assert len(measured) == 2
    file = folder / "predictions" / "mine" / "0_mask000.png"
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    evaluate(f"sets=[{mine}]", "metrics=[psnr,l1]")
    assert len(measured) == 3
    assert (folder / "images.csv").read_text() != tables[1]


def test_sets_of_two_sizes_share_no_predictions(evaluate: Evaluate, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for size in (256, 512):
        folder = evaluate(f"indir={photos}", "sets=[thin]", f"size={size}")
        (found, *_) = sorted((folder / "predictions" / f"random_thin_{size}").glob("*.png"))
        assert Image.open(found).size == (size, size)
        write_failures(folder, find_failures(folder), tmp_path / "page.html", top=1)


def test_a_set_is_of_the_photographs_that_the_report_names(evaluate: Evaluate, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    evaluate(f"indir={photos}", "sets=[thin]", "size=256")
    others = write_photos(tmp_path / "others")
    with pytest.raises(InputError, match=r"random_thin_256 holds a mask set .*folder: .*photos, now .*others"):
        evaluate(f"indir={others}", "sets=[thin]", "size=256")
    (photos / "0.png").unlink()
    with pytest.raises(InputError, match=r"holds a mask set made of something else \(photographs.digest"):
        evaluate(f"indir={photos}", "sets=[thin]", "size=256")


def test_a_folder_without_photographs_is_named(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"photos: no image \*\.[^;]* there$"):
        evaluate(f"indir={tmp_path / 'photos'}", "sets=[thin]")


def test_what_is_written_is_no_input(evaluate: Evaluate, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "out" / "photos")
    with pytest.raises(InputError, match=r"out lies in .*the next start would take its images for photographs"):
        evaluate(f"indir={photos.parent}", "sets=[thin]")
    mine = write_set(tmp_path / "mine")
    with pytest.raises(InputError, match=r"out lies in .*mine"):
        evaluate(f"outdir={mine / 'out'}", f"sets=[{mine}]")
    assert not (mine / "out").exists()


def test_starts_side_by_side_make_a_set_once(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    settings = settings_of(tmp_path, f"indir={photos}", "sets=[thin]", "size=256")
    (one,) = find_sets(settings, tmp_path / "out")
    with ThreadPoolExecutor(2) as pool:
        sets = list(pool.map(lambda _: draw_set(one, settings), range(2)))
    assert sets[0] == sets[1]
    lines = (one.folder / ".mask_set.jsonl").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [f"{i}.png" for i in range(PHOTOS)]


def test_larger_sets_have_the_crops_and_holes_of_the_small_one(evaluate: Evaluate, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(photo("coffee.png", 300)).save(photos / "small.png")
    Image.fromarray(photo("coffee.png", 400)).resize((1600, 1100)).save(photos / "large.png")
    folder = evaluate(f"indir={photos}", "sets=[thick_512,thick_1024]")
    sets = [tmp_path / "out" / "sets" / f"random_thick_{size}" for size in (512, 1024)]
    small, large = (np.asarray(Image.open(path / "large_crop000_mask000.png")) for path in sets)
    assert large.shape == (1024, 1024)
    np.testing.assert_array_equal(large[1::2, ::2], small)
    assert (large == np.asarray(Image.fromarray(small).resize((1024, 1024), Image.Resampling.NEAREST))).all()
    small, large = (Image.open(path / "large_crop000.png").convert("L") for path in sets)
    shrunk = np.asarray(large.resize((512, 512), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(shrunk - np.asarray(small)).mean() < 3
    # An enlarged photograph would tell nothing about its resolution.
    assert not list(sets[1].glob("small*"))
    assert list(sets[0].glob("small*"))
    page = (folder / "report.html").read_text()
    assert 'alt="PSNR, dB by resolution"' in page


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("metrics=[ssim,fid]", r"Inception weights of FID: cannot download .*or leave that metric out"),
        ("metrics=[ssim,ids]", r"ids: P-IDS .*leave that metric out"),
        ("sets=[]", "sets: nothing to evaluate; name some"),
        ("sets=null", "sets: nothing to evaluate; name some"),
        ("size=large", "size: expected a whole number of at least 1, got 'large'"),
        ("seed=null", "seed: expected a whole number of at least 0, got None"),
        ("examples=-1", "examples: expected a whole number of at least 0, got -1"),
        ("batch_size=0", "batch_size: expected a whole number of at least 1, got 0"),
        ("num_workers=-1", "num_workers: expected a whole number of at least 0, got -1"),
        ("sets=[thin,thinn]", "sets: 'thinn' is neither"),
        ("dataset.kind=our_eval", "dataset.kind: .* is default, not 'our_eval'"),
        ("+dataset.scale=2", "dataset.scale: unknown config key; known: .*scale_factor"),
    ],
)
def test_settings_are_checked_before_the_work(
    evaluate: Evaluate, grey: Grey, tmp_path: Path, override: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    photos = write_photos(tmp_path / "photos")
    with pytest.raises(InputError, match=message):
        evaluate(f"indir={photos}", "sets=[thin]", override)
    assert not grey.batches
    assert not (tmp_path / "out" / "sets").exists()


@pytest.mark.parametrize("table", ["table=psnr", "table=null"])
def test_a_list_of_one_may_be_given_without_brackets(
    evaluate: Evaluate, tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "2024")
    monkeypatch.chdir(tmp_path)
    assert means(evaluate("sets=2024", table), "2024")["psnr"] > 10
    assert (tmp_path / "out" / "table.md").exists() == (table == "table=psnr")


def test_refused_settings_do_not_stand_in_the_way(
    evaluate: Evaluate, grey: Grey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise InputError("refiner.n_iters: expected")

    mine = write_set(tmp_path / "mine")
    with monkeypatch.context() as patch:
        patch.setattr("saicinpainting.evaluation.checkpoint.load_backend", refuse)
        with pytest.raises(InputError, match=r"refiner\.n_iters"):
            evaluate(f"sets=[{mine}]", "refine=true", "refiner.n_iters=0")
    evaluate(f"sets=[{mine}]", "refine=true")
    assert sum(grey.batches) == PHOTOS


def test_prediction_follows_its_settings(
    evaluate: Evaluate, grey: Grey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saicinpainting.evaluation import checkpoint as module

    seen: dict[str, Any] = {}
    told: list[Any] = []

    def predict_folder(*args: Any, **options: Any) -> Any:
        seen.update(options)
        return original(*args, **options)

    original = module.predict_folder
    monkeypatch.setattr(module, "predict_folder", predict_folder)
    mine = write_set(tmp_path / "mine")
    evaluate(f"sets=[{mine}]", "precision=bf16", "num_workers=1")
    assert grey.batches == [2, 1]
    assert grey.options["precision"] == "bf16"
    assert seen["num_workers"] == 1
    monkeypatch.setattr(module, "warn_of_unrefined", lambda backend, _: told.append(backend))
    evaluate(f"sets=[{mine}]", "refine=true", "refiner.n_iters=3", "model.name=refined")
    assert told == [grey]
    assert grey.batches == [2, 1, 2, 1]
    assert grey.options["refine"]
    assert grey.options["refiner"]["n_iters"] == 3
    assert seen["one_size"]
    with pytest.raises(InputError, match=r"holds an evaluation made of something else \(precision: bf16, now fp32\)"):
        evaluate(f"sets=[{mine}]")


def test_scaled_images_are_measured_at_their_scale(evaluate: Evaluate, tmp_path: Path) -> None:
    folder = evaluate(f"sets=[{write_set(tmp_path / 'mine')}]", "+dataset.scale_factor=0.5")
    assert Image.open(folder / "predictions" / "mine" / "0_mask000.png").size == (32, 32)
    assert means(folder, "mine")["psnr"] > 10
    write_failures(folder, find_failures(folder), tmp_path / "page.html", top=1)


def test_masks_may_lie_in_a_folder_of_their_own(evaluate: Evaluate, tmp_path: Path) -> None:
    mine = write_set(tmp_path / "mine")
    psnr = means(evaluate(f"sets=[{mine}]"), "mine")["psnr"]
    (tmp_path / "masks").mkdir()
    for mask in mine.glob("*_mask000.png"):
        mask.rename(tmp_path / "masks" / mask.name)
    folder = evaluate(f"sets=[{mine}]", f"+dataset.mask_path={tmp_path / 'masks'}", "model.name=apart")
    assert means(folder, "mine")["psnr"] == psnr
    write_failures(folder, find_failures(folder), tmp_path / "page.html", top=1)


def test_models_are_compared_where_images_and_masks_are_the_same(evaluate: Evaluate, tmp_path: Path) -> None:
    ours, theirs = write_set(tmp_path / "a" / "mine"), write_set(tmp_path / "b" / "mine", hole=slice(30, 60))
    shutil.copytree(ours, tmp_path / "copy")
    folder = evaluate(f"sets=[{ours}]")
    other = evaluate(f"sets=[{theirs}]", "model.name=other")
    with pytest.raises(InputError, match=r"have no set of the same images and masks"):
        find_failures(folder, against=other)
    of_copy = evaluate(f"sets=[{tmp_path / 'copy'}]", "model.name=of_copy")
    failures = find_failures(folder, against=of_copy)
    assert failures.ranked["worse by"].tolist() == [0] * PHOTOS
    write_failures(folder, failures, tmp_path / "page.html", top=1, against=of_copy)
    assert (tmp_path / "page.html").read_text().count('src="data:image/jpeg') == 4


def test_a_network_of_grey_images_is_measured_in_grey(evaluate: Evaluate, grey: Grey, tmp_path: Path) -> None:
    grey.image_channels = 1
    mine, hole = write_set(tmp_path / "mine"), slice(10, 30)
    folder = evaluate(f"sets=[{mine}]", "metrics=[l1]")
    distances = []
    for i in range(PHOTOS):
        image = np.asarray(Image.open(mine / f"{i}.png").convert("L")) / 255
        distances.append(np.abs(image[hole, hole] - 128 / 255).sum() / image.size)
    assert means(folder, "mine")["l1"] == pytest.approx(np.mean(distances), rel=1e-3)


# ---- what comes out ------------------------------------------------------------------------------------------------


def test_fid_alone_and_the_paper_by_the_size_of_the_pictures(evaluate: Evaluate, tmp_path: Path) -> None:
    torch.save(fill(_make_inception()).state_dict(), tmp_path / "inception.pth")
    mine = write_set(tmp_path / "random_thick_256", side=256)
    folder = evaluate(f"sets=[{mine}]", "metrics=[fid]", f"fid_weights={tmp_path / 'inception.pth'}", "size=512")
    assert means(folder, mine.name).keys() == {"fid"}
    page = (folder / "report.html").read_text()
    assert "Examples" not in page
    assert "CelebA-HQ, 256 px" in page
    assert f"{PHOTOS} images, the paper&#39;s values are of 2,000" in page
    assert "Places365" not in page
    with pytest.raises(InputError, match=r"no metric with a value for each image; evaluate with one of lpips"):
        find_failures(folder)


def test_models_of_one_folder_share_a_table(evaluate: Evaluate, tmp_path: Path) -> None:
    mine = write_set(tmp_path / "mine")
    folders = [evaluate(f"sets=[{mine}]", "table=[psnr]", *name) for name in ([], ["model.name=other"])]
    psnr = f"{means(folders[0], 'mine')['psnr']:.2f}"
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[0] == f"| model | mine ({PHOTOS}) PSNR, dB ↑ |"
    assert lines[2:4] == [f"| other | **{psnr}** |", f"| run | **{psnr}** |"]
    assert f"run & \\textbf{{{psnr}}} \\\\" in (tmp_path / "out" / "table.tex").read_text()


def test_images_that_were_scaled_or_made_grey_are_columns_of_their_own(
    evaluate: Evaluate, grey: Grey, tmp_path: Path
) -> None:
    given = (f"sets=[{write_set(tmp_path / 'mine')}]", "table=[psnr]")
    whole = evaluate(*given)
    evaluate(*given, "model.name=same", "+dataset.scale_factor=1")
    half = evaluate(*given, "model.name=half", "+dataset.scale_factor=0.5")
    grey.image_channels = 1
    evaluate(*given, "model.name=in_grey")
    cells = [line.split(" | ") for line in (tmp_path / "out" / "table.md").read_text().splitlines()[2:6]]
    assert [[bool(cell.strip(" |")) for cell in row[1:]] for row in cells] == [
        [True, False, False],  # half
        [False, True, False],  # in_grey
        [False, False, True],  # run
        [False, False, True],  # same
    ]
    with pytest.raises(InputError, match=r"have no set of the same images and masks"):
        find_failures(whole, against=half)


def test_classes_alone_are_reported(evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saicinpainting.metrics.segmentation.weight_files", lambda place: ())
    monkeypatch.setattr("saicinpainting.metrics.segmentation.make_segmentation", BrightIsSky)
    folder = evaluate(f"sets=[{write_set(tmp_path / 'mine')}]", "metrics=[segm]")
    assert 0 < means(folder, "mine")["segm_stats"] < 1
    assert "Examples" not in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("thin", "narrow"), ("random_thick_512", "wide"), ("segm_256", "segm"), ("medium", None),
        ("thick_1024", None),
        ("my_thick_holes", None), ("thick_of_my_own", None), ("random_thick_512_other", None),
    ],
)  # fmt: skip
def test_the_papers_sets_are_known_by_their_whole_name(name: str, expected: str | None) -> None:
    assert published_name(name) == expected


def test_the_papers_data_sets_are_known_by_the_size_of_all_images() -> None:
    assert dataset_of([(512, 512), (512, 512)]) == "places"
    assert dataset_of([(256, 256)]) == "celeba"
    for sizes in ([], [(256, 256), (512, 512)], [(512, 683)], [(300, 300)]):
        assert dataset_of(sizes) is None


def test_what_could_not_be_measured_is_null(tmp_path: Path) -> None:
    results = {("ssim", "total"): {"mean": 0.5, "std": float("nan")}, ("segm", "total"): {"mean": float("nan")}}
    nested = _nested(results)
    assert nested == {"ssim": {"total": {"mean": 0.5, "std": None}}, "segm": {"total": {"mean": None}}}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"sets": {"thin": {"results": nested}}}, allow_nan=False))
    assert "0.5000" in summary_table(file)
    assert "None" not in summary_table(file)
