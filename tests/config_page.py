"""Prints docs/config.md from the dataclasses of the config's sections: python tests/config_page.py > docs/config.md"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from saicinpainting.inference.edges import EdgeSettings
from saicinpainting.inference.refinement import RefinerSettings
from saicinpainting.schema import describe
from saicinpainting.training.run import CONFIG_SECTIONS

HEAD = """# Config reference

Every key of a training config (`configs/training`) that this package reads itself, of `refiner` in prediction and
evaluation, and of `mask` in prediction. Printed from the dataclasses by `tests/config_page.py`; a test holds them
together. Sections that go to a class are described there: `generator` by the networks (saicinpainting/networks),
`discriminator`, `evaluator` (saicinpainting/metrics), `visualizer`; `data.train` by `make_train_dataset`;
`trainer.kwargs` by Lightning's `Trainer`.
[Extend](extend.md) says how `_target_` puts a class of yours in the place of any part.
"""


def config_page() -> str:
    sections = {**CONFIG_SECTIONS, "refiner": (RefinerSettings,), "mask": (EdgeSettings,)}
    parts = [HEAD]
    for name, classes in sections.items():
        parts.append(f"\n## `{name}`\n\n| key | type | default | |\n|---|---|---|---|\n")
        for key in (key for section in classes for key in describe(section)):
            cells = (f"`{key.key}`", key.type, f"`{key.default}`" if key.default else "", key.text)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(config_page(), end="")
