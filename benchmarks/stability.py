"""What remedies against forgetting keep, and what they cost: streams x remedies x seeds, as one table.

    python benchmarks/stability.py --streams sinusoids,digits,alphabets --seeds 3 --jobs 2
    python benchmarks/stability.py --found 20    # is planted forgetting found, a quiet stream left alone?

Each run is trained on one family after another. `gain` is what a stage brings to its own family beyond what
a learner had that stopped after the first stage, as a share of what training without a remedy brings. `kept`
is the share of that naive run's forgetting that does not happen: 1 - F / F_naive, with F the mean over old
families of the best score less the last (Chaudhry et al. 2018). `worst` is the worst-case accuracy, `gap` the
dip after a switch (De Lange et al. 2023), `cost` the time of the outer steps beside that of naive. Scores are
accuracies, or 1 - loss / loss of the trivial predictor. Intervals: 95 % over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from innerloop.algorithms import ANIL, MAML
from innerloop.diagnose.doctor import diagnose
from innerloop.diagnose.estimate import Estimate, across_seeds
from innerloop.diagnose.forgetting import summary
from innerloop.diagnose.history import History
from innerloop.diagnose.streams import matrix_of, timeline_of
from innerloop.models import MLP, Conv4
from innerloop.tasks import OmniglotAlphabets, RotatedDigits, SinusoidFamilies
from innerloop.tasks.streaming import Schedule
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.retain.config import RetainConfig


@dataclass(frozen=True)
class Problem:
    """A stream, a learner for it (of a class, with a rate of dropout), and its training."""

    stream: Callable[[Schedule], Any]
    learner: Callable[[Any, float], Any]
    steps: int
    tasks_per_step: int


def _omniglot() -> str | None:
    root = os.environ.get("INNERLOOP_DATA")
    return None if root is None else f"{root}/omniglot"


PROBLEMS: dict[str, Problem] = {
    "sinusoids": Problem(
        lambda schedule: SinusoidFamilies(["sine", "opposite", "fast"], schedule=schedule),
        lambda kind, dropout: kind(MLP(1, 1, dropout=dropout), inner_lr=0.01, inner_steps=3, loss="mse"),
        steps=1500,
        tasks_per_step=8,
    ),
    "digits": Problem(
        lambda schedule: RotatedDigits(schedule=schedule),
        lambda kind, dropout: kind(
            MLP(64, 5, hidden=(100, 100), dropout=dropout), inner_lr=0.1, inner_steps=3
        ),
        steps=1500,
        tasks_per_step=8,
    ),
    "alphabets": Problem(
        lambda schedule: OmniglotAlphabets(_omniglot(), schedule=schedule),
        lambda kind, dropout: kind(Conv4(ways=5, width=16, dropout=dropout), inner_lr=0.4, inner_steps=1),
        steps=600,
        tasks_per_step=8,
    ),
}

#: Remedies by name, with the same strengths on every stream.
REMEDIES: dict[str, dict[str, Any]] = {
    "naive": {},
    "replay 1/4": {"replay": 0.25},
    "replay 1/2": {"replay": 0.5},
    "replay 1/2 by family": {"replay": 0.5, "balance": "family"},
    "L2": {"l2": 1.0},
    "EWC": {"ewc": 30.0},
    "online EWC": {"ewc": 30.0, "ewc_decay": 0.9},
    "SI": {"si": 1.0},
    "distillation": {"distill": 1.0},
    "A-GEM": {"project": True},
    "recall": {"recall": 8},
    "replay 3/8": {"replay": 0.375},
    "replay 1/2 and A-GEM": {"replay": 0.5, "project": True},
    "replay 1/2 and distillation": {"replay": 0.5, "distill": 0.3},
    "replay 1/4 and A-GEM": {"replay": 0.25, "project": True},
    "replay 1/4 and distillation": {"replay": 0.25, "distill": 0.3},
    "replay 3/8 and A-GEM": {"replay": 0.375, "project": True},
    "distillation and A-GEM": {"distill": 0.5, "project": True},
    "light distillation and A-GEM": {"distill": 0.3, "project": True},
}

#: What is another learner rather than a setting of its training: its class, and the rate of dropout.
LEARNERS: dict[str, tuple[Any, float]] = {"dropout": (MAML, 0.1), "head alone (ANIL)": (ANIL, 0.0)}


def measured(
    problem: str, remedy: str, seed: int, share: float, strengths: dict[str, float]
) -> dict[str, Any]:
    """The metrics of one run, and its matrix of mean scores."""
    given = PROBLEMS[problem]
    settings: dict[str, Any] = {n: strengths.get(n, v) for n, v in REMEDIES.get(remedy, {}).items()}
    config = TrainConfig(
        steps=max(30, int(share * given.steps)),
        tasks_per_step=given.tasks_per_step,
        seed=seed,
        optimizer=OptimizerConfig(lr=2e-3, clip_norm=10.0),
        retain=RetainConfig(**settings),
        compile=False,
        threads=1,
    )
    stream = given.stream(remedy if remedy in ("joint", "progressive") else "sequence")
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        training = start(given.learner(*LEARNERS.get(remedy, (MAML, 0.0))), stream, config, folder)
        for _ in training:
            pass
        history = History.read(folder.path)
        matrix = matrix_of(history)
        timeline = None if remedy == "joint" else timeline_of(history)
    told = {n: m.value for n, m in summary(matrix, timeline).items() if isinstance(m, Estimate)}
    means, rows = matrix.scores.mean(2).tolist(), [int(row) for row in matrix.learned]
    return {"metrics": told, "means": means, "learned": rows, "seconds": training.seconds}


def found(kinds: tuple[str, ...], seed: int) -> list[str]:
    """What the doctor finds of forgetting in a short training on waves of these kinds."""
    config = TrainConfig(
        steps=400 * len(kinds),
        tasks_per_step=8,
        seed=seed,
        optimizer=OptimizerConfig(lr=2e-3, clip_norm=10.0),
        compile=False,
        threads=1,
    )
    learner = MAML(MLP(1, 1), inner_lr=0.01, inner_steps=3, loss="mse")
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        for _ in start(learner, SinusoidFamilies(list(kinds)), config, folder):
            pass
        told = diagnose(History.read(folder.path))
    return [finding.id for finding in told.findings if finding.plot == "stability"]


def planted(map_over: Callable[..., Iterable[Any]], seeds: int) -> dict[str, Any]:
    """Streams whose families contradict, and streams without conflict: in how many forgetting is found."""
    told = {}
    for name, kinds in {"contradict": ("sine", "opposite"), "do not conflict": ("sine", "sine")}.items():
        findings = list(map_over(found, [kinds] * seeds, range(seeds)))
        lost, gaps = (sum(id in f for f in findings) for id in ("FORGETTING", "STABILITY_GAP"))
        print(f"families that {name}: FORGETTING in {lost} of {seeds}, STABILITY_GAP in {gaps}", flush=True)
        told[name] = findings
    return told


def gained(run: dict[str, Any]) -> float:
    """The mean score of each family but the first, right after its own stage."""
    means = run["means"]
    return float(np.mean([means[run["learned"][j]][j] for j in range(1, len(means[0]))]))


def frozen(run: dict[str, Any]) -> float:
    """The same for a learner that stopped after the first stage."""
    return float(np.mean(run["means"][1][1:]))


def over_seeds(values: list[float]) -> str:
    found = across_seeds([Estimate(v, 0.0, v, v, 1) for v in values])
    if not isinstance(found, Estimate):
        return found.reason
    return f"{found.value:+.2f} +- {(found.high - found.low) / 2:.2f}"


def table(problem: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print a problem's rows."""
    naive = runs["naive"]
    base = [frozen(run) for run in naive]
    lost = [run["metrics"]["forgetting_max_last"] for run in naive]
    print(f"\n{problem}: {len(naive)} seeds; naive forgets {over_seeds(lost)}")
    print(f"{'':28}{'gain':>16}{'kept':>16}{'average':>16}{'worst':>16}{'gap':>16}{'cost':>7}")
    print(f"{'frozen after stage 1':28}{0:+16.2f}{1:+16.2f}{over_seeds([_average(r, 1) for r in naive]):>16}")
    for remedy, found in runs.items():
        ends = [_average(run, -1) for run in found]
        cost = np.mean([r["seconds"] for r in found]) / np.mean([r["seconds"] for r in naive])
        if remedy == "joint":
            print(f"{remedy:28}{'':16}{'':16}{over_seeds(ends):>16}{'':16}{'':16}{cost:7.2f}")
            continue
        whole = [gained(n) - b for n, b in zip(naive, base, strict=True)]
        gain = [(gained(r) - b) / w for r, b, w in zip(found, base, whole, strict=True)]
        kept = [1 - r["metrics"]["forgetting_max_last"] / f for r, f in zip(found, lost, strict=True)]
        worst, gap = (
            [r["metrics"].get(name, np.nan) for r in found]
            for name in ("worst_case_accuracy", "stability_gap")
        )
        cells = "".join(f"{over_seeds(v):>16}" for v in (gain, kept, ends, worst, gap))
        good = "  *" if np.mean(gain) >= 0.9 and np.mean(kept) >= 0.5 else ""
        print(f"{remedy:28}{cells}{cost:7.2f}{good}", flush=True)
    print("* keeps nine tenths of the gain and halves the forgetting")


def _average(run: dict[str, Any], row: int) -> float:
    return float(np.mean(run["means"][row]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", default=",".join(PROBLEMS))
    parser.add_argument("--remedies", default=",".join(["joint", "progressive", *LEARNERS, *REMEDIES]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", default="", help="strengths, as ewc=100,l2=0.3")
    parser.add_argument("--found", type=int, default=0, help="seeds of planted and of quiet streams, instead")
    parser.add_argument(
        "--json", type=Path, help="write every run there as it ends; the same command goes on with it"
    )
    given = parser.parse_args()
    strengths = {n: float(v) for n, v in (part.split("=") for part in given.set.split(",") if part)}
    remedies = ["naive", *(r for r in given.remedies.split(",") if r != "naive")]
    told = stored(given.json, {"share": given.share, "set": strengths})
    with ProcessPoolExecutor(given.jobs, initializer=quiet) as pool:
        if given.found:
            planted(pool.map, given.found)
            return
        for problem in given.streams.split(","):
            runs = told.setdefault(problem, {})
            jobs = [
                (problem, remedy, seed, given.share, strengths)
                for remedy in remedies
                for seed in range(len(runs.setdefault(remedy, [])), given.seeds)
            ]
            for job, run in zip(
                jobs, pool.map(measured, *zip(*jobs, strict=True)) if jobs else (), strict=True
            ):
                runs[job[1]].append(run)
                if given.json:
                    given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            table(problem, {remedy: runs[remedy][: given.seeds] for remedy in remedies})


def stored(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What an earlier part of the same command has measured, which is not measured again."""
    found = json.loads(path.read_text("utf-8")) if path is not None and path.is_file() else {"of": settings}
    if found.get("of") != settings:
        raise SystemExit(f"{path} holds runs of {found.get('of')}, not of {settings}: name another file")
    return found


def quiet() -> None:
    """One thread a process, and no log."""
    torch.set_num_threads(1)
    logging.getLogger("innerloop").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
