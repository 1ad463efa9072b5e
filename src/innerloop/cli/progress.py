"""What a run in training shows: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Self, final

from innerloop.cli.texts import duration, score
from innerloop.core.compiled import compiler_of
from innerloop.training.loop import Progress, Training

_EVERY = 5.0  # seconds between two plain lines
_WINDOW = 50  # steps over which the training loss is averaged


class Display(ABC):
    """Follows a run in training. A context: what it puts on the screen is gone or finished afterwards."""

    def __init__(self, training: Training) -> None:
        self.config, self._training = training.config, training
        self._first = training.state.step
        self._started = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque([(self._started, self._first)], maxlen=_WINDOW)
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._told = False
        self.verdict = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, progress: Progress) -> None:
        """Take in a step that is done."""
        if not self._told:
            self._tell_start()
            # Compiling comes once: the log tells what it took, and it is no part of the speed.
            self._started += compiler_of(self._training.learner).seconds
            self._recent[0] = (self._started, self._first)
        self._recent.append((time.monotonic(), progress.step))
        self._losses.append(progress.loss)
        if progress.verdict is not None:
            self.verdict = progress.verdict.brief
        self._show(progress)

    @abstractmethod
    def _show(self, progress: Progress) -> None:
        """Put a step on the screen, if it is due."""

    @abstractmethod
    def _line(self, text: str) -> None:
        """Write a line that stays."""

    @property
    def loss(self) -> float:
        return sum(self._losses) / len(self._losses)

    @property
    def speed(self) -> float:
        """Tasks per second over the last steps."""
        (before, first), (now, last) = self._recent[0], self._recent[-1]
        return (last - first) * self.config.tasks_per_step / max(now - before, 1e-9)

    @property
    def facts(self) -> str:
        return f"loss {self.loss:.4f}  {self.speed:.0f} tasks/s"

    def left(self, step: int) -> float:
        """Seconds to the last step, if it goes on as so far."""
        done = max(1, step - self._first)
        return (time.monotonic() - self._started) / done * (self.config.steps - step)

    def judged(self, progress: Progress) -> str:
        """The score of this step's look at the validation tasks."""
        found = progress.validation
        if found is None:
            return ""
        text = f"validation {found.metric} {score(found.metric, found.summary.mean, found.summary.ci95)}"
        best = self._training.state.best
        return text + (" (best so far)" if best is not None and best[1] == progress.step else "")

    def _tell_start(self) -> None:
        """Before training: the untrained learner and the baselines, from the first line of the metrics."""
        self._told = True
        rows = self._training.folder.metrics()[:1] if self._training.folder and self._first == 0 else []
        for row in rows:
            self._line(f"before training: {_untrained(row)}")


@final
class Lines(Display):
    """One line per look at the validation tasks, and one every few seconds between."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._last = self._started

    def _show(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.validation is None and now - self._last < _EVERY:
            return
        self._last = now
        width = len(str(self.config.steps))
        text = f"step {progress.step:>{width}}/{self.config.steps}  {self.facts}"
        if progress.step < self.config.steps:
            text += f"  {duration(self.left(progress.step))} left"
        verdict = self.verdict if progress.validation is not None else ""
        self._line("  ".join(part for part in (text, self.judged(progress), verdict) if part))

    def _line(self, text: str) -> None:
        print(text, flush=True)


@final
class Bar(Display):
    """A bar with step, speed, loss, the last validation score and the time that is left."""

    def __init__(self, training: Training) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        super().__init__(training)
        self._console = Console()
        self._bar = RichProgress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
            expand=True,
        )
        self._task = self._bar.add_task(
            "", total=self.config.steps, completed=self._first, facts="first look ..."
        )
        self._latest = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, progress: Progress) -> None:
        found = progress.validation
        if found is not None:
            self._latest = f"  val {score(found.metric, found.summary.mean, found.summary.ci95)}"
        verdict = f"  {self.verdict}" if self.verdict else ""
        facts = f"{self.facts}{self._latest}{verdict}  {duration(self.left(progress.step))} left"
        self._bar.update(self._task, completed=progress.step, facts=facts)

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def display(training: Training) -> Display:
    """A bar if stdout is a terminal, lines if not."""
    return Bar(training) if sys.stdout.isatty() else Lines(training)


def _untrained(row: dict[str, Any]) -> str:
    metric = row["metric"]
    parts = [f"{metric} {score(metric, row['mean'], row['ci95'])}"]
    baselines = row.get("baselines", {}).items()
    parts += [f"{name.replace('_', ' ')} {score(metric, mean)}" for name, mean in baselines]
    return "; ".join(parts)
