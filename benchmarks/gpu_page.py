"""The page of `make gpu`: one table of the machine, one of the steps, one of each step's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def page(machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of what `benchmarks/gpu.py` found; `results` may be those of the first steps."""
    parts = [f"# {machine['card']}", "What `make gpu` found; docs/gpus.md says what the steps are."]
    parts.append(table([{"": name.replace("_", " "), "value": value} for name, value in machine.items() if value]))
    columns = ("step", "title", "status", "seconds", "limit", "reason")
    parts.append(table([{name: result[name] for name in columns if name in result} for result in results]))
    for result in results:
        parts.append(f"## {result['step']}. {result['title']}: {result['status']}")
        parts.append(table(result["rows"]) if result["rows"] else "No rows.")
    return "\n\n".join(parts) + "\n"


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    columns = [
        name
        for name in dict.fromkeys(key for row in rows for key in row)
        if any(row.get(name) is not None for row in rows)
    ]
    lines = [columns, ["---"] * len(columns), *([cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
