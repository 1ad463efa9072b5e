"""Whether training that was stopped goes on as if it had not been: asked of real runs and of planted bugs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms import MAML
from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.models import MLP
from innerloop.rules import SGD
from innerloop.tasks import Sinusoid
from innerloop.training.config import OptimizerConfig, ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import Existing, start
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training

STEPS = 6


def small_config(**changes: Any) -> TrainConfig:
    settings = {"steps": STEPS, "tasks_per_step": 2, "log_every": 2, "seed": 3} | changes
    few = {"validation": ValidationConfig(every=2, episodes=3), "probe": ProbeConfig(every=3, tasks=4)}
    return TrainConfig(**few | settings)


def sinusoid_learner() -> ModuleLearner:
    return MAML(MLP(1, 1, hidden=(5,)), inner_lr=0.01, inner_steps=1, loss="mse")


def unrolling_learner(momentum: float = 0.0) -> ModuleLearner:
    """Two inner steps in an outer step, of an unroll that may be longer."""
    learner = MAML(MLP(1, 1, hidden=(5,)), inner_lr=0.01, inner_steps=2, loss="mse")
    learner.rule = SGD(0.01, momentum=momentum)
    return learner


@dataclass(frozen=True)
class Setup:
    """How to make a run anew, as another process would."""

    learner: Callable[[], ModuleLearner] = sinusoid_learner
    tasks: Callable[[], Any] = Sinusoid.tiny
    config: TrainConfig = field(default_factory=small_config)

    @classmethod
    def optimized(cls, **optimizer: Any) -> Setup:
        return cls(config=small_config(optimizer=OptimizerConfig(**optimizer)))

    def start(self, folder: Path, existing: Existing = "refuse") -> Training:
        return start(self.learner(), self.tasks(), self.config, RunFolder(folder), existing)


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves behind, but the time it took."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    best: dict[str, Tensor]
    metrics: list[dict[str, Any]]

    @classmethod
    def of(cls, training: Training) -> Outcome:
        folder = training.folder
        assert folder is not None
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in folder.metrics()]
        tensors = {path: leaf.clone() for path, leaf in training.state.tensors().items()}
        assert training.best_meta is not None
        best = tree.flatten(training.best_meta)
        stored, _ = folder.load_checkpoint("best")
        assert all(torch.equal(best[path.removeprefix("meta/")], leaf) for path, leaf in stored.items())
        return cls(tensors, training.state.values(), best, rows)


def run_to(training: Training, step: int, *, killed: bool = False) -> Training:
    """Train up to a step and save, as an interrupt does; or do not, as a kill."""
    for progress in training:
        if progress.step >= step:
            if not killed:
                training.save()
            break
    return training


def finish(training: Training) -> Outcome:
    for _ in training:
        pass
    return Outcome.of(training)


def same_outcome(a: Outcome, b: Outcome) -> None:
    """Bitwise the same, in everything."""
    for name in ("tensors", "best"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert ours.keys() == theirs.keys(), f"other {name}"
        different = [path for path in ours if not torch.equal(ours[path], theirs[path])]
        assert not different, f"{name} differ at {different}"
    assert json.dumps(a.values) == json.dumps(b.values), "another state"
    assert json.dumps(a.metrics) == json.dumps(b.metrics), "other metrics"


def resumes_bitwise(
    setup: Setup, folder: Path, stops: tuple[int, ...] = (3,), *, killed: bool = False
) -> None:
    """k steps, stop, and the rest equal all steps at once."""
    whole = finish(setup.start(folder / "whole"))
    assert setup.config.steps == STEPS
    run_to(setup.start(folder / "parts"), stops[0], killed=killed)
    for stop in stops[1:]:
        run_to(setup.start(folder / "parts", "resume"), stop, killed=killed)
    same_outcome(whole, finish(setup.start(folder / "parts", "resume")))
