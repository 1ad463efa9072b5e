"""What goes on around a meta-step: sampling, evaluation, adapting to a task and predicting.

`python benchmarks/pipeline.py --help`. Images are Omniglot's where INNERLOOP_DATA has them, else a synthetic
stand-in of fewer characters.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import tables
from timing import Spread, ratios, round_robin

import innerloop as il
from innerloop.algorithms.base import ModuleLearner
from innerloop.tasks.base import TaskSource
from innerloop.training.config import TrainConfig, ValidationConfig


@dataclass(frozen=True)
class Case:
    """A learner on tasks; `tasks_per_step` of them make a meta-step."""

    name: str
    learner: ModuleLearner
    tasks: TaskSource
    tasks_per_step: int


def cases(*, quick: bool) -> list[Case]:
    """One inner step each: the shortest meta-step is the hardest to sample for."""
    sinusoid = il.algorithms.MAML(il.models.MLP(1, 1), inner_lr=0.01, loss="mse")
    images, source = _images()
    network = il.models.Conv4(images.spec.outputs, width=8 if quick else 64)
    maml = il.algorithms.MAML(network, inner_lr=0.4)
    return [
        Case("sinusoid", sinusoid, il.tasks.Sinusoid(shots=10, queries=10), 2 if quick else 25),
        Case(f"conv4 on {source}", maml, images, 2 if quick else 8),
    ]


def _images() -> tuple[TaskSource, str]:
    root = Path(os.environ.get("INNERLOOP_DATA", "")) / "omniglot"
    if (root / "images_background.zip").is_file():
        return il.tasks.Omniglot(root, ways=5, shots=1, queries=15), "Omniglot"
    return il.tasks.Omniglot.tiny(), "the stand-in for Omniglot"


def calls(case: Case, episodes: int, device: str) -> dict[str, Callable[[], Any]]:
    """What is timed, on a run of two steps: its figures do not depend on how well it learned."""
    config = TrainConfig(device=device, validation=ValidationConfig(episodes=2))
    run = il.train(case.learner, case.tasks, steps=2, tasks_per_step=case.tasks_per_step, config=config)
    seeds = itertools.count()
    ready = case.tasks.sample("train", case.tasks_per_step, 0)
    ready = il.Episode(*(il.Batch(batch.x.to(device), batch.y.to(device)) for batch in ready))
    (x, y), (query, _) = case.tasks.sample("test", 1, 0)
    return {
        "meta-step": lambda: il.meta_gradient(case.learner, run.meta, ready),
        "sampling for it": lambda: case.tasks.sample("train", case.tasks_per_step, next(seeds)),
        f"evaluation, {episodes} episodes": lambda: run.evaluate(episodes=episodes),
        "adapt to a task and predict": lambda: run.adapt(x[0], y[0]).predict(query[0]),
    }


def measured(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    episodes = 10 if args.quick else 100
    timed = calls(case, episodes, args.device)
    ms = round_robin(timed, args.rounds, device=args.device)
    step, sampling, evaluation, adapting = timed
    per_episode = [figure / episodes for figure in ms[evaluation]]
    share = ratios(ms[sampling], ms[step])
    rows = [
        [step, Spread.of(ms[step]).text(), f"{case.tasks_per_step} tasks"],
        [sampling, Spread.of(ms[sampling]).text(), f"{100 * share.median:.1f} % of the meta-step"],
        [evaluation, Spread.of(ms[evaluation]).text(), f"{Spread.of(per_episode).text()} an episode"],
        [adapting, Spread.of(ms[adapting]).text(), "one task"],
    ]
    tables.show(case.name, ["", "ms", ""], rows)
    return {
        "name": case.name,
        "ms": ms,
        "sampling_share": asdict(share),
        "evaluation_ms_per_episode": asdict(Spread.of(per_episode)),
    }


def main(argv: list[str] | None = None) -> None:
    args = machine.parser("Time what goes on around a meta-step.").parse_args(argv)
    found = machine.begin(args)
    found["cases"] = [measured(case, args) for case in cases(quick=args.quick)]
    machine.write_json(args.json, found)


if __name__ == "__main__":
    machine.entry(main)
