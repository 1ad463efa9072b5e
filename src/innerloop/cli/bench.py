"""`innerloop bench`: comparisons on equal terms, each one table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from innerloop.cli.options import HELP, JSON, Option, Parsed, help_page, one_positional, simple
from innerloop.core.errors import ConfigError, ContractError, unknown

_ALGORITHMS = (
    Option("minutes", "of training for each algorithm, in processor time a thread", "N", "10"),
    Option("threads", "CPU threads of each", "N", "2"),
    Option("jobs", "algorithms trained side by side", "N", "1"),
    Option("episodes", "test tasks that each is judged on", "N", "600"),
    Option("seed", "of weights and training tasks", "N", "0"),
    Option("root", "folder with Omniglot's files", "DIR", "the cache folder, downloaded when missing"),
    Option("out", "folder for rows and runs; a row is not made twice", "DIR", "runs/bench-algorithms"),
    JSON,
    HELP,
)
_OPTIMIZERS = (
    Option("steps", "where losses are compared; they are followed for twice as many", "N", "100"),
    Option("problems", "unseen problems, and as many others to tune the rivals on", "N", "100"),
    Option("seed", "names the problems", "N", "0"),
    JSON,
    HELP,
)


def run(argv: list[str]) -> int:
    what, rest = (argv[0], list(argv[1:])) if argv and not argv[0].startswith("-") else ("", list(argv))
    if what not in _KINDS:
        if "--help" in rest or "-h" in rest:
            print(_ABOUT)
            return 0
        raise (
            unknown("bench", what, _KINDS)
            if what
            else ConfigError(
                "no benchmark", expected=f"one of {', '.join(_KINDS)}", do="innerloop bench algorithms"
            )
        )
    options, command = _KINDS[what]
    parsed = simple(rest, options, f"bench {what}")
    return command(parsed)


def _algorithms(parsed: Parsed) -> int:
    if parsed.flag("help"):
        print(help_page("bench algorithms [NAME ...] [options]", _ABOUT_ALGORITHMS, _ALGORITHMS))
        return 0
    from innerloop.bench.algorithms import Budget, compare_algorithms, table

    given = _numbers(parsed, {"minutes": float, "threads": int, "episodes": int, "seed": int, "jobs": int})
    jobs = given.pop("jobs", 1)
    budget = Budget(**given, root=parsed.options.get("root"))
    out = parsed.options.get("out", "runs/bench-algorithms")
    rows: list[dict[str, Any]] = []
    for row in compare_algorithms(parsed.positionals, budget, out=out, jobs=jobs):
        rows.append(row)
        score = row.get("failed") or f"{100 * row['mean']:.1f} +- {100 * row['ci95']:.1f} %"
        print(f"{row['algorithm']}: {score}", file=sys.stderr, flush=True)
    print(json.dumps(rows, indent=2) if parsed.flag("json") else table(rows))
    return 1 if any("failed" in row for row in rows) else 0


def _optimizers(parsed: Parsed) -> int:
    if parsed.flag("help"):
        print(help_page("bench optimizers RUN [options]", _ABOUT_OPTIMIZERS, _OPTIMIZERS))
        return 0
    from innerloop.algorithms import LearnedOptimizer
    from innerloop.bench.optimizers import as_text, compare_optimizers, wider
    from innerloop.training.run import load

    loaded = load(one_positional(parsed, "RUN", "bench optimizers"))
    learner = loaded.learner
    if not isinstance(learner, LearnedOptimizer):
        raise ContractError(
            f"a run of {type(loaded.learner).__name__}",
            expected="a run of LearnedOptimizer",
            do="innerloop train --recipe quadratics-learned-optimizer",
        )
    given = _numbers(parsed, {"steps": int, "problems": int, "seed": int})
    place, larger, tasks = wider(learner, loaded.tasks)
    found = {
        "as trained": compare_optimizers(learner, loaded.meta, loaded.tasks, **given),
        place: compare_optimizers(larger, loaded.meta, tasks, **given),
    }
    if parsed.flag("json"):
        told = {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()}
        print(json.dumps(told, indent=2))
    else:
        steps = given.get("steps", 100)
        print("\n\n".join(f"{name}\n{as_text(rows, steps=steps)}" for name, rows in found.items()))
    return 0


def _numbers(parsed: Parsed, kinds: dict[str, type]) -> dict[str, Any]:
    from innerloop.training.components import converted

    return {
        name: converted(kind, parsed.options[name], name)
        for name, kind in kinds.items()
        if name in parsed.options
    }


_KINDS: dict[str, tuple[tuple[Option, ...], Callable[[Parsed], int]]] = {
    "algorithms": (_ALGORITHMS, _algorithms),
    "optimizers": (_OPTIMIZERS, _optimizers),
}
_ABOUT = """usage: innerloop bench {algorithms,optimizers} ...

  algorithms  every few-shot algorithm on Omniglot, with equal time to train, in one table
  optimizers  a learned optimizer beside tuned hand-written ones, on unseen problems

  innerloop bench algorithms --help    what a comparison takes"""
_ABOUT_ALGORITHMS = """Trains each algorithm (all of them, or those that are named) on Omniglot 5-way 1-shot
for the same time and judges all on the same unseen characters; prints one Markdown table, best first."""
_ABOUT_OPTIMIZERS = """Compares the learned optimizer of a run with SGD, Nesterov, RMSprop and Adam, their
rates tuned on other problems: mean log10 loss with its interval, also at twice the steps, and on larger
problems."""
