"""From plain settings to a `RunConfig`: defaults filled in, or a stored one continued."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from innerloop.cli.settings import merged
from innerloop.core.errors import ConfigError
from innerloop.core.registry import find
from innerloop.training.components import checked, parameters
from innerloop.training.experiment import COMPONENTS, RunConfig, build_model
from innerloop.training.folder import CONFIG, RunFolder


def configured(values: Mapping[str, Any]) -> RunConfig:
    """The configuration that settings describe, its model named."""
    if isinstance(values.get("model"), dict) and "name" not in values["model"]:
        fitting = RunConfig.from_dict({**values, "model": None})
        values = {**values, "model": {"name": _model_name(fitting)} | values["model"]}
    return RunConfig.from_dict(values)


def complete_yaml(config: RunConfig) -> str:
    """The whole configuration, with every default that does not depend on the tasks."""
    if not config.model:
        config = dataclasses.replace(config, model={"name": _model_name(config)})
    follow = {"algorithm": ("module", "loss"), "model": _sizes(config), "tasks": ()}
    values = config.to_dict()
    left_out = []
    for kind in COMPONENTS:
        cls, typed = _typed(kind, values[kind])
        defaults = {n: p.default for n, p in parameters(cls).items() if p.default is not p.empty}
        left_out += [
            f"{kind}.{n}" for n in follow[kind] if n in parameters(cls) and n not in (*typed, "module")
        ]
        defaults = {n: value for n, value in defaults.items() if n not in follow[kind]}
        values[kind] = {"name": values[kind]["name"]} | _plain(defaults | typed)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=False)
    return text + (f"# these follow the tasks: {', '.join(left_out)}\n" if left_out else "")


def continued(folder: RunFolder, given: Mapping[str, Any]) -> RunConfig:
    """The configuration stored in a run folder, with more steps if asked for; nothing else may differ."""
    folder.check()
    stored = RunConfig.from_yaml(folder.path / CONFIG)
    if not given:
        return stored
    full = RunConfig.from_dict(merged(stored.to_dict(), given))
    for name, (asked, found) in _compared(stored, full, given).items():
        if asked == found or (name == "steps" and asked > found):
            continue
        raise ConfigError(
            f"{name} = {asked!r} for a run stored with {found!r}",
            expected="the stored configuration; only steps may grow"
            if name != "steps"
            else f"steps >= {found}",
            do=f"leave {name} out, or choose another --out",
        )
    return dataclasses.replace(stored, train=dataclasses.replace(stored.train, steps=full.train.steps))


def _compared(stored: RunConfig, full: RunConfig, given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each given setting by name: what was asked for, and what is stored."""
    result: dict[str, tuple[Any, Any]] = {}
    for kind in COMPONENTS:
        asked, found = getattr(full, kind), getattr(stored, kind)
        if kind not in given:
            continue
        result[kind] = (asked["name"], found["name"])
        if asked["name"] == found["name"]:
            (cls, typed), (_, before) = _typed(kind, asked), _typed(kind, found)
            defaults = {n: p.default for n, p in parameters(cls).items()}
            result |= {f"{kind}.{n}": (v, before.get(n, defaults[n])) for n, v in typed.items()}
    ours, theirs = full.train.to_dict(), stored.train.to_dict()
    for name, value in given.items():
        if isinstance(value, dict) and name not in (*COMPONENTS, "gradient"):
            result |= {f"{name}.{n}": (ours[name][n], theirs[name][n]) for n in value}
        elif name not in COMPONENTS:
            result[name] = (ours[name], theirs[name])
    return result


def _typed(kind: str, component: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of a component, and its arguments as the types they are annotated with."""
    package = COMPONENTS[kind]
    cls = find(kind, package.__name__, package.REGISTRY, component["name"])
    arguments = {n: v for n, v in component.items() if n != "name"}
    return cls, checked(cls, arguments, prefix=kind, skip=("module",))


def _stand_in(config: RunConfig) -> Any:
    """The spec of tasks of the same kind that need no data."""
    return _typed("tasks", config.tasks)[0].tiny().spec


def _model_name(config: RunConfig) -> str:
    return type(build_model({}, config.algorithm, _stand_in(config))).__name__


def _sizes(config: RunConfig) -> tuple[str, ...]:
    """The arguments of the model that the tasks decide."""
    cls, _ = _typed("model", config.model)
    embeds = _typed("algorithm", config.algorithm)[0].embeds
    return tuple(cls.sizes_for(_stand_in(config), embeds=embeds))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
