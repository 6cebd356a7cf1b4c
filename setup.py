"""The packages; everything else about the distribution stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # configs/ lies at the top of the repository; a wheel has it in the package.
    packages=[*find_packages(include=["saicinpainting", "saicinpainting.*"]), "saicinpainting.configs"],
    package_dir={"saicinpainting.configs": "configs"},
)
