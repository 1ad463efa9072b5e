"""A conditional neural process beside the exact posterior of the curves that it learned from.

Prints the log-likelihood of held-out points by the number of points that were read, and draws some curves:

    python examples/neural_process.py --steps 20000 --out runs/neural-process

Three minutes on one core. A run that is there already is not trained again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Normal

import innerloop as il
from innerloop.report.style import BASELINES, INK, OURS, clean, new_figure, save
from innerloop.training.config import OptimizerConfig, TrainConfig

SHOTS = (1, 2, 5, 10, 20)
TASKS = il.tasks.GaussianProcessCurves(shots=max(SHOTS), queries=50, train_queries=10)


def trained(steps: int, out: Path) -> il.Run:
    """A run whose network reads points as they are, without an embedding."""
    learner = il.algorithms.ConditionalNeuralProcess(il.models.MLP(1, None, hidden=()))
    outer = OptimizerConfig(lr=2e-3, schedule="cosine", clip_norm=1.0)
    config = TrainConfig(steps=steps, tasks_per_step=16, optimizer=outer)
    return il.train(learner, TASKS, config=config, out=out, existing="resume")


def likelihoods(run: il.Run, shots: int, num_tasks: int) -> list[Tensor]:
    """Mean log-likelihood of each task's held-out points: of the model, the posterior and a constant."""
    support, query = TASKS.sample("test", num_tasks, 0)
    seen = il.Batch(support.x[:, :shots], support.y[:, :shots])
    found = [run.adapt(x, y).distribution(at) for x, y, at in zip(*seen, query.x, strict=True)]
    mean, sd = (torch.stack(part) for part in zip(*found, strict=True))
    exact, exact_sd = TASKS.posterior(seen, query.x)
    prior = torch.full_like(exact, math.hypot(TASKS.output_scale, TASKS.noise))
    predictions = [(mean, sd), (exact, exact_sd), (torch.zeros_like(prior), prior)]
    return [Normal(*one).log_prob(query.y).mean((1, 2)) for one in predictions]


def table(run: il.Run, num_tasks: int) -> str:
    lines = [f"log-likelihood of a held-out point, mean over {num_tasks} tasks and 95 % interval", ""]
    lines.append(f"{'points':>6}  {'neural process':>16}  {'exact posterior':>16}  {'constant':>16}")
    for shots in SHOTS:
        cells = []
        for each in likelihoods(run, shots, num_tasks):
            cells.append(f"{float(each.mean()):.3f} +- {1.96 * float(each.std()) / num_tasks**0.5:.3f}")
        lines.append(f"{shots:>6}  " + "  ".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def picture(run: il.Run, target: Path) -> Path:
    """Two curves (rows), read at more and more of their points (columns)."""
    support, _ = TASKS.sample("test", 2, 3)
    grid = torch.linspace(TASKS.x_low, TASKS.x_high, 300)[:, None]
    columns, (colour, dashes) = (2, 5, 20), BASELINES[0]
    figure = new_figure(9.0, 4.6)
    panels = figure.subplots(2, len(columns), sharex=True, sharey=True)
    for row, (x, y) in enumerate(zip(*support, strict=True)):
        for axes, shots in zip(panels[row], columns, strict=True):
            seen = il.Batch(x[:shots], y[:shots])
            clean(axes)
            mean, sd = run.adapt(*seen).distribution(grid)
            at, low, high = (part[:, 0].tolist() for part in (grid, mean - 2 * sd, mean + 2 * sd))
            axes.fill_between(
                at, low, high, color=OURS, alpha=0.18, linewidth=0, label="neural process, 2 sd"
            )
            axes.plot(at, mean[:, 0].tolist(), color=OURS, linewidth=1.6, label="neural process, mean")
            exact, exact_sd = TASKS.posterior(seen, grid)
            line = {"color": colour, "linestyle": dashes}
            axes.plot(at, exact[:, 0].tolist(), linewidth=1.3, label="exact posterior, mean", **line)
            for side, label in ((-2, "exact posterior, 2 sd"), (2, None)):
                edge = (exact + side * exact_sd)[:, 0].tolist()
                axes.plot(at, edge, linewidth=0.7, alpha=0.8, label=label, **line)
            axes.plot(seen.x[:, 0], seen.y[:, 0], "o", color=INK, markersize=3.5, label="points read")
            if row == 0:
                axes.set_title(f"{shots} points", loc="left", fontsize=10, color=INK, fontweight="bold")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return save(figure, target)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A conditional neural process beside the exact posterior.")
    parser.add_argument("--steps", type=int, default=20000, help="outer steps")
    parser.add_argument("--out", type=Path, default=Path("runs/neural-process"), help="folder of the run")
    parser.add_argument("--tasks", type=int, default=500, help="tasks to judge on")
    options = parser.parse_args(given)
    try:
        run = trained(options.steps, options.out)
    except il.InnerloopError as error:
        raise SystemExit(str(error)) from error
    print(table(run, options.tasks))
    print(f"\npicture: {picture(run, options.out / 'curves.png')}")


if __name__ == "__main__":
    main()
