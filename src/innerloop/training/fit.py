"""`il.train`: from a learner and tasks to a run."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ConfigError
from innerloop.tasks.base import TaskSource
from innerloop.training.check import check_fit
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import describe, read_yaml
from innerloop.training.folder import CONFIG, RunFolder
from innerloop.training.interrupt import Interrupt
from innerloop.training.loop import Training
from innerloop.training.retain.check import check_retained
from innerloop.training.run import Run
from innerloop.training.step import stage_ends
from innerloop.training.transfer import started

Existing = Literal["refuse", "resume", "overwrite"]


def train(
    learner: ModuleLearner,
    tasks: TaskSource,
    *,
    steps: int | None = None,
    tasks_per_step: int | None = None,
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    existing: Existing = "refuse",
    config: TrainConfig | None = None,
) -> Run:
    """Meta-train a learner on tasks.

    Args:
        learner: an algorithm around a module, such as `il.algorithms.MAML(il.models.Conv4(ways=5))`.
        tasks: where tasks come from, such as `il.tasks.Glyphs()`.
        steps, tasks_per_step, seed: override those of `config`.
        out: the run folder to write; None keeps the run in memory.
        existing: what to do where `out` already holds a run.
        config: the outer loop: optimizer, schedule, validation, device, ...

    Returns:
        A run with the meta-parameters of the best validation score.

    Raises:
        ConfigError, ContractError, DataError: the input is unfit; nothing was trained.
        NonFiniteError: most tasks of a step left the finite numbers.
        KeyboardInterrupt: after Ctrl-C, once the step is finished and saved.
    """
    given = {"steps": steps, "tasks_per_step": tasks_per_step, "seed": seed}
    config = dataclasses.replace(config or TrainConfig(), **{k: v for k, v in given.items() if v is not None})
    training = start(learner, tasks, config, RunFolder(out) if out is not None else None, existing)
    with Interrupt() as interrupt:
        for _ in training:
            if interrupt.asked:
                training.save()
                raise KeyboardInterrupt
    return Run.of(training)


def start(
    learner: ModuleLearner,
    tasks: TaskSource,
    config: TrainConfig,
    folder: RunFolder | None,
    existing: Existing = "refuse",
) -> Training:
    """A training run that is checked and ready to iterate over, its folder made or resumed."""
    check_fit(learner, tasks, config)
    check_retained(learner, tasks, config)
    resumed = existing == "resume" and folder is not None and folder.exists
    goes_on = resumed and folder is not None and bool(folder.checkpoints())
    if goes_on and folder is not None:
        check_same_stages(tasks, config, folder)
    begin = None if config.start is None or goes_on else started(learner, config.start, config.seed)
    if folder is not None and not resumed:
        text = describe(learner, tasks, config).to_yaml()
        folder.create(text, tasks.spec.to_json(), overwrite=existing == "overwrite")
    training = Training(learner, tasks, config, folder, begin)
    if resumed:
        training.resume()
    return training


def check_same_stages(tasks: TaskSource, config: TrainConfig, folder: RunFolder) -> None:
    """Raise `ConfigError` if a stream would go on in other stages than those it was begun with."""
    if not stage_ends(tasks, config):
        return
    before = read_yaml(folder.path / CONFIG).get("steps")
    if before != config.steps:
        raise ConfigError(
            f"steps = {config.steps} for a run on a stream that was begun with {before}",
            expected=f"steps = {before}: the stages of a stream are shares of it, so another number moves "
            "those that are over",
            do="leave steps out, or choose another --out; to go on from its weights, set start",
        )
