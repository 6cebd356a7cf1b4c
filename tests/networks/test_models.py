"""Published models by name, against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from saicinpainting.inference.folders import origin
from saicinpainting.inference.inpainter import Inpainter
from saicinpainting.io import download
from saicinpainting.networks import make_generator, models
from saicinpainting.networks.models import (
    ModelFiles,
    fetch_model,
    find_model,
    locate_model,
    published_models,
    table_of_models,
    verify_model,
)
from saicinpainting.training.finetune import finetune_path
from saicinpainting.utils import InputError
from tests.helpers import fill, golden_values, photo, rand
from tests.server import Files, serving

CONFIG = b"generator: {}\ntraining_model: {}\n"


def weights(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    torch.manual_seed(seed)
    torch.save({"state_dict": {"generator.w": torch.randn(50_000)}}, buffer)
    return buffer.getvalue()


def zipped(checkpoint: bytes, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("big-lama/", b"")
        for name, data in {"config.yaml": CONFIG, "models/best.ckpt": checkpoint, **more}.items():
            archive.writestr(f"big-lama/{name}", data)
    return buffer.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def table(server: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table with big-lama as a zip and lama-fourier as files, both on the server; an empty cache."""
    checkpoint = weights()
    served = tmp_path / "served"
    (served / "big-lama.zip").write_bytes(zipped(checkpoint))
    (served / "best.ckpt").write_bytes(checkpoint)
    (served / "config.yaml").write_bytes(CONFIG)
    entry = {"config": "big-lama", "what": "a network", "licence": "none"}
    digest = hashlib.sha256(checkpoint).hexdigest()
    best = {"sha256": digest, "bytes": len(checkpoint)}
    content = {
        "big-lama": {
            **entry,
            "zip": {"address": server.address + "/big-lama.zip", "bytes": len(zipped(checkpoint))},
            "files": {
                "config.yaml": {"member": "big-lama/config.yaml"},
                "models/best.ckpt": {"member": "big-lama/models/best.ckpt", **best},
            },
        },
        "lama-fourier": {
            **entry,
            "files": {
                "config.yaml": {"address": server.address + "/config.yaml"},
                "models/best.ckpt": {"address": server.address + "/best.ckpt", **best},
            },
        },
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("LAMA_MODELS", str(tmp_path / "models.yaml"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LAMA_OFFLINE", raising=False)
    return tmp_path / "models.yaml"


@pytest.mark.parametrize("name", ["big-lama", "lama-fourier"])
def test_a_name_is_fetched_once_and_verified(table: Path, server: Files, name: str):
    found = locate_model(name)
    assert found.checkpoint.read_bytes() == weights()
    assert found.config is not None
    assert found.config.read_bytes() == CONFIG
    requests = len(server.requests)
    assert locate_model(name) == found
    assert len(server.requests) == requests
    assert not list(found.config.parent.glob("*.zip"))


def test_a_download_that_is_cut_twice_goes_on(table: Path, server: Files):
    server.cuts, server.cut_after = 2, 70_000
    assert locate_model("big-lama").checkpoint.read_bytes() == weights()
    assert [first for _, first in server.requests] == [0, 70_000, 140_000]


def test_another_checkpoint_in_the_zip_is_refused_and_fetched_anew(table: Path, server: Files, tmp_path: Path):
    (tmp_path / "served" / "big-lama.zip").write_bytes(zipped(weights(1)))
    with pytest.raises(InputError, match=r"best\.ckpt has sha256 .* expected .* removed"):
        locate_model("big-lama")
    (tmp_path / "served" / "big-lama.zip").write_bytes(zipped(weights()))
    assert locate_model("big-lama").checkpoint.read_bytes() == weights()


def test_a_file_that_rots_is_fetched_and_compared_again(table: Path, server: Files, tmp_path: Path):
    found = locate_model("big-lama")
    found.checkpoint.write_bytes(weights(1))
    with pytest.raises(InputError, match=r"expected .* removed"):
        verify_model(find_model("big-lama"), again=True)
    (tmp_path / "served" / "big-lama.zip").write_bytes(zipped(weights(1)))
    with pytest.raises(InputError, match=r"expected .* removed"):
        locate_model("big-lama")


def test_another_zip_with_the_right_checkpoint_is_right(table: Path, server: Files):
    model = find_model("big-lama")
    model.folder.mkdir(parents=True)
    (model.folder / "big-lama.zip").write_bytes(zipped(weights(), **{"README": b"by hand"}))
    assert locate_model("big-lama").checkpoint.read_bytes() == weights()
    assert not server.requests


def test_offline_says_which_file_to_put_where(table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    with pytest.raises(InputError, match=r"LAMA_OFFLINE is set.*big-lama\.zip by hand at .*cache/lama/big-lama/big-la"):
        locate_model("big-lama")
    with pytest.raises(InputError, match=r"best\.ckpt at .*cache/lama/lama-fourier/models/best\.ckpt"):
        locate_model("lama-fourier")


def test_damage_in_a_zip_is_named(table: Path, tmp_path: Path):
    model = find_model("big-lama")
    model.folder.mkdir(parents=True)
    (model.folder / "big-lama.zip").write_bytes(zipped(weights())[:-3000])
    with pytest.raises(InputError, match=r"big-lama\.zip is damaged"):
        fetch_model(model)


def test_a_mirror_of_the_hub_is_asked_in_its_place(table: Path, server: Files, monkeypatch: pytest.MonkeyPatch):
    content = yaml.safe_load(table.read_text())
    content["big-lama"]["zip"]["address"] = "https://huggingface.co/big-lama.zip"
    other = table.with_name("other.yaml")
    other.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("LAMA_MODELS", str(other))
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    assert locate_model("big-lama").checkpoint.is_file()


def test_an_unknown_name_has_a_hint(table: Path):
    with pytest.raises(InputError, match="did you mean 'big-lama'"):
        locate_model("big-lam")


def test_another_checkpoint_than_the_file_that_is_named_is_an_error(tmp_path: Path):
    file = tmp_path / "run" / "models" / "best.ckpt"
    file.parent.mkdir(parents=True)
    file.touch()
    assert all(locate_model(file, name).checkpoint == file for name in ("best.ckpt", "", None))
    with pytest.raises(InputError, match=r"model.checkpoint=last.ckpt: .* is a file"):
        locate_model(file, "last.ckpt")


def test_folders_files_and_zips_are_found(table: Path, tmp_path: Path):
    run = tmp_path / "run"
    (run / "models").mkdir(parents=True)
    (run / "config.yaml").write_bytes(CONFIG)
    (run / "models" / "last.ckpt").write_bytes(weights())
    of_run = locate_model(run, "last.ckpt")
    assert of_run == locate_model(run / "models" / "last.ckpt")
    assert of_run.config == run / "config.yaml"
    assert locate_model(run).checkpoint.name == "best.ckpt"  # what is asked for, though it is not there
    (run / "models" / "best.safetensors").touch()
    assert locate_model(run, "best.ckpt").checkpoint.name == "best.safetensors"
    (run / "models" / "best.ckpt").touch()
    assert locate_model(run).checkpoint.name == "best.ckpt"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "g.pth").write_bytes(weights())
    assert locate_model(alone / "g.pth").config is None
    (tmp_path / "mine.zip").write_bytes(zipped(weights()))
    of_zip = locate_model(tmp_path / "mine.zip")
    assert of_zip.checkpoint.read_bytes() == weights()
    assert of_zip.config is not None


def test_a_run_is_found_by_a_part_of_it_and_without_a_folder_for_its_weights(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "models").mkdir(parents=True)
    for file in ("config.yaml", "models/best.ckpt", "models/last.ckpt"):
        (run / file).touch()
    for place in (run / "models", run / "config.yaml", f"{run}/models/"):
        assert locate_model(place) == ModelFiles(run / "models" / "best.ckpt", run / "config.yaml")
        assert locate_model(place, "last.ckpt").checkpoint == run / "models" / "last.ckpt"
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in ("config.yaml", "best.safetensors"):
        (flat / file).touch()
    assert locate_model(flat) == ModelFiles(flat / "best.safetensors", flat / "config.yaml")
    assert locate_model(tmp_path / "none").checkpoint == tmp_path / "none" / "models" / "best.ckpt"
    with pytest.raises(InputError, match=rf"no checkpoint .*; model\.path={flat} is a run's folder"):
        origin({"path": str(tmp_path), "checkpoint": "best.ckpt"}, {})


@pytest.mark.parametrize("config", ["config.yaml", "models/config.yaml"])
def test_the_config_above_or_beside_the_weights_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    run = tmp_path / "run"
    (run / "models").mkdir(parents=True)
    for file in (config, "models/best.ckpt"):
        (run / file).touch()
    for folder, places in (
        (tmp_path, ["./run", "run/models", f"run/{config}", "run/models/best.ckpt"]),
        (run, [".", "models", config, "models/best.ckpt"]),
        (run / "models", ["..", ".", "best.ckpt", os.path.relpath(run / config, run / "models")]),
    ):
        monkeypatch.chdir(folder)
        for place in places:
            found = locate_model(place)
            assert found.checkpoint.resolve() == run / "models" / "best.ckpt"
            assert found.config is not None, (folder, place)
            assert found.config.resolve() == run / config


def test_an_address_brings_its_checksum(table: Path, server: Files):
    digest = hashlib.sha256(weights()).hexdigest()
    address = f"{server.address}/best.ckpt"
    assert locate_model(f"{address}#sha256={digest}").checkpoint.read_bytes() == weights()
    with pytest.raises(InputError, match="expected 0123456789"):
        locate_model(f"{address}#sha256=0123456789{digest[10:]}")


def test_places_on_the_hub_are_understood(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(*args: object, **kwargs: object) -> str:
        asked.append((*args, kwargs["revision"]))
        logging.getLogger("httpx").info("HTTP Request: GET https://cdn.example/x.ckpt?Signature=secret")
        (tmp_path / "x.ckpt").write_bytes(weights())
        return str(tmp_path / "x.ckpt")

    monkeypatch.setattr(hub, "hf_hub_download", download)
    with caplog.at_level("INFO"):
        assert locate_model("hf://me/lama@v2/models/x.ckpt").checkpoint == tmp_path / "x.ckpt"
    assert "secret" not in caplog.text
    locate_model("hf://me/lama@refs/pr/1/models/x.ckpt")  # a pull request's files
    assert asked == [("me/lama", "models/x.ckpt", "v2"), ("me/lama", "models/x.ckpt", "refs/pr/1")]
    with pytest.raises(InputError, match="expected hf://OWNER/REPO"):
        locate_model("hf://me")


def test_whatever_goes_wrong_at_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("huggingface_hub")

    class RemoteProtocolError(Exception):
        """As of the package that the hub's own uses, and neither an OSError nor a ValueError."""

    def fails(*_: object, **__: object) -> str:
        raise RemoteProtocolError("peer closed connection")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(hub, name, fails)
    for place in ("hf://me/lama", "hf://me/lama/models/x.ckpt"):
        with pytest.raises(InputError, match=rf"^{place}: cannot be had from the hub \(peer closed connection\)$"):
            locate_model(place)
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    with pytest.raises(InputError, match="LAMA_OFFLINE is set, and it was not fetched before"):
        locate_model("hf://me/lama")


def test_a_model_that_was_put_there_for_all_is_verified_where_nothing_may_be_written(
    table: Path, server: Files, monkeypatch: pytest.MonkeyPatch
):
    model = find_model("lama-fourier")
    (model.folder / "models").mkdir(parents=True)
    (model.folder / "config.yaml").write_bytes(CONFIG)
    (model.folder / "models" / "best.ckpt").write_bytes(weights())
    before = sorted(model.folder.parent.rglob("*"))
    # Root may write everywhere; so it is told otherwise, in place of the modes.
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    for _ in range(2):
        assert locate_model("lama-fourier").checkpoint.read_bytes() == weights()
    assert sorted(model.folder.parent.rglob("*")) == before
    (model.folder / "models" / "best.ckpt").write_bytes(weights(1))
    with pytest.raises(InputError, match=r"best\.ckpt has sha256 .* expected .*; replace it, or name another folder"):
        locate_model("lama-fourier")
    assert not server.requests


def test_the_shipped_table_is_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LAMA_MODELS", raising=False)
    for model in published_models().values():
        assert model.checkpoint
        assert model.bytes > 1e6
        assert (models.TABLE.parent / "training" / f"{model.config}.yaml").is_file()
        assert f"`{model.name}`" in table_of_models()
        for file in model.files.values():
            assert bool(file.address) + bool(file.member) + model.ships == 1


def test_what_ships_is_whole_and_is_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LAMA_MODELS", raising=False)
    monkeypatch.setenv("LAMA_OFFLINE", "1")
    model = find_model(models.DEFAULT)
    verify_model(model, again=True)
    assert fetch_model(model) == model.folder
    assert not list(model.folder.glob(".*"))  # nothing is written into an installed package
    image, mask = photo("coffee.png", 128), np.zeros((128, 128), np.uint8)
    mask[43:86, 43:86] = 255
    filled = Inpainter.from_pretrained(device="cpu")(image, mask)
    assert (filled[mask == 0] == image[mask == 0]).all()
    of_mean = np.abs(image[mask > 0].mean(0) - image[mask > 0]).mean()
    assert np.abs(filled.astype(int) - image)[mask > 0].mean() < 0.5 * of_mean


def test_a_folder_of_results_does_not_hide_the_model_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lama-small" / "predictions").mkdir(parents=True)  # of bin/evaluate.py with outdir=.
    assert locate_model("lama-small").checkpoint.is_file()
    (tmp_path / "lama-small" / "models").mkdir()  # a run
    assert not locate_model("lama-small").checkpoint.is_file()


def test_a_published_name_fills_holes_and_starts_a_run(table: Path, server: Files, tmp_path: Path):
    """A whole network in the layout of 2021, interrupted on its way: predicts as the run's folder does."""
    section = golden_values()["ffc"]
    generator = fill(make_generator(**section))
    config = yaml.safe_dump({"generator": section, "training_model": {"kind": "default", "concat_mask": True}})
    buffer = io.BytesIO()
    torch.save({"state_dict": {f"generator.{k}": t for k, t in generator.state_dict().items()}}, buffer)
    served = tmp_path / "served"
    (served / "config.yaml").write_text(config)
    (served / "best.ckpt").write_bytes(buffer.getvalue())
    content = yaml.safe_load(table.read_text())
    file = content["lama-fourier"]["files"]["models/best.ckpt"]
    file |= {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "bytes": len(buffer.getvalue())}
    table.write_text(yaml.safe_dump(content))
    models._read.cache_clear()
    server.cuts, server.cut_after = 2, 30_000
    image, mask = rand(1, 1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    by_name = Inpainter.from_pretrained("lama-fourier", device="cpu")(image, mask)
    direct = Inpainter(generator, device="cpu")(image, mask)
    assert torch.equal(by_name, direct)
    assert finetune_path("lama-fourier", resume_from=None, resuming=False) == locate_model("lama-fourier").checkpoint
