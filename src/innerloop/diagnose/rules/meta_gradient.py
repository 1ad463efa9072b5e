"""Rules on the meta-gradient: is it there, is it right, is it one task's alone?"""

from __future__ import annotations

import numpy as np

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule

_ZERO = 1e-10
_WRONG, _STEADY = (
    1e-3,
    0.1,
)  # error of a quotient, and how little it changes where it is no matter of the distance
_COSINE, _ERROR = 0.5, 1.0
_OUTLIER = 20.0
_POOLED = 5  # wide looks


def meta_grad_zero(history: History) -> Finding | Passed:
    typical = float(np.median(history.series("gradient").last))
    if typical >= _ZERO:
        return Passed(typical, _ZERO)
    return Finding(
        Severity.ERROR,
        f"the meta-gradient is zero ({typical:.1e})",
        typical,
        _ZERO,
        "look for a detached inner loop (.data, .item(), no_grad), or for units that are all dead",
        ("innerloop check, or il.check_gradient, names the leaves that have none",),
    )


def meta_gradient_wrong(history: History) -> Finding | Passed:
    distances = sorted(history.places("quotient", "inner_step"))
    if not distances:
        raise NotEvaluated("asked by 'innerloop doctor --preflight' alone: it takes float64 and some time")
    errors = np.stack([history.series("quotient", inner_step=d).last for d in distances])
    least = errors.min(0)
    last, before = errors[-1], errors[-2]
    steady = np.abs(last - before) <= _STEADY * np.maximum(last, before)
    wrong = (least > _WRONG) & steady
    value = float(np.sort(least)[-2]) if len(least) > 1 else float(least[0])
    if wrong.sum() < 2:
        return Passed(value, _WRONG)
    if not history.setup.get("exact", True):
        return Finding(
            Severity.INFO,
            f"the meta-gradient is off the objective's by {value:.1%}, as this path says of itself",
            value,
            _WRONG,
            "nothing, if it was meant; an exact path is --gradient Unrolled",
        )
    return Finding(
        Severity.ERROR,
        f"the meta-gradient is not the derivative of the outer objective: off by {value:.1%}",
        value,
        _WRONG,
        "il.check_gradient(learner, tasks) names the leaves that are wrong",
        (
            f"difference quotients along {int(wrong.sum())} of {len(least)} directions disagree",
            "the error does not shrink with the distance, as a chaotic but right gradient's does",
        ),
        {"gradient": "Unrolled"},
    )


def first_order_bias(history: History) -> Finding | Passed:
    if not history.setup.get("first_order"):
        raise NotEvaluated("the meta-gradient is not a first-order one")
    cosine = float(history.series("first_order").last[0])
    error = float(history.series("first_order_error").last[0])
    if cosine >= _COSINE and error <= _ERROR:
        return Passed(cosine, _COSINE)
    return Finding(
        Severity.INFO,
        f"the first-order meta-gradient has cosine {cosine:.2f} with the exact one",
        cosine,
        _COSINE,
        "train on with exact gradients, if the loss no longer falls",
        (f"relative error {error:.2g}",),
        {"algorithm": "MAML"} if history.setting("algorithm.name") == "FOMAML" else {"gradient": "Unrolled"},
    )


def outlier_tasks(history: History) -> Finding | Passed:
    norms = np.concatenate(history.series("gradient").values[-_POOLED:])
    norms = norms[np.isfinite(norms)]
    if len(norms) < 16 or not np.median(norms) > 0:
        raise NotEvaluated("fewer than sixteen meta-gradients of single tasks")
    ratio = float(norms.max() / np.median(norms))
    if ratio <= _OUTLIER:
        return Passed(ratio, _OUTLIER)
    return Finding(
        Severity.WARN,
        f"one task's meta-gradient is {ratio:.0f} times the usual one's",
        ratio,
        _OUTLIER,
        "bound the meta-gradient, or normalise each task's loss",
        (f"{int((norms > _OUTLIER * np.median(norms)).sum())} of {len(norms)} tasks that were looked at",),
        {"optimizer.clip_norm": float(f"{2 * np.median(norms):.2g}")},
    )


RULES = (
    Rule("META_GRAD_ZERO", meta_grad_zero, "meta-gradient", "there is no meta-gradient"),
    Rule("META_GRADIENT_WRONG", meta_gradient_wrong, "meta-gradient", "it is not the objective's derivative"),
    Rule("FIRST_ORDER_BIAS", first_order_bias, "meta-gradient", "first-order gradients point elsewhere"),
    Rule("OUTLIER_TASKS", outlier_tasks, "meta-gradient", "single tasks decide the outer step", 2, 0.2, True),
)
