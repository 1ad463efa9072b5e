"""One meta-gradient out of those of several families of tasks, so that no family pays for another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Meta
from innerloop.gradients.base import Record, learned, shaped_like

#: The meta-gradient of the tasks of some weights [T], with its record.
Estimator = Callable[[Tensor | None], tuple[Meta, Any, Record]]


def by_family(
    estimate: Estimator, families: Sequence[int] | None, weights: Tensor | None, name: str, *, key: int
) -> tuple[Meta, Any, Record]:
    """The aggregate of the mean gradients of families; that of all tasks, where there is one family.

    Args:
        estimate: the meta-gradient of the tasks whose weight is not zero.
        families: the family of each task [T]; None is one for all.
        weights: of the tasks [T], as `MetaGradient.estimate` takes them.
        name: an aggregator of torchjd.
        key: source of an aggregator's own randomness.
    """
    number = torch.tensor([] if families is None else list(families))
    given = torch.ones(len(number)) if weights is None else weights.cpu()
    present = number[given > 0].unique().tolist() if len(number) else []
    if name == "mean" or len(present) < 2:
        return estimate(weights)
    found = [(*estimate(given * (number == family)), (number == family) & (given > 0)) for family in present]
    record = _merged([(one[2], one[3]) for one in found])
    means = [grads for grads, _, own, _ in found if own.kept]
    if not means:
        return found[0][0], None, record
    rows = torch.stack([torch.cat([g.flatten() for g in tree.leaves(learned(grads))]) for grads in means])
    return _as_meta(aggregated(rows, name, key), means[0]), None, record


def aggregated(rows: Tensor, name: str, key: int) -> Tensor:
    """One gradient [P] out of those of families [F, P]; a single row is its own aggregate.

    PCGrad's is a sum in its paper; here it is divided by the number of rows. UPGrad, DualProj and PCGrad are
    the mean where no two rows conflict, so that a rate fits as it did before.
    """
    if len(rows) == 1:
        return rows[0]
    aggregator = _aggregator(name)
    with torch.random.fork_rng(devices=[]):  # PCGrad permutes by torch's own numbers, on the CPU
        torch.manual_seed(key)
        found = aggregator(rows)
    return found / len(rows) if name == "PCGrad" else found


def check_installed(name: str) -> None:
    """Raise `ConfigError` unless an aggregator can be made here."""
    if name != "mean":
        _aggregator(name)


def _aggregator(name: str) -> Callable[[Tensor], Tensor]:
    try:
        from torchjd import aggregation

        return getattr(aggregation, name)()
    except ImportError as error:
        raise ConfigError(
            f"optimizer.aggregate = {name!r} without torchjd",
            expected="the package torchjd, and the solver of its projections",
            do="pip install 'innerloop[torchjd]', or set optimizer.aggregate to mean",
        ) from error


def _as_meta(flat: Tensor, like: Meta) -> Meta:
    leaves = tree.leaves(learned(like))
    parts = flat.split([leaf.numel() for leaf in leaves])
    grads = tree.rebuild(learned(like), [p.view_as(leaf) for p, leaf in zip(parts, leaves, strict=True)])
    return shaped_like(like, grads)


def _merged(found: list[tuple[Record, Tensor]]) -> Record:
    """The records of families as one, in the order of the tasks; statistics are the mean over those kept."""
    device = found[0][0].losses.device
    place = torch.cat([mask.nonzero().flatten() for _, mask in found]).argsort().to(device)
    outcomes = [outcome for record, _ in found for outcome in record.outcomes]
    counts = [len(record.kept) for record, _ in found]
    told = [(record.statistics, n) for (record, _), n in zip(found, counts, strict=True) if record.statistics]
    statistics: Any = {}
    if told:
        total = sum(n for _, n in told)
        scaled = [tree.map(lambda s, n=n: s * (n / total), statistics) for statistics, n in told]
        statistics = tree.map(lambda *leaves: torch.stack(leaves).sum(0), *scaled)
    first = found[0][0]
    measures = {n: torch.cat([record.measures[n] for record, _ in found])[place] for n in first.measures}
    losses = torch.cat([record.losses for record, _ in found])[place]
    outcomes = [outcomes[i] for i in place.tolist()]
    return replace(first, losses=losses, outcomes=outcomes, statistics=statistics, measures=measures)
