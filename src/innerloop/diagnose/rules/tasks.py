"""Rules on tasks: are they learned, each of them, and the new ones as well as the old?"""

from __future__ import annotations

import math

import numpy as np

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.statistics import mean_of
from innerloop.diagnose.verdict import State, capped, judge

_SOLVED = 0.6  # of what the trivial predictor loses
_DEPENDENT = 0.1  # least share of what was learned that a wrong support takes away
_OVERFIT, _BEYOND_CHANCE = 1.5, 2.6
_GAP = 0.05  # least gap between validation and training tasks, as a share of the trivial loss
_NEGLECTED, _MOSTLY_SOLVED = 0.3, 0.7


def memorisation(history: History) -> Finding | Passed:
    share = support_dependence(history, "train")
    post, trivial = (history.series(name, split="train").last for name in ("post", "trivial"))
    solved = float(post.mean() / max(trivial.mean(), 1e-300))
    if not (share < _DEPENDENT and solved < _SOLVED) or judge(history).state is State.IMPROVING:
        return Passed(share, _DEPENDENT)
    return Finding(
        Severity.ERROR,
        f"the support set is ignored: another task's does {1 - share:.0%} as well on training tasks",
        share,
        _DEPENDENT,
        "make tasks mutually exclusive (shuffle labels, hide what names the task), or train on more tasks",
        (
            f"training tasks are solved: {solved:.2g} of the trivial loss",
            "so they are known by heart, not adapted to",
        ),
        {"optimizer.l2": 1e-3},
    )


def meta_overfit(history: History) -> Finding | Passed:
    if history.setup.get("families"):
        raise NotEvaluated("of a stream, validation and training tasks hold its families in other shares")
    val, train = (capped_split(history, split) for split in ("val", "train"))
    trivial = float(history.series("trivial", split="train").last.mean())
    ratio = float(val.mean() / max(train.mean(), 1e-300))
    error = math.hypot(mean_of(val).error, mean_of(train).error)
    z = float(val.mean() - train.mean()) / max(error, 1e-300)
    gap = float(val.mean() - train.mean()) / max(trivial, 1e-300)
    fires = ratio > _OVERFIT and z > _BEYOND_CHANCE and gap > _GAP and train.mean() < _SOLVED * trivial
    if not fires:
        return Passed(ratio, _OVERFIT)
    return Finding(
        Severity.WARN,
        f"new tasks lose {ratio:.1f} times what training tasks do",
        ratio,
        _OVERFIT,
        "train on more tasks, regularise, or adapt less (ANIL)",
        (f"validation {val.mean():.4g}, training {train.mean():.4g}: {z:.0f} standard errors apart",),
        {"optimizer.l2": 1e-3},
    )


def task_failure(history: History) -> Finding | Passed:
    post = capped(history, history.series("post", split="val").last)
    trivial = history.series("trivial", split="val").last[: len(post)]
    failed = float(np.mean(post > trivial))
    solved = float(post.mean() / max(trivial.mean(), 1e-300))
    if not (failed > _NEGLECTED and solved < _MOSTLY_SOLVED):
        return Passed(failed, _NEGLECTED)
    return Finding(
        Severity.WARN,
        f"{failed:.0%} of the tasks are worse than a constant guess, though the mean is well below it",
        failed,
        _NEGLECTED,
        "normalise each task's loss by its trivial loss, or weight the worst tasks",
        (f"the mean loss is {solved:.2g} of the trivial one: a few large tasks carry it",),
        {"objective.normalise": True},
    )


def support_dependence(history: History, split: str) -> float:
    """What the right support gains over a wrong one, as a share of what it gains over a constant guess.

    One where a wrong support is no better than a guess, zero where it is as good as the right one. A share of
    the loss itself would be noise where that is nearly zero.
    """
    wrong, post, trivial = (history.series(name, split=split).last for name in ("wrong", "post", "trivial"))
    count = min(len(wrong), len(post))
    limit = 10 * trivial.mean()
    wrong, post = (np.minimum(np.nan_to_num(v[:count], nan=np.inf), limit) for v in (wrong, post))
    known = float(trivial[:count].mean() - post.mean())
    return min(1.0, float(wrong.mean() - post.mean()) / known) if known > 0 else 1.0


def capped_split(history: History, split: str) -> np.ndarray:
    """The last losses of a split, none above ten times the mean trivial loss."""
    post, trivial = history.series("post", split=split), history.series("trivial", split=split).last
    return np.minimum(np.nan_to_num(post.last, nan=np.inf), 10 * trivial.mean())


RULES = (
    Rule("MEMORISATION", memorisation, "memorisation", "tasks are known by heart", 2, settles=0.2, wide=True),
    Rule(
        "META_OVERFIT",
        meta_overfit,
        "memorisation",
        "training tasks are learned better than new ones",
        2,
        settles=0.2,
        wide=True,
    ),
    Rule("TASK_FAILURE", task_failure, "tasks", "many tasks are not learned at all", 3, settles=0.2),
)
