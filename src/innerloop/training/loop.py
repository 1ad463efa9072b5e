"""The outer loop as an iterator: one outer step, with what is due after it, at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.recalling import recalling
from innerloop.core import tree
from innerloop.core.errors import AllocationError, DataError, NonFiniteError
from innerloop.core.memory import is_allocation_failure
from innerloop.core.rng import generator
from innerloop.core.types import Meta
from innerloop.core.vectorise import Lifting
from innerloop.diagnose.verdict import Verdict
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import Evaluation, evaluate
from innerloop.gradients.base import Record
from innerloop.tasks.base import TaskSource
from innerloop.training.config import TrainConfig
from innerloop.training.cost import Workload
from innerloop.training.engine import Settled, cheaper, settle, stored, told
from innerloop.training.events import EventFiles
from innerloop.training.folder import ENGINE, METRICS, RunFolder
from innerloop.training.state import new_state, stored_meta
from innerloop.training.step import Engine, outer_step, tasks_of
from innerloop.training.watch import Watch

log = logging.getLogger("innerloop")

KEEP = 2  # numbered checkpoints: the newest, and the one before it should that be damaged


@dataclass(frozen=True)
class Progress:
    """What a training run says after a step.

    Attributes:
        step: outer steps done.
        loss: mean query loss of the tasks of this step.
        validation: the look at the validation tasks that was due after this step, or None.
        verdict: what the probe says of convergence, if it looked after this step.
    """

    step: int
    loss: float
    validation: Evaluation | None
    verdict: Verdict | None = None


class Training:
    """A run in progress. Iterate over it to train; stop when you like and call `save`.

    Args:
        folder: where to write; None keeps everything in memory.
        begin: meta-parameters to begin with; None begins with those that the learner draws.
    """

    def __init__(
        self,
        learner: ModuleLearner,
        tasks: TaskSource,
        config: TrainConfig,
        folder: RunFolder | None = None,
        begin: Meta | None = None,
    ) -> None:
        learner = recalling(learner, config.retain.recall) if config.retain.recall else learner
        self.learner, self.tasks, self.config, self.folder = learner, tasks, config, folder
        learner.to(config.device)
        self.untrained: Meta = learner.init(generator(config.seed, "init"))
        self.state = new_state(self.untrained | (begin or {}), config)
        self.best_meta: Meta | None = None
        self.seconds = 0.0
        self.events = EventFiles(folder, config.log)
        watched = folder is not None and config.probe.level != "off"
        self.watch = Watch(learner, tasks, config, folder, self.events) if watched else None

    def resume(self) -> None:
        """Go on from the newest undamaged checkpoint of the folder, exactly; from the start without one."""
        if self.folder is None:
            return
        found = self.folder.newest_checkpoint()
        if found is None:
            self.folder.rewind(-1)
            return
        tensors, values = found
        self.state.restore(tensors, values)
        self.seconds = values["seconds"]
        self._restore_best()
        self.folder.rewind(self.state.step)
        if self.watch is not None:
            self.watch.go_on(tensors)

    def _restore_best(self) -> None:
        """Take over the best meta-parameters; if a cut has damaged them, validation finds new ones."""
        if self.folder is None or self.state.best is None:
            return
        try:
            best, _ = self.folder.load_checkpoint("best")
        except DataError as error:
            log.warning("%s; the best step is sought anew from here", error.got)
            self.state.best = None
            return
        stored = {path: leaf.to(self.config.device) for path, leaf in stored_meta(best).items()}
        self.best_meta = tree.unflatten(stored)

    def __iter__(self) -> Iterator[Progress]:
        config, state = self.config, self.state
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if state.step == 0 and state.best is None:
            self._validate()
            self.save()
        engine = self._settled().engine if state.step < config.steps and not self.stopped else None
        if self.watch is not None and engine is not None:
            self._first_look(self.watch, engine)
        while engine is not None and state.step < config.steps and not self.stopped:
            started = time.perf_counter()
            if self.watch is not None:
                self.watch.before(state)
            record = self._step(engine)
            self._check_finite(record)
            spent = time.perf_counter() - started
            self.seconds += spent
            self._log(record)
            verdict = self._look(engine, spent)
            last = state.step == config.steps or self.stopped
            found = self._validate() if last or state.step % config.validate_every == 0 else None
            if last or state.step % (config.checkpoint_every or config.validate_every) == 0:
                self.save()
            yield Progress(state.step, record.loss, found, verdict)
        self.events.close()

    @property
    def stopped(self) -> bool:
        """Whether training ended before its last step, because it may (`stop="when-converged"`)."""
        watch = self.watch
        return self.config.stop == "when-converged" and watch is not None and watch.may_stop

    def _first_look(self, watch: Watch, engine: Engine) -> None:
        if self.state.step == 0:
            watch.begin(self.state, engine.gradient)
            self._tell(watch)
        elif not watch.history.setup:
            log.warning(
                "a run that began without a probe goes on without one: no verdict, and less for the doctor"
            )
            self.watch = None

    def _look(self, engine: Engine, seconds: float) -> Verdict | None:
        """The probe's look, if it is due, and what follows from it."""
        watch = self.watch
        if watch is None:
            return None
        verdict = watch.after(self.state, engine.gradient, seconds)
        if verdict is not None and self.config.stop == "when-converged":
            if watch.is_kept:
                self._keep(watch.score)
            if watch.may_stop and self.state.step < self.config.steps:
                watch.finish(self.state, engine.gradient)
        self._tell(watch)
        return verdict

    def _tell(self, watch: Watch) -> None:
        """Log what is wrong, once each, as soon as it is found."""
        for finding in watch.news():
            where = f" (innerloop doctor {self.folder.path})" if self.folder else ""
            log.warning("%s: %s%s", finding.id, finding.title, where)

    def _settled(self) -> Settled:
        """The engine that an earlier part of the run wrote down, or a new one."""
        folder, config = self.folder, self.config
        if folder is not None and (folder.path / ENGINE).is_file():
            return stored(folder.read(ENGINE), self.learner, config)
        found = settle(self.learner, self.state.meta, self.tasks, config, self.state.step)
        if folder is not None:
            folder.write(ENGINE, found.to_json())
        return found

    def _step(self, engine: Engine) -> Record:
        try:
            return outer_step(self.state, self.learner, self.tasks, engine, self.config)
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            episodes = tasks_of(self.learner, self.tasks, self.config, self.state.step)
            work = Workload(self.learner, self.state.meta, episodes, self.config)
            how = engine.axis if isinstance(engine.axis, Lifting) else work.rule
            raise AllocationError(
                f"step {self.state.step + 1}: {told(engine, how)} does not fit ({_first_line(error)})",
                expected=f"memory for a meta-step; last checkpoint: {self._last_checkpoint}",
                do=cheaper(engine, how),
            ) from error

    @property
    def _last_checkpoint(self) -> str:
        saved = self.folder.checkpoints() if self.folder else []
        return f"{self.folder.path}/checkpoints/{saved[0]}" if self.folder and saved else "none"

    def save(self) -> None:
        """Write a checkpoint of this moment, from which `resume` continues bitwise."""
        if self.folder is None:
            return
        values = self.state.values() | {"seconds": round(self.seconds, 3)}
        tensors = self.state.tensors() | (self.watch.tensors() if self.watch else {})
        self.folder.save_checkpoint(f"step-{self.state.step}", tensors, values)
        self.folder.prune_checkpoints(KEEP)

    def _validate(self) -> Evaluation:
        config, state = self.config, self.state
        first = state.step == 0
        found = evaluate(
            self.learner,
            state.judged,
            self.tasks,
            FixedEpisodes("val", config.validation.episodes, config.seed),
            tasks_axis=config.tasks_axis,
            untrained=self.untrained if first else None,
            curve=False,
        )
        mean = found.summary.mean
        by_score = config.stop == "never" or self.watch is None
        if state.best is None or (by_score and found.better(mean, state.best[0])):
            self._keep(mean)
        row = found.to_dict()
        kept = ("metric", "mean", "ci95", "n", "median", "diverged", "inner_steps", "batch_norm")
        row = {"kind": "validation", "step": state.step} | {name: row[name] for name in kept}
        if first:
            row["baselines"] = {n: b["mean"] for n, b in found.to_dict()["baselines"].items()}
        self._write(row)
        return found

    def _keep(self, score: float) -> None:
        """Take the weights of this moment for the best ones."""
        state = self.state
        state.best = (score, state.step)
        self.best_meta = tree.map(lambda leaf: leaf.detach().clone(), state.judged)
        if self.folder:
            meta = {path: leaf.contiguous() for path, leaf in tree.flatten(self.best_meta, "meta").items()}
            self.folder.save_checkpoint("best", meta, {"step": state.step, "score": score})

    def _log(self, record: Record) -> None:
        state, config = self.state, self.config
        state.window.append(record.loss)
        state.failed_tasks += len(record.outcomes) - len(record.kept)
        if state.step % config.log_every == 0 or state.step == config.steps:
            loss = sum(state.window) / len(state.window)
            rate = config.optimizer.rate(state.step - 1, config.steps)
            row = {
                "kind": "train",
                "step": state.step,
                "loss": loss,
                "failed_tasks": state.failed_tasks,
                "lr": rate,
            }
            if config.optimizer.clip_norm is not None or config.optimizer.clip_value is not None:
                row["clipped"] = state.clipped / len(state.window)
            self._write(row)
            state.window, state.failed_tasks, state.clipped = [], 0, 0

    def _write(self, row: dict) -> None:
        if self.folder:
            self.folder.append(METRICS, [row | {"seconds": round(self.seconds, 3)}])
        self.events.write(row)

    def _check_finite(self, record: Record) -> None:
        if not record.mostly_failed:
            return
        failed = [i for i, outcome in enumerate(record.outcomes) if not outcome.ok]
        row = {"kind": "nonfinite", "step": self.state.step, "failed_tasks": len(failed)}
        self._write(row | {"tasks": len(record.outcomes)})
        shown = ", ".join(map(str, failed[:8])) + (", ..." if len(failed) > 8 else "")
        raise NonFiniteError(
            f"step {self.state.step}: tasks {shown} of {len(record.outcomes)} are not finite "
            f"({record.outcomes[failed[0]].value})",
            expected=f"most tasks to stay finite; last good checkpoint: {self._last_checkpoint}",
            do="lower the inner or the outer learning rate, or clip the meta-gradient (optimizer.clip_norm)",
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][-160:]
