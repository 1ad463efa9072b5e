"""Has it converged? A verdict with its number, interval, window and resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.diagnose.extrapolate import Extrapolation, extrapolate
from innerloop.diagnose.finding import NotEvaluated, finite
from innerloop.diagnose.history import History, Series
from innerloop.diagnose.statistics import Mean, Trend, mean_of, trend

Values = NDArray[np.float64]

EPSILON = 0.01  # a window that changes the loss by less than this share is flat
LEAST_LOOKS = 8  # in a window; fewer resolve nothing
CAP = 10.0  # a task counts as at most this many times what the trivial predictor loses on it
BROKEN = 0.2  # share of tasks that may be not finite
ENDED, ALIVE = 0.05, 0.10  # shares of its peak below which a learning rate is spent, above which it was not
LEARNED = 0.98  # of the trivial loss, above which nothing has been learned that could have converged
CLEAR = 1.0  # of the same, above which the gradient is clearly not zero
FROZEN = 1e-6  # relative update below which nothing moves
_SIGNALS = 3  # looks that an interval of the meta-gradient needs
_SIDE = 3  # looks that are averaged where the last are compared with the best
RELAPSE, SURE = 0.05, 2.6  # worse than the best look by this share, by so many standard errors


class State(Enum):
    """What can be said of a run's convergence; the members are the sentences that users read."""

    IMPROVING = "still improving; do not stop"
    CONVERGED = "converged: more training of this kind gains next to nothing"
    STALLED = "stalled: the loss is flat, and not because a minimum was reached"
    NOISE_FLOOR = "at its noise floor: the average of its iterates is better than the iterate"
    WORSENING = "getting worse; stop, and keep the best checkpoint"
    SCHEDULE_ENDED = "the learning rate ran out while the run was improving"
    NONFINITE = "not finite"
    UNRESOLVED = "not resolved: the trend is smaller than what this probe can see"
    SEED_DISAGREEMENT = "the seeds disagree"


@dataclass(frozen=True)
class Verdict:
    """One sentence on a run, with the numbers that it rests on.

    Attributes:
        state: what is said.
        change: relative change of the probe loss over the window, negative is better; NaN if there is none.
        half_width: of the 90 % interval of `change`, so that each end holds with 95 %: the resolution.
        epsilon: the change that counts as none.
        window: first and last outer step of the looks it rests on, or None.
        looks, tasks: how many looks and tasks that was.
        tasks_needed: probe tasks that would resolve `epsilon`; None where more tasks would not do it.
        signal: squared meta-gradient against its noise at this number of tasks, or None.
        predicted_gain: what the power law expects of twice the steps: median and 90 % band, or None.
        notes: what else bears on it.
    """

    state: State
    change: float = math.nan
    half_width: float = math.nan
    epsilon: float = EPSILON
    window: tuple[int, int] | None = None
    looks: int = 0
    tasks: int = 0
    tasks_needed: int | None = None
    signal: float | None = None
    predicted_gain: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether training may stop here: on convergence or on getting worse, and on nothing else."""
        return self.state in (State.CONVERGED, State.WORSENING)

    def __str__(self) -> str:
        if self.state is State.UNRESOLVED and not math.isfinite(self.half_width) and self.notes:
            return f"{self.state.name}: {self.notes[0]}"
        text = f"{self.state.name}: {self.state.value}"
        if math.isfinite(self.change) and math.isfinite(self.half_width):
            text += f" ({100 * self.change:+.1f} % +- {100 * self.half_width:.1f} % per window)"
        if self.tasks_needed is not None:
            text += f"; {self.tasks_needed} probe tasks would resolve {100 * self.epsilon:g} %"
        return text

    @property
    def brief(self) -> str:
        """The state and its number, for a line that has other things to say."""
        if not math.isfinite(self.change) or not math.isfinite(self.half_width):
            return self.state.name
        return f"{self.state.name} {100 * self.change:+.1f} +- {100 * self.half_width:.1f} %"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON has it; not-finite numbers become None."""
        gain = self.predicted_gain
        return {
            "state": self.state.name,
            "sentence": str(self),
            "change": finite(self.change),
            "half_width": finite(self.half_width),
            "epsilon": self.epsilon,
            "window": None if self.window is None else list(self.window),
            "looks": self.looks,
            "tasks": self.tasks,
            "tasks_needed": self.tasks_needed,
            "signal": finite(self.signal),
            "predicted_gain": None if gain is None else [finite(g) for g in gain],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Window:
    """The looks that a verdict rests on.

    Attributes:
        steps: outer steps of the looks [K].
        losses: of each probe task at each look [K, T], each at most `CAP` times the trivial one.
        broken: share of task losses that are not finite.
    """

    steps: list[int]
    losses: Values
    broken: float

    @property
    def trend(self) -> Trend:
        return trend(self.losses)


def judge(history: History, *, epsilon: float = EPSILON) -> Verdict:
    """The verdict on a run from its records, at the step where they end.

    Args:
        epsilon: the relative change over a window that counts as none.
    """
    try:
        return _judged(history, epsilon)
    except NotEvaluated as error:
        return Verdict(State.UNRESOLVED, epsilon=epsilon, notes=(str(error),))


def _judged(history: History, epsilon: float) -> Verdict:
    post = history.series("post", split="val")
    failed = _not_finite(history, post)
    if failed:
        return Verdict(State.NONFINITE, epsilon=epsilon, looks=len(post.steps), notes=(failed,))
    seen = window(history, post)
    count = len(seen.steps)
    facts = Verdict(
        State.UNRESOLVED,
        epsilon=epsilon,
        window=(seen.steps[0], seen.steps[-1]) if count else None,
        looks=count,
        tasks=seen.losses.shape[1] if count else 0,
        signal=signal(history, seen.steps[0] if count else 0),
    )
    if count < LEAST_LOOKS:
        return replace(facts, notes=(f"{count} looks in the window; {LEAST_LOOKS} are the least",))
    found = seen.trend
    facts = replace(facts, change=found.change, half_width=found.half_width)
    if seen.broken:
        facts = replace(
            facts, notes=(f"{seen.broken:.1%} of task losses are not finite; they count as capped",)
        )
    if _unlearned(history, found):
        facts = replace(facts, notes=(*facts.notes, "no better than a constant guess, which ignores inputs"))
    if relapsed(history):
        note = f"worse than the best looks by more than {RELAPSE:.0%}"
        return replace(facts, state=State.WORSENING, notes=(*facts.notes, note))
    return _settled(history, facts, found, seen)


def _settled(history: History, facts: Verdict, found: Trend, seen: Window) -> Verdict:
    epsilon, flat = facts.epsilon, max(found.high, -found.low) < facts.epsilon
    if schedule_ended(history):
        return replace(facts, state=State.SCHEDULE_ENDED)
    if not flat and found.low > 0:
        return replace(facts, state=State.WORSENING)
    if not flat and found.high < 0:
        return replace(facts, state=State.IMPROVING)
    frozen = update(history, seen.steps[0])
    still = frozen is not None and frozen < FROZEN
    if not flat and not still:
        return replace(facts, tasks_needed=_needed(found, facts))
    if still:
        return replace(facts, state=State.STALLED, notes=(*facts.notes, f"relative update {frozen:.1e}"))
    if facts.signal is not None and facts.signal > CLEAR:
        return replace(facts, state=State.STALLED)
    if _unlearned(history, found):
        return replace(facts, state=State.STALLED)
    gained = averaging(history, seen.steps[0])
    if gained is not None and gained.value > max(2 * gained.error, epsilon * found.mean):
        note = f"the average of the iterates is better by {gained.value / found.mean:.1%}"
        return replace(facts, state=State.NOISE_FLOOR, notes=(*facts.notes, note))
    return _confirmed(history, facts, seen)


def _confirmed(history: History, facts: Verdict, seen: Window) -> Verdict:
    """Flat for reasons that are good: converged if it was flat before, and the power law agrees."""
    earlier = history.until(seen.steps[-1] - max(1, (seen.steps[-1] - seen.steps[0]) // 10))
    before = window(earlier, earlier.series("post", split="val"))
    if len(before.steps) < LEAST_LOOKS:
        return replace(facts, notes=(*facts.notes, "flat, for the first time"))
    trended = before.trend
    if max(trended.high, -trended.low) >= facts.epsilon:
        return replace(facts, notes=(*facts.notes, "flat, for the first time"))
    opinion = outlook(history)
    if opinion is not None:
        facts = replace(facts, predicted_gain=opinion.gain)
        if opinion.gain[0] >= 2 * facts.epsilon:
            note = f"flat, but its power law expects {opinion.gain[0]:.1%} of twice the steps"
            return replace(facts, notes=(*facts.notes, note))
    return replace(facts, state=State.CONVERGED)


def _unlearned(history: History, found: Trend) -> bool:
    """Whether the loss is about that of the trivial predictor, or above it."""
    return found.mean >= LEARNED * float(history.series("trivial", split="val").last.mean())


def _needed(found: Trend, facts: Verdict) -> int | None:
    """Tasks that would bring the half-width down to epsilon, if it is they that make it."""
    room = facts.epsilon - found.over_time
    if not (0 < room < found.over_tasks < math.inf):
        return None
    return math.ceil(facts.tasks * (found.over_tasks / room) ** 2)


# --- what it rests on ------------------------------------------------------------------------------------


def window(history: History, post: Series) -> Window:
    """The last half of the looks since the rate last jumped; at least `LEAST_LOOKS`, if there are."""
    start = last_event(history)
    steps = [step for step in post.steps if step >= start]
    end = steps[-1] if steps else 0
    half = [step for step in steps if step >= start + (end - start) / 2]
    chosen = half if len(half) >= LEAST_LOOKS else steps[-LEAST_LOOKS:]
    raw = Series(
        chosen, [v for s, v in zip(post.steps, post.values, strict=True) if s in set(chosen)]
    ).stacked()
    bad = ~np.isfinite(raw)
    return Window(chosen, capped(history, raw), float(bad.mean()))


def capped(history: History, losses: Values) -> Values:
    """Losses [..., T] of the first tasks of `val`, none above `CAP` times the trivial loss."""
    trivial = history.series("trivial", split="val").last
    limit = CAP * np.maximum(trivial, trivial.mean())[: losses.shape[-1]]
    losses = losses[..., : len(limit)]
    return np.minimum(np.where(np.isfinite(losses), losses, np.inf), limit)


def last_event(history: History) -> int:
    """The outer step since which the learning rate has not jumped; schedules that glide do not count."""
    if not history.has("lr"):
        return 0
    rates = history.series("lr")
    values = rates.means
    jumps = [
        step
        for step, before, after in zip(rates.steps[1:], values[:-1], values[1:], strict=True)
        if history.setting("optimizer.schedule") == "step" and not 0.67 < after / max(before, 1e-300) < 1.5
    ]
    return jumps[-1] if jumps else 0


def signal(history: History, start: int = 0) -> float | None:
    """The debiased squared meta-gradient, at the lower end of its interval, over the noise of a meta-batch.

    None where fewer than three wide looks have measured it: there is no interval.
    """
    if not (history.has("signal") and history.has("noise")):
        return None
    squares, noises = history.series("signal"), history.series("noise")
    by_step = dict(zip(noises.steps, noises.means, strict=True))
    pairs = np.array(
        [
            (square, by_step.get(step, math.nan))
            for step, square in zip(squares.steps, squares.means, strict=True)
            if step >= start and step > 0
        ]
    ).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(1)]
    if len(pairs) < _SIGNALS:
        return None
    noise, square = float(pairs[:, 1].mean()), mean_of(pairs[:, 0])
    return square.low / noise if noise > 0 else None


def update(history: History, start: int = 0) -> float | None:
    """The median relative size of an outer update since a step."""
    if not history.has("update"):
        return None
    found = history.series("update")
    kept = [float(v[0]) for s, v in zip(found.steps, found.values, strict=True) if s >= start]
    return float(np.median(kept)) if kept else None


def averaging(history: History, start: int = 0) -> Mean | None:
    """How much better the average of the iterates is than the iterate, on the same tasks; or None."""
    if not history.has("averaged", split="val"):
        return None
    averaged, post = history.series("averaged", split="val"), history.series("post", split="val")
    by_step = dict(zip(post.steps, post.values, strict=True))
    kept = [s for s in averaged.steps if s >= start and s in by_step]
    if not kept:
        return None
    theirs = Series(kept, [v for s, v in zip(averaged.steps, averaged.values, strict=True) if s in kept])
    ours = Series(kept, [by_step[s] for s in kept])
    sides = [capped(history, side.stacked()) for side in (ours, theirs)]
    count = min(side.shape[1] for side in sides)
    pairs = sides[0][:, :count] - sides[1][:, :count]
    over_tasks = mean_of(pairs.mean(0))
    over_looks = mean_of(pairs.mean(1)) if len(pairs) > 2 else over_tasks
    return over_tasks._replace(error=max(over_tasks.error, over_looks.error))


def relapsed(history: History) -> bool:
    """Whether the last looks are worse than the best ones, on the same tasks, beyond doubt.

    Three looks in a row are averaged on both sides, and the change from one look to the next counts as noise:
    else the luckiest of many looks would be the measure of all others.
    """
    post = history.series("post", split="val")
    losses = capped(history, post.stacked())
    if len(losses) < 2 * _SIDE:
        return False
    sides = np.stack([losses[i : i + _SIDE].mean(0) for i in range(len(losses) - _SIDE + 1)])
    best = sides[int(sides.mean(1).argmin())]
    behind = mean_of(sides[-1] - best)
    steps = np.diff(losses.mean(1)[-4 * _SIDE :])
    error = math.hypot(behind.error, float(np.median(np.abs(steps))) * 1.48 / math.sqrt(_SIDE))
    return behind.value - SURE * error > RELAPSE * best.mean()


def schedule_ended(history: History) -> bool:
    """Whether the learning rate is spent, and the last window in which it was not still improved."""
    if not history.has("lr"):
        return False
    rates = history.series("lr")
    peak = float(rates.means.max())
    alive = [s for s, rate in zip(rates.steps, rates.means, strict=True) if rate >= ALIVE * peak]
    if rates.means[-1] >= ENDED * peak or not alive:
        return False
    earlier = history.until(alive[-1])
    seen = window(earlier, earlier.series("post", split="val"))
    return len(seen.steps) >= LEAST_LOOKS and seen.trend.high < -EPSILON


def outlook(history: History) -> Extrapolation | None:
    """The power law through the mean loss of all looks after the first."""
    post = history.series("post", split="val")
    losses = capped(history, post.stacked()).mean(1)
    start = last_event(history)
    kept = [i for i, step in enumerate(post.steps) if step > start]
    return extrapolate(np.array(post.steps, float)[kept], losses[kept]) if kept else None


def _not_finite(history: History, post: Series) -> str:
    broken = float((~np.isfinite(post.last)).mean())
    if broken > BROKEN:
        return f"{broken:.0%} of the probe tasks are not finite after adaptation"
    rows = [row for row in history.metrics if row.get("kind") == "train"]
    loss = rows[-1].get("loss") if rows else 0.0
    if loss is None or not math.isfinite(loss):
        return "the training loss is not finite"
    return ""
