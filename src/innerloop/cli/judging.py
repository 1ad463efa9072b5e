"""What the commands that judge runs share: their options, and an evaluation as a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from innerloop.cli.options import HELP, JSON, Option, Parsed
from innerloop.cli.texts import score, table
from innerloop.core.errors import ConfigError

SPLITS = ("train", "val", "test")
OPTIONS = (
    Option("split", "train, val or test", "NAME", "test"),
    Option("episodes", "number of fixed tasks", "N", "1000"),
    Option("seed", "which tasks: the same seed gives the same ones to every run", "N", "0"),
    Option("ways", "classes of a task", "N", "as trained for"),
    Option("shots", "support examples of each class", "N", "as trained for"),
    Option("queries", "query examples of each class", "N", "as trained for"),
    Option("inner_steps", "steps of adaptation", "N", "the learner's own at test"),
    Option("batch_norm", "support, transductive or running", "POLICY", "as trained with"),
    Option("baselines", "standard, or all: those too that are fitted to each task", "NAME", "standard"),
    JSON,
    HELP,
)


class Judging(TypedDict):
    """The arguments of `Run.evaluate`."""

    split: Any
    episodes: int
    seed: int
    inner_steps: int | None
    batch_norm: Any
    sizes: dict[str, int] | None
    baselines: Any


DEFAULTS = Judging(
    split="test", episodes=1000, seed=0, inner_steps=None, batch_norm=None, sizes=None, baselines="standard"
)
_SHORT = {"episodes": "n", "inner_steps": "steps", "batch_norm": "bn-", "baselines": "baselines-"}
_SIZES = {"ways": "w", "shots": "k", "queries": "q"}


def arguments(parsed: Parsed) -> Judging:
    """The options as arguments of `Run.evaluate`, converted and in range."""
    from innerloop.core.errors import check_range
    from innerloop.training.components import converted

    types: dict[str, Any] = dict.fromkeys(("episodes", "seed", "inner_steps", *_SIZES), int)
    types |= {"split": Literal["train", "val", "test"]}
    types |= {"batch_norm": Literal["support", "transductive", "running"]}
    types |= {"baselines": Literal["standard", "all"]}
    given = {}
    for name, annotation in types.items():
        if name in parsed.options:
            option = "--" + name.replace("_", "-")
            given[name] = converted(annotation, parsed.options[name], option)
            if annotation is int:
                low = {"seed": 0, "inner_steps": 0, "ways": 2, "episodes": 2}.get(name, 1)
                check_range(option, given[name], low=low)
    sizes = {name: given.pop(name) for name in _SIZES if name in given}
    return Judging(**{**DEFAULTS, **given, "sizes": sizes or None})


def file_name(judging: Judging) -> str:
    """The name of an evaluation's file: split and seed, and every setting that is not the usual one.

    >>> file_name(DEFAULTS)
    'evaluation-test-s0.json'
    """
    parts = [f"evaluation-{judging['split']}-s{judging['seed']}"]
    for name, letter in _SHORT.items():
        value = judging.get(name)
        if value != DEFAULTS.get(name):
            parts.append(f"{letter}{value}")
    sizes = judging["sizes"] or {}
    parts += [f"{letter}{sizes[name]}" for name, letter in _SIZES.items() if name in sizes]
    return "-".join(parts) + ".json"


def described_tasks(found: Mapping[str, Any]) -> str:
    """The tasks of an evaluation in words.

    >>> described_tasks({"n": 100, "split": "test", "seed": 0, "ways": 5, "shots": 1, "queries": 15})
    '100 test tasks of seed 0: 5-way 1-shot, 15 queries a class'
    """
    ways = found.get("ways")
    sizes = f"{ways}-way {found['shots']}-shot" if ways else f"{found['shots']}-shot"
    sizes += f", {found['queries']} queries" + (" a class" if ways else "")
    return f"{found['n']} {found['split']} tasks of seed {found['seed']}: {sizes}"


def report(found: Mapping[str, Any]) -> str:
    """An evaluation, as `Evaluation.to_dict` has it, as text for people."""
    metric = found["metric"]
    lines = [described_tasks(found), ""]
    steps = found["inner_steps"]
    head = f"{metric} after {steps} inner step{'s' * (steps != 1)}" if steps else metric
    policy = f", BatchNorm {found['batch_norm']}" if found.get("batch_norm") else ""
    ours = score(metric, found["mean"], found["ci95"])
    lines.append(f"{head}: {ours}  (95 % interval, n={found['n']}{policy})")
    facts = []
    if metric != "accuracy" or found["diverged"]:
        facts.append(f"median {score(metric, found['median'])}")
    if found["diverged"]:
        facts.append(f"{found['diverged']} of {found['n']} tasks diverged")
    if found.get("harmed"):
        facts.append(f"{found['harmed']} of {found['n']} tasks are worse after adaptation than before")
    lines += ["; ".join(facts)] if facts else []
    if found["baselines"]:
        rows = [
            [
                name.replace("_", " "),
                score(metric, b["mean"], b["ci95"]),
                score(metric, b["difference"], b["difference_ci95"], signed=True),
            ]
            for name, b in found["baselines"].items()
        ]
        lines += ["", table(rows, head=["baseline, same tasks", metric, "ours - baseline"])]
    if len(found["adaptation"]) > 1:
        lines += ["", _curve(metric, found["adaptation"])]
    return "\n".join(lines)


def _curve(metric: str, steps: list[dict[str, Any]]) -> str:
    """The score after each judged number of steps, and what shows bad tasks that a mean hides."""
    rows = [
        [
            str(k["inner_steps"]),
            score(metric, k["mean"], k["ci95"]),
            score(metric, k["median"]),
            str(k["harmed"]),
        ]
        for k in steps
    ]
    return table(rows, head=["inner steps", metric, "median", "tasks worse than before"])


def announce(path: str, step: int, judging: Judging) -> None:
    """Say on stderr what takes its time now."""
    print(f"evaluating {path} (step {step}) on {judging['episodes']} tasks ...", file=sys.stderr, flush=True)


def same_sizes(given: dict[str, int] | None, reference: Mapping[str, Any]) -> dict[str, int]:
    """Sizes for several runs: those asked for, the others as the reference has them."""
    own = {name: reference[name] for name in _SIZES if reference.get(name) is not None}
    return own | (given or {})


def few_positionals(parsed: Parsed, least: int, command: str) -> list[str]:
    if len(parsed.positionals) < least:
        raise ConfigError(
            f"{len(parsed.positionals)} run folders",
            expected=f"at least {least}",
            do=f"innerloop {command} RUN RUN ...; see 'innerloop {command} --help'",
        )
    return parsed.positionals
