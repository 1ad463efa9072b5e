"""Every few-shot algorithm on one benchmark, each with the same time to train, in one table."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from innerloop.algorithms.base import ModuleLearner
from innerloop.bench.entries import ENTRIES
from innerloop.core import tree
from innerloop.core.errors import InnerloopError, check_count, check_range, unknown
from innerloop.core.memory import peak
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import Evaluation, evaluate
from innerloop.training.config import TrainConfig, ValidationConfig
from innerloop.training.experiment import RunConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training
from innerloop.training.run import Run
from innerloop.training.step import Engine, meta_step, tasks_of

log = logging.getLogger("innerloop")

_PROBE = 12  # outer steps that say how many fit into the time
_LOOKS, _JUDGED = 5, 50  # validations in a run, and tasks of each: a few per cent of the time


@dataclass(frozen=True)
class Budget:
    """What every algorithm is given.

    Args:
        minutes: of training on `threads` cores, > 0: everything from reading data to the last step,
            validation included. Counted in processor time, so that a busy machine gives the same to all.
        threads: CPU threads, >= 1.
        episodes: test tasks that it is judged on afterwards, >= 2; the same for all.
        seed: of weights and training tasks.
        root: where the data are; see `il.tasks.Omniglot`.
    """

    minutes: float = 10.0
    threads: int = 2
    episodes: int = 600
    seed: int = 0
    root: str | None = None

    def __post_init__(self) -> None:
        check_range("minutes", self.minutes, low=0.0, open_low=True)
        check_count("threads", self.threads)
        check_count("episodes", self.episodes, low=2)
        check_count("seed", self.seed, low=0)


def compare_algorithms(
    names: Sequence[str], budget: Budget, *, out: str | os.PathLike[str], jobs: int = 1
) -> Iterator[dict[str, Any]]:
    """Train and judge algorithms, each in a process of its own, and yield a row for each as it is done.

    Args:
        names: of `ENTRIES`; empty means all of them.
        out: a folder for the rows and the runs; a row that is there, of the same budget, is not made again.
        jobs: processes at once, each with `budget.threads` threads.

    Raises:
        ConfigError: a name without an entry.
    """
    check_count("jobs", jobs)
    for name in names:
        if name not in ENTRIES:
            raise unknown("benchmark entry", name, ENTRIES)
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    wanted = list(names) or list(ENTRIES)
    done = {name: row for name in wanted if (row := _stored(place, name, budget))}
    yield from done.values()
    # A process that is not forked: torch's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = [pool.submit(trained_and_judged, n, budget, str(place)) for n in wanted if n not in done]
        for finished in as_completed(running):
            yield finished.result()


def trained_and_judged(name: str, budget: Budget, out: str) -> dict[str, Any]:
    """One row: an algorithm trained for its time and judged; written to the folder as well."""
    torch.set_num_threads(budget.threads)
    try:
        row = _row(name, budget, Path(out))
    except InnerloopError as error:  # one that fails is a row of the table, not the end of it
        row = {"algorithm": name, "failed": " ".join(error.got.split())}
    row |= {"budget": _said(budget)}
    (Path(out) / f"{name}.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, best first; what failed stands last, with the reason."""
    good = sorted((row for row in rows if "mean" in row), key=lambda row: -row["mean"])
    head = ["algorithm", "accuracy", "BatchNorm", "steps", "CPU s/step", "MB/step", "parameters"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|--:|--:|--:|--:|"]
    for row in good:
        accuracy = f"{100 * row['mean']:.1f} +- {100 * row['ci95']:.1f}"
        numbers = [str(row["steps"]), f"{row['seconds_per_step']:.3f}", f"{row['memory_mb']:.0f}"]
        cells = [row["algorithm"], accuracy, row["batch_norm"] or "none", *numbers, f"{row['parameters']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    beside = {name: mean for row in good[:1] for name, mean in row["baselines"].items()}
    lines += [f"| ({name}) | {100 * mean:.1f} | | | | | |" for name, mean in beside.items()]
    bad = [row for row in rows if "failed" in row]
    lines += [f"| {row['algorithm']} | failed: {row['failed']} | | | | | |" for row in bad]
    return "\n".join(lines)


def _row(name: str, budget: Budget, out: Path) -> dict[str, Any]:
    started, allowed = time.process_time(), 60.0 * budget.minutes * budget.threads
    entry = dict(ENTRIES[name])
    before = entry.pop("pretrain", None)
    if before:
        first = {k: v for k, v in ENTRIES[before].items() if k != "pretrain"}
        place = out / "runs" / f"{name}-from-{before}"
        _train(before, first, budget, place, started + allowed / 2)
        entry["start"] = str(place)
    training, spent = _train(name, entry, budget, out / "runs" / name, started + allowed)
    taken = time.process_time() - started
    run, chosen = Run.of(training), FixedEpisodes("test", budget.episodes)
    found = evaluate(run.learner, run.meta, run.tasks, chosen, untrained=training.untrained, curve=False)
    log.info("%s: %s", name, found)
    return _told(name, training, found) | spent | {"cpu_seconds": round(taken, 1)}


def _train(
    name: str, entry: dict[str, Any], budget: Budget, place: Path, deadline: float
) -> tuple[Training, dict[str, Any]]:
    """Train until the deadline, with a schedule as long as the time allows."""
    values = entry | {"algorithm": {"name": name} | entry["algorithm"], "seed": budget.seed}
    values["tasks"] = values["tasks"] | ({} if budget.root is None else {"root": budget.root})
    config = RunConfig.from_dict(values | {"threads": budget.threads, "log_every": 50})
    learner, tasks = config.build()
    short = dataclasses.replace(config.train, steps=_PROBE, validation=ValidationConfig(_PROBE, 2))
    probe = start(learner, tasks, short, None)
    times = [time.process_time() for _ in probe]
    per_step = (times[-2] - times[2]) / (len(times) - 4)  # neither the first steps nor the last look
    left = deadline - time.process_time()
    steps = max(_LOOKS, int(0.95 * left / per_step))
    looks = ValidationConfig(max(1, steps // _LOOKS), _JUDGED)
    whole = dataclasses.replace(config.train, steps=steps, validation=looks)
    training = start(learner, tasks, whole, RunFolder(place), existing="overwrite")
    began = time.process_time()
    for _ in training:
        if time.process_time() >= deadline:
            training.save()
            break
    return training, {
        "planned_steps": steps,
        "seconds_per_step": (time.process_time() - began) / training.state.step,
    }


def _told(name: str, training: Training, found: Evaluation) -> dict[str, Any]:
    state = training.state
    summary = found.to_dict()
    kept = ("mean", "ci95", "n", "diverged", "batch_norm", "transductive", "inner_steps", "queries")
    counted = sum(leaf.numel() for leaf in tree.leaves(state.meta))
    return {
        "algorithm": name,
        **{key: summary[key] for key in kept},
        "steps": state.step,
        "memory_mb": round(_memory(training) / 1e6, 1),
        "parameters": counted,
        "baselines": {n: b["mean"] for n, b in summary["baselines"].items()},
        "settings": ENTRIES[name],
    }


def _memory(training: Training) -> int:
    """Bytes of one more outer step, on one thread, where every allocation is seen."""
    learner: ModuleLearner = training.learner
    config: TrainConfig = training.config
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        episodes = tasks_of(learner, training.tasks, config, training.state.step)
        engine = Engine(config.gradient or learner.gradient, config.tasks_axis)  # pyright: ignore
        return peak(lambda: meta_step(training.state, learner, episodes, engine, config))
    finally:
        torch.set_num_threads(threads)


def _stored(place: Path, name: str, budget: Budget) -> dict[str, Any] | None:
    file = place / f"{name}.json"
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = row.get("budget") == _said(budget) and row.get("settings") == json.loads(json.dumps(ENTRIES[name]))
    return row if same else None


def _said(budget: Budget) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(budget).items() if k != "root"}
