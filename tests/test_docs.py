"""The documents: their links lead somewhere, and what they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saicinpainting.networks.models import table_of_models
from tests.config_page import config_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\b(bin/\w+\.(?:py|sh)|benchmarks/\w+\.(?:py|sh))")
FILE = re.compile(r"`((?:saicinpainting|tests|configs|benchmarks|docs)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_are_there(page: Path):
    text = page.read_text()
    links = {link.partition("#")[0] for link in LINK.findall(text) if "://" not in link}
    missing = [link for link in links if link and not (page.parent / link).exists()]
    named = {*COMMAND.findall(text), *FILE.findall(text)}
    missing += [name for name in named if "my_" not in name and not (ROOT / name).exists()]
    assert not missing


def test_the_readme_is_short_and_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 200
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []


def test_the_config_reference_is_that_of_the_sections():
    assert (ROOT / "docs" / "config.md").read_text() == config_page(), "python tests/config_page.py > docs/config.md"


def test_the_table_of_models_is_the_printed_one():
    assert table_of_models() in (ROOT / "docs" / "models.md").read_text(), "bin/models.py --markdown"
