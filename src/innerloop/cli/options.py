"""Command-line options: dotted names into nested settings, every mistake told with its nearest name."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from innerloop.core.errors import ConfigError, nearest

#: How an option takes its value: never, always, or only if the next word is one (a bool setting).
Takes: TypeAlias = Literal["nothing", "value", "maybe"]
_BOOLS = ("true", "false", "yes", "no")


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: as in Python, with underscores and dots.
        about: what it is for, in a line.
        metavar: what stands for its value in the help; None for a flag.
        default: what is taken if it is not given, in words.
    """

    name: str
    about: str
    metavar: str | None = None
    default: str | None = None


@dataclass
class Parsed:
    """A command line taken apart.

    Attributes:
        options: values by name with underscores and dots; text, or True for a flag.
        positionals: the rest, in order.
    """

    options: dict[str, Any] = field(default_factory=dict)
    positionals: list[str] = field(default_factory=list)

    def flag(self, name: str) -> bool:
        return bool(self.options.get(name, False))


HELP = Option("help", "show this page")
JSON = Option("json", "print one JSON object and nothing else")


def parse(argv: Sequence[str], takes: Callable[[str], Takes]) -> Parsed:
    """Take a command line apart.

    Args:
        argv: the words after the command.
        takes: tells for the name of an option how it takes its value; raises for an unknown name.
    """
    parsed = Parsed()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            parsed.positionals += words
            break
        if word == "-h":
            word = "--help"
        if not _is_option(word):
            parsed.positionals.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        kind = takes(name)
        if name in parsed.options and name != "help":
            raise ConfigError(f"{shown(name)} twice", expected="each option once", do="remove one of them")
        parsed.options[name] = _value(name, kind, value if equals else None, words)
    return parsed


def simple(argv: Sequence[str], options: Iterable[Option], command: str) -> Parsed:
    """Take apart the words of a command whose options are all in a table."""
    known = {option.name: option for option in options}

    def takes(name: str) -> Takes:
        if name not in known:
            raise unknown_option(name, known, command)
        return "nothing" if known[name].metavar is None else "value"

    return parse(argv, takes)


def unknown_option(name: str, known: Iterable[str], command: str) -> ConfigError:
    """The error for an option that a command has not; `inner_lr` is near to `algorithm.inner_lr`."""
    known = sorted(known)
    group, _, last = name.rpartition(".")
    inside = [k for k in known if k.rpartition(".")[2] == last]
    in_group = {k.rpartition(".")[2]: k for k in known if group and k.rpartition(".")[0] == group}
    if in_group:
        near = in_group.get(nearest(last, in_group) or "")
    else:
        near = inside[0] if inside else nearest(name, known)
    return ConfigError(
        f"option {shown(name)}",
        expected=f"an option of 'innerloop {command}'",
        do=f"did you mean {shown(near)}?" if near else f"see 'innerloop {command} --help'",
    )


def nested(options: dict[str, Any], named: Iterable[str] = ()) -> dict[str, Any]:
    """Dotted names as nested dicts; the value of a name in `named` is the component's `name`.

    >>> nested({"algorithm": "MAML", "algorithm.inner_lr": "0.4", "steps": "10"}, ["algorithm"])
    {'algorithm': {'name': 'MAML', 'inner_lr': '0.4'}, 'steps': '10'}
    """
    result: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".") if name not in named else [name, "name"]
        place = result
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return result


def one_positional(parsed: Parsed, what: str, command: str) -> str:
    """The only positional argument, or a `ConfigError`."""
    if len(parsed.positionals) == 1:
        return parsed.positionals[0]
    found = " ".join(parsed.positionals)
    raise ConfigError(
        f"{len(parsed.positionals)} arguments: {found}" if found else f"no {what}",
        expected=f"one {what}",
        do=f"innerloop {command} {what} [options]; see 'innerloop {command} --help'",
    )


def no_positionals(parsed: Parsed, command: str) -> None:
    if parsed.positionals:
        raise ConfigError(
            f"argument {parsed.positionals[0]!r}",
            expected="options only, each '--name value'",
            do=f"see 'innerloop {command} --help'",
        )


def shown(name: str) -> str:
    """A setting's name as an option: `tasks_per_step` is `--tasks-per-step`."""
    return "--" + (name if "." in name else name.replace("_", "-"))


def help_page(usage: str, about: str, options: Iterable[Option], *, more: str = "") -> str:
    """The help of a command."""
    return f"usage: innerloop {usage}\n\n{about}\n\n{option_lines(options)}{more}"


def option_lines(options: Iterable[Option], width: int = 100) -> str:
    """One paragraph an option: its name and metavar, what it is for, its default."""
    left = 26
    lines = []
    for option in options:
        head = f"  {shown(option.name)}" + (f" {option.metavar}" if option.metavar else "")
        tail = f"{option.about} [{option.default}]" if option.default is not None else option.about
        wrapped = textwrap.wrap(tail, width - left) or [""]
        if len(head) < left - 1:
            lines.append(f"{head:<{left}}{wrapped.pop(0)}")
        else:
            lines.append(head)
        lines += [" " * left + text for text in wrapped]
    return "\n".join(line.rstrip() for line in lines)


def _is_option(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _value(name: str, kind: Takes, value: str | None, words: list[str]) -> Any:
    """The value of an option, taken from the words that follow where it needs one."""
    if kind == "nothing":
        if value is not None:
            raise ConfigError(
                f"{shown(name)}={value}", expected=f"{shown(name)} alone", do="leave the value out"
            )
        return True
    if value is not None:
        return value
    follows = words[0] if words and not _is_option(words[0]) else None
    if kind == "maybe" and (follows is None or follows.lower() not in _BOOLS):
        return True
    if follows is None:
        raise ConfigError(
            f"{shown(name)} without a value", expected=f"{shown(name)} VALUE", do="give one after it"
        )
    return words.pop(0)
