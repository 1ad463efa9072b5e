"""Several sources as one distribution of tasks, whose families are known."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError, ContractError, check_range, nearest
from innerloop.core.registry import find
from innerloop.core.rng import Rng, as_key, fold, key, uniform
from innerloop.core.types import Batch, Episode, Split, TaskSpec
from innerloop.tasks.base import TaskSource
from innerloop.tasks.episodes import split_keys

_FAMILY = 7  # the stream of a task's key that its family is drawn from


@final
class Mixture:
    """Each task is of one of several sources, its family, drawn by weights.

    What is aggregated by families (`optimizer.aggregate`) knows them from here. Sources must agree in the
    shapes of inputs and outputs, loss, metric and sizes.

    Args:
        sources: at least two, each as its name with its arguments, `{"name": "Linear", "shots": 3}`, its
            name alone, or in Python an object.
        weights: how often each is drawn, >= 0, in any unit; None is equally often.

    Attributes:
        parts: the sources, built.

    Raises:
        ConfigError: fewer than two sources, one that is unknown or unfit, or weights that are.

    >>> both = Mixture(["Sinusoid", {"name": "Linear"}], weights=[3.0, 1.0])
    >>> both.families("train", 6, 0), both.sample("train", 6, 0).support.x.shape
    ([0, 0, 0, 1, 1, 0], torch.Size([6, 5, 1]))
    """

    def __init__(
        self, sources: list[Mapping[str, Any] | str | Any], weights: list[float] | None = None
    ) -> None:
        if not isinstance(sources, (list, tuple)) or len(sources) < 2:
            raise ConfigError(
                f"sources = {sources!r}",
                expected="a list of two sources or more, each a name or {name: ..., argument: ...}",
                do="list the sources in a YAML file (--config), or in Python",
            )
        self.sources, self.weights = list(sources), None if weights is None else list(weights)
        self.parts = [_built(source) for source in sources]
        self._bounds = np.cumsum(_shares(weights, len(sources)))
        self._spec = _common([part.spec for part in self.parts], list(map(told, sources)))

    @property
    def spec(self) -> TaskSpec:
        return self._spec

    def families(self, split: Split, num_tasks: int, rng: Rng) -> list[int]:
        """The number of the source of each task that `sample` gives for the same arguments.

        A generator would have moved on in between: `rng` has to be an int.
        """
        drawn = uniform(fold(split_keys(split, num_tasks, rng), _FAMILY), 1)[:, 0]
        last = len(self.parts) - 1
        return np.minimum(np.searchsorted(self._bounds, drawn, side="right"), last).tolist()

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Stacked tasks; the n-th of a family is the n-th task of its source, whatever `num_tasks`."""
        base = as_key(rng)
        families = np.array(self.families(split, num_tasks, base))
        place = np.argsort(families, kind="stable")
        parts = [
            part.sample(split, count, key(base, "family", number))
            for number, part in enumerate(self.parts)
            if (count := int((families == number).sum()))
        ]
        back = torch.from_numpy(np.argsort(place, kind="stable"))
        return Episode(
            *(
                Batch(*(_joined(leaves, back) for leaves in zip(*b, strict=True)))
                for b in zip(*parts, strict=True)
            )
        )

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """Training tasks, where there are no classes to pool.

        Raises:
            ConfigError: classes of several sources have no labels in common.
        """
        if self._spec.classes is not None:
            raise ConfigError(
                "batches of all classes of a Mixture",
                expected="classes of one source, whose labels mean the same in every batch",
                do="train on one of the sources, or use an algorithm that is trained on few-shot tasks",
            )
        return self.sample("train", num_batches, rng)

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same families with other sizes at test; training keeps its sizes."""
        parts = [part.resized(ways=ways, shots=shots, queries=queries) for part in self.parts]
        return type(self)(parts, self.weights)

    @classmethod
    def tiny(cls) -> Self:
        """Sinusoids and straight lines of few points."""
        sizes = {"shots": 4, "queries": 6}
        return cls([{"name": "Sinusoid"} | sizes, {"name": "Linear"} | sizes])


def _built(source: Any) -> TaskSource:
    from innerloop import tasks

    component: Any = {"name": source} if isinstance(source, str) else source
    if not isinstance(component, Mapping):
        if all(hasattr(source, name) for name in ("spec", "sample", "resized")):
            return component
        raise ConfigError(
            f"a source of type {type(source).__name__}", expected="{name: ..., argument: ...}", do="name it"
        )
    name = component.get("name")
    if not isinstance(name, str):
        raise ConfigError(
            f"source {dict(component)!r}", expected=f"a name: {', '.join(tasks.REGISTRY)}", do="add its name"
        )
    cls = find("tasks", tasks.__name__, tasks.REGISTRY, name)
    arguments = {n: value for n, value in component.items() if n != "name"}
    known = inspect.signature(cls).parameters
    for given in arguments:
        if given not in known:
            near = nearest(given, known)
            raise ConfigError(
                f"unknown setting {given} of {name} in a Mixture",
                expected=f"one of {', '.join(known)}",
                do=f"did you mean {near}?" if near else "remove it",
            )
    return cls(**arguments)


def _shares(weights: Any, count: int) -> list[float]:
    """Weights that sum to one."""
    if weights is None:
        return [1.0 / count] * count
    if len(weights) != count:
        raise ConfigError(
            f"{len(weights)} weights for {count} sources",
            expected="one weight for each source",
            do=f"give {count}",
        )
    for weight in weights:
        check_range("weights", weight, low=0.0)
    total = sum(weights)
    if total == 0:
        raise ConfigError(
            "weights that are all zero", expected="some weight above zero", do="set one above zero"
        )
    return [weight / total for weight in weights]


def told(source: Any) -> str:
    """What a source is called, as it was given."""
    if isinstance(source, Mapping):
        return str(source["name"])
    return source if isinstance(source, str) else type(source).__name__


def _common(specs: list[TaskSpec], names: list[str]) -> TaskSpec:
    """The one spec of all sources; their classes count together."""
    first = specs[0]
    for spec, name in zip(specs[1:], names[1:], strict=True):
        for field in ("input_shape", "outputs", "loss", "metric", "shots", "queries"):
            ours, theirs = getattr(first, field), getattr(spec, field)
            if ours != theirs:
                raise ConfigError(
                    f"a Mixture of {names[0]} with {field} = {ours} and {name} with {theirs}",
                    expected="sources whose tasks have the same shapes, loss and sizes",
                    do=f"give both the same {field}, or leave one out",
                )
    classes = None
    if all(spec.classes is not None for spec in specs):
        classes = {
            split: sum((spec.classes or {}).get(split, 0) for spec in specs) for split in first.classes or {}
        }
    return TaskSpec(
        first.input_shape, first.outputs, first.loss, first.metric, first.shots, first.queries, classes
    )


def _joined(leaves: tuple[Tensor, ...], back: Tensor) -> Tensor:
    """Tasks of several families, in the order that they were drawn in."""
    shapes = {tuple(leaf.shape[1:]) for leaf in leaves}
    if len(shapes) > 1:
        raise ContractError(
            f"tasks of shapes {' and '.join(map(str, sorted(shapes)))} in a Mixture",
            expected="sources with the same sizes in training too",
            do="give them the same train_ways, train_shots and train_queries",
        )
    return torch.cat(leaves)[back]
