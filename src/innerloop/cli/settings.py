"""The settings of `innerloop train`: which there are, and how recipe, file and options make one whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from innerloop.cli import described, recipes
from innerloop.cli.described import KINDS, Argument
from innerloop.cli.options import Option, Parsed, Takes, nested, unknown_option
from innerloop.core.errors import ConfigError, unknown

FLAGS = (
    Option("resume", "go on with the run in --out, exactly; alone, with the configuration stored there"),
    Option("overwrite", "delete the run in --out and start again"),
    Option("print_config", "print the whole configuration as YAML and stop; --config reads it"),
    Option(
        "help", "show this page; with --algorithm, --tasks, --model or --gradient NAME also its own settings"
    ),
)
FILES = (
    Option("recipe", "start from a configuration that comes with the package", "NAME"),
    Option("config", "then take over a YAML file's settings; options override both", "FILE"),
    Option("stream", "tasks that come one after another, as --tasks and --tasks.*", "NAME"),
    Option("out", "the run folder to write", "DIR", "runs/ALGORITHM-TASKS-N"),
)
_CONFIG = "training/config.py"
_GROUPS = {
    "optimizer": (_CONFIG, "OptimizerConfig"),
    "objective": (_CONFIG, "ObjectiveConfig"),
    "retain": ("training/retain/config.py", "RetainConfig"),
    "adversary": ("training/adversary.py", "AdversaryConfig"),
    "validation": (_CONFIG, "ValidationConfig"),
    "probe": (_CONFIG, "ProbeConfig"),
}
_NAMED = (*KINDS, "optimizer")


def outer_loop() -> dict[str, Argument]:
    """Every setting of the outer loop by its dotted name."""
    result = {}
    for name, argument in described.read_class(_CONFIG, "TrainConfig").arguments.items():
        if name not in _GROUPS:
            result[name] = argument
    for group, (file, cls) in _GROUPS.items():
        for name, argument in described.read_class(file, cls).arguments.items():
            result[f"{group}.{name}"] = argument
    return result


def takes(name: str, command: str = "train") -> Takes:
    """How the option `name` of `innerloop train` takes its value; raises for an unknown name."""
    name = _as_tasks(name) if "." in name else name
    if any(name == flag.name for flag in FLAGS):
        return "nothing"
    if name.removesuffix(".name") in _NAMED or any(name == option.name for option in FILES):
        return "value"
    known = outer_loop() | _component_settings()
    if name not in known:
        raise unknown_option(name, [*known, *_NAMED, *(o.name for o in (*FLAGS, *FILES))], command)
    return "maybe" if known[name].is_bool else "value"


def _component_settings() -> dict[str, Argument]:
    """Every argument of every component; one that is a bool anywhere may stand without a value."""
    found: dict[str, Argument] = {}
    for kind in KINDS:
        for cls in described.components(kind):
            for name, argument in cls.arguments.items():
                full = f"{kind}.{name}"
                if name != "module" and (full not in found or argument.is_bool or argument.is_list):
                    found[full] = argument
    return found


def gather(parsed: Parsed) -> dict[str, Any]:
    """Plain settings from the recipe, the file and the options, later ones over earlier ones."""
    given = dict(parsed.options)
    for option in (*FLAGS, Option("out", "")):
        given.pop(option.name, None)
    recipe, config = given.pop("recipe", None), given.pop("config", None)
    values: dict[str, Any] = {}
    if recipe is not None:
        values = merged(values, _from_file(recipes.find(recipe)))
    if config is not None:
        values = merged(values, _from_file(config))
    values = merged(values, nested(_without_stream(given), _NAMED))
    known = dict.fromkeys([*KINDS, *(name.partition(".")[0] for name in outer_loop())])
    for name in values:
        if name not in known:
            raise unknown("setting", str(name), known)
    return {name: _with_lists(name, value) for name, value in values.items()}


def _without_stream(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `--stream` and its settings under the name of what it is: tasks."""
    name = given.get("stream")
    if name is not None and "tasks" in given:
        raise ConfigError("--stream and --tasks", expected="one of them", do="remove one: a stream is tasks")
    if name is not None and name not in described.streams():
        raise unknown("stream", str(name), described.streams())
    return {_as_tasks(option): value for option, value in given.items()}


def _as_tasks(option: str) -> str:
    first, dot, rest = option.partition(".")
    return f"tasks{dot}{rest}" if first == "stream" else option


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` over `base`; a component of another name drops the arguments of the one before it.

    >>> merged({"model": {"name": "Conv4", "width": 64}, "steps": 5}, {"model": {"width": 8}})
    {'model': {'name': 'Conv4', 'width': 8}, 'steps': 5}
    >>> merged({"model": {"name": "Conv4", "width": 64}}, {"model": {"name": "MLP"}})
    {'model': {'name': 'MLP'}}
    """
    result = dict(base)
    for name, value in over.items():
        before = result.get(name)
        if name in KINDS:
            before, value = _as_mapping(before), _as_mapping(value)
            if isinstance(value, dict) and value.get("name", before.get("name")) != before.get("name"):
                before = {}
        if isinstance(before, dict) and isinstance(value, dict):
            value = before | value
        result[name] = value
    return result


def require(values: Mapping[str, Any]) -> None:
    """Raise unless an algorithm and tasks are named, and these can be described by options."""
    for kind in ("algorithm", "tasks"):
        if "name" not in _as_mapping(values.get(kind)):
            raise ConfigError(
                f"no {kind}",
                expected=f"one of {', '.join(described.registry(kind))}",
                do=f"give --{kind} NAME, or a --recipe ('innerloop list recipes')",
            )
    name = _as_mapping(values["tasks"])["name"]
    if isinstance(name, str):
        required = [a for a in described.component("tasks", name).arguments.values() if a.default is None]
        if any("Array" in argument.annotation for argument in required):
            raise ConfigError(
                f"tasks {name!r} on the command line",
                expected="tasks that a file can describe",
                do=f"pass il.tasks.{name}(...) to il.train in Python, or use --tasks ImageFolder",
            )


def _from_file(path: Any) -> dict[str, Any]:
    from innerloop.training.experiment import read_yaml

    return {name: value for name, value in read_yaml(path).items() if name != "about"}


def _as_mapping(value: Any) -> Any:
    if value is None:
        return {}
    return {"name": value} if isinstance(value, str) else value


def _with_lists(kind: str, value: Any) -> Any:
    """`40,40` and `[40, 40]` as lists, where the argument is one."""
    if kind not in KINDS or not isinstance(value, dict):
        return value
    known = _component_settings()
    lists = {n for n in value if f"{kind}.{n}" in known and known[f"{kind}.{n}"].is_list}
    return {n: _as_list(v) if n in lists else v for n, v in value.items()}


def _as_list(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    inside = value.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inside.split(",") if part.strip()]
