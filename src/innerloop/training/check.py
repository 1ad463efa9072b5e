"""Whether a learner, its model and the tasks fit together: asked before anything is trained or written."""

from __future__ import annotations

import inspect

import torch

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import generator, key
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import take
from innerloop.tasks.base import TaskSource
from innerloop.training.adversary import attacked
from innerloop.training.aggregate import check_installed
from innerloop.training.config import TrainConfig
from innerloop.training.joint import Joint
from innerloop.training.paths import Undescribed, as_gradient, words
from innerloop.training.step import Engine, estimated, to_device


def check_fit(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig) -> None:
    """Raise unless the device exists, training tasks can be sampled, and the model's output fits them."""
    check_device(config.device)
    if isinstance(config.gradient, Undescribed):
        config.gradient.refuse()
    spec = tasks.spec
    if learner.loss != spec.loss:
        name, kinds = type(learner).__name__, {"cross_entropy": "classes", "mse": "targets"}
        raise ConfigError(
            f"{name} with loss {learner.loss!r} on tasks of {kinds[spec.loss]}",
            expected=f"a learner whose loss is {spec.loss!r}",
            do="use an algorithm that adapts by gradients, such as MAML"
            if "loss" not in inspect.signature(type(learner)).parameters
            else f"set loss={spec.loss!r}",
        )
    learner.to(config.device)
    meta = tree.map(lambda leaf: leaf.to(config.device), learner.init(generator(config.seed, "init")))
    place = key(config.seed, "check")
    first = to_device(_training_tasks(learner, tasks, place), config.device)
    outputs = spec.outputs if getattr(tasks, "absolute", False) else None
    check_output(learner, meta, first, "train", classes=(spec.classes or {}).get("train"), outputs=outputs)
    if config.gradient is not None:
        check_gradient(learner, meta, first, config)
    check_objective(learner, meta, first, config)
    attacked(learner, meta, first, config.adversary, place=place)  # raises where there is nothing to attack
    check_output(
        learner, meta, to_device(tasks.sample("val", 1, place), config.device), "val", outputs=outputs
    )


def _training_tasks(learner: ModuleLearner, tasks: TaskSource, place: int) -> Episode:
    """One training task of the kind that the learner takes."""
    if not learner.pooled:
        return tasks.sample("train", 1, place)
    if not hasattr(tasks, "pooled"):
        raise ContractError(
            f"{type(tasks).__name__} without a method 'pooled', for {type(learner).__name__}",
            expected="tasks that give batches of all training classes at once",
            do="add pooled(num_batches, rng), or use an algorithm that is trained on few-shot tasks",
        )
    return tasks.pooled(1, place)


def check_gradient(learner: ModuleLearner, meta: Meta, episodes: Episode, config: TrainConfig) -> None:
    """Raise `ContractError` unless the gradient path that was asked for works with the learner."""
    gradient = as_gradient(config.gradient) or learner.gradient
    try:
        estimated(Engine(gradient, config.tasks_axis, config.precision), learner, meta, episodes)
    except NotImplementedError as error:
        raise ContractError(
            f"gradient {words(gradient)}: {error}",
            expected=f"a path that {type(learner).__name__} can use",
            do="use Unrolled or Recompute, or leave gradient out",
        ) from error


def check_objective(learner: ModuleLearner, meta: Meta, episodes: Episode, config: TrainConfig) -> None:
    """Raise `ConfigError` unless what is asked of the objective suits this learner and its path."""
    objective, aggregate = config.objective, config.optimizer.aggregate
    gradient, name = as_gradient(config.gradient) or learner.gradient, type(learner).__name__
    check_installed(aggregate)
    if objective.first_order_until and not gradient.exact:
        raise ConfigError(
            f"objective.first_order_until = {objective.first_order_until:g} with {words(gradient)}",
            expected="an exact path, which first-order gradients may stand in for",
            do="set gradient to Unrolled or Recompute, or leave first_order_until out",
        )
    if getattr(gradient, "horizon", None) is not None and (objective.chooses or aggregate != "mean"):
        raise ConfigError(
            f"tasks that are chosen, weighed or grouped, with unrolls that persist ({words(gradient)})",
            expected="tasks that are new in every outer step",
            do="leave out normalise, worst, curriculum and aggregate, or the horizon",
        )
    if not objective.joint:
        return
    told = f"objective.joint = {objective.joint:g} with {name}"
    if learner.amortised or learner.pooled:
        raise ConfigError(
            told,
            expected="a learner whose model predicts before it has seen a support set",
            do="leave joint out"
            if learner.amortised
            else "leave joint out: it is trained on all classes at once already",
        )
    grads, _, _ = estimated(Engine(Joint(), config.tasks_axis, config.precision), learner, meta, episodes)
    if all(not bool(leaf.any()) for leaf in tree.leaves(grads)):
        raise ConfigError(
            told,
            expected="predictions before adaptation that depend on what is learned",
            do="leave joint out",
        )


def check_output(
    learner: ModuleLearner,
    meta: Meta,
    episodes: Episode,
    split: str,
    *,
    classes: int | None = None,
    outputs: int | None = None,
) -> None:
    """Raise `ContractError` unless the learner predicts one output per class (or target) of an episode.

    One that is `pooled` does so in training for all `classes` of the split, and for a task's own after it.
    Where labels are absolute there are `outputs` for whichever classes an episode has.
    """
    episode = take(episodes, 0)
    training, ways = split == "train", count_ways(episode.support.y)
    together = classes if learner.pooled and training else None
    own = not learner.any_ways and outputs  # a learner that makes a head for a task's classes has no more
    expected = together or own or ways or episode.query.y.shape[-1]
    name = type(learner.module).__name__
    try:
        with torch.no_grad(), running_in(ways=ways, training=training):
            found = learner.predict(meta, learner.begin(meta, episode.support), episode.query.x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ContractError(
            f"{name} on inputs of shape {tuple(episode.query.x.shape[1:])}: {reason}",
            expected="a module that takes a batch of such inputs",
            do="choose or size the model to fit the tasks",
        ) from error
    fits = found.ndim == 2 and (found.shape[0] == len(episode.query.y)) and found.shape[1] == expected
    if not fits and together is not None:
        raise ContractError(
            f"{type(learner).__name__} with {found.shape[-1]} outputs in training",
            expected=f"one for each of the {together} training classes",
            do=f"set classes={together}",
        )
    if not fits:
        raise ContractError(
            f"{name} gives outputs of shape {tuple(found.shape)} on the {split} tasks",
            expected=f"({len(episode.query.y)}, {expected}): one output per {'class' if ways else 'target'}",
            do=f"set the model's number of outputs to {own or ways}"
            if ways
            else "set the model's outputs to the target's width",
        )


def check_device(device: str) -> None:
    """Raise `ConfigError` unless torch can use the device here."""
    kind = device.partition(":")[0]
    usable = ["cpu"]
    usable += ["cuda"] if torch.cuda.is_available() else []
    usable += ["mps"] if torch.backends.mps.is_available() else []
    if kind not in usable:
        raise ConfigError(
            f"device = {device!r}", expected=f"one of {', '.join(usable)} on this machine", do="choose one"
        )
