"""Paths of command lines reach the config letter by letter; what is written for Hydra stays Hydra's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from saicinpainting.config import LIGHTNING_1_KEYS, translate_trainer_kwargs
from saicinpainting.overrides import folders_with_shares, forced, literal_words, without_null_groups
from tests.helpers import ROOT

PATHS = [
    "/data/photos (copy)",
    "/data/图片 été",
    "/data/caf\udce9",
    "it's",
    "a 'b' \"c\"",
    "'",
    "x\\",
    "x\\'y",
    "[1]",
    "{a: 1}",
    "{a,b}",
    "a,b",
    "a=b",
    "a#b",
    "~a~",
    " a ",
    "C:\\data\\x",
    "2024",
    "1e3",
    "true",
    "nan",
    "choice(1,2)",
    "-x",
    "@x%y&z;|*?!<>`",
    "https://host/x.zip?a=b#sha256=0f",
]


def composed(group: str, name: str, *words: str):
    with initialize_config_dir(str(ROOT / "configs" / group), version_base="1.3"):
        return compose(name, literal_words(words))


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_the_shell_gives_it(path: str) -> None:
    keys = ("indir", "outdir", "out", "model.path", "model.checkpoint", "+data.cache_dir", "++data.file_list")
    config = composed("prediction", "default", *(f"{key}={path}" for key in keys))
    for key in keys:
        assert OmegaConf.select(config, key.lstrip("+")) == path


def test_a_file_that_is_there_is_meant_whatever_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("'q'", "a\\=b", "~", "[a,b]"):
        Path(name).mkdir()
        assert composed("prediction", "default", f"indir={name}").indir == name
        assert composed("training", "lama-tiny", f"data.train.indir={name}").data.train.indir == name


def test_the_home_folder_is_found_after_an_equals_sign(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann (1)")
    config = composed("prediction", "default", "model.path=~/runs/big", "indir=~")
    assert (config.model.path, config.indir) == ("/home/ann (1)/runs/big", "/home/ann (1)")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.train.indir=[a,'b (1)']", ["a", "b (1)"]),
        ("data.train.indir=[/a (1)/图, 'b,c', d]", ["/a (1)/图", "b,c", "d"]),
        ("run_title=[/a (1)/图]", ["/a (1)/图"]),
        ("data.train.indir={places: .8, /my/photos.2: .2}", {"places": 0.8, "/my/photos.2": 0.2}),
        ("data.train.indir='a b'", "a b"),
        ('location.tb_dir="a (1)"', "a (1)"),
        (r"location.tb_dir=a\=b\ (c)", None),  # half of it is escaped: as it stands
        (r"location.tb_dir=a\=b\ \(c\)", "a=b (c)"),
        ("trainer.resume_from_checkpoint=null", None),
        ("location.tb_dir=${location.out_root_dir}/tb (1)", "/data/experiments/tb (1)"),
        ("trainer.kwargs.max_epochs=3", 3),
        ("losses.l1.weight_known=1e1", 10.0),
        ("trainer.profile_steps=[1,2]", [1, 2]),
        ("visualizer.key_order=[image]", ["image"]),
        ("+optimizers.generator.betas={a:[1,x]}", {"a": [1, "x"]}),
        ("run_title=mine (2), 图 = it's", "mine (2), 图 = it's"),
        ("run_title=${generator.kind}", "ffc_resnet"),
        ("losses.resnet_pl.weights_path=a,b", "a,b"),
    ],
)
def test_what_is_written_for_hydra_stays_so(word: str, value: object) -> None:
    config = composed("training", "lama-fourier", word)
    key, _, given = word.lstrip("+").partition("=")
    found = OmegaConf.select(config, key)
    assert (OmegaConf.to_object(found) if OmegaConf.is_config(found) else found) == (
        given if value is None and given != "null" else value
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--multirun", "location.data_root_dir=a,b", "seed=1,2"],
        ["-m", "trainer.seed=range(1,4)", "location.tb_dir=choice(a,b)"],
        ["trainer.seed=1,2"],
        ["--config-dir", "indir=a (b)", "-cn", "indir=a (b)"],
        ["--config-dir=indir=(b)"],
        ["~data.val", "location=places_example", "refine=true", "outdir=/a/b.c-d_e"],
        ["hydra.run.dir=/x/${now:%Y-%m-%d}"],
    ],
)
def test_words_that_hydra_reads_as_meant_stay_as_they_are(words: list[str]) -> None:
    assert literal_words(words) == words


def test_null_leaves_a_group_out() -> None:
    configs = ROOT / "configs" / "training"
    words = without_null_groups(["evaluator=null", "logger=null", "data.val=null", "=null"], configs)
    assert words == ["~evaluator", "~logger", "data.val=null", "=null"]
    with initialize_config_dir(str(configs), version_base="1.3"):
        config = compose("lama-fourier", words[:-1])
    assert "evaluator" not in config
    assert config.data.val is None


def test_a_list_that_hydra_cannot_read_is_one_of_texts() -> None:
    assert literal_words(["sets=[thin,a=b, /my (1)/set]"]) == ["sets=['thin','a=b','/my (1)/set']"]
    assert literal_words(["sets=[thin,a=b"]) == ["sets=[thin,a=b"]


def test_folders_with_shares_may_have_any_letters(tmp_path: Path, monkeypatch) -> None:
    assert folders_with_shares("{/data/図 (1): .8, 'a, b': 2}") == {"/data/図 (1)": 0.8, "a, b": 2}
    monkeypatch.chdir(tmp_path)
    Path("{a: 1}").mkdir()
    for other in ("{a: 1}", "{a,b}", "{a: x}", "{a", ["a"], None):
        assert folders_with_shares(other) == other


def test_names_of_no_utf_8_are_words_of_the_shell() -> None:
    assert literal_words([os.fsdecode(b"indir=caf\xe9")]) == ["indir='caf\udce9'"]


def test_words_for_official_configs_set_keys_of_ours_too():
    words = ["+out_ext=.jpg", "+trainer.kwargs.accelerator=ddp", "trainer.kwargs.gpus=1", "trainer.kwargs.gpu=1"]
    others = ["+logger=many", "+x@trainer.kwargs=y", "++a.b=1", "~a.b", "-cn", "lama-fourier", "data.batch_size=10"]
    made = forced([*words, *others], {"out_ext": ".png"}, LIGHTNING_1_KEYS)
    assert made == ["++out_ext=.jpg", "++trainer.kwargs.accelerator=ddp", "++trainer.kwargs.gpus=1", words[3], *others]
    with initialize_config_dir(str(ROOT / "configs" / "training"), version_base="1.3"):
        kwargs = compose("lama-fourier", made[1:3]).trainer.kwargs
    assert (kwargs.accelerator, kwargs.gpus) == ("ddp", 1)
    assert translate_trainer_kwargs(kwargs)["devices"] == 1
