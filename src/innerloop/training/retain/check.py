"""What keeps earlier tasks has to find something to keep, and to act on: asked before training."""

from __future__ import annotations

import torch

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.likeness import scales
from innerloop.core.rng import generator, key
from innerloop.gradients.base import learned
from innerloop.tasks.base import TaskSource
from innerloop.training.config import TrainConfig
from innerloop.training.paths import as_gradient, words
from innerloop.training.retain.distillation import relabelled
from innerloop.training.step import Engine, estimated, stage_ends, to_device


def check_retained(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig) -> None:
    """Raise a `ConfigError` or `ContractError` for what would do nothing, or not what it says."""
    check_replay(learner, config)
    check_stages(tasks, config)
    if config.retain.recall:
        scales(tasks.sample("train", 1, key(config.seed, "check")).support)
    if config.retain.distill:
        check_distills(learner, tasks, config)


def check_replay(learner: ModuleLearner, config: TrainConfig) -> None:
    """Raise unless a step has both tasks that are replayed and tasks that are not."""
    share, num = config.retain.replay, config.tasks_per_step
    if not share:
        return
    count = round(share * num)
    if not 0 < count < num:
        raise ConfigError(
            f"retain.replay = {share:g} of tasks_per_step = {num}: {count} of them replayed",
            expected="at least one task of a step that is replayed, and one that is not",
            do="raise tasks_per_step, or choose a share nearer to one half",
        )
    gradient = as_gradient(config.gradient) or learner.gradient
    if getattr(gradient, "horizon", None) is not None:
        raise ConfigError(
            f"retain.replay = {share:g} with unrolls that persist ({words(gradient)})",
            expected="tasks that are new in every outer step",
            do="leave out replay, or the horizon",
        )


def check_stages(tasks: TaskSource, config: TrainConfig) -> None:
    """Raise unless there is a stage's end, or an earlier run, for every remedy that takes stock of one."""
    if stage_ends(tasks, config):
        return
    for name in ("l2", "distill", "ewc", "si", "recall"):
        value, begun = getattr(config.retain, name), name in ("l2", "distill")
        if value and not (begun and config.start is not None):
            told = "all at once" if hasattr(tasks, "stages") else "no stages"
            raise ConfigError(
                f"retain.{name} = {value:g} on {type(tasks).__name__} ({told})",
                expected="a stream whose families come one after another"
                + (", or start, an earlier run to stay near to" if begun else ""),
                do="train on such a stream" + (", set start," if begun else "") + f" or leave {name} out",
            )


def check_distills(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig) -> None:
    """Raise unless predictions can stand in for the labels of queries, and make a difference there."""
    told = f"retain.distill = {config.retain.distill:g} with {type(learner).__name__}"
    instead = "use replay, project, l2, ewc or si instead"
    if learner.pooled:
        what = "a learner that is trained on few-shot tasks: what it predicts there is what is kept"
        raise ConfigError(told, expected=what, do=instead)
    if type(learner).distribution is not ModuleLearner.distribution:
        what = "a learner that predicts labels: of a distribution, its mean alone would narrow it"
        raise ConfigError(told, expected=what, do=instead)
    place = key(config.seed, "check")
    meta = tree.map(lambda leaf: leaf.to(config.device), learner.init(generator(config.seed, "init")))
    episodes = to_device(tasks.sample("train", 1, place), config.device)
    engine = Engine(as_gradient(config.gradient) or learner.gradient, config.tasks_axis, config.precision)
    try:
        taught = relabelled(learner, meta, episodes, place)
        ours, theirs = (estimated(engine, learner, meta, given, key=place)[0] for given in (episodes, taught))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ConfigError(
            f"{told}: {reason}",
            expected="an outer loss that takes probabilities in the place of query labels",
            do=instead,
        ) from error
    pairs = zip(tree.leaves(learned(ours)), tree.leaves(learned(theirs)), strict=True)
    if all(torch.equal(a, b) for a, b in pairs):
        what = "a meta-gradient that the labels of queries have a part in"
        raise ConfigError(f"{told} ({words(engine.gradient)})", expected=what, do=instead)
