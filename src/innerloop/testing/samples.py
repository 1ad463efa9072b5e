"""The smallest learner and tasks that an algorithm can be asked on, made from its class alone."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from innerloop import algorithms
from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ConfigError
from innerloop.core.registry import find
from innerloop.models import MLP
from innerloop.tasks import Arrays, Linear
from innerloop.tasks.base import TaskSource
from innerloop.training.components import checked
from innerloop.training.experiment import decided_by_tasks

#: What any algorithm reaches on these tasks after a short training, by the metric.
FLOORS = {"accuracy": 0.6, "mse": 4.0}
_HIDDEN = (16, 16)
_SIDE = 7  # of an image, so that a matrix of all second derivatives can still be solved with


def algorithm_class(name: str) -> type[ModuleLearner]:
    """A registered algorithm by its name, or one's own as `package.module:Class`.

    Raises:
        ConfigError: there is none, or it is no `ModuleLearner`.
    """
    place, colon, last = name.partition(":")
    if not colon:
        return find("algorithm", "innerloop.algorithms", algorithms.REGISTRY, name)
    try:
        found = getattr(importlib.import_module(place), last)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"algorithm {name!r}: {error}",
            expected="package.module:Class, importable from here",
            do="check the name, and that its folder is on PYTHONPATH",
        ) from error
    if not (inspect.isclass(found) and issubclass(found, ModuleLearner)):
        raise ConfigError(
            f"{name!r}, which is no ModuleLearner",
            expected="a subclass of innerloop.algorithms.base.ModuleLearner",
            do="name the class of an algorithm",
        )
    return found


def smallest(
    kind: type[ModuleLearner], settings: Mapping[str, Any] | None = None
) -> tuple[ModuleLearner, TaskSource]:
    """An algorithm under its defaults, but for `settings`, around a small MLP, and tasks for it.

    3-way 1-shot classification of synthetic strokes, small ones, so that every question is quick; straight
    lines for what is for regression alone.

    Raises:
        ConfigError: an unknown setting, or a value that it cannot take.
    """
    regression = "cross_entropy" not in kind.solves
    source = Linear(shots=5, queries=10) if regression else _strokes()
    given = checked(kind, settings or {}, prefix="algorithm", skip=("module",))
    sizes = MLP.sizes_for(source.spec, embeds=kind.embeds)
    sizes["inputs"] += kind.more_inputs(given)
    made: Any = kind  # each class has arguments of its own
    return made(MLP(**sizes, hidden=_HIDDEN), **decided_by_tasks(kind, source.spec) | given), source


def _strokes() -> TaskSource:
    tiny = Arrays.tiny()
    pixels = torch.as_tensor(tiny.x, dtype=torch.float32) / 255.0
    small = torch.nn.functional.adaptive_avg_pool2d(pixels, _SIDE)
    return Arrays(4.0 * small, tiny.y, ways=3, shots=1, queries=3)
