"""Queries that come without the others: all of one class."""

from __future__ import annotations

from torch import Tensor

from innerloop.core.mode import mode
from innerloop.core.rng import keyed_uniform
from innerloop.core.types import Episode
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.perturb.subject import REFERENCE, Judged, Perturbation, Sizes, Subject


def _sizes(subject: Subject) -> Sizes:
    ways, y = subject.ways, subject.example.query.y
    count = y.shape[1] // ways
    if not all(bool(((y == label).sum(1) == count).all()) for label in range(ways)):
        raise NotEvaluated("classes have different numbers of queries")
    return {"all of one class": count}


def _of_one_class(subject: Subject, episode: Episode, key: Tensor, sizes: Sizes) -> dict[str, Judged]:
    """The queries of a random class, predicted alone, against the same ones predicted beside all others."""
    (label, count) = next(iter(sizes.items()))
    x, y = episode.query
    ways = mode().ways or subject.ways
    chosen = (keyed_uniform(key, (1,)) * ways).long().clamp(max=ways - 1)
    rows = (y != chosen).long().argsort(stable=True)[:count]
    fast = subject.after(episode)
    return {
        REFERENCE: subject.judge(subject.predict(fast, x)[rows], y[rows]),
        label: subject.judge(subject.predict(fast, x[rows]), y[rows]),
    }


PERTURBATIONS = (
    Perturbation(
        "query balance",
        "queries are all of one class; judged against the same queries beside all others",
        _sizes,
        _of_one_class,
    ),
)
