"""A whole experiment as one configuration: algorithm, model, tasks and outer loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from innerloop import algorithms, models, tasks
from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.recalling import recalling
from innerloop.core.errors import ConfigError, ContractError, unknown
from innerloop.core.registry import find
from innerloop.core.types import TaskSpec
from innerloop.models.base import Model
from innerloop.tasks.base import TaskSource
from innerloop.training.components import Plain, arguments_of, checked, parameters
from innerloop.training.config import TrainConfig

COMPONENTS = {"algorithm": algorithms, "model": models, "tasks": tasks}
_PIXELS = 16  # that an image must have each way, to be halved four times


@dataclass(frozen=True)
class RunConfig:
    """What `config.yaml` holds: three components by name, each with its arguments, and the outer loop.

    Attributes:
        algorithm, model, tasks: `{"name": ..., argument: value, ...}`. Arguments that are not given
            take their defaults; sizes that the tasks decide (ways, channels) and the loss follow them.
        train: the outer loop's settings, which stand at the top level of the YAML.
    """

    algorithm: Mapping[str, Plain]
    tasks: Mapping[str, Plain]
    model: Mapping[str, Plain]
    train: TrainConfig

    @classmethod
    def from_dict(cls, values: Mapping[str, Plain]) -> RunConfig:
        """The configuration that plain values describe, with every name and type checked."""
        rest = dict(values)
        named = {kind: _component(kind, rest.pop(kind, None)) for kind in COMPONENTS}
        try:
            train = TrainConfig.from_dict(rest)
        except ConfigError as error:
            near = next((kind for kind in COMPONENTS if f"unknown setting {kind[:4]}" in error.got), None)
            raise (unknown("setting", error.got.split()[-1], COMPONENTS) if near else error) from error
        return cls(train=train, **named)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> RunConfig:
        return cls.from_dict(read_yaml(path))

    def to_dict(self) -> dict[str, Plain]:
        named = {kind: dict(getattr(self, kind)) for kind in COMPONENTS}
        return named | self.train.to_dict()

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def build(
        self, *, module: nn.Module | None = None, source: TaskSource | None = None
    ) -> tuple[ModuleLearner, Any]:
        """The learner and the tasks. `module` and `source` stand in for what a file cannot describe."""
        source = source or build_tasks(self.tasks)
        return self.build_learner(source.spec, module=module), source

    def build_learner(self, spec: TaskSpec, *, module: nn.Module | None = None) -> ModuleLearner:
        """The algorithm around its model, with the tasks' loss and sizes where none are given."""
        module = module or build_model(self.model, self.algorithm, spec)
        cls, arguments = _resolve("algorithm", self.algorithm)
        learner = cls(module, **decided_by_tasks(cls, spec) | arguments)
        return recalling(learner, self.train.retain.recall) if self.train.retain.recall else learner


def describe(learner: ModuleLearner, source: TaskSource, train: TrainConfig) -> RunConfig:
    """The configuration of objects that a user built in Python."""
    return RunConfig(
        algorithm=_described(learner, algorithms.REGISTRY, skip=("module",)),
        tasks=_described(source, tasks.REGISTRY),
        model=_described(learner.module, models.REGISTRY),
        train=train,
    )


def decided_by_tasks(cls: type[ModuleLearner], spec: TaskSpec) -> dict[str, Any]:
    """The arguments of an algorithm that follow from the tasks, where it takes them."""
    known = {"loss": spec.loss, "ways": spec.outputs, "targets": spec.outputs}
    known |= {"classes": (spec.classes or {}).get("train")}
    return {name: value for name, value in known.items() if name in parameters(cls)}


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Plain]:
    """A mapping from a YAML file, with its errors told as ours."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"configuration {path}: {error.strerror}", expected="a readable YAML file", do="check the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = str(getattr(error, "problem_mark", "") or "").strip().replace("\n", " ")
        raise ConfigError(
            f"{path} is not YAML {where}".rstrip(), expected="a YAML mapping", do="mend the file"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds {type(values).__name__}",
            expected="a YAML mapping",
            do="write 'setting: value' lines",
        )
    return values


def build_tasks(component: Mapping[str, Plain]) -> TaskSource:
    cls, arguments = _resolve("tasks", component)
    return _construct("tasks", cls, arguments)


def build_model(component: Mapping[str, Plain], algorithm: Mapping[str, Plain], spec: TaskSpec) -> nn.Module:
    """The model, with the sizes that the tasks decide filled in where they are not given."""
    image = len(spec.input_shape) == 3 and min(spec.input_shape[1:]) >= _PIXELS
    component = {"name": "Conv4" if image else "MLP"} | dict(component)
    cls, arguments = _resolve("model", component)
    kind, settings = _resolve("algorithm", algorithm)
    fitted = cls.sizes_for(spec, embeds=kind.embeds) if issubclass(cls, Model) else {}
    if "inputs" in fitted:
        fitted["inputs"] += kind.more_inputs(settings)
    return _construct("model", cls, fitted | arguments)


def _component(kind: str, value: Plain) -> dict[str, Plain]:
    if value is None and kind == "model":
        return {}
    value = {"name": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        known = ", ".join(COMPONENTS[kind].REGISTRY)
        raise ConfigError(
            f"no name for {kind}",
            expected=f"one of {known}",
            do=f"give --{kind} NAME, or '{kind}: {{name: NAME}}'",
        )
    if "custom" not in value and "external" not in value:
        _resolve(kind, value)
    return dict(value)


def _resolve(kind: str, component: Mapping[str, Plain]) -> tuple[Any, dict[str, Any]]:
    package = COMPONENTS[kind]
    if component.get("custom") or component.get("external"):
        what = (
            component["name"]
            if component.get("custom")
            else f"{component['name']} ({', '.join(component['external'])})"
        )
        word = {"model": "module", "tasks": "tasks", "algorithm": "learner"}[kind]
        raise ContractError(
            f"a run whose {kind} is {what}, which a file cannot describe",
            expected=f"the same object again, in Python: il.load(path, {word}=...)",
            do="load the run from Python and pass it",
        )
    cls = find(kind, package.__name__, package.REGISTRY, component["name"])
    arguments = {k: v for k, v in component.items() if k != "name"}
    return cls, checked(cls, arguments, prefix=kind, skip=("module",))


def _construct(kind: str, cls: Any, arguments: dict[str, Any]) -> Any:
    missing = [n for n, p in parameters(cls).items() if p.default is p.empty and n not in arguments]
    if missing:
        flags = " ".join(f"--{kind}.{name} ..." for name in missing)
        raise ConfigError(
            f"{cls.__name__} without {', '.join(missing)}",
            expected=f"a value for {', '.join(missing)}",
            do=f"give {flags}",
        )
    return cls(**arguments)


def _described(thing: object, registry: Mapping[str, str], *, skip: tuple[str, ...] = ()) -> dict[str, Plain]:
    name = type(thing).__name__
    if name not in registry or not type(thing).__module__.startswith("innerloop."):
        return {"name": name, "custom": True}
    values, opaque = arguments_of(thing, skip=skip)
    return {"name": name} | values | ({"external": opaque} if opaque else {})
