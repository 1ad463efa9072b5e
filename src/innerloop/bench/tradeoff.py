"""A search for configurations that gain on new tasks and keep the old ones, on a stream of tasks."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from innerloop.bench.knobs import ask, configured, without_remedies
from innerloop.bench.question import Question
from innerloop.bench.study import Study
from innerloop.bench.trial import Row, trained
from innerloop.core.errors import DataError, InnerloopError
from innerloop.core.files import write_whole
from innerloop.diagnose.anchors import Anchors, Outcome, numbers
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.front import over_seeds
from innerloop.diagnose.tradeoff import ENDS, Candidate, Tradeoff, judge_tradeoff
from innerloop.training.experiment import RunConfig
from innerloop.training.folder import told_as_data_error
from innerloop.training.interrupt import Interrupt

FRONT, POINTS = "front.json", "points"
Tell = Callable[[str], None]
_TRAINED = ("naive", "joint")  # the anchors that have runs of their own
_SEARCH = "search"
_PAUSE = 0.5  # seconds between two looks at what other processes do
_ENOUGH = 30  # proposals in a row that were tried before, after which there are no others
_NOTHING = (0.0, 0.0, 1.0)  # what a trial that fails is worth before there are anchors


@final
@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        search: all trials, on the seeds of the search.
        confirmed: the front of it, on fresh seeds; None if it was not run again.
        failed: of each trial that failed: `trial`, `settings` and `reason`.
        others: how many trials other processes still work on.
    """

    search: Tradeoff
    confirmed: Tradeoff | None
    failed: Sequence[dict[str, Any]]
    others: int

    @property
    def reported(self) -> Tradeoff:
        """What is to be believed: fresh seeds, where there are any."""
        return self.search if self.confirmed is None else self.confirmed


@final
class Search:
    """The trials of a question in a folder, gone on with where they are.

    The first ones are the anchors: naive training (no remedy), frozen weights (the naive run after its first
    stage, which takes no training), and joint training. Several processes may work in one folder.

    Args:
        out: holds the question (`tradeoff.yaml`), the trials (`study.jsonl`), their runs
            (`trials/N/seed-S`, and on fresh seeds `confirm/N/seed-S`), and in the end `front.json` and
            `points/N.yaml`.
        tell: is given a line about each thing that is done.
        interrupt: asked between outer steps.

    Raises:
        ConfigError: the folder is of another question, or Optuna is not installed.
        DataError: it cannot be read or written.
    """

    def __init__(self, question: Question, out: Path, tell: Tell, interrupt: Interrupt) -> None:
        self.question, self.out, self._tell, self._interrupt = question, out, tell, interrupt
        question.settle(out)
        self._study = Study(out, question.config.train.seed)
        self._repeats, self._lost = 0, []
        naive = without_remedies(question.config)
        self._anchors = {"naive": naive, "joint": configured(naive, {"tasks.schedule": "joint"})}

    def run(self) -> Found:
        """Go on to as many trials as are asked for, run the front again, and write down what was found.

        Raises:
            KeyboardInterrupt: the trial in progress is given up, all others are kept.
            InnerloopError, NotEvaluated: naive or joint training fails, so that there is nothing to compare
                with.
        """
        while True:
            while self._wanted():
                self._one()
            done = self._study.finished
            if all(_of(done, role) for role in _TRAINED):
                break
            self._wait()
        anchors = {role: [Outcome.from_dict(row) for row in _of(done, role)[0]["rows"]] for role in _TRAINED}
        search = judge_tradeoff(Anchors(**anchors), self._candidates(done), epsilon=self.question.epsilon)
        others, confirmed = len(self._study.others), None
        if self.question.confirm and not others and self._study.claim("confirming"):
            confirmed = self._confirmed(search)
        failed = [
            {"trial": one["trial"], "settings": one["settings"], "reason": one["failed"]}
            for one in done
            if "failed" in one
        ]
        found = Found(search, confirmed, failed + self._lost, others)
        self._write(found)
        return found

    # --- trials ------------------------------------------------------------------------------------------

    def _wanted(self) -> bool:
        """Whether a trial is missing that no other process works on."""
        done = self._study.finished
        if _of(done, "naive") and not _of(done, "frozen"):
            self._freeze(_of(done, "naive")[0]["rows"])
        if any(not self._study.begun(role) for role in _TRAINED):
            return True
        if self._repeats >= _ENOUGH:
            self._tell("no other settings are proposed: the knobs have no more")
            return False
        return len(_of(done, _SEARCH)) + self._study.others.count(_SEARCH) < self.question.trials

    def _wait(self) -> None:
        """Another process trains an anchor; if it ends before that is done, the trial is free again."""
        if self._interrupt.asked:
            raise KeyboardInterrupt
        time.sleep(_PAUSE)
        self._study.forget_dead()

    def _one(self) -> None:
        """Ask for a trial, and train it."""
        trial = self._study.ask()
        role = self._role(trial)
        settings: dict[str, Any] = {}
        try:
            if role == _SEARCH:
                settings = ask(trial, self.question.space, self.question.config)
                config = self._configured(settings)
                if any(one["settings"] == settings for one in _of(self._study.finished, _SEARCH)):
                    self._study.abandon(trial, "settings of an earlier trial")
                    self._repeats += 1
                    return
                self._repeats = 0
            else:
                config = self._anchors[role]
            self._tell(f"trial {trial.number}  {_said(role, settings)}")
            rows = self._trained(config, self.question.on, self.out / "trials" / str(trial.number))
        except (InnerloopError, NotEvaluated, RuntimeError, ArithmeticError) as error:
            if role != _SEARCH or isinstance(error, DataError):
                self._study.abandon(trial, _reason(error))
                raise
            self._tell(f"trial {trial.number}  failed: {_reason(error)}")
            facts = {"settings": settings, "failed": _reason(error)}
            self._study.finish(trial, self._worst(), facts, errors=1)
            return
        except BaseException:
            self._study.abandon(trial, "interrupted")
            raise
        facts = {"settings": settings, "rows": rows}
        values, spread = _objectives(rows)
        errors = sum(len(row["errors"]) for row in rows)
        self._study.finish(trial, values, facts | {"standard_errors": spread}, errors)
        self._tell(f"trial {trial.number}  {_told(rows)}")

    def _role(self, trial: Any) -> str:
        """What a trial is for: the first anchor that is missing, or the search."""
        for role in _TRAINED:
            if not self._study.begun(role):
                trial.set_user_attr("role", role)
                if not self._study.begun(role, before=trial.number):  # two may have asked at once
                    return role
        trial.set_user_attr("role", _SEARCH)
        return _SEARCH

    def _configured(self, settings: dict[str, Any]) -> RunConfig:
        alone = any(knob.name == "remedy" for knob in self.question.space)
        return configured(self.question.config, settings, alone=alone)

    def _trained(self, config: RunConfig, seeds: Sequence[int], place: Path) -> list[Row]:
        return [trained(config, seed, place / f"seed-{seed}", self._interrupt) for seed in seeds]

    def _freeze(self, naive: Sequence[Row]) -> None:
        """The anchor that needs no training of its own."""
        share = 1.0 / self.question.stages
        gain = float(np.mean([row["untouched"] for row in naive]))
        facts = {"role": "frozen", "settings": {}, "of": "naive after its first stage"}
        self._study.add((gain, 1.0, share * float(np.mean([row["cost"] for row in naive]))), facts)

    def _worst(self) -> Sequence[float]:
        """What a failed trial is worth: the worst of the anchors in each objective."""
        found = [one["values"] for role in (*ENDS, "joint") for one in _of(self._study.finished, role)]
        gains, kept, costs = zip(*found, strict=True) if found else zip(_NOTHING, strict=True)
        return min(gains), min(kept), max(costs)

    # --- what was found ----------------------------------------------------------------------------------

    def _candidates(self, done: Sequence[dict[str, Any]]) -> list[Candidate]:
        naive = _of(done, "naive")[0]["rows"]
        return [
            _candidate(one["trial"], one["settings"], one["rows"], naive)
            for one in _of(done, _SEARCH)
            if "rows" in one
        ]

    def _confirmed(self, search: Tradeoff) -> Tradeoff:
        """The front of the search once more, on seeds that had no part in choosing it."""
        fresh, place = self.question.fresh, self.out / "confirm"
        on = f"on fresh seeds {', '.join(map(str, fresh))}"
        rows = {}
        for role in _TRAINED:
            self._tell(f"once more  {role} {on}")
            rows[role] = self._trained(self._anchors[role], fresh, place / role)
        anchors = {role: [Outcome.from_dict(row) for row in rows[role]] for role in _TRAINED}
        again = []
        for one in [point.candidate for point in search.front if point.candidate is not None]:
            self._tell(f"once more  trial {one.trial} {on}")
            try:
                found = self._trained(self._configured(one.settings), fresh, place / one.name)
            except (NotEvaluated, InnerloopError) as error:
                self._tell(f"once more  trial {one.trial} failed: {_reason(error)}")
                reason = f"{on}: {_reason(error)}"
                self._lost.append({"trial": one.trial, "settings": one.settings, "reason": reason})
                continue
            again.append(_candidate(one.trial, one.settings, found, rows["naive"]))
        return judge_tradeoff(Anchors(**anchors), again, epsilon=self.question.epsilon)

    def _write(self, found: Found) -> None:
        """`front.json`, and a configuration for each point of the front."""
        points = self.out / POINTS
        with told_as_data_error(points):
            shutil.rmtree(points, ignore_errors=True)
            points.mkdir()
            for point in found.reported.front:
                config = self._anchors["naive"]
                if point.candidate is not None:
                    config = self._configured(point.candidate.settings)
                elif point.name not in self._anchors:
                    continue  # frozen weights are the naive run, cut short
                (points / f"{point.name}.yaml").write_text(config.to_yaml(), encoding="utf-8")
        text = json.dumps(self.to_dict(found), indent=2, allow_nan=False) + "\n"
        with told_as_data_error(self.out / FRONT):
            write_whole(self.out / FRONT, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def to_dict(self, found: Found) -> dict[str, Any]:
        """What was found, as `front.json` has it."""
        question = self.question
        fresh = question.fresh if found.confirmed is not None else None
        return {
            "algorithm": question.config.algorithm["name"],
            "tasks": question.config.tasks["name"],
            "trials": len(_of(self._study.finished, _SEARCH)),
            "seeds": question.on,
            "fresh_seeds": fresh,
            "space": {knob.name: str(knob) for knob in question.space},
            "running_elsewhere": found.others,
            "reported": found.reported.to_dict(),
            "search": found.search.to_dict(),
            "failed": list(found.failed),
        }


def _of(done: Sequence[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [one for one in done if one.get("role") == role]


def _candidate(number: int, settings: dict[str, Any], rows: Sequence[Row], naive: Sequence[Row]) -> Candidate:
    outcomes = [Outcome.from_dict(row) for row in rows]
    cost, unit = (float(np.mean([row["cost"] for row in group])) for group in (rows, naive))
    seconds = float(np.mean([row["seconds"] for row in rows]))
    errors = tuple(dict.fromkeys(name for row in rows for name in row["errors"]))
    return Candidate(number, settings, outcomes, cost / unit, seconds, errors)


def _objectives(rows: Sequence[Row]) -> tuple[list[float], dict[str, float | None]]:
    """Gain, retention and cost over seeds, and the standard errors of the first two."""
    outcomes = [Outcome.from_dict(row) for row in rows]
    gain = over_seeds(numbers(outcomes, "gain"))
    lost = numbers(outcomes, "forgetting")
    kept = over_seeds(1.0 - np.nan_to_num(lost))  # joint training forgets nothing by definition
    errors = {"gain": gain.to_dict()["error"], "retention": kept.to_dict()["error"]}
    return [gain.value, kept.value, float(np.mean([row["cost"] for row in rows]))], errors


def _told(rows: Sequence[Row]) -> str:
    (gain, kept, _), _ = _objectives(rows)
    errors = sorted({name for row in rows for name in row["errors"]})
    text = f"new families {gain:.3f}, forgotten {1.0 - kept:.3f}, {sum(row['seconds'] for row in rows):.0f} s"
    return text + (f", errors {', '.join(errors)}" if errors else "")


def _said(role: str, settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) if role == _SEARCH else role


def _reason(error: BaseException) -> str:
    """What went wrong, in a line."""
    text = error.got if isinstance(error, InnerloopError) else str(error) or type(error).__name__
    return " ".join(text.split())
