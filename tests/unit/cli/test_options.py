"""Options: dotted names, both spellings, and a message for every mistake."""

from __future__ import annotations

import pytest

from innerloop.cli.options import HELP, JSON, Option, Takes, nested, option_lines, parse, simple
from innerloop.core.errors import ConfigError


def takes(name: str) -> Takes:
    return {"resume": "nothing", "help": "nothing", "tasks.grey": "maybe"}.get(name, "value")  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("--steps 5", {"steps": "5"}),
        ("--steps=5", {"steps": "5"}),
        ("--tasks-per-step 5", {"tasks_per_step": "5"}),
        ("--tasks_per_step=5", {"tasks_per_step": "5"}),
        ("--algorithm.inner_lr -0.5", {"algorithm.inner_lr": "-0.5"}),
        ("--algorithm.inner-lr -1e-3", {"algorithm.inner_lr": "-1e-3"}),
        ("--out=a=b", {"out": "a=b"}),
        ("--out=", {"out": ""}),
        ("--resume --steps 5", {"resume": True, "steps": "5"}),
        ("--tasks.grey --steps 5", {"tasks.grey": True, "steps": "5"}),
        ("--tasks.grey false", {"tasks.grey": "false"}),
        ("--tasks.grey", {"tasks.grey": True}),
        ("-h --help", {"help": True}),
    ],
)
def test_both_spellings_and_negative_numbers_are_values(line: str, options: dict[str, object]) -> None:
    assert parse(line.split(), takes).options == options


def test_what_follows_two_dashes_is_positional() -> None:
    assert parse(["a", "--resume", "--", "--b"], takes).positionals == ["a", "--b"]


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("--steps", "--steps without a value"),
        ("--steps --resume", "--steps without a value"),
        ("--steps 1 --steps 2", "--steps twice"),
        ("--tasks-per-step 1 --tasks_per_step 2", "--tasks-per-step twice"),
        ("--resume=yes", "--resume=yes"),
    ],
)
def test_a_mistake_is_named(line: str, got: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(line.split(), takes)
    assert caught.value.got == got


def test_an_unknown_option_has_a_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean --json\?"):
        simple(["--jsn"], [JSON, HELP], "list")
    with pytest.raises(ConfigError, match="see 'innerloop list --help'"):
        simple(["--qqqqqq", "1"], [JSON, HELP], "list")


def test_a_component_and_its_arguments_merge() -> None:
    given = {"algorithm.inner_lr": "1", "algorithm": "MAML", "optimizer": "SGD", "optimizer.lr": "2"}
    assert nested(given, ["algorithm", "optimizer"]) == {
        "algorithm": {"inner_lr": "1", "name": "MAML"},
        "optimizer": {"name": "SGD", "lr": "2"},
    }


def test_a_help_line_has_name_value_meaning_and_default() -> None:
    lines = option_lines([Option("tasks_per_step", "tasks in each", "N", "4"), JSON]).splitlines()
    assert lines[0].split() == ["--tasks-per-step", "N", "tasks", "in", "each", "[4]"]
    assert lines[1].split()[0] == "--json"
