"""Rules on the inner loop: does it converge, does it learn, can it be differentiated through?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules.outer import slower_inner
from innerloop.diagnose.verdict import State, judge

EDGE = 2.0  # of alpha lambda_max, where gradient descent on a quadratic stops converging
_RISING = 0.2  # share of tasks with a support loss that rises
_RISE = 1.05  # what counts as rising from one step to the next
_CHAOS = (3.0, 10.0)  # of sigma_J: a warning, an error
_SAFETY = (1.3, 1.0)
_VANISHED, _EXPLODED = 0.05, 10.0
_GAIN = 0.05


def inner_divergence(history: History) -> Finding | Passed:
    curve = support_curve(history)
    rising = float(np.mean((curve[1:] > _RISE * curve[:-1]).any(0) | ~np.isfinite(curve).all(0)))
    worse = float(np.mean(curve[-1]) > np.mean(curve[0])) if np.isfinite(curve).all() else 1.0
    edge = _edge(history)
    why = []
    if edge is not None and edge > EDGE:
        why.append(f"alpha lambda_max is {edge:.2g}; gradient descent diverges above {EDGE:g}")
    if rising > _RISING:
        why.append(f"the support loss rises on the way in {rising:.0%} of the tasks")
    if worse:
        why.append("the mean support loss is higher after adaptation than before")
    if not why:
        return Passed(edge if edge is not None else rising, EDGE if edge is not None else _RISING)
    by_edge = edge is not None and edge > EDGE
    return Finding(
        Severity.ERROR,
        "inner steps go uphill: adaptation diverges on its own support set",
        edge if edge is not None and by_edge else rising,
        EDGE if by_edge else _RISING,
        "lower the inner rate, or let it be learned (MetaSGD)",
        tuple(why),
        slower_inner(history),
    )


def inner_chaos(history: History) -> Finding | Passed:
    recent = history.series("sensitivity").values[-3:]
    growth = float(np.median([np.nan_to_num(v, nan=np.inf).max() for v in recent]))
    if growth <= _CHAOS[0]:
        return Passed(growth, _CHAOS[0])
    severe = growth > _CHAOS[1]
    steps = history.setup.get("trained_steps", 0)
    return Finding(
        Severity.ERROR if severe else Severity.WARN,
        f"a small change of the initialisation grows {growth:.3g} times over the inner loop",
        growth,
        _CHAOS[severe],
        "lower the inner rate, or take fewer inner steps",
        (
            f"sigma_J = ||d phi_{steps} / d theta|| = {growth:.3g}; healthy loops stay below {_CHAOS[0]:g}",
            "meta-gradients are dominated by the few tasks on which it is largest",
        ),
        slower_inner(history),
    )


def safety_factor(history: History) -> Finding | Passed:
    edge = _edge(history)
    if edge is None or edge <= 0:
        raise NotEvaluated("no positive curvature was measured")
    factor = EDGE / edge
    if factor >= _SAFETY[0]:
        return Passed(factor, _SAFETY[0])
    broken = factor < _SAFETY[1]
    return Finding(
        Severity.ERROR if broken else Severity.WARN,
        f"the inner rate can be multiplied by {factor:.2g} and no more before adaptation diverges",
        factor,
        _SAFETY[broken],
        "lower the inner rate a little: tasks at test may be sharper than these",
        (f"the largest alpha lambda_max of the probe tasks is {edge:.3g}; the edge is {EDGE:g}",),
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
    if not gain < _GAIN or judge(history).state is State.IMPROVING:
        return Passed(gain, _GAIN)
    rate = history.setting("algorithm.inner_lr")
    return Finding(
        Severity.ERROR,
        f"adapting to a task lowers its loss by {gain:.1%}" if math.isfinite(gain) else "adaptation fails",
        gain,
        _GAIN,
        "raise the inner rate, or the outer one if nothing has been learned yet",
        (f"mean query loss before adaptation {pre.mean():.4g}, after it {post.mean():.4g}",),
        {"algorithm.inner_lr": float(f"{10 * rate:.2g}")} if rate is not None and rate < 1e-2 else {},
    )


def support_curve(history: History) -> NDArray[np.float64]:
    """Support losses [N + 1, T] at the usual numbers of inner steps, at the last wide look."""
    usual = history.setup.get("inner_steps", 0)
    at = [k for k in history.places("support", "inner_step") if k <= usual]
    if len(at) < 2:
        raise NotEvaluated("no inner steps")
    last = [history.series("support", split="val", inner_step=k).last for k in sorted(at)]
    return np.stack([v[: min(map(len, last))] for v in last])


def _edge(history: History) -> float | None:
    """The largest alpha lambda_max of the last look, or None where it does not apply."""
    return float(np.nanmax(history.series("curvature").last)) if history.has("curvature") else None


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
    if squares[1] == 0:
        raise NotEvaluated("the query loss has no derivative")
    known = {layer: r for layer, r in ratios.items() if math.isfinite(r)} or {"": math.nan}
    layer = (min if smallest else max)(known, key=lambda name: known[name])
    return math.sqrt(squares[0] / squares[1]), layer


RULES = (
    Rule("INNER_DIVERGENCE", inner_divergence, "inner-loop", "adaptation diverges on its own support"),
    Rule("INNER_CHAOS", inner_chaos, "inner-loop", "the inner loop magnifies small changes"),
    Rule("SAFETY_FACTOR", safety_factor, "inner-loop", "the inner rate is close to where it diverges"),
    Rule("VANISHING", vanishing, "meta-gradient", "derivatives vanish through the inner loop", 2, wide=True),
    Rule("EXPLODING", exploding, "meta-gradient", "derivatives explode through the inner loop", 2, wide=True),
    Rule("NO_ADAPTATION", no_adaptation, "convergence", "adapting to a task changes next to nothing", 3, 0.2),
)
