"""Meta-learning for PyTorch: train models that learn from a handful of examples.

Names are imported when they are first used, so that `import innerloop` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from innerloop import algorithms, gradients, models, rules, tasks, testing
    from innerloop.core.errors import ConfigError, ContractError, DataError, InnerloopError
    from innerloop.core.learner import MetaLearner
    from innerloop.core.types import Batch, Episode, TaskSpec
    from innerloop.gradients.check import check_gradient
    from innerloop.gradients.single import meta_gradient
    from innerloop.training.fit import train
    from innerloop.training.plan import plan
    from innerloop.training.run import Run, load, load_adapted

__version__ = "0.1.0"

_PACKAGES = ("algorithms", "gradients", "models", "rules", "tasks", "testing")
_NAMES = {
    "Batch": "core.types",
    "ConfigError": "core.errors",
    "ContractError": "core.errors",
    "DataError": "core.errors",
    "Episode": "core.types",
    "InnerloopError": "core.errors",
    "MetaLearner": "core.learner",
    "Run": "training.run",
    "TaskSpec": "core.types",
    "check_gradient": "gradients.check",
    "load": "training.run",
    "load_adapted": "training.run",
    "meta_gradient": "gradients.single",
    "plan": "training.plan",
    "train": "training.fit",
}

__all__ = [
    "Batch",
    "ConfigError",
    "ContractError",
    "DataError",
    "Episode",
    "InnerloopError",
    "MetaLearner",
    "Run",
    "TaskSpec",
    "algorithms",
    "check_gradient",
    "gradients",
    "load",
    "load_adapted",
    "meta_gradient",
    "models",
    "plan",
    "rules",
    "tasks",
    "testing",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"innerloop.{name}")
    if name in _NAMES:
        found = getattr(importlib.import_module(f"innerloop.{_NAMES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'innerloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
