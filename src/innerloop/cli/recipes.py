"""Recipes: run configurations that come with the package, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from innerloop.core.errors import unknown

PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Inside an installed package, or the repository's own folder in an editable install."""
    inside = PACKAGE / "recipes"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "recipes"


def places() -> Mapping[str, Path]:
    """Names of the recipes -> their files."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def find(name: str) -> Path:
    """The file of a recipe, or a `ConfigError` with the nearest name."""
    known = places()
    if name not in known:
        raise unknown("recipe", name, known)
    return known[name]


def about(path: Path) -> str:
    """What a recipe says of itself: its `about`, or its first comment."""
    text = path.read_text(encoding="utf-8")
    values: Any = yaml.safe_load(text)
    said = values.get("about", "") if isinstance(values, dict) else ""
    first = text.lstrip().partition("\n")[0]
    return " ".join(str(said or (first.lstrip("# ") if first.startswith("#") else "")).split())
