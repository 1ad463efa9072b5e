"""Rules on the outer loop: does it move, does it stay finite, was it cut off?"""

from __future__ import annotations

import math

import numpy as np

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.verdict import (
    BROKEN,
    CLEAR,
    FROZEN,
    RELAPSE,
    State,
    averaging,
    capped,
    judge,
    relapsed,
    update,
    window,
)

_AT_ONCE = 100.0  # by which an inner rate is divided at most
_FAST = 0.1  # relative update above which a step is a leap
_AHEAD, _AVERAGES = 0.03, 3  # share by which an average is better, at so many looks at least
_COARSE = 0.02  # half-width of the trend beyond which the probe cannot tell


def nonfinite(history: History) -> Finding | Passed:
    ended = [row for row in history.metrics if row.get("kind") == "nonfinite"]
    share, when = 0.0, None
    if ended:
        share, when = ended[-1]["failed_tasks"] / ended[-1]["tasks"], ended[-1]["step"]
    elif history.has("post", split="val"):
        post = history.series("post", split="val")
        share = float(np.mean(~np.isfinite(post.last)))
        when = post.steps[-1]
    else:
        raise NotEvaluated("no look at the probe")
    if share <= BROKEN:
        return Passed(share, BROKEN)
    why = []
    if history.has("curvature"):
        edge = float(np.nan_to_num(history.series("curvature").last, nan=np.inf).max())
        why.append(f"alpha lambda_max of the inner loop is {edge:.2g}; steps diverge above 2")
    if history.has("update"):
        why.append(f"the last outer update changed the weights by {history.series('update').last[0]:.1%}")
    remedy = (
        slower_inner(history) if why and history.series("curvature").last.max() > 2 else calmer_outer(history)
    )
    at_once = history.has("post", split="val") and _broken_from_the_start(history)
    return Finding(
        Severity.ERROR,
        f"{share:.0%} of the tasks left the finite numbers",
        share,
        BROKEN,
        "look for inputs and targets that are no numbers; else the inner rate is far too large"
        if at_once
        else "lower the rate that diverges, and clip the meta-gradient",
        tuple(why),
        remedy,
        step=when,
    )


def _broken_from_the_start(history: History) -> bool:
    """Whether tasks were not finite before anything was trained."""
    return float(np.mean(~np.isfinite(history.series("post", split="val").values[0]))) > BROKEN


def update_ratio(history: History) -> Finding | Passed:
    found = history.series("update")
    typical = float(np.median([v[0] for v in found.values[-20:]]))
    rate = history.setting("optimizer.lr", 1e-3)
    if typical < FROZEN:
        return Finding(
            Severity.WARN,
            f"an outer update moves the weights by {typical:.1e} of their size: next to nothing",
            typical,
            FROZEN,
            "raise the outer learning rate",
            remedy={"optimizer.lr": 1e-3} if rate < 1e-4 else {},
        )
    if typical > _FAST:
        return Finding(
            Severity.WARN,
            f"an outer update moves the weights by {typical:.0%} of their size",
            typical,
            _FAST,
            "lower the outer learning rate, or clip the meta-gradient",
            remedy=calmer_outer(history),
        )
    return Passed(typical, FROZEN)


def stalled(history: History) -> Finding | Passed:
    verdict = judge(history)
    if verdict.window is None:
        raise NotEvaluated(verdict.notes[0] if verdict.notes else "no look at the probe")
    if verdict.state is not State.STALLED:
        return Passed(verdict.signal or 0.0, CLEAR)
    moved, rate = update(history, verdict.window[0]), history.setting("optimizer.lr", 1e-3)
    frozen, slow = moved is not None and moved < FROZEN, moved is None or moved < 1e-4
    why = [
        f"the loss changes by {100 * verdict.change:+.2f} % +- {100 * verdict.half_width:.2f} % per window"
    ]
    why += verdict.notes[-1:]
    if verdict.signal is not None and verdict.signal > CLEAR:
        why.append(
            f"the meta-gradient is {verdict.signal:.2g} times its noise: at a minimum it would be below 1"
        )
    elif moved is not None and not frozen:
        why.append(f"relative update {moved:.1e}")
    return Finding(
        Severity.ERROR,
        "the loss is flat, though no minimum was reached",
        moved if moved is not None and frozen else verdict.signal or 0.0,
        FROZEN if frozen else CLEAR,
        "raise the outer learning rate" if slow else "train for longer, or look at the model and its inputs",
        tuple(why[:3]),
        {"optimizer.lr": _round(max(1e-3, 10 * rate)) if rate < 1e-3 else _round(3 * rate)} if slow else {},
    )


def regression(history: History) -> Finding | Passed:
    post = history.series("post", split="val")
    if len(post.steps) < 6:
        raise NotEvaluated("fewer than six looks")
    means = capped(history, post.stacked()).mean(1)
    best = int(means.argmin())
    worse = float(means[-1] / max(means[best], 1e-300) - 1.0)
    if not relapsed(history):
        return Passed(max(0.0, worse), RELAPSE)
    return Finding(
        Severity.ERROR,
        f"the probe loss is {worse:.0%} above its best, which was after step {post.steps[best]}",
        worse,
        RELAPSE,
        f"keep the best checkpoint; look at what changed after step {post.steps[best]}",
        (f"best {means[best]:.4g}, now {means[-1]:.4g}, on the same {post.stacked().shape[1]} tasks",),
        calmer_outer(history) | {"stop": "when-converged"},
    )


def schedule_ended_early(history: History) -> Finding | Passed:
    verdict = judge(history)
    if verdict.state is not State.SCHEDULE_ENDED:
        if history.setting("optimizer.schedule", "constant") == "constant":
            raise NotEvaluated("the learning rate is constant")
        return Passed(0.0, 0.0)
    steps = history.setting("steps", 0)
    return Finding(
        Severity.WARN,
        "the learning rate ran out while the loss was still falling",
        verdict.change,
        -verdict.epsilon,
        "train for more steps: the schedule stretches with them",
        remedy={"steps": 3 * steps} if steps else {},
    )


def noise_floor(history: History) -> Finding | Passed:
    verdict = judge(history)
    gained = averaging(history, verdict.window[0] if verdict.window else 0)
    if gained is None or len(history.series("averaged", split="val").steps) < _AVERAGES:
        raise NotEvaluated("no record of the averaged iterate")
    level = float(window(history, history.series("post", split="val")).losses.mean())
    # An average lags behind a run that improves; where it is ahead, the noise of the iterates is the larger.
    share, threshold = gained.value / level, max(2 * gained.error / level, _AHEAD)
    if share <= threshold:
        return Passed(share, threshold)
    return Finding(
        Severity.WARN,
        f"the average of the iterates is better than the iterate by {share:.1%}",
        share,
        threshold,
        "average the iterates, let the rate fall, or take more tasks per step",
        ("judged on the same tasks, over the looks of the window",),
        {"optimizer.average": 0.99},
    )


def underpowered(history: History) -> Finding | Passed:
    verdict = judge(history)
    if not math.isfinite(verdict.half_width):
        raise NotEvaluated(verdict.notes[0] if verdict.notes else "too few looks")
    known = verdict.half_width <= _COARSE and verdict.tasks_needed is None
    if verdict.state is not State.UNRESOLVED or known:
        return Passed(verdict.half_width, _COARSE)
    return Finding(
        Severity.INFO,
        f"the probe sees changes of {verdict.half_width:.1%} and no smaller ones",
        verdict.half_width,
        _COARSE,
        "judge on more tasks" if verdict.tasks_needed else "look more often, or train for longer",
        remedy={"probe.tasks": verdict.tasks_needed} if verdict.tasks_needed else {},
    )


def slower_inner(history: History) -> dict[str, float]:
    """The inner rate at which the largest eigenvalue seen is one, but at least a hundredth of the one before.

    Weights that have diverged have a curvature of their own, by which no rate is small enough.
    """
    rate = history.setting("algorithm.inner_lr")
    if rate is None or not history.has("curvature"):
        return {}
    seen = history.series("curvature").last
    edge = float(np.max(seen, initial=0.0, where=np.isfinite(seen)))
    return {"algorithm.inner_lr": _round(rate / min(edge, _AT_ONCE) if edge > 1 else rate / 2)}


def calmer_outer(history: History) -> dict[str, float]:
    """A third of the outer rate, or less where a step is a leap; and a bound on the meta-gradient."""
    rate = history.setting("optimizer.lr", 1e-3)
    return {"optimizer.lr": _round(min(rate / 3, 1e-3 if rate > 1e-2 else rate)), "optimizer.clip_norm": 10.0}


def _round(value: float) -> float:
    return float(f"{value:.2g}")


RULES = (
    Rule("NONFINITE", nonfinite, "convergence", "losses or gradients are not finite"),
    Rule("UPDATE_RATIO", update_ratio, "meta-gradient", "outer updates are far too small or too large", 3),
    Rule("STALLED", stalled, "convergence", "flat, and not at a minimum", 3, settles=0.2),
    Rule("REGRESSION", regression, "convergence", "worse than it was, on the same tasks"),
    Rule("SCHEDULE_ENDED_EARLY", schedule_ended_early, "convergence", "the rate ran out too early"),
    Rule("NOISE_FLOOR", noise_floor, "convergence", "iterates jump around a better average", settles=0.2),
    Rule("EVAL_UNDERPOWERED", underpowered, "convergence", "the probe cannot see what is asked", 3),
)
