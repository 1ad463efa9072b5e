"""A run that is looked at while it trains: what is measured, how often, and what follows from it."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.mode import running_in
from innerloop.core.rng import key
from innerloop.core.types import Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import Finding, NotEvaluated, Severity
from innerloop.diagnose.history import PROBE, History, lines
from innerloop.diagnose.keeper import earliest_best
from innerloop.diagnose.rules import RULES
from innerloop.diagnose.verdict import Verdict, judge
from innerloop.gradients.base import MetaGradient, learned
from innerloop.measure.dynamics import FEW, Dynamics, noted
from innerloop.measure.families import Families
from innerloop.measure.preflight import leak_rows
from innerloop.measure.probe import SPLITS, Probe, Row, row
from innerloop.measure.randomness import random_states_kept
from innerloop.measure.sequential import sequential, sequential_rows
from innerloop.measure.worst import worst_tasks
from innerloop.tasks.base import TaskSource
from innerloop.training.config import TrainConfig
from innerloop.training.events import EventFiles
from innerloop.training.experiment import describe
from innerloop.training.folder import RunFolder
from innerloop.training.objective import gradient_at, inverse_trivial
from innerloop.training.state import TrainState
from innerloop.training.step import families_of, source_at, to_device

WORST = "worst-tasks.json"
_SHARE = 0.065  # of the training time that may go into looking; a tenth, with room for what is not foreseen
_LEAST = 0.03  # of it that goes into the looks on the way, however long the first and the last one take
_MOST = 200  # looks of a whole run
_ENOUGH = 32  # looks that a verdict needs; with fewer, a look is made smaller
_WIDE = 5  # looks between two wide ones
_SURE = 3  # looks in a row that must agree before training stops
_FEWEST = 25  # tasks that a look is not made smaller than
_TIMED = 6  # steps that are timed before it is settled how often to look
_LONG = 0.1  # seconds of a look at the fewest tasks, above which there are no more than these
_BRIEF = 2.0  # seconds of a first look, below which warming up is much of it
_FRESH = 8  # tasks that the noise of the meta-gradient is estimated on
_IN_A_ROW = 5  # tasks that are adapted to one after another, where they are of no families
_KEPT = 0.8  # of the average of the iterates at each look: about the last nine looks


@final
class Watch:
    """Looks at a run now and then, and never changes what it sees.

    Attributes:
        history: all records so far.
        verdict: what they say at the last look, or None before the first.
        found: findings of the last wide look.
    """

    def __init__(
        self,
        learner: ModuleLearner,
        tasks: TaskSource,
        config: TrainConfig,
        folder: RunFolder | None,
        events: EventFiles | None = None,
    ) -> None:
        self.learner, self.tasks, self.config, self.folder = learner, tasks, config, folder
        self._events = events
        probe, axis = config.probe, config.tasks_axis
        self._probe = Probe(learner, tasks, probe.tasks, max(2, probe.tasks // 2), axis)
        self.history = History(describe(learner, tasks, config).to_dict(), path=folder and folder.path)
        self.verdict: Verdict | None = None
        self.found: tuple[Finding, ...] = ()
        self._families = Families.of(learner, tasks, config.steps, config.tasks_per_step, axis)
        self._every: int | None = config.probe.every
        self._average: Meta | None = None
        self._before: dict[str, Tensor] | None = None
        self._told: set[str] = set()
        self._timed: list[float] = []
        self._first = (0.0, 0.0)
        self._began = time.perf_counter()
        self.seconds = 0.0

    # --- in the life of a run ----------------------------------------------------------------------------

    @random_states_kept()
    def begin(self, state: TrainState, path: MetaGradient) -> None:
        """What is asked once, and the first look, before any step."""
        self._began = time.perf_counter()
        if self.folder is not None:
            self.folder.write(PROBE, "")  # a run that was killed before its first checkpoint begins again
            self.history = History(self.history.config, path=self.folder.path)
        self._fit_tasks(state)
        setup = self._probe.setup()
        rows = [row(0, "trivial", self._probe.trivial(split), split=split) for split in SPLITS]
        found, skipped = leak_rows(state.meta, self._probe)
        started = time.perf_counter()
        more, others = self._dynamics(path, state)
        close = time.perf_counter() - started
        later = {"quotient": "asked by 'innerloop doctor --preflight' alone: it takes float64 and some time"}
        setup = noted(setup, skipped | others | later) | {"every": self._every, "wide": _WIDE}
        setup |= {"exact": path.exact, "first_order": getattr(path, "first_order", False)}
        if self._families is not None:
            setup |= self._families.setup()
            found += [*self._families.trivial(), *self._families.look(state.meta, 0)]
        self._write([{"step": 0, "name": "setup", "value": setup}, *rows, *found, *more])
        started = time.perf_counter()
        self._write(self._probe.look(state.meta, 0))
        between = time.perf_counter()
        self._write(self._probe.wide(state.meta, 0, average=None))
        self._first = (between - started, time.perf_counter() - between + close)
        self._judge(wide=True)

    def go_on(self, tensors: dict[str, Tensor]) -> None:
        """Take over the records in the folder, and what the checkpoint holds of the average."""
        if self.folder is not None:
            self.history.append(lines(self.folder.path / PROBE))
        setup = self.history.setup
        self._every = setup.get("every", self._every)
        if setup:
            self._probe = self._sized(setup)
            self._judge(wide=True)
        average = {n.removeprefix("probe/"): leaf for n, leaf in tensors.items() if n.startswith("probe/")}
        self._average = tree.unflatten(average) if average else None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep: the average of the iterates."""
        average = {} if self._average is None else tree.flatten(self._average, "probe")
        return {name: leaf.detach().contiguous() for name, leaf in average.items()}

    def before(self, state: TrainState) -> None:
        """Keep the weights, if the step that comes is one to look at."""
        self._before = None
        if self._due(state.step + 1):
            self._before = {n: leaf.detach().clone() for n, leaf in tree.flatten(learned(state.meta)).items()}

    def after(self, state: TrainState, path: MetaGradient, seconds: float) -> Verdict | None:
        """Look, if a look is due; `seconds` is what the step took. The verdict, if there is a new one."""
        started = time.perf_counter()
        step, looked = state.step, self._due(state.step)
        if looked:
            self._look(state, path, wide=self._wide_due(step), last=step == self.config.steps)
        elif self._every is None:
            self._timed.append(seconds)
            if len(self._timed) == _TIMED:
                self._settle(state, path)
        if self._families is not None and step in self._families.at:
            self._look_at_families(state)
        self._before = None
        self.seconds += time.perf_counter() - started
        return self.verdict if looked else None

    def finish(self, state: TrainState, path: MetaGradient) -> None:
        """The last look, where training stops before its last step."""
        self._look(state, path, wide=True, last=True, again=True)

    # --- how often ---------------------------------------------------------------------------------------

    def _due(self, step: int) -> bool:
        return step == self.config.steps or (self._every is not None and step % self._every == 0)

    def _wide_due(self, step: int) -> bool:
        return step == self.config.steps or (self._every is not None and step % (self._every * _WIDE) == 0)

    def _fit_tasks(self, state: TrainState) -> None:
        """Fewer tasks where looking at few takes long; there is no step yet to compare that with."""
        if self._every is not None:
            return  # what is asked for does not depend on the machine
        few = self._sized(
            {"val": min(_FEWEST, self._probe.val), "train": min(_FEWEST // 2, self._probe.train)}
        )
        few.look(state.meta, 0)  # the first call of many an operator is slow
        started = time.perf_counter()
        few.look(state.meta, 0)
        if time.perf_counter() - started > _LONG:
            self._probe = few

    def _settle(self, state: TrainState, path: MetaGradient) -> None:
        """After a few steps: how often to look, so that looking takes its share of the time and no more."""
        step_time = statistics.median(self._timed[1:])  # the first may have compiled
        look, wide = self._first
        if look + wide < _BRIEF:  # it was mostly warming up; one that took long is measure enough
            look, wide = self._look(state, path, wide=True, last=False)
        tasks, whole = self._probe.val, step_time * self.config.steps
        spent = time.perf_counter() - self._began - sum(self._timed)
        ends = spent + look + wide  # the first looks, and the last one
        rest = max(_SHARE * whole - ends, _LEAST * whole)
        while tasks > _FEWEST and (look + wide / _WIDE) * _ENOUGH > rest:
            fewer = max(_FEWEST, tasks // 2)
            tasks, look, wide = fewer, look * fewer / tasks, wide * fewer / tasks
        every = (look + wide / _WIDE) * self.config.steps / rest
        self._every = max(1, math.ceil(every), -(-self.config.steps // _MOST))
        setup = self.history.setup | {"every": self._every, "val": tasks, "train": max(2, tasks // 2)}
        self._probe = self._sized(setup)
        self._write([{"step": 0, "name": "setup", "value": setup}])

    def _sized(self, setup: dict[str, Any]) -> Probe:
        return Probe(self.learner, self.tasks, setup["val"], setup["train"], self.config.tasks_axis)

    # --- a look ------------------------------------------------------------------------------------------

    @random_states_kept()
    def _look(
        self, state: TrainState, path: MetaGradient, *, wide: bool, last: bool, again: bool = False
    ) -> tuple[float, float]:
        """Measure and write down; the seconds of what every look has, and of what wide ones have beside it.

        Args:
            again: what every look has was recorded at this step already.
        """
        started, step, meta = time.perf_counter(), state.step, state.judged
        rows: list[Row] = []
        if not again:
            rows = [row(step, "lr", [self.config.optimizer.rate(step - 1, self.config.steps)])]
            rows += self._updates(state) + self._probe.look(meta, step)
        between = time.perf_counter()
        if wide:
            rows += self._probe.wide(meta, step, average=self._average, last=last)
            rows += self._dynamics(path, state)[0]
        ended = time.perf_counter()
        self._write(rows)
        if not again:
            self._average = self._averaged(meta)
        self._judge(wide=wide)
        if last:
            self._write(self._sequences(meta, step))
        if last and self.folder is not None:
            losses = self.history.series("post", split="val").last.tolist()
            told = {"tasks": worst_tasks(self._probe, meta, losses)}
            self.folder.write(WORST, json.dumps(told) + "\n")
        return between - started, ended - between

    @random_states_kept()
    def _look_at_families(self, state: TrainState) -> None:
        if self._families is not None:
            self._write(self._families.look(state.judged, state.step))

    def _sequences(self, meta: Meta, step: int) -> list[Row]:
        """What adapting to task after task does to those before; of a stream, one of each family in turn."""
        probe, metric = self._probe, self.tasks.spec.metric
        if self._families is None:
            names = [f"task {number}" for number in range(1, _IN_A_ROW + 1)]
            count = max(2, probe.val // _IN_A_ROW)
            drawn = probe.episodes("val", count * _IN_A_ROW)
            tasks = {name: take(drawn, slice(i, None, _IN_A_ROW)) for i, name in enumerate(names)}
        else:
            families, count = self._families.probes, self._families.count
            tasks = {name: one.episodes("val", count) for name, one in families.items()}
        tasks = {name: probe.on_device(episodes, meta) for name, episodes in tasks.items()}
        try:
            found = sequential(self.learner, meta, tasks, metric, axis=self.config.tasks_axis)
        except NotEvaluated as error:
            skipped = {"sequential": str(error)}
            return [{"step": step, "name": "setup", "value": noted(self.history.setup, skipped)}]
        return sequential_rows(found, list(tasks), step)

    def _judge(self, *, wide: bool) -> None:
        self.verdict = judge(self.history, epsilon=self.config.probe.epsilon)
        if wide:
            answers = [rule.ask(self.history) for rule in RULES]
            self.found = tuple(a for a in answers if isinstance(a, Finding))

    @property
    def may_stop(self) -> bool:
        """Whether the verdict allows to stop, at this look and at the two before it."""
        if self.verdict is None or not self.verdict.stops or self._is_awaited:
            return False
        before = self.history.looks[-_SURE:-1]
        epsilon = self.config.probe.epsilon
        return len(before) == _SURE - 1 and all(
            judge(self.history.until(look), epsilon=epsilon).state is self.verdict.state for look in before
        )

    @property
    def _is_awaited(self) -> bool:
        """Whether a stage of a stream is still to come: what has converged so far is not the whole."""
        stages = self.history.setup.get("stages", [])
        return bool(stages) and self.history.step <= stages[-1]["start"]

    @property
    def is_kept(self) -> bool:
        """Whether the last look is the earliest that is not worse than the best."""
        return earliest_best(self.history, epsilon=self.config.probe.epsilon) == self.history.looks[-1]

    @property
    def score(self) -> float:
        """The mean score of the last look."""
        return float(self.history.series("score", split="val").last.mean())

    def news(self) -> list[Finding]:
        """Errors that were found since this was last asked."""
        errors = [f for f in self.found if f.severity is Severity.ERROR and f.id not in self._told]
        self._told |= {finding.id for finding in errors}
        return errors

    def _updates(self, state: TrainState) -> list[Row]:
        """Relative sizes of the last update: of all that is learned, and of each leaf."""
        if self._before is None:
            return []
        moved, sizes = {}, {}
        for name, leaf in tree.flatten(learned(state.meta)).items():
            moved[name] = float((leaf.detach() - self._before[name]).norm())
            sizes[name] = float(self._before[name].norm())
        whole = _norm(moved.values()) / max(_norm(sizes.values()), 1e-30)
        rows = [row(state.step, "update", [whole])]
        return rows + [
            row(state.step, "update", [moved[name] / max(sizes[name], 1e-30)], layer=name) for name in moved
        ]

    def _averaged(self, meta: Meta) -> Meta:
        now = tree.map(lambda leaf: leaf.detach().clone(), meta)
        kept = self._average
        return now if kept is None else tree.map(lambda a, b: a.lerp(b, 1 - _KEPT), kept, now)

    def _dynamics(self, path: MetaGradient, state: TrainState) -> tuple[list[Row], dict[str, str]]:
        """Derivatives, on the few tasks that stay the same and on fresh ones."""
        fixed = self._probe.episodes("val", FEW)
        place = key(self.config.seed, "probe tasks", state.step)
        pooled = self.learner.pooled
        progress, objective = state.step / self.config.steps, self.config.objective
        source = source_at(self.tasks, progress)
        fresh = source.pooled(_FRESH, place) if pooled else source.sample("train", _FRESH, place)
        path = gradient_at(path, objective, progress)
        families = None if pooled else families_of(source, _FRESH, place)
        scales = inverse_trivial(self.learner, fresh) if objective.normalise else None
        close = Dynamics(self.learner, path, self.config.tasks_per_step, self.config.seed, scales, families)
        device = self.config.device
        with running_in(progress=progress):
            return close.rows(state.judged, state.step, to_device(fixed, device), to_device(fresh, device))

    def _write(self, rows: list[Row]) -> None:
        if self.folder is not None:
            self.folder.append(PROBE, rows)
        if self._events is not None:
            self._events.write_look(rows)
        self.history.append(rows)


def _norm(numbers: Iterable[float]) -> float:
    return float(torch.tensor(list(numbers), dtype=torch.float64).norm())
