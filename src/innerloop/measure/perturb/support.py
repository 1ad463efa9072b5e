"""The support set: its order, its labels, and one example that does not belong."""

from __future__ import annotations

import torch
from torch import Tensor

from innerloop.core.mode import mode
from innerloop.core.rng import fold_key, keyed_normal, keyed_uniform
from innerloop.core.types import Batch, Episode
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.perturb.subject import (
    REFERENCE,
    Judged,
    Perturbation,
    Sizes,
    Subject,
    changing,
    take_rows,
)

SHARE = 0.2  # of support labels
NOISE = 0.3  # on targets, in units of their spread in the task
FAR = 3.0  # of an outlying target, in the same units


def _order(subject: Subject) -> Sizes:
    if subject.support_size < 2:
        raise NotEvaluated("a single support example")
    return {"shuffled": 1.0}


def _shuffled(subject: Subject, episode: Episode, key: Tensor, amount: float) -> Episode:
    order = keyed_uniform(key, (len(episode.support.y),)).argsort()
    return Episode(take_rows(episode.support, order), episode.query)


def _labels(subject: Subject) -> Sizes:
    if subject.spec.metric != "accuracy":
        return {f"noise of {NOISE:g} spreads": NOISE}
    count = subject.support_size
    if count < 2 * subject.ways:
        raise NotEvaluated("one example a class: another label would leave its class without any")
    numbers = {1, max(1, round(SHARE * count))}
    return {f"{number} of {count} wrong": number for number in sorted(numbers)}


def _noisy(subject: Subject, episode: Episode, key: Tensor, amount: float) -> Episode:
    support, query = episode
    if subject.spec.metric != "accuracy":
        noise = keyed_normal(key, tuple(support.y.shape)).to(support.y.dtype)
        return Episode(Batch(support.x, support.y + amount * _spread(episode) * noise), query)
    return Episode(Batch(support.x, _relabelled(support.y, key, int(amount))), query)


def _relabelled(y: Tensor, key: Tensor, number: int) -> Tensor:
    """`y` [S] with `number` labels replaced, spread evenly over the classes, so that none is left empty."""
    ways = mode().ways or int(y.max()) + 1
    draws = keyed_uniform(fold_key(key, 0), (3, len(y)))
    before = (y[:, None] == y[None]) & (draws[0][None] < draws[0][:, None])  # of the same class, and earlier
    first = (before.sum(1) + draws[1]).argsort()  # one of each class, then a second of each, ...
    struck = first.argsort() < number
    shift = 1 + (draws[2] * (ways - 1)).long().clamp(max=ways - 2)
    return torch.where(struck, (y + shift) % ways, y)


def _spread(episode: Episode) -> Tensor:
    """Standard deviation of the targets of one task, of support and query together, by component [F]."""
    return torch.cat([episode.support.y, episode.query.y]).std(0, correction=0)


def _outlier(subject: Subject) -> Sizes:
    if subject.spec.metric != "accuracy":
        return {f"one target {FAR:g} spreads off": FAR}
    if subject.example.query.y.shape[1] < 2:
        raise NotEvaluated("a single query example")
    if subject.ways < 2:
        raise NotEvaluated("a single class")
    return {f"one of {subject.support_size} of another class": 1}


def _one_outlier(subject: Subject, episode: Episode, key: Tensor, sizes: Sizes) -> dict[str, Judged]:
    """One target far off; or a support input replaced by a query of another class, which is not judged."""
    support, query = episode
    (label, amount) = next(iter(sizes.items()))
    struck = keyed_uniform(fold_key(key, 0), (len(support.y),)).argmax()
    here = torch.arange(len(support.y), device=struck.device) == struck
    draws = keyed_uniform(fold_key(key, 1), (len(query.y),))
    if subject.spec.metric != "accuracy":
        sign = torch.where(draws[0] < 0.5, -1.0, 1.0).to(support.y.dtype)
        moved = support.y + here[:, None] * sign * amount * _spread(episode)
        return {label: subject.judged(Episode(Batch(support.x, moved), query))}
    # Queries in random order, those of the example's own class last: the first one stands in for it.
    order = (draws + (query.y == support.y[struck])).argsort()
    others = order[1:]
    where = here.reshape(-1, *[1] * (support.x.ndim - 1))
    changed = Batch(torch.where(where, query.x[order[0]][None], support.x), support.y)
    fast = subject.after(Episode(changed, query))
    usual = subject.predict(subject.after(episode), query.x)[others]
    return {
        REFERENCE: subject.judge(usual, query.y[others]),
        label: subject.judge(subject.predict(fast, query.x)[others], query.y[others]),
    }


PERTURBATIONS = (
    Perturbation("support order", "the support examples come in another order", _order, changing(_shuffled)),
    Perturbation(
        "support labels",
        f"labels are replaced by other classes; targets have noise of {NOISE:g} of their spread",
        _labels,
        changing(_noisy),
    ),
    Perturbation(
        "support outlier",
        f"one example is of another class than its label; one target is {FAR:g} spreads off",
        _outlier,
        _one_outlier,
    ),
)
