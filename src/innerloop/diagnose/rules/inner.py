"""Rules on the inner loop: does it converge, does it learn, can it be differentiated through?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History, Values
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules.outer import slower_inner
from innerloop.diagnose.verdict import State, judge

EDGE = 2.0  # of alpha lambda_max, where gradient descent on a quadratic stops converging
_RISING = 0.3  # share of tasks with a support loss that rises on the way
_RISE = 1.05  # what counts as rising from one step to the next
_BROKEN = 0.2  # share of tasks with a support loss that ends above where it began
_CHAOS = (3.0, 10.0)  # of sigma_J: a warning, an error
_SAFETY = 1.3
_VANISHED, _EXPLODED = 0.05, 3.0
_GAIN, _NOTHING = 0.05, 0.005
_HALF = 0.5  # of alpha lambda_max, where steps are long and safe


def inner_divergence(history: History) -> Finding | Passed:
    curve = support_curve(history)
    rising, worse = _rising(curve), _worse(curve[-1], curve[0])
    if rising <= _RISING and not worse:
        return Passed(rising, _RISING)
    why = [f"the support loss rises on the way in {rising:.0%} of the tasks"]
    if worse:
        why.append("the mean support loss is higher after adaptation than before")
    edge = _edge(history)
    if edge is not None and edge > EDGE:
        why.append(f"alpha lambda_max is {edge:.2g}; on a quadratic, steps diverge above {EDGE:g}")
    ends = np.nan_to_num(curve[[0, -1]], nan=np.inf, posinf=np.inf).mean(1)
    by_share = rising > _RISING
    return Finding(
        Severity.ERROR,
        "inner steps go uphill: adaptation diverges on its own support set",
        rising if by_share else float(ends[1] / max(ends[0], 1e-300)),
        _RISING if by_share else 1.0,
        "lower the inner rate, or let it be learned (MetaSGD)",
        tuple(why),
        slower_inner(history),
    )


def inner_chaos(history: History) -> Finding | Passed:
    recent = [v[np.isfinite(v)] for v in history.series("sensitivity").values[-3:]]
    known = [float(v.max()) for v in recent if len(v)]
    if not known:
        raise NotEvaluated("no finite derivative of the inner loop")
    growth = float(np.median(known))
    harm = _harm(history)
    if growth <= _CHAOS[0] or (not harm and growth <= _CHAOS[1]):
        return Passed(growth, _CHAOS[0])
    severe = growth > _CHAOS[1]
    steps = history.setup.get("trained_steps", 0)
    fact = f"sigma_J = ||d phi_{steps} / d theta||; smooth loops stay below {_CHAOS[0]:g}"
    # Networks with normalisations have large derivatives by their parametrisation alone.
    severity = Severity.INFO if not harm else Severity.ERROR if severe else Severity.WARN
    return Finding(
        severity,
        f"a small change of the initialisation grows {growth:.3g} times over the inner loop",
        growth,
        _CHAOS[severe],
        "lower the inner rate, or take fewer inner steps" if harm else "nothing, as long as the loss falls",
        (fact, *harm),
        slower_inner(history) if harm else {},
    )


def safety_factor(history: History) -> Finding | Passed:
    scales = sorted(history.places("stretched", "scale"))
    if not scales:
        history.series("stretched")
    before = support_curve(history)[0]
    factor = 1.0
    for scale in scales:
        after = history.series("stretched", split="val", scale=scale).last
        if _worse(after, before[: len(after)]):
            break
        factor = scale
    if factor >= _SAFETY:
        return Passed(factor, _SAFETY)
    return Finding(
        Severity.WARN,
        f"with an inner rate {scales[0]:g} times as large, adaptation goes uphill",
        factor,
        _SAFETY,
        "lower the inner rate: tasks at test may be sharper than these",
        ("tried on the probe tasks: support losses end above where they began",),
        slower_inner(history),
    )


def vanishing(history: History) -> Finding | Passed:
    ratio, layer = _backward_growth(history, smallest=True)
    if ratio >= _VANISHED:
        return Passed(ratio, _VANISHED)
    return Finding(
        Severity.WARN,
        f"of the query loss's derivative {ratio:.1%} is left at the initialisation",
        ratio,
        _VANISHED,
        "take fewer inner steps, or judge every step (MAML++'s multi-step loss)",
        (f"smallest in {layer}", "the adapted weights forget where they began, so theta is not learned"),
        {"algorithm.inner_steps": max(1, history.setup.get("trained_steps", 2) // 2)},
    )


def exploding(history: History) -> Finding | Passed:
    ratio, layer = _backward_growth(history, smallest=False)
    if ratio <= _EXPLODED:
        return Passed(ratio, _EXPLODED)
    return Finding(
        Severity.WARN,
        f"the query loss's derivative grows {ratio:.3g} times on its way back through the inner loop",
        ratio,
        _EXPLODED,
        "lower the inner rate, or bound the meta-gradient",
        (f"largest in {layer}",),
        slower_inner(history) | {"optimizer.clip_norm": 10.0},
    )


def no_adaptation(history: History) -> Finding | Passed:
    if history.setup.get("trained_steps", 0) == 0:
        raise NotEvaluated("no inner steps are trained")
    pre, post = (history.series(name, split="val").last for name in ("pre", "post"))
    gain = float((pre.mean() - post.mean()) / max(pre.mean(), 1e-300))
    if gain >= _GAIN or (gain >= _NOTHING and judge(history).state is State.IMPROVING):
        return Passed(gain, _GAIN)
    fact = f"mean query loss before adaptation {pre.mean():.4g}, after it {post.mean():.4g}"
    if not gain > 0:
        return Finding(
            Severity.ERROR,
            "adapting to a task raises its query loss",
            gain,
            _GAIN,
            "lower the inner rate",
            (fact,),
            slower_inner(history),
        )
    return Finding(
        Severity.ERROR,
        f"adapting to a task lowers its query loss by {gain:.1%} and no more",
        gain,
        _GAIN,
        "raise the inner rate, or the outer one if nothing has been learned yet",
        (fact,),
        _faster(history),
    )


def support_curve(history: History) -> Values:
    """Support losses [N + 1, T] at the usual numbers of inner steps, at the last wide look."""
    usual = history.setup.get("inner_steps", 0)
    at = [k for k in history.places("support", "inner_step") if k <= usual]
    if len(at) < 2:
        raise NotEvaluated("no inner steps")
    last = [history.series("support", split="val", inner_step=k).last for k in sorted(at)]
    return np.stack([v[: min(map(len, last))] for v in last])


def _rising(curve: Values) -> float:
    """The share of tasks whose support loss rises from one step to the next, or leaves the finite numbers."""
    with np.errstate(invalid="ignore"):
        return float(np.mean((curve[1:] > _RISE * curve[:-1]).any(0) | ~np.isfinite(curve).all(0)))


def _worse(after: Values, before: Values) -> bool:
    """Whether losses end above where they began: on the mean, or for many tasks."""
    count = min(len(after), len(before))
    after, before = np.nan_to_num(after[:count], nan=np.inf, posinf=np.inf), before[:count]
    return bool(after.mean() > before.mean()) or float(np.mean(after > before)) > _BROKEN


def _harm(history: History) -> tuple[str, ...]:
    """Signs that a chaotic inner loop does harm."""
    found = []
    try:
        rising = _rising(support_curve(history))
        if rising > _RISING:
            found.append(f"the support loss rises on the way in {rising:.0%} of the tasks")
        if isinstance(safety_factor(history), Finding):
            found.append("a slightly larger inner rate makes adaptation go uphill")
    except NotEvaluated:
        return ()
    return tuple(found[:2])


def _faster(history: History) -> dict[str, float]:
    """The inner rate at which the largest eigenvalue seen is a half, where that is twice the one there is."""
    rate, edge = history.setting("algorithm.inner_lr"), _edge(history)
    if rate is None or edge is None or not 0 < edge <= _HALF / 2:
        return {}
    return {"algorithm.inner_lr": float(f"{rate * _HALF / edge:.2g}")}


def _edge(history: History) -> float | None:
    """The largest alpha lambda_max of the last look, or None where it does not apply."""
    if not history.has("curvature"):
        return None
    known = history.series("curvature").last
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else None


def _backward_growth(history: History, *, smallest: bool) -> tuple[float, str]:
    """The derivative at the initialisation over that at the end, and the layer where it is extreme."""
    if not history.places("backward", "layer"):
        history.series("backward")
    ratios = {}
    squares = {0: 0.0, 1: 0.0}
    for layer in history.places("backward", "layer"):
        at = sorted(history.places("backward", "inner_step"))
        ends = [history.series("backward", layer=layer, inner_step=k).last.mean() for k in (at[0], at[-1])]
        squares = {i: squares[i] + float(ends[i]) ** 2 for i in squares}
        ratios[layer] = float(ends[0] / ends[1]) if ends[1] > 0 else math.nan
    if squares[1] == 0 or not math.isfinite(squares[0] + squares[1]):
        raise NotEvaluated("the query loss has no finite derivative")
    known = {layer: r for layer, r in ratios.items() if 0 < r < math.inf} or {"no layer": math.nan}
    layer = (min if smallest else max)(known, key=lambda name: known[name])
    return math.sqrt(squares[0] / squares[1]), layer


_LATELY: dict[str, Any] = {"persist": 2, "within": 4, "wide": True}  # at two of the last four wide looks
RULES = (
    Rule(
        "INNER_DIVERGENCE",
        inner_divergence,
        "inner-loop",
        "adaptation diverges on its own support",
        **_LATELY,
    ),
    Rule("INNER_CHAOS", inner_chaos, "inner-loop", "the inner loop magnifies small changes", **_LATELY),
    Rule(
        "SAFETY_FACTOR",
        safety_factor,
        "inner-loop",
        "the inner rate is close to where it diverges",
        **_LATELY,
    ),
    Rule("VANISHING", vanishing, "meta-gradient", "derivatives vanish through the inner loop", **_LATELY),
    Rule("EXPLODING", exploding, "meta-gradient", "derivatives explode through the inner loop", **_LATELY),
    Rule("NO_ADAPTATION", no_adaptation, "convergence", "adaptation does next to nothing", 3, settles=0.2),
)
