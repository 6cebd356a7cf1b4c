"""Configs of the official code, written for Hydra 1.0: group files begin with `# @package _group_`."""

from __future__ import annotations

import warnings

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads `# @package _group_` as it was meant: the keys are those of the file's own group.

    Hydra puts them under a key `_group_`, unless the whole program takes the defaults of Hydra 1.1.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        result = super().load_config(config_path)
        if result.header.get("package") == "_group_":
            result.header["package"] = None  # then a group's name is its package
        return result


def read_group_headers() -> None:
    """Let Hydra read official config files; safe to call twice."""
    # Their defaults lists have no `_self_`: the run file's own keys count, as everywhere.
    warnings.filterwarnings("ignore", message=".*Defaults list is missing `_self_`.*")
    Plugins.instance()  # registers Hydra's own sources
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
