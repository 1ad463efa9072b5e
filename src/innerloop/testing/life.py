"""The questions that need training: does it learn, resume, and stand in a configuration."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.rng import generator
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import Evaluation, evaluate
from innerloop.evaluate.statistics import paired_difference
from innerloop.gradients import Displacement
from innerloop.tasks.base import TaskSource
from innerloop.training.config import OptimizerConfig, TrainConfig, ValidationConfig
from innerloop.training.experiment import RunConfig, describe
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training

_SEED, _JUDGED, _TASKS = 3, 200, 8
_RESUMED = 4  # outer steps of the run that is stopped half way


class NotAsked(Exception):
    """A question that does not apply, with the reason."""


def learns(learner: ModuleLearner, tasks: TaskSource, *, steps: int, floor: float) -> str:
    """After a short training it beats no adaptation, and itself before training, and reaches its floor.

    Args:
        steps: outer steps of training, eight tasks each.
        floor: accuracy to reach, or mean squared error to stay below, on unseen tasks.

    Returns:
        The scores, in words.
    """
    optimizer = OptimizerConfig(lr=1e-2, schedule="linear", clip_norm=10.0)
    if isinstance(learner.gradient, Displacement):  # how far to go where adaptation went
        optimizer = OptimizerConfig("SGD", lr=1.0, schedule="linear")
    config = TrainConfig(
        steps=steps,
        tasks_per_step=_TASKS,
        seed=_SEED,
        optimizer=optimizer,
        validation=ValidationConfig(every=max(1, steps // 4), episodes=20),
        threads=torch.get_num_threads(),
    )
    training = start(copy.deepcopy(learner), tasks, config, None)
    before = _judged(training, training.untrained, tasks)
    for _ in training:
        pass
    after = _judged(training, training.state.meta, tasks)
    mean, untrained = after.summary.mean, before.summary.mean
    # What learns as it begins has no state before; for numbers, the mean of those it was given stands in.
    guess = learner.amortised and learner.loss == "mse"
    unadapted = after.baselines["support_mean" if guess else "no_adaptation"]
    said = f"{after.metric} {mean:.3g}, untrained {untrained:.3g}, floor {floor:g}"
    gain = paired_difference(after.scores, unadapted)
    sign = 1.0 if after.higher_is_better else -1.0
    assert sign * gain.mean - gain.ci95 > 0, f"no better than without adaptation: {said}"
    assert after.better(mean, untrained), f"no better than before training: {said}"
    assert after.better(mean, floor), f"short of its floor: {said}"
    return said


def _judged(training: Training, meta: Any, tasks: TaskSource) -> Evaluation:
    chosen = FixedEpisodes("test", _JUDGED, _SEED)
    return evaluate(training.learner, meta, tasks, chosen, untrained=training.untrained, curve=False)


def resumes_bitwise(learner: ModuleLearner, tasks: TaskSource) -> None:
    """A run that is stopped half way and resumed from its folder is the run that was not, bitwise."""
    half = _RESUMED // 2
    config = TrainConfig(
        steps=_RESUMED,
        tasks_per_step=2,
        seed=_SEED,
        log_every=1,
        validation=ValidationConfig(every=half, episodes=2),
    )
    with _folders() as (one, other):
        whole = _trained(learner, tasks, config, one, _RESUMED)
        _trained(learner, tasks, config, other, half)
        parts = _trained(learner, tasks, config, other, _RESUMED)
    differing = [name for name in whole if not torch.equal(whole[name], parts[name])]
    assert whole.keys() == parts.keys(), "a resumed run holds other tensors"
    assert not differing, f"resumed runs differ at {', '.join(differing[:4])}"


def _trained(
    learner: ModuleLearner, tasks: TaskSource, config: TrainConfig, folder: Path, until: int
) -> dict[str, Tensor]:
    """Train to an outer step, as another process would, and save."""
    training = start(copy.deepcopy(learner), tasks, config, RunFolder(folder), existing="resume")
    for progress in training:
        if progress.step >= until:
            training.save()
            break
    return {name: leaf.clone() for name, leaf in training.state.tensors().items()}


@contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="innerloop-check-") as place:
        yield Path(place) / "one", Path(place) / "other"


def survives_its_configuration(learner: ModuleLearner, tasks: TaskSource) -> None:
    """Written to YAML and built again it starts from the same meta-parameters, with the same settings."""
    config = describe(learner, tasks, TrainConfig())
    for kind in ("algorithm", "model"):
        named = getattr(config, kind)
        if named.get("custom") or named.get("external"):
            raise NotAsked(f"a file cannot describe the {kind} {named['name']}")
    again = RunConfig.from_dict(yaml.safe_load(config.to_yaml())).build_learner(tasks.spec)
    other = describe(again, tasks, TrainConfig())
    kept, became = dict(config.algorithm), dict(other.algorithm)
    assert kept == became, f"settings {kept} became {became}"
    ours, theirs = (tree.flatten(one.init(generator(_SEED, "init"))) for one in (learner, again))
    assert ours.keys() == theirs.keys(), "meta has other leaves"
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "meta has other values"
