"""Objects to configurations and back: a class by its name, its arguments by theirs.

Arguments stand on `self` under their own names, so an object can be written down and rebuilt
without any machinery in its class. Values are checked against the constructor's annotations.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from innerloop.core.errors import ConfigError, nearest

Plain = Any  # what YAML holds: None, bool, int, float, str, and lists and dicts of them


def parameters(cls: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The constructor's parameters by name, annotations resolved, in order."""
    target = cls.__init__ if inspect.isclass(cls) else cls
    hints = typing.get_type_hints(target)
    found = inspect.signature(cls).parameters
    return {name: p.replace(annotation=hints.get(name, Any)) for name, p in found.items()}


def checked(
    cls: type, arguments: Mapping[str, Plain], *, prefix: str, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Arguments converted to the annotated types, or a `ConfigError` that names `prefix.argument`."""
    known = {name: p for name, p in parameters(cls).items() if name not in skip}
    result = {}
    for name, value in arguments.items():
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(
                f"unknown setting {prefix}.{name} of {cls.__name__}",
                expected=f"one of {', '.join(known)}" if known else f"{cls.__name__} alone",
                do=f"did you mean {prefix}.{near}?" if near else "remove it",
            )
        result[name] = converted(known[name].annotation, value, f"{prefix}.{name}")
    return result


def converted(annotation: Any, value: Plain, name: str) -> Any:
    """`value` as the annotated type: text such as "0.4" becomes a number where one is expected."""
    if (
        isinstance(value, str)
        and value.lower() in ("none", "null")
        and type(None) in typing.get_args(annotation)
    ):
        return None
    if isinstance(value, bool) and not {bool, Any} & {annotation, *typing.get_args(annotation)}:
        raise _wrong_type(annotation, value, name)
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise _wrong_type(annotation, value, name) from error


def arguments_of(thing: object, *, skip: tuple[str, ...] = ()) -> tuple[dict[str, Plain], list[str]]:
    """The constructor arguments of an object as plain values, and the names of those that are not plain."""
    values, opaque = {}, []
    for name in parameters(type(thing)):
        if name in skip:
            continue
        value = getattr(thing, name, _MISSING)
        if _is_plain(value):
            values[name] = list(value) if isinstance(value, tuple) else value
        else:
            opaque.append(name)
    return values, opaque


_MISSING = object()


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _wrong_type(annotation: Any, value: Plain, name: str) -> ConfigError:
    return ConfigError(f"{name} = {value!r}", expected=type_name(annotation), do=f"give {name} such a value")


def type_name(annotation: Any) -> str:
    """An annotation in words a user knows: `a number`, `one of a, b`."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    if annotation in words:
        return words[annotation]
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (tuple, list):
        return f"a list of {type_name(args[0]).removeprefix('a ')}s" if args else "a list"
    if args:
        return " or ".join(type_name(arg) for arg in args)
    return getattr(annotation, "__name__", str(annotation))
