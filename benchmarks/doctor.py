"""What the doctor sees, and what it does not: `python benchmarks/doctor.py --help`.

Four questions: are planted faults found, are healthy runs left alone, is CONVERGED ever said of a run that
has not, and what does looking cost? Thresholds stand in `innerloop.diagnose`, and none here.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faults
import torch
from faults import FAULTS, HEALTHY, PROBLEMS, Plant, Problem
from torch import nn

from innerloop.algorithms.anil import ANIL
from innerloop.algorithms.fomaml import FOMAML
from innerloop.algorithms.maml import MAML
from innerloop.algorithms.protonet import ProtoNet
from innerloop.core import tree
from innerloop.core.rng import key, task_keys, uniform
from innerloop.diagnose.finding import Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.seeds import judge_seeds
from innerloop.diagnose.verdict import EPSILON, State, judge
from innerloop.models import MLP, Conv4
from innerloop.tasks import Bowls, GaussianProcessCurves
from innerloop.training.config import OptimizerConfig, ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder

PARTS = ("recall", "healthy", "quadratic", "overhead")
INFO = ("EVAL_UNDERPOWERED", "FIRST_ORDER_BIAS", "TRANSDUCTION")  # findings that are no alarm

CURVES = Problem(
    "curves",
    lambda: GaussianProcessCurves(shots=10, queries=10),
    lambda: MLP(1, 1, hidden=(40, 40)),
    {"inner_lr": 0.01, "inner_steps": 3, "loss": "mse"},
    {"steps": 600, "tasks_per_step": 10},
    {"lr": 1e-3, "clip_norm": 10.0},
    every=12,
)
HEALTHY_RUNS: dict[str, tuple[Problem, Plant]] = {
    "sinusoid MAML": (faults.SINUSOID, HEALTHY),
    "sinusoid FOMAML": (faults.SINUSOID, Plant(None, kind=FOMAML)),
    "sinusoid ANIL": (faults.SINUSOID, Plant(None, kind=ANIL)),
    "curves MAML": (CURVES, HEALTHY),
    "curves FOMAML": (CURVES, Plant(None, kind=FOMAML)),
    "curves ANIL": (CURVES, Plant(None, kind=ANIL)),
    "glyphs MAML": (faults.GLYPHS, HEALTHY),
    "glyphs ANIL": (faults.GLYPHS, Plant(None, kind=ANIL)),
    "glyphs ProtoNet": (
        dataclasses.replace(faults.GLYPHS, module=lambda: Conv4(None, width=8), settings={}),
        Plant(None, kind=ProtoNet),
    ),
}

# --- recall and false alarms -----------------------------------------------------------------------------


def found_by(name: str, problem: str, seed: int) -> tuple[bool, list[str], str]:
    """Whether a planted fault was found, all that was, and the verdict."""
    plant = FAULTS[name]
    told = faults.diagnosis(plant, PROBLEMS[problem], seed)
    loud = [f.id for f in told.findings if f.severity is not Severity.INFO or f.id in INFO]
    return plant.finding in loud, [f.id for f in told.findings], told.verdict.state.name


def alarms(name: str, seed: int) -> tuple[list[str], str]:
    """The warnings and errors of a healthy run, and its verdict."""
    problem, plant = HEALTHY_RUNS[name]
    told = faults.diagnosis(plant, problem, seed)
    return [f.id for f in told.findings if f.severity is not Severity.INFO], told.verdict.state.name


def recall(
    map_over: Callable[..., Iterable[Any]], problems: list[str], seeds: int, only: str | None
) -> list[Any]:
    jobs = [
        (name, problem, seed)
        for problem in problems
        for name, plant in FAULTS.items()
        if problem in plant.problems and (only is None or only in name)
        for seed in range(seeds)
    ]
    rows: dict[tuple[str, str], list[bool]] = {}
    for (name, problem, _), (hit, _, _) in zip(
        jobs, map_over(found_by, *zip(*jobs, strict=True)), strict=True
    ):
        rows.setdefault((problem, name), []).append(hit)
        if len(rows[problem, name]) == seeds:
            hits = sum(rows[problem, name])
            print(f"{problem:<10} {name:<36} {FAULTS[name].finding:<22} {hits:>3} of {seeds}", flush=True)
    if "sinusoid" in problems and only is None:
        rows["sinusoid", "one dead seed of three"] = [one_dead_seed(seed) for seed in range(min(seeds, 5))]
    for problem in problems:
        own = [hit for (where, _), hits in rows.items() if where == problem for hit in hits]
        if own:
            print(f"{problem}: {sum(own)} of {len(own)} found, {sum(own) / len(own):.1%}", flush=True)
    return [{"problem": p, "fault": n, "found": sum(h), "of": len(h)} for (p, n), h in rows.items()]


def one_dead_seed(seed: int) -> bool:
    """Whether three runs, one of which has dead units, are told to disagree."""
    plants = [HEALTHY, HEALTHY, dataclasses.replace(HEALTHY, module=FAULTS["dead units"].module)]
    with tempfile.TemporaryDirectory() as scratch:
        histories = []
        for i, plant in enumerate(plants):
            path = Path(scratch) / str(i)
            faults.diagnosis(plant, faults.SINUSOID, 3 * seed + i, path=path)
            histories.append(History.read(path))
        return judge_seeds(histories).state is State.SEED_DISAGREEMENT


def healthy(map_over: Callable[..., Iterable[Any]], seeds: int, only: str | None) -> list[Any]:
    jobs = [(name, seed) for name in HEALTHY_RUNS if only is None or only in name for seed in range(seeds)]
    told: dict[str, list[list[str]]] = {}
    for (name, _), (loud, _) in zip(jobs, map_over(alarms, *zip(*jobs, strict=True)), strict=True):
        told.setdefault(name, []).append(loud)
        if len(told[name]) == seeds:
            loud_runs = [found for found in told[name] if found]
            names = sorted({id for found in loud_runs for id in found})
            print(f"{name:<28} {len(loud_runs):>3} of {seeds} with an alarm {', '.join(names)}", flush=True)
    loud_runs = sum(bool(found) for runs in told.values() for found in runs)
    total = sum(map(len, told.values()))
    print(
        f"healthy: {loud_runs} of {total} runs with a warning or an error, {loud_runs / total:.1%}",
        flush=True,
    )
    return [{"run": name, "alarms": runs} for name, runs in told.items()]


# --- verdicts on quadratics, where the truth is known ----------------------------------------------------

_CURVATURES = (0.2, 0.5, 1.0)
_INNER = 0.3


def quadratic(seed: int) -> tuple[str, float, float, float]:
    """The verdict on a run on bowls, its true excess over the best loss, and the trend's half-width.

    Rates are drawn over four decades, and meta-batches of 4 to 64 tasks: most runs are cut off on their way.
    """
    draws = uniform(task_keys(key(0, "quadratic", seed), 1), 2)[0]
    rate, tasks_per_step = 10 ** float(-4 + 3.5 * draws[0]), int(2 ** (2 + 4 * float(draws[1])))
    bowls = Bowls(_CURVATURES)
    learner = MAML(nn.Linear(len(_CURVATURES), 1, bias=False), inner_lr=_INNER, inner_steps=1, loss="mse")
    nn.init.constant_(learner.module.weight, 3.0)  # pyright: ignore[reportArgumentType, reportCallIssue]
    config = TrainConfig(
        steps=240,
        tasks_per_step=tasks_per_step,
        seed=seed,
        compile=False,
        optimizer=OptimizerConfig("SGD", lr=rate),
        validation=ValidationConfig(every=10**6, episodes=2),
        probe=ProbeConfig(every=5),
    )
    with tempfile.TemporaryDirectory() as scratch:
        training = start(learner, bowls, config, RunFolder(Path(scratch) / "run"))
        for _ in training:
            pass
        told = judge(History.read(Path(scratch) / "run"))
    theta = tree.leaves(training.state.meta["params"])[0].detach().double().flatten()
    descent = bowls.descent(_INNER, 1)
    excess = float(descent.expected_meta_loss(theta)) / float(descent.floor) - 1.0
    return told.state.name, excess, told.half_width, rate


def verdicts(map_over: Callable[..., Iterable[Any]], runs: int) -> dict[str, Any]:
    """Runs until `runs` of them are clearly not converged; what is said of those, and of the others."""
    open_ones: list[str] = []
    done: list[tuple[str, float]] = []
    first = 0
    while len(open_ones) < runs:
        for state, excess, half, _ in map_over(quadratic, range(first, first + 40)):
            if excess > 2 * EPSILON:
                open_ones.append(state)
            elif excess < EPSILON / 2:
                done.append((state, half))
        first += 40
    wrong = open_ones[:runs].count("CONVERGED")
    sharp = [state for state, half in done if half <= EPSILON / 2]
    power = sharp.count("CONVERGED") / len(sharp) if sharp else math.nan
    print(f"quadratic: CONVERGED said of {wrong} of {runs} runs whose excess is above {2 * EPSILON:.0%}")
    print("  all said of them:", {s: open_ones[:runs].count(s) for s in sorted(set(open_ones[:runs]))})
    print(f"quadratic: CONVERGED said of {power:.0%} of {len(sharp)} converged runs, noise below epsilon / 2")
    return {"false": wrong, "runs": runs, "power": power, "sharp": len(sharp), "converged": len(done)}


# --- what it costs ---------------------------------------------------------------------------------------

OVERHEAD: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any]]] = {
    "sinusoid, 5 inner steps": (
        lambda: MAML(MLP(1, 1), inner_lr=0.01, inner_steps=5, loss="mse"),
        lambda: faults.Sinusoid(),
        {"steps": 3000, "tasks_per_step": 25},
    ),
    "Conv4-64 on glyphs, 5-way 1-shot": (
        lambda: MAML(Conv4(ways=5), inner_lr=0.4, inner_steps=1),
        lambda: faults.Glyphs(),
        {"steps": 400, "tasks_per_step": 16},
    ),
}


def overhead(rounds: int, share: float, only: str | None) -> list[Any]:
    """Seconds of the same training with and without the probe, in turn; whether weights are the same."""
    told = []
    for name, (learner, tasks, outer) in OVERHEAD.items():
        if only is not None and only not in name:
            continue
        steps = {"steps": max(60, int(share * outer["steps"]))}
        seconds: dict[str, list[float]] = {"off": [], "standard": []}
        hashes = set()
        looks = 0
        for _ in range(rounds):
            for level, times in seconds.items():
                config = TrainConfig(
                    **outer | steps,
                    compile=False,
                    tasks_axis="vmap" if "sinusoid" in name else "auto",
                    validation=ValidationConfig(every=10**6, episodes=2),
                    probe=ProbeConfig(level=level),  # pyright: ignore[reportArgumentType]
                )
                with tempfile.TemporaryDirectory() as scratch:
                    training = start(learner(), tasks(), config, RunFolder(Path(scratch) / "run"))
                    started = time.perf_counter()
                    for progress in training:
                        if progress.step == config.steps - 1:
                            times.append(time.perf_counter() - started)  # the last look is the report's
                    looks = len(training.watch.history.looks) if training.watch else looks
                hashes.add(_hash(training.state.meta))
        ratios = [on / off for on, off in zip(seconds["standard"], seconds["off"], strict=True)]
        cost = statistics.median(ratios) - 1
        same = "bit-identical" if len(hashes) == 1 else "DIFFERENT WEIGHTS"
        step_ms = 1e3 * statistics.median(seconds["off"]) / steps["steps"]
        print(
            f"{name}: {cost:+.1%} ({min(ratios) - 1:+.1%} .. {max(ratios) - 1:+.1%}), {looks} looks in "
            f"{steps['steps']} steps of {step_ms:.1f} ms; {same}",
            flush=True,
        )
        told.append({"name": name, "ratios": ratios, "identical": len(hashes) == 1, "looks": looks})
    return told


def _hash(meta: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tree.leaves(meta):
        digest.update(leaf.detach().numpy().tobytes())
    return digest.hexdigest()


# --- the command -----------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--problems", default="sinusoid,glyphs", help="of the recall")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=200, help="quadratic runs")
    parser.add_argument("--rounds", type=int, default=3, help="of the overhead")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of the overhead's trainings")
    parser.add_argument("--only", help="faults or runs whose name holds this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write what was found")
    given = parser.parse_args()
    parts, found = given.parts.split(","), {}
    quiet()
    with ProcessPoolExecutor(given.jobs, initializer=quiet) as pool:
        if "recall" in parts:
            found["recall"] = recall(pool.map, given.problems.split(","), given.seeds, given.only)
        if "healthy" in parts:
            found["healthy"] = healthy(pool.map, given.seeds, given.only)
        if "quadratic" in parts:
            found["quadratic"] = verdicts(pool.map, given.runs)
    if "overhead" in parts:
        found["overhead"] = overhead(given.rounds, given.share, given.only)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def quiet() -> None:
    """One thread a process, and no log."""
    torch.set_num_threads(1)
    logging.getLogger("innerloop").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    main()
