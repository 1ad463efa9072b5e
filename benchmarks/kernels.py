"""A second-order meta-step with the kernels of `innerloop.core.kernels` on and off, in turn, on one thread.

    python benchmarks/kernels.py [--rounds 9] [--works images-5,images-15q] [--axes loop,vmap]

Prints medians and spread of the processor time of a meta-step: other work on the machine disturbs it less
than the clock on the wall.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

import innerloop as il
from innerloop.core.kernels import switched_off


@dataclass(frozen=True)
class Work:
    """Tasks of 5 classes with one support image each, and a Conv4 that adapts to them."""

    tasks: int
    channels: int
    size: int
    width: int
    pooling: Any
    queries: int
    steps: int


WORKS = {
    "images-1": Work(8, 1, 28, 64, "stride", queries=1, steps=1),
    "images-5": Work(8, 1, 28, 64, "stride", queries=1, steps=5),
    "images-15q": Work(8, 1, 28, 64, "stride", queries=15, steps=1),
    "large-5": Work(4, 3, 84, 32, "max", queries=15, steps=5),
}


def meta_step(work: Work, axis: Any) -> Any:
    """A call that takes one meta-gradient of the work's tasks."""
    rng = torch.Generator().manual_seed(0)
    shape = work.channels, work.size, work.size
    classes = torch.arange(5).repeat(work.tasks, 1)
    support = il.Batch(torch.randn(work.tasks, 5, *shape, generator=rng), classes)
    inputs = torch.randn(work.tasks, 5 * work.queries, *shape, generator=rng)
    episodes = il.Episode(support, il.Batch(inputs, classes.repeat(1, work.queries)))
    net = il.models.Conv4(5, channels=work.channels, size=work.size, width=work.width, pooling=work.pooling)
    learner = il.algorithms.MAML(net, inner_lr=0.01, inner_steps=work.steps)
    meta = learner.init(rng)
    return lambda: il.meta_gradient(learner, meta, episodes, tasks_axis=axis)


def timed(step: Any, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the step with kernels on and off; the first round is not counted."""
    found: dict[str, list[float]] = {"on": [], "off": []}
    for number in range(rounds + 1):
        for name, figures in found.items():
            gc.collect()
            with nullcontext() if name == "on" else switched_off():
                start = time.process_time()
                step()
                passed = 1e3 * (time.process_time() - start)
            if number:
                figures.append(passed)
    return found


def spread(figures: list[float]) -> str:
    return f"{statistics.median(figures):.0f} ({min(figures):.0f} .. {max(figures):.0f})"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--works", default=",".join(WORKS), help="of " + ", ".join(WORKS))
    parser.add_argument("--axes", default="loop,vmap", help="how tasks are lifted")
    options = parser.parse_args()
    torch.set_num_threads(1)
    say(f"torch {torch.__version__}, one thread, ms of processor time: median (lowest .. highest)")
    say(f"{'work':12}{'axis':8}{'off':>24}{'on':>24}{'off/on':>8}")
    for name in options.works.split(","):
        for axis in options.axes.split(","):
            found = timed(meta_step(WORKS[name], int(axis) if axis.isdigit() else axis), options.rounds)
            ratio = statistics.median(found["off"]) / statistics.median(found["on"])
            say(f"{name:12}{axis:8}{spread(found['off']):>24}{spread(found['on']):>24}{ratio:8.2f}")


if __name__ == "__main__":
    main()
