"""The trials of a search: proposed by Optuna, in a file of JSON lines that several processes may share."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import psutil

from innerloop.core.errors import ConfigError, DataError
from innerloop.core.rng import key

FILE = "study.jsonl"
_NAME = "tradeoff"
#: Gain on new tasks, retention of the old ones, cost.
_DIRECTIONS = ("maximize", "maximize", "minimize")
_OWNER = "owner"


@final
class Study:
    """The trials of one search; each is asked for, and then finished or abandoned.

    The file holds every trial from the moment it is asked for, so that a search goes on where it was. Trials
    of processes of this machine that are no more are abandoned when a study is opened.

    Args:
        out: the folder of the search.
        seed: of proposals: those of trial n follow from it, from n, and from the trials that were finished.

    Raises:
        ConfigError: Optuna is not installed.
        DataError: the file cannot be read or written.
    """

    def __init__(self, out: Path, seed: int) -> None:
        self._optuna, self._seed = _imported(), seed
        journal = self._optuna.storages.journal
        path = str(out / FILE)
        lock = journal.JournalFileOpenLock(path) if os.name == "nt" else None
        try:
            storage = self._optuna.storages.JournalStorage(journal.JournalFileBackend(path, lock_obj=lock))
            self._study = self._optuna.create_study(
                storage=storage, study_name=_NAME, directions=_DIRECTIONS, load_if_exists=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path} cannot be used: {error}",
                expected="the trials of a search, and a folder that can be written to",
                do="restore the file, or choose another --out",
            ) from error
        for trial in self._running():
            if not _alive(trial.user_attrs.get(_OWNER)):
                self._study.tell(
                    trial.number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True
                )

    def forget_dead(self) -> None:
        """Abandon the trials of processes of this machine that are no more."""
        for trial in self._running():
            if not _alive(trial.user_attrs.get(_OWNER)):
                self._study.tell(
                    trial.number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True
                )

    def ask(self) -> Any:
        """A new trial, which this process works on."""
        trial = self._study.ask()
        trial.set_user_attr(_OWNER, _me())
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=key(self._seed, "tradeoff", trial.number) % 2**32
        )
        return trial

    def finish(self, trial: Any, values: Sequence[float], facts: Mapping[str, Any], errors: int) -> None:
        """Write down what a trial came to.

        Args:
            values: gain, retention and cost, all finite.
            facts: plain values, kept with the trial.
            errors: findings of the doctor's that make it unfit; a trial with any is avoided from then on.
        """
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        trial.set_constraint("errors", float(errors))
        self._study.tell(trial, list(values))

    def add(self, values: Sequence[float], facts: Mapping[str, Any]) -> None:
        """Take in a trial that needed no training."""
        made = self._optuna.trial.create_trial(
            values=list(values), user_attrs=dict(facts), constraints={"errors": 0.0}
        )
        self._study.add_trial(made)

    def abandon(self, trial: Any, reason: str) -> None:
        """Give a trial up: it counts for nothing."""
        trial.set_user_attr("abandoned", reason)
        self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The facts of each finished trial, with its `trial` number and its `values`."""
        states = (self._optuna.trial.TrialState.COMPLETE,)
        found = self._study.get_trials(deepcopy=False, states=states)
        return [trial.user_attrs | {"trial": trial.number, "values": trial.values} for trial in found]

    def begun(self, role: str, before: int | None = None) -> bool:
        """Whether a trial, or one of an earlier number, has a role and is finished or still worked on."""
        state = self._optuna.trial.TrialState
        trials = self._study.get_trials(deepcopy=False, states=(state.COMPLETE, state.RUNNING))
        found = [trial.number for trial in trials if trial.user_attrs.get("role") == role]
        return any(before is None or number < before for number in found)

    @property
    def others(self) -> list[str]:
        """The roles of the trials that other processes work on; empty for one that was just asked for."""
        theirs = [trial for trial in self._running() if trial.user_attrs.get(_OWNER) != _me()]
        return [str(trial.user_attrs.get("role", "")) for trial in theirs]

    def claim(self, what: str) -> bool:
        """Whether this process may do something that one alone should do, from now on."""
        owner = self._study.user_attrs.get(what)
        if owner is not None and owner != _me() and _alive(owner):
            return False
        self._study.set_user_attr(what, _me())
        return True

    def _running(self) -> list[Any]:
        return self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,))


def _me() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": platform.node(), "process": process.pid, "began": process.create_time()}


def _alive(owner: Any) -> bool:
    """Whether a process still runs; one of another machine is taken to."""
    if not isinstance(owner, dict) or owner.get("host") != platform.node():
        return True
    try:
        return psutil.Process(owner["process"]).create_time() == owner["began"]
    except psutil.Error:
        return False


def _imported() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "a search without optuna",
            expected="the extra to be installed",
            do="pip install 'innerloop[tradeoff]'",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
