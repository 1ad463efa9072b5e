"""Rules on the meta-gradient: is it there, is it right, is it one task's alone?"""

from __future__ import annotations

import numpy as np

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.quotients import RIGHT, kind_of_error
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.statistics import mean_of

_ZERO = 1e-10
_COSINE, _ERROR = 0.5, 1.0
_OUTLIER = 20.0
_APART, _FAMILY_LOOKS = -0.2, 30  # cosine of two families' gradients, over so many wide looks
_POOLED = 5  # wide looks


def meta_grad_zero(history: History) -> Finding | Passed:
    typical = float(np.median(history.series("gradient").last))
    if np.isnan(typical):
        raise NotEvaluated("the meta-gradient is not finite")
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
    distances = history.places("quotient", "inner_step")
    if not distances:
        history.series("quotient")
    if len(distances) < 3:
        raise NotEvaluated("difference quotients at fewer than three distances")
    each = [history.series("quotient", inner_step=d).last for d in distances]
    directions = min(map(len, each))
    errors = {10.0**-d: list(own[:directions]) for d, own in zip(distances, each, strict=True)}
    least = np.sort(np.min(list(errors.values()), axis=0))
    value, count = float(least[-2] if len(least) > 1 else least[0]), len(least)
    kind = kind_of_error(errors)
    if kind != "wrong":
        return Passed(value, RIGHT)
    if not history.setup.get("exact", True):
        return Finding(
            Severity.INFO,
            f"the meta-gradient is off the objective's by {value:.1%}, as this path says of itself",
            value,
            RIGHT,
            "nothing, if it was meant; an exact path is --gradient Unrolled",
        )
    return Finding(
        Severity.ERROR,
        f"the meta-gradient is not the derivative of the outer objective: off by {value:.1%}",
        value,
        RIGHT,
        "il.check_gradient(learner, tasks) names the leaves that are wrong",
        (
            f"difference quotients along two or more of {count} directions give another slope",
            "they agree with each other as the distance shrinks, which those of a chaotic loop do not",
        ),
        {"gradient": "Unrolled"},
    )


def first_order_bias(history: History) -> Finding | Passed:
    if not history.setup.get("first_order"):
        raise NotEvaluated("the meta-gradient is not a first-order one")
    cosine, error = (
        float(np.mean(history.series(name).means[-3:])) for name in ("first_order", "first_order_error")
    )
    if cosine >= _COSINE and error <= _ERROR:
        return Passed(cosine, _COSINE)
    return Finding(
        Severity.INFO,
        f"the first-order meta-gradient has cosine {cosine:.2f} with the exact one, and misses {error:.0%}",
        cosine if cosine < _COSINE else error,
        _COSINE if cosine < _COSINE else _ERROR,
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
        f"one task's meta-gradient is {ratio:.3g} times the usual one's",
        ratio,
        _OUTLIER,
        "bound the meta-gradient, or normalise each task's loss",
        (f"{int((norms > _OUTLIER * np.median(norms)).sum())} of {len(norms)} tasks that were looked at",),
        {"optimizer.clip_norm": min(10.0, float(f"{2 * np.median(norms):.2g}"))},
    )


def task_conflict(history: History) -> Finding | Passed:
    pairs = history.places("conflict", "layer")
    if not pairs:
        raise NotEvaluated("the tasks are of one family, as far as they tell")
    worst, where = 0.0, ""
    for pair in pairs:
        found = history.series("conflict", layer=pair).stacked()[-_FAMILY_LOOKS:]
        if min(found.shape) < 3 or not np.isfinite(found).all():
            continue
        across, one, other = (mean_of(found[:, i]) for i in range(3))
        # Families disagree where each has a gradient of its own, and the two point apart.
        own = min(one.value - one.error, other.value - other.error)
        if own > 0 and across.high < 0:
            cosine = across.value / float(np.sqrt(one.value * other.value))
            worst, where = min((worst, where), (cosine, pair))
    if worst >= _APART:
        return Passed(worst, _APART)
    return Finding(
        Severity.WARN,
        f"families {where} pull apart: the cosine of their meta-gradients is {worst:.2f}",
        worst,
        _APART,
        "let more adapt, give families heads of their own, or aggregate their gradients without conflict",
        ("each family's own meta-gradient is clearly not zero",),
        {"optimizer.aggregate": "UPGrad"},
    )


RULES = (
    Rule("META_GRAD_ZERO", meta_grad_zero, "meta-gradient", "there is no meta-gradient"),
    Rule("META_GRADIENT_WRONG", meta_gradient_wrong, "meta-gradient", "it is not the objective's derivative"),
    Rule("TASK_CONFLICT", task_conflict, "meta-gradient", "families of tasks pull apart", settles=0.2),
    Rule("FIRST_ORDER_BIAS", first_order_bias, "meta-gradient", "first-order gradients point elsewhere"),
    Rule(
        "OUTLIER_TASKS",
        outlier_tasks,
        "meta-gradient",
        "single tasks decide the outer step",
        2,
        settles=0.2,
        wide=True,
    ),
)
