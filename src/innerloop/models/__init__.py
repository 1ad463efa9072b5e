"""Base models. Any `nn.Module` will do as well; these are the field's standard ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerloop.core.registry import lazy

if TYPE_CHECKING:
    from innerloop.models.conv4 import Conv4
    from innerloop.models.mlp import MLP

#: Name of the class and of the flag -> its file.
REGISTRY = {"Conv4": "conv4", "MLP": "mlp"}

__all__ = ["MLP", "REGISTRY", "Conv4"]


def __getattr__(name: str) -> Any:
    return lazy(__name__, REGISTRY, name)
