"""A learner's score on fixed tasks, undisturbed and under each perturbation: the records of its stability."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ConfigError, InnerloopError, unknown
from innerloop.core.losses import trivial_loss
from innerloop.core.mode import count_ways, mode, running_in
from innerloop.core.rng import fold_key
from innerloop.core.rng import key as place_of
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import TasksAxis, over_tasks
from innerloop.diagnose.finding import NotEvaluated
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.measure.dynamics import reason
from innerloop.measure.perturb import adversarial, inner, inputs, queries, support, tasks
from innerloop.measure.perturb.subject import REFERENCE, Judged, Perturbation, Sizes, Subject
from innerloop.tasks.base import TaskSource

#: Every perturbation, in the order in which they are measured.
PERTURBATIONS: tuple[Perturbation, ...] = (
    *inner.PERTURBATIONS,
    *tasks.PERTURBATIONS,
    *support.PERTURBATIONS,
    *queries.PERTURBATIONS,
    *inputs.PERTURBATIONS,
    *adversarial.PERTURBATIONS,
)

Row = dict[str, Any]
Told = Callable[[str], None]


def names() -> list[str]:
    """What the perturbations are called."""
    return [perturbation.name for perturbation in PERTURBATIONS]


def chosen_perturbations(only: Sequence[str]) -> list[Perturbation]:
    """Those that are named, in the order of the table; all if none is.

    Raises:
        ConfigError: there is none of that name.
    """
    for name in only:
        if name not in names():
            raise unknown("perturbation", name, names())
    return [p for p in PERTURBATIONS if not only or p.name in only]


class Stability:
    """Measures a subject on fixed tasks.

    Args:
        chosen: which tasks.
        axis: how they are lifted.
    """

    def __init__(self, subject: Subject, chosen: FixedEpisodes, *, axis: TasksAxis = "auto") -> None:
        self.subject, self.chosen = subject, chosen
        self.axis: TasksAxis = axis

    def undisturbed(self) -> Row:
        """Score, loss, and the score of the best constant guess (`trivial`), of each task."""
        return self._as_they_are(self.subject.tasks)

    def rows(self, perturbations: Sequence[Perturbation], tell: Told) -> tuple[list[Row], list[Row]]:
        """A row for each size of each perturbation, and the reasons why others do not apply.

        A row has `name`, `size`, `amount` (its number, if it is one), `about`, `tasks` ("same" as the
        undisturbed, or "other") and, one number a task, `score` and `loss`; with `reference` where they are
        compared with other results than the undisturbed; with `trivial`, `ways` and `shots` where the tasks
        are others. Numbers that are not finite are None.

        Args:
            tell: is told the name of each perturbation before it is measured.
        """
        rows: list[Row] = []
        skipped: list[Row] = []
        for perturbation in perturbations:
            try:
                sizes = perturbation.sizes(self.subject)
                tell(perturbation.name)
                found = self._others(sizes) if perturbation.run is None else self._same(perturbation, sizes)
            except (NotEvaluated, NotImplementedError, RuntimeError, InnerloopError) as error:
                # What cannot be done to one learner, or has no room, must not cost the other answers.
                told = error.got if isinstance(error, InnerloopError) else reason(error)
                skipped.append({"name": perturbation.name, "reason": told})
            else:
                rows += [{"name": perturbation.name, "about": perturbation.about} | row for row in found]
        return rows, skipped

    def _same(self, perturbation: Perturbation, sizes: Sizes) -> list[Row]:
        """The same tasks, disturbed."""
        subject, run = self.subject, perturbation.run
        assert run is not None
        stream = place_of(0, "perturbation", perturbation.name) % 2**31

        def one_task(episode: Episode, key: Tensor) -> dict[str, Judged]:
            with running_in(training=False, first_order=True, key=key):
                return run(subject, episode, fold_key(key, stream), sizes)

        found = self._each(subject.tasks, one_task, perturbation.most)
        usual = found.pop(REFERENCE, None)
        rows = []
        for label, row in found.items():
            amount = sizes[label] if isinstance(sizes[label], (int, float)) else None
            told = {"size": label, "amount": amount, "tasks": "same"} | row
            rows.append(told | ({"reference": usual} if usual else {}))
        return rows

    def _others(self, sizes: Sizes) -> list[Row]:
        """Tasks of other sources, as they are."""
        rows = []
        for label, source in sizes.items():
            spec = source.spec
            told: Row = {"size": label, "amount": None, "tasks": "other", "shots": spec.shots}
            told |= {"ways": spec.outputs if spec.metric == "accuracy" else None}
            rows.append(told | self._as_they_are(source))
        return rows

    def _as_they_are(self, source: TaskSource) -> Row:
        spec = source.spec

        def one_task(episode: Episode, key: Tensor) -> dict[str, Any]:
            with running_in(training=False, first_order=True, key=key):
                usual = self.subject.judged(episode)
            ways = mode().ways or spec.outputs
            guess = trivial_loss(spec.loss, episode, ways)
            if spec.metric == "accuracy":
                guess = torch.full_like(guess, 1.0 / ways)
            return {REFERENCE: usual, "trivial": Judged(guess, guess)}

        found = self._each(source, one_task)
        return found[REFERENCE] | {"trivial": found["trivial"]["score"]}

    def _each(
        self, source: TaskSource, one_task: Callable[[Episode, Tensor], Any], most: int | None = None
    ) -> dict[str, Row]:
        """`one_task` of every task: by label, `score` and `loss` of each, [n]."""
        found: dict[str, Row] = {}
        count = min(self.chosen.episodes, most or self.chosen.episodes)
        fewer = FixedEpisodes(self.chosen.split, count, self.chosen.seed)
        for block, keys in blocks(fewer, source, self.subject.meta):
            with torch.no_grad(), running_in(ways=count_ways(block.support.y)):
                values = over_tasks(one_task, block, keys, axis=self.axis, owner=self.subject.learner)
            for label, judged in values.items():
                row = found.setdefault(label, {"score": [], "loss": []})
                row["score"] += _plain(judged.score)
                row["loss"] += _plain(judged.loss)
        return found


def blocks(chosen: FixedEpisodes, source: TaskSource, meta: Meta) -> Iterator[tuple[Episode, Tensor]]:
    """The fixed episodes of a source where the meta-parameters are, with the key of each task."""
    device = next((leaf.device for leaf in tree.leaves(meta)), torch.device("cpu"))
    for block, keys in chosen.blocks(source):
        moved = Episode(*(Batch(batch.x.to(device), batch.y.to(device)) for batch in block))
        yield moved, keys.to(device)


def first_block(chosen: FixedEpisodes, source: TaskSource, meta: Meta) -> Episode:
    """Some of the fixed episodes, stacked."""
    return next(islice(blocks(chosen, source, meta), 1))[0]


def fits(subject: Subject, source: TaskSource) -> None:
    """Raise `ConfigError` unless a source's tasks can be given to a subject."""
    ours, theirs = subject.spec, source.spec
    for name in ("input_shape", "loss", "outputs"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other and not (name == "outputs" and subject.learner.any_ways):
            raise ConfigError(
                f"{name} = {other} of the other tasks, {mine} of those trained on",
                expected="tasks of the same inputs, outputs and loss",
                do="choose other tasks, or give their sizes (--ood.ways, --ood.shots, ...)",
            )


def _plain(values: Tensor) -> list[float | None]:
    """Numbers as JSON has them: seven significant digits, None where they are not finite."""
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in values.tolist()]
