"""Words `key=value` of a command line: paths reach Hydra as the shell gave them, everything else as Hydra reads it.

Hydra's grammar gives a meaning to brackets, braces, quotes, commas and backslashes, and takes no `=`, `#` or `~` and no
letters beyond ASCII.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

_OVERRIDE = re.compile(r"(\+{0,2}([\w$][\w$./@:-]*)=)(.+)", re.DOTALL)
# By its last word: model.path, data.train.indir, hydra.run.dir, location.tb_dir, evaluation's lpips_weights, …
_PATH = re.compile(
    r"out|(.*\.)?(\w+_)?(path|(in|out|sub)?dir|folder|checkpoint|finetune_from|weights|file_list|pretrained_models)"
)
_PATH_OR_LIST = re.compile(r"data\..*\.indir|.*_weights")
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)
_ESCAPED = re.compile(r"\\[()\[\]{}:=, \t\\]")
_FLAGS_WITH_VALUE = {
    *("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--package", "-p", "--info", "-i"),
    "--experimental-rerun",
}


def literal_words(arguments: Sequence[str]) -> list[str]:
    """The arguments of a Hydra command, with values that Hydra would misread in quotes.

    A key that holds a path takes its value letter by letter. Unless a file of that name is there, these keep Hydra's
    meaning: a value in quotes or with the backslashes of its notation, a list, or folders with shares, where the key
    takes several folders, and values to sweep over with `--multirun`; so do `null` and `${…}` always. `~/` is the home
    folder, which shells leave to the command after `model.path=`. Other keys: a value that Hydra cannot read is text,
    or a list of texts.
    """
    multirun = any(word in ("-m", "--multirun") for word in arguments)
    before = ("", *arguments)
    return [
        word if flag in _FLAGS_WITH_VALUE else _literal(word, multirun=multirun)
        for flag, word in zip(before, arguments, strict=False)
    ]


def without_null_groups(arguments: Sequence[str], configs: Path) -> list[str]:
    """The arguments with `~evaluator` for `evaluator=null`, which Hydra takes in a file only.

    configs: has a folder for each group.
    """
    return [
        f"~{name}" if equals and value == "null" and name and (configs / name).is_dir() else word
        for word in arguments
        for name, equals, value in [word.partition("=")]
    ]


def forced(arguments: Sequence[str], known: Collection[str], official: Collection[str]) -> list[str]:
    """The arguments with `++key=` where official commands have `+key=` or `key=`, which Hydra takes of one alone.

    Official configs lack keys that ours have, and have keys of Lightning 1 that ours lack.

    Args:
        known: keys at the top of our config; those within sections are told by their dots, groups have none.
        official: keys that only official configs have.
    """
    words = []
    for word in arguments:
        plus, key = re.match(r"(\+?)([\w.]*)", word).groups()  # type: ignore[union-attr]
        is_forced = word[len(plus + key) :][:1] == "=" and ("." in key or key in known if plus else key in official)
        words.append(f"++{word.removeprefix('+')}" if is_forced else word)
    return words


def folders_with_shares(indir: Any) -> Any:
    """The mapping in a text `{/data/図: .8, mine (2): .2}`, whose letters Hydra does not take between braces.

    Anything else, a folder of such a name too, is returned as it is.
    """
    if not isinstance(indir, str) or indir[:1] + indir[-1:] != "{}" or os.path.lexists(indir):
        return indir
    try:
        folders = yaml.safe_load(indir)
    except yaml.YAMLError:
        return indir
    return folders if all(isinstance(share, int | float) for share in folders.values()) else indir


def _literal(word: str, *, multirun: bool) -> str:
    found = _OVERRIDE.fullmatch(word)
    if found is None:
        return word
    start, key, value = found.groups()
    override = _parsed(word)
    if override is None and (listed := _list_in_quotes(key, value)):
        return f"{start}{listed}"
    if not _PATH.fullmatch(key):
        return word if override or value[0] in "[{'\"" else f"{start}{_in_quotes(value)}"
    if value.lower() == "null" or value == "???":
        return word
    if os.path.lexists(value):
        literal = value
    elif override and _is_notation(key, value, override, multirun=multirun):
        return word
    else:
        literal = os.path.expanduser(value) if re.match("~(/|$)", value) else value
    plain = override is not None and not override.is_sweep_override() and override.value() == literal
    return word if plain and not _QUOTED.fullmatch(value) else f"{start}{_in_quotes(literal)}"


def _is_notation(key: str, value: str, override: Override, *, multirun: bool) -> bool:
    """Whether the value of a path's key is written for Hydra."""
    if override.is_sweep_override():
        return multirun
    if isinstance(override.value(), list | dict):
        return bool(_PATH_OR_LIST.fullmatch(key))
    return bool(_QUOTED.fullmatch(value) or _ESCAPED.search(value))


def _list_in_quotes(key: str, value: str) -> str | None:
    """A list of texts that Hydra cannot read as they stand, `[/data/a (1),b]`; None where the key takes one path."""
    if value[0] + value[-1] != "[]" or os.path.lexists(value):
        return None
    if _PATH.fullmatch(key) and not _PATH_OR_LIST.fullmatch(key):
        return None
    try:
        texts = yaml.safe_load(value)
    except yaml.YAMLError:
        return None
    if not all(isinstance(text, str) for text in texts):
        return None
    return f"[{','.join(map(_in_quotes, texts))}]"


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def _in_quotes(value: str) -> str:
    return QuotedString(value, Quote.single).with_quotes()
