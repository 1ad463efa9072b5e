"""One configuration on a stream, trained with one seed: what it came to, and what it cost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from innerloop.diagnose.anchors import outcome_of
from innerloop.diagnose.doctor import diagnose
from innerloop.diagnose.finding import Severity
from innerloop.diagnose.history import History
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import RunConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.interrupt import Interrupt

#: What the runs of one configuration came to, one mapping a seed.
Row = dict[str, Any]
OUTCOME = "outcome.json"
#: Findings on what the search weighs anyway: forgetting makes a configuration no less fit to be a point.
_WEIGHED = ("FORGETTING", "STABILITY_GAP")


def trained(config: RunConfig, seed: int, place: Path, interrupt: Interrupt) -> Row:
    """Train a configuration with a seed, and say what it came to.

    Args:
        place: the run folder. A run that is there is gone on with, and one that is through is not trained
            again; so it must be of this configuration.
        interrupt: asked between steps; a run that is cut is saved.

    Returns:
        `seed`, `seconds` of training, `cost` (see `passes`), `errors` (names of the doctor's), and the
        fields of an `Outcome`.

    Raises:
        ConfigError, ContractError, DataError, NonFiniteError: it cannot be trained.
        NotEvaluated: what it came to is not finite.
        KeyboardInterrupt: it was asked to stop.
    """
    folder = RunFolder(place)
    if (place / OUTCOME).is_file():
        return json.loads(folder.read(OUTCOME))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
    learner, tasks = config.build()
    training = start(learner, tasks, config.train, folder, "resume")
    for _ in training:
        if interrupt.asked:
            training.save()
            raise KeyboardInterrupt
    history = History.read(place)
    found = outcome_of(history)
    bad = [f.id for f in diagnose(history).findings if f.severity is Severity.ERROR and f.id not in _WEIGHED]
    cost = passes(config.train, learner.inner_steps, len(getattr(tasks, "stages", [])))
    row = {"seed": seed, "seconds": round(training.seconds, 3), "cost": cost, "errors": bad}
    row |= found.to_dict()
    folder.write(OUTCOME, json.dumps(row, indent=2, allow_nan=False) + "\n")
    return row


def passes(train: TrainConfig, inner_steps: int, stages: int) -> int:
    """Forward and backward passes through one task's data that a training takes: a cost without a clock.

    Each meta-gradient of a task is one for each inner step, and one for the query set. What remedies ask for
    comes on top: gradients of relabelled tasks from the second stage on (`distill`), gradients of remembered
    tasks at every step but the first (`project`), and gradients of single tasks at the end of each stage
    (`ewc`). Replay takes the place of other tasks, and costs nothing, nor does `recall`.
    """
    retain, per_step = train.retain, train.tasks_per_step
    gradients = train.steps * per_step
    if retain.distill and stages:
        gradients += (train.steps - round(train.steps / stages)) * per_step
    if retain.project:
        gradients += (train.steps - 1) * per_step
    if retain.ewc:
        gradients += stages * retain.ewc_tasks
    return gradients * (inner_steps + 1)
