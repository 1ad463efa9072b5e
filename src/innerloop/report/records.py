"""What a run folder holds, as the report reads it: every file but the records themselves may be missing."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.core.errors import DataError
from innerloop.diagnose.doctor import Diagnosis, diagnose
from innerloop.diagnose.history import History
from innerloop.diagnose.verdict import EPSILON, State, Verdict

#: Tasks with their examples as pictures, as training writes them for tasks of images.
WORST_TASKS = "worst-tasks.json"
#: What perturbations cost, as `innerloop stability` writes it.
STABILITY = "stability.json"
#: What reading damaged records may raise; each is told, none ends the report.
DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class RunRecords:
    """One run, as its folder tells it.

    Attributes:
        name: the folder as it was given.
        history: its records.
        diagnosis: what the doctor says of them.
        spec: what its tasks are like; empty, as the next two, where the file is missing.
        environment: versions, machine and command.
        engine: how meta-gradients were computed.
        evaluations: the `evaluation-*.json` of the folder, by file name.
        worst_tasks: the entries of `worst-tasks.json`.
        stability: what `innerloop stability` wrote.
        notes: what could not be read, and why.
    """

    name: str
    history: History
    diagnosis: Diagnosis
    spec: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    worst_tasks: list[dict[str, Any]] = field(default_factory=list)
    stability: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The run in a line: `MAML on Omniglot, 5-way 1-shot`."""
        return sizes(dict(self.history.config))

    @property
    def metric(self) -> str:
        """`accuracy` or `mse`: the probe's, or else what the tasks are judged by."""
        found = self.history.setup.get("metric") or self.spec.get("metric")
        looks = [row for row in self.history.metrics if row.get("kind") == "validation"]
        return str(found or (looks[0].get("metric") if looks else None) or "score")

    @property
    def accuracy(self) -> bool:
        return self.metric == "accuracy"

    @property
    def score_is_loss(self) -> bool:
        """Whether the probe's score is its loss, as the mean squared error is for regression."""
        return self.history.has("post", split="val") and self.metric == self.history.setup.get("loss")

    @property
    def probe_seed(self) -> int:
        """The seed of the probe's tasks: its own, so that runs of other seeds have the same ones."""
        return int(self.history.setup.get("seed", self.history.setting("seed", 0)))

    @property
    def looks(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl` that are looks at the validation tasks."""
        return [row for row in self.history.metrics if row.get("kind") == "validation"]

    def threshold(self, rule: str) -> float | None:
        """Where a rule begins to fire, as it was asked; None if it was not."""
        answers = (*self.diagnosis.findings, *self.diagnosis.passed)
        return next((a.threshold for a in answers if a.id == rule), None)

    def value(self, rule: str) -> float | None:
        """What a rule measured; None if it was not asked."""
        answers = (*self.diagnosis.findings, *self.diagnosis.passed)
        return next((a.value for a in answers if a.id == rule), None)


def read(path: str | os.PathLike[str], *, epsilon: float = EPSILON) -> RunRecords:
    """Read a run folder and ask the doctor.

    Args:
        epsilon: relative change of the probe loss over a window that counts as none.

    Raises:
        ContractError: it is no run folder.
    """
    notes: list[str] = []
    folder = Path(path)
    history = _history(folder, notes)
    evaluations = {file.name: _mapping(file, notes) for file in sorted(folder.glob("evaluation-*.json"))}
    pictures = _mapping(folder / WORST_TASKS, notes).get("tasks", [])
    return RunRecords(
        os.fspath(path),
        history,
        _diagnosis(history, epsilon, notes),
        _mapping(folder / "spec.json", notes),
        _mapping(folder / "environment.json", notes),
        _mapping(folder / "engine.json", notes),
        {name: found for name, found in evaluations.items() if found},
        [entry for entry in pictures if isinstance(entry, dict)] if isinstance(pictures, list) else [],
        _mapping(folder / STABILITY, notes),
        tuple(notes),
    )


@contextmanager
def unwarned() -> Iterator[None]:
    """Without numpy's warnings: what is not finite is said on the page."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def sizes(config: dict[str, Any]) -> str:
    """A run in a line.

    >>> sizes({"algorithm": {"name": "MAML"}, "tasks": {"name": "Omniglot", "ways": 5, "shots": 1}})
    'MAML on Omniglot, 5-way 1-shot'
    """
    algorithm, tasks = (
        c if isinstance(c := config.get(kind), dict) else {} for kind in ("algorithm", "tasks")
    )
    text = f"{algorithm.get('name', '?')} on {tasks.get('name', '?')}"
    counts = [f"{tasks[name]}-{name.removesuffix('s')}" for name in ("ways", "shots") if tasks.get(name)]
    return text + (f", {' '.join(counts)}" if counts else "")


def _history(folder: Path, notes: list[str]) -> History:
    try:
        found = History.read(folder)
        if found.step < 0 or not isinstance(found.setup, dict):
            raise TypeError("steps or facts of another kind")
    except (*DAMAGE, DataError) as error:
        notes.append(f"the records are damaged and left out ({type(error).__name__}: {error})")
        return History({}, (), (), folder)
    return found


def _diagnosis(history: History, epsilon: float, notes: list[str]) -> Diagnosis:
    try:
        with unwarned():
            return diagnose(history, epsilon=epsilon)
    except DAMAGE as error:
        notes.append(f"the records do not fit together ({type(error).__name__}: {error})")
        return Diagnosis(Verdict(State.UNRESOLVED, epsilon=epsilon, notes=(notes[-1],)), (), (), ())


def _mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    """The JSON object in a file; empty, with a note, where there is none that can be read."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name} holds no JSON object")
        return {}
    return found
