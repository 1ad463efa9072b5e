"""Names to places: what a package offers, imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from innerloop.core.errors import unknown


def lazy(package: str, places: Mapping[str, str], name: str) -> Any:
    """The attribute `name` of `package`, found at `places[name]`, a module below it."""
    if name not in places:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{package}.{places[name]}"), name)


def find(kind: str, package: str, places: Mapping[str, str], name: str) -> Any:
    """The class that a user named, or a `ConfigError` with the nearest name."""
    if name not in places:
        raise unknown(kind, name, places)
    return lazy(package, places, name)
