"""Gradient paths by name: what a configuration says of one, as the object that it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from innerloop import gradients
from innerloop.core.errors import ConfigError, ContractError, unknown
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Meta
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks
from innerloop.training.components import Plain, arguments_of, checked

#: A gradient path as it may be given: an object, its name, its name with arguments, or the learner's own.
GradientChoice: TypeAlias = MetaGradient | Mapping[str, Any] | str | None


def known() -> dict[str, type[MetaGradient]]:
    """The classes of `innerloop.gradients` that obtain a gradient, by name."""
    offered = {name: getattr(gradients, name) for name in gradients.__all__}
    return {
        name: cls
        for name, cls in offered.items()
        if inspect.isclass(cls) and issubclass(cls, MetaGradient) and not inspect.isabstract(cls)
    }


def as_gradient(given: GradientChoice) -> MetaGradient | None:
    """The gradient path that `given` stands for; None is the learner's own.

    >>> as_gradient({"name": "Recompute", "segment": "4"})
    Recompute(segment=4)
    """
    if isinstance(given, MetaGradient):
        return given
    component = {"name": given} if isinstance(given, str) else given
    if component in (None, {}, {"name": None}, {"name": "none"}, {"name": "null"}):
        return None
    classes = known()
    if not isinstance(component, Mapping) or not isinstance(component.get("name"), str):
        raise ConfigError(
            f"gradient = {given!r}",
            expected=f"one of {', '.join(classes)}, with its arguments if any",
            do="give --gradient NAME, or 'gradient: {name: NAME}'",
        )
    name = component["name"]
    if component.get("custom"):
        return Undescribed(name)
    if name not in classes:
        raise unknown("gradient", name, classes)
    arguments = {n: value for n, value in component.items() if n != "name"}
    return classes[name](**checked(classes[name], arguments, prefix="gradient"))


def plain(gradient: MetaGradient | None) -> dict[str, Plain] | None:
    """The inverse of `as_gradient`: a name and arguments."""
    if gradient is None:
        return None
    if isinstance(gradient, Undescribed):
        return {"name": gradient.name, "custom": True}
    name = type(gradient).__name__
    if known().get(name) is not type(gradient):
        return {"name": name, "custom": True}
    return {"name": name} | arguments_of(gradient)[0]


def words(gradient: MetaGradient) -> str:
    """A path and what is not usual about it.

    >>> words(gradients.Recompute(segment=4)), words(gradients.Recompute())
    ('Recompute(segment=4)', 'Recompute')
    """
    component = plain(gradient) or {}
    defaults = {n: p.default for n, p in inspect.signature(type(gradient)).parameters.items()}
    told = [f"{n}={v!r}" for n, v in component.items() if n in defaults and v != defaults[n]]
    return component["name"] + (f"({', '.join(told)})" if told else "")


@dataclass(frozen=True)
class Undescribed(MetaGradient):
    """The place of a path of the user's own in a configuration that was read: its name is all there is."""

    name: str
    exact = False

    def refuse(self) -> NoReturn:
        raise ContractError(
            f"a run whose gradient is {self.name}, which a file cannot describe",
            expected="the same object again, in Python: TrainConfig(gradient=...)",
            do="go on with il.train(..., existing='resume') and pass it",
        )

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        self.refuse()

    def passes(self, steps: int) -> float:
        self.refuse()

    def memory(self, steps: int, params: int, activations: int) -> float:
        self.refuse()
