"""Distributions over tasks: where episodes come from.

Sources are found by name and imported on first use, so that listing them costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innerloop.tasks.arrays import Arrays
    from innerloop.tasks.base import TaskSource
    from innerloop.tasks.glyphs import Glyphs
    from innerloop.tasks.image_folder import ImageFolder
    from innerloop.tasks.linear import Linear
    from innerloop.tasks.omniglot import Omniglot
    from innerloop.tasks.sinusoid import Sinusoid

#: Every source by the name that users type, and the module that holds it. Adding a source is one line here.
REGISTRY: dict[str, str] = {
    "Arrays": "innerloop.tasks.arrays",
    "Glyphs": "innerloop.tasks.glyphs",
    "ImageFolder": "innerloop.tasks.image_folder",
    "Linear": "innerloop.tasks.linear",
    "Omniglot": "innerloop.tasks.omniglot",
    "Sinusoid": "innerloop.tasks.sinusoid",
}

__all__ = ["REGISTRY", "Arrays", "Glyphs", "ImageFolder", "Linear", "Omniglot", "Sinusoid", "TaskSource"]


def __getattr__(name: str) -> Any:
    module = "innerloop.tasks.base" if name == "TaskSource" else REGISTRY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
