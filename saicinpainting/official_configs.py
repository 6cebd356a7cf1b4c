"""Configs of the official code, written for Hydra 1.0: group files begin with `# @package _group_`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal import hydra as hydra_main
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf, open_dict
from yaml.constructor import ConstructorError

from saicinpainting.config import CONFIGS
from saicinpainting.io.interpolations import check_interpolations
from saicinpainting.io.yaml_files import read_yaml
from saicinpainting.utils import InputError

LOGGER = logging.getLogger(__name__)


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads `# @package _group_` as it was meant: the keys are those of the file's own group.

    Hydra puts them under a key `_group_`, unless the whole program takes the defaults of Hydra 1.1.

    Of files elsewhere than in this package's folder `configs` nothing is taken that says how Hydra itself works, since
    its loggers open files and its callbacks start programs.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        if file.is_file() and CONFIGS not in file.resolve().parents:
            return self._load_foreign(config_path, file)
        return self._load(config_path)

    def _load(self, config_path: str) -> ConfigResult:
        try:
            result = super().load_config(config_path)
        except ConstructorError:
            # Official preparation scripts append their keys to a location file that is there.
            if not config_path.startswith("location/"):
                raise
            settings = OmegaConf.create(read_yaml(Path(self.path, self._normalize_file_name(config_path))))
            result = ConfigResult(self.provider, f"{self.scheme()}://{self.path}", settings, {"package": None})
        if result.header.get("package") == "_group_":
            result.header["package"] = None  # then a group's name is its package
        return result

    def _load_foreign(self, config_path: str, file: Path) -> ConfigResult:
        refusal = f"{file}: settings of Hydra are not taken from a file; give them on the command line"
        if _is_hydra(config_path.replace("/", ".").removesuffix(".yaml")):
            ours = FileConfigSource(self.provider, f"file://{CONFIGS / 'training'}")
            if not ours.is_config(config_path):
                raise InputError(refusal)
            return ours.load_config(config_path)
        content = read_yaml(file)
        if isinstance(content, dict):
            for entry in content.get("defaults") or ():
                for word in entry if isinstance(entry, dict) else (entry,):
                    if "hydra" in str(word).partition("@")[2]:
                        raise InputError(f"{refusal} (defaults: {word})")
            check_interpolations(content, map(str, content))
        result = self._load(config_path)
        if _is_hydra(result.header.get("package") or ""):
            raise InputError(refusal)
        if isinstance(result.config, DictConfig) and "hydra" in result.config:
            LOGGER.warning("%s: the section hydra is ignored; give what is needed of it on the command line", file)
            with open_dict(result.config):
                del result.config["hydra"]
        return result


def _is_hydra(package: str) -> bool:
    return package.removeprefix("_global_.").partition(".")[0] == "hydra"


class BoundedConfigLoader(config_loader_impl.ConfigLoaderImpl):
    """Measures what files together become by their interpolations, before Hydra resolves the first of them."""

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        config = super().load_configuration(*args, **kwargs)
        check_interpolations(OmegaConf.to_container(config), [str(key) for key in config if key != "hydra"])
        return config


def read_group_headers() -> None:
    """Let Hydra read official config files; safe to call twice."""
    hydra_main.ConfigLoaderImpl = BoundedConfigLoader  # type: ignore[misc]
    # Their defaults lists have no `_self_`: the run file's own keys count, as everywhere.
    warnings.filterwarnings("ignore", message=".*Defaults list is missing `_self_`.*")
    Plugins.instance()  # registers Hydra's own sources
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
