"""`innerloop compare`: several runs on the same tasks, with paired differences."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from innerloop.cli import judging
from innerloop.cli.options import help_page, simple
from innerloop.cli.texts import score, table
from innerloop.core.errors import ConfigError

if TYPE_CHECKING:
    from innerloop.evaluate.run import Evaluation
    from innerloop.training.run import Run

_OWN_SIZES = ("train_ways", "train_shots", "train_queries", "ways", "shots", "queries", "root")


def run(argv: list[str]) -> int:
    parsed = simple(argv, judging.OPTIONS, "compare")
    if parsed.flag("help"):
        print(help_page("compare RUN RUN ... [options]", _ABOUT, judging.OPTIONS))
        return 0
    paths = judging.few_positionals(parsed, 2, "compare")
    asked = judging.arguments(parsed)
    from innerloop.training.folder import RunFolder
    from innerloop.training.run import load

    for path in paths:
        RunFolder(path).check()
    runs = [load(path) for path in paths]
    asked["sizes"] = judging.same_sizes(asked["sizes"], vars(runs[0].tasks))
    for path, other in zip(paths[1:], runs[1:], strict=True):
        _check_alike(paths[0], runs[0], path, other)
        _check_same_episodes(runs[0], other, path, asked)
    found = []
    for path, each in zip(paths, runs, strict=True):
        judging.announce(path, each.step, asked)
        found.append(each.evaluate(**asked))
    summary = _summary(paths, runs, found)
    print(json.dumps(summary) if parsed.flag("json") else _report(summary))
    return 0


def _check_alike(first: str, one: Run, path: str, other: Run) -> None:
    """Raise unless two runs were made for the same tasks, sizes and the place of the data apart."""
    ours, theirs = one.config.tasks, other.config.tasks
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in _OWN_SIZES and ours.get(name) != theirs.get(name):
            shown = "tasks" if name == "name" else f"tasks.{name}"
            raise ConfigError(
                f"{shown} = {theirs.get(name)!r} in {path}, {ours.get(name)!r} in {first}",
                expected="runs of the same tasks (sizes may differ)",
                do="compare runs of the same tasks, or evaluate each alone",
            )


def _check_same_episodes(one: Run, other: Run, path: str, asked: judging.Judging) -> None:
    """Raise if data in another place give other episodes."""
    roots = [os.path.abspath(str(each.config.tasks.get("root"))) for each in (one, other)]
    if roots[0] == roots[1]:
        return
    from innerloop.core.rng import key

    sizes = asked["sizes"] or {}
    place = key(asked["seed"], "compare")
    ours, theirs = (each.tasks.resized(**sizes).sample(asked["split"], 8, place) for each in (one, other))
    same = ours.support.x.shape == theirs.support.x.shape and bool((ours.support.x == theirs.support.x).all())
    if not same:
        raise ConfigError(
            f"tasks.root = {other.config.tasks.get('root')!r} in {path}, with other examples",
            expected="runs on the same data",
            do="compare runs of the same data, or evaluate each alone",
        )


def _summary(paths: list[str], runs: list[Run], found: list[Evaluation]) -> dict[str, Any]:
    from innerloop.evaluate.statistics import paired_difference

    rows = []
    for path, each, evaluation in zip(paths, runs, found, strict=True):
        whole = evaluation.to_dict()
        row: dict[str, Any] = {"run": path, "algorithm": each.config.algorithm["name"]}
        row |= {
            n: whole[n]
            for n in ("mean", "ci95", "median", "diverged", "inner_steps", "batch_norm", "baselines")
        }
        difference = paired_difference(evaluation.scores, found[0].scores)
        row |= {"difference": _finite(difference.mean), "difference_ci95": _finite(difference.ci95)}
        rows.append(row)
    first = found[0].to_dict()
    shared = {n: first[n] for n in ("metric", "n", "split", "seed", "ways", "shots", "queries")}
    return shared | {"reference": paths[0], "runs": rows}


def _report(summary: dict[str, Any]) -> str:
    metric = summary["metric"]
    rows = []
    for row in summary["runs"]:
        ours = score(metric, row["mean"], row["ci95"])
        apart = score(metric, row["difference"], row["difference_ci95"], signed=True)
        if row is summary["runs"][0]:
            apart = "-"
        rows.append(
            [row["run"], row["algorithm"], row["batch_norm"] or "-", str(row["inner_steps"]), ours, apart]
        )
    head = ["run", "algorithm", "BatchNorm", "inner steps", metric, "minus the first"]
    lines = [judging.described_tasks(summary), "", table(rows, head=head), ""]
    lines.append("95 % intervals over tasks; differences are paired, task by task")
    diverged = [f"{row['run']}: {row['diverged']}" for row in summary["runs"] if row["diverged"]]
    return "\n".join(lines + ([f"diverged tasks: {', '.join(diverged)}"] if diverged else []))


def _finite(value: float) -> float | None:
    return round(value, 6) if abs(value) < float("inf") else None


_ABOUT = """Judges several runs on the same fixed tasks, with the paired difference of each to the first.
Sizes that are not given are those of the first run."""
