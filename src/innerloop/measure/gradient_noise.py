"""How much of a meta-gradient is signal, and how much comes from the tasks that happened to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.core import rng, tree
from innerloop.core.errors import check_count
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import num_tasks as count_of
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.gradients.base import MetaGradient, learned


@dataclass(frozen=True)
class GradientNoise:
    """What the meta-gradients g_1 .. g_n of single tasks say; S is their covariance, gbar their mean.

    Attributes:
        norms: |g_i| of each task; NaN for one that did not stay finite, which the rest leaves out.
        signal: an unbiased estimate of the squared norm of the true meta-gradient, |gbar|^2 - tr S / n, which
            is the mean inner product of two tasks' gradients; below zero by chance where there is little.
        noise: tr S over the size of a meta-batch: the variance of its mean gradient.
        norm: |gbar|, most of which is noise near a minimum.
        leverage: the largest |g_i - gbar| / ((n - 1) |gbar|): the share by which one task moves the mean.
        products: inner products of the gradients of the tasks that stayed finite [m, m].
        finite: their numbers [m].
    """

    norms: list[float]
    signal: float
    noise: float
    norm: float
    leverage: float
    products: list[list[float]]
    finite: list[int]


def gradient_noise(
    path: MetaGradient,
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    *,
    key: int,
    num_tasks: int,
    weights: Tensor | None = None,
) -> GradientNoise:
    """Signal and noise of a meta-gradient, from the gradients of single tasks.

    Args:
        path: how gradients are obtained; each task's is asked for alone.
        episodes: stacked tasks [n, ...], n >= 2.
        key: source of the randomness inside inner steps.
        num_tasks: tasks of a meta-batch, >= 1.
        weights: factors of the tasks' gradients [n], as training has them; None is one for each.

    Raises:
        NotEvaluated: fewer than two tasks stayed finite.
    """
    check_count("num_tasks", num_tasks)
    found: list[list[Tensor] | None] = []
    for i in range(count_of(episodes)):
        one = take(episodes, slice(i, i + 1))
        own = None if weights is None else weights[i : i + 1]
        how: dict[str, Any] = {} if own is None else {"weights": own}  # a path of a user's may know of none
        grads, _, record = path.estimate(learner, meta, one, key=rng.key(key, "task", i), axis="loop", **how)
        found.append(tree.leaves(learned(grads)) if record.outcomes[0].ok else None)
    return _summary(found, num_tasks)


def _summary(found: list[list[Tensor] | None], num_tasks: int) -> GradientNoise:
    kept = [leaves for leaves in found if leaves is not None]
    n = len(kept)
    if n < 2:
        raise NotEvaluated(f"{n} of {len(found)} tasks stayed finite, and two or more are compared")
    products = _inner_products(kept)
    squares = products.diagonal()
    shared = float(products.mean())  # |gbar|^2
    trace = float(squares.sum() - n * shared) / (n - 1)
    away = (squares - 2 * products.mean(1) + shared).clamp_min(0.0)
    norm = max(0.0, shared) ** 0.5
    leverage = float(away.max().sqrt()) / ((n - 1) * norm) if norm else 0.0
    norms = iter(squares.sqrt().tolist())
    return GradientNoise(
        [float("nan") if leaves is None else next(norms) for leaves in found],
        shared - trace / n,
        trace / num_tasks,
        norm,
        leverage,
        products.tolist(),
        [i for i, leaves in enumerate(found) if leaves is not None],
    )


def _inner_products(each: list[list[Tensor]]) -> Tensor:
    """Of every two tasks' gradients [n, n], summed in float64, leaf by leaf."""
    total = torch.zeros(len(each), len(each), dtype=torch.float64)
    for leaves in zip(*each, strict=True):
        rows = torch.stack([leaf.flatten() for leaf in leaves]).double()
        total += (rows @ rows.T).cpu()
    return total
