"""`innerloop check`: the questions that every algorithm has to answer, asked of one."""

from __future__ import annotations

import json
import sys
from typing import Any

from innerloop.cli.options import (
    HELP,
    JSON,
    Option,
    Takes,
    help_page,
    nested,
    one_positional,
    parse,
    unknown_option,
)

_OPTIONS = (
    Option("steps", "outer steps of the training that shows that it learns; 0 leaves it out", "N"),
    Option("floor", "score that it has to reach by then, on small tasks", "SCORE", "a mild one"),
    Option("seed", "of tasks and initial weights", "N", "0"),
    JSON,
    HELP,
)
_GROUP = "algorithm."


def run(argv: list[str]) -> int:
    parsed = parse(argv, _takes)
    if parsed.flag("help"):
        print(help_page("check NAME [--algorithm.SETTING VALUE ...] [options]", _ABOUT, _OPTIONS, more=_MORE))
        return 0
    name = one_positional(parsed, "NAME", "check")
    given = nested(parsed.options).get("algorithm", {})
    from innerloop.testing import check_algorithm
    from innerloop.testing.samples import algorithm_class, smallest
    from innerloop.training.components import converted

    kind = algorithm_class(name)
    learner, tasks = smallest(kind, given)
    pupil, _ = smallest(kind, {**kind.small, **given})
    numbers: dict[str, Any] = {"steps": int, "floor": float, "seed": int}
    asked = {
        option: converted(numbers[option], value, option)
        for option, value in parsed.options.items()
        if option in numbers
    }
    print(f"asking {kind.__name__} ...", file=sys.stderr, flush=True)
    found = check_algorithm(learner, tasks, pupil=pupil, on_fail="return", **asked)
    print(json.dumps(found.to_dict(), indent=2) if parsed.flag("json") else found)
    return 0 if found else 1


def _takes(name: str) -> Takes:
    known = {option.name: option for option in _OPTIONS}
    if name.startswith(_GROUP):
        return "value"
    if name not in known:
        raise unknown_option(name, known, "check")
    return "nothing" if known[name].metavar is None else "value"


_ABOUT = """Asks an algorithm of this package, or one of yours as package.module:Class, the questions that all
of ours answer: gradients in float64, purity, isolation, randomness, resuming, learning. Exits 0 when
every question is answered well, 1 otherwise."""
_MORE = f"\n  --algorithm.SETTING VALUE\n{'':26}any setting of the algorithm, instead of its default"
