"""Fixed tasks on which a learner is judged while it trains: the same each time, so that looks are paired."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.learner import states, without_memory
from innerloop.core.losses import loss_value, score, trivial_loss
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Batch, Episode, Meta, Split
from innerloop.core.vectorise import TasksAxis, join, over_tasks
from innerloop.evaluate.protocol import BLOCK, FixedEpisodes
from innerloop.evaluate.run import judged_steps
from innerloop.measure.stretched import stretched_losses
from innerloop.tasks.base import TaskSource

Row = dict[str, Any]
SPLITS: tuple[Split, Split] = ("val", "train")
SEED = 0
_FEW = 25  # tasks whose inner loop is looked at step by step
_BEYOND = 5  # times the trained number of inner steps that a last look goes
_MOST = 100  # inner steps that it goes at most, unless as many are usual


@final
@dataclass(frozen=True)
class Probe:
    """The probe of a run: the first `FixedEpisodes` of seed 0, the same for runs of other seeds.

    Args:
        val, train: numbers of tasks of each split.
        axis: how tasks are lifted.
    """

    learner: ModuleLearner
    tasks: TaskSource
    val: int = 100
    train: int = 50
    axis: TasksAxis = "auto"

    def count(self, split: Split) -> int:
        return self.val if split == "val" else self.train

    def setup(self) -> dict[str, Any]:
        """The facts that the records are read by."""
        spec, learner = self.tasks.spec, self.learner
        skipped = {}
        if learner.amortised:
            skipped["pre"] = "nothing is predicted before the support is seen"
        return {
            "val": self.val,
            "train": self.train,
            "seed": SEED,
            "inner_steps": learner.test_inner_steps,
            "trained_steps": learner.inner_steps,
            "metric": spec.metric,
            "loss": spec.loss,
            "ways": spec.outputs if spec.metric == "accuracy" else None,
            "skipped": skipped,
        }

    def trivial(self, split: Split) -> list[float]:
        """The loss of each task of the best predictor that ignores inputs: support mean, or a fair guess."""

        def one_task(episode: Episode, key: Tensor) -> Tensor:
            return trivial_loss(self.tasks.spec.loss, episode, self.tasks.spec.outputs)

        return self._each(split, self.count(split), {}, one_task)[""]

    def look(self, meta: Meta, step: int) -> list[Row]:
        """What every look records: losses before and after adaptation, and the score, on `val`."""
        found = self._judged(meta, "val")
        return [row(step, name, values, split="val") for name, values in found.items()]

    def wide(self, meta: Meta, step: int, *, average: Meta | None, last: bool = False) -> list[Row]:
        """What is recorded less often: training tasks, wrong supports, the inner loop step by step.

        Args:
            average: the average of the iterates, judged beside the iterate.
            last: go on to five times the usual inner steps.
        """
        rows = [
            row(step, name, values, split="train")
            for name, values in self._judged(meta, "train").items()
            if name != "score"
        ]
        for split in SPLITS:
            wrong = self._judged(meta, split, count=_paired(self.count(split) // 2), wrong_support=True)[
                "post"
            ]
            rows.append(row(step, "wrong", wrong, split=split))
        if average is not None:
            rows.append(row(step, "averaged", self._judged(average, "val")["post"], split="val"))
            rows.append(row(step, "distance", [relative_distance(meta, average)]))
        return rows + self._curves(meta, step, last=last) + self._stretched(meta, step)

    def _judged(
        self, meta: Meta, split: Split, *, count: int | None = None, wrong_support: bool = False
    ) -> dict[str, list[float]]:
        learner, spec = self.learner, self.tasks.spec

        def one_task(episode: Episode, key: Tensor) -> dict[str, Tensor]:
            with running_in(training=False, first_order=True, key=key):
                reached = states(learner, meta, episode.support, learner.test_inner_steps)
                ends = [fast for k, fast in enumerate(reached) if k in (0, learner.test_inner_steps)]
                outputs = learner.predict_each(meta, ends, episode.query.x)
            losses = [loss_value(spec.loss, o, episode.query.y) for o in outputs]
            found = {"post": losses[-1], "score": score(spec.metric, outputs[-1], episode.query.y)}
            return found | ({} if learner.amortised else {"pre": losses[0]})

        count = self.count(split) if count is None else count
        return self._each(split, count, meta, one_task, wrong_support=wrong_support)

    def _curves(self, meta: Meta, step: int, *, last: bool) -> list[Row]:
        """Support and query loss after each judged number of inner steps, on `val`."""
        learner, loss = self.learner, self.tasks.spec.loss
        usual = learner.test_inner_steps
        if usual == 0:
            return []
        beyond = min(_BEYOND * max(learner.inner_steps, 1), max(_MOST, usual)) if last else usual
        at = judged_steps(max(usual, beyond))

        def one_task(episode: Episode, key: Tensor) -> dict[str, Tensor]:
            with running_in(training=False, first_order=True, key=key):
                reached = enumerate(states(learner, meta, episode.support, at[-1]))
                kept = [fast for k, fast in reached if k in at]
                outputs = {
                    name: learner.predict_each(meta, kept, batch.x)
                    for name, batch in zip(("support", "query"), episode, strict=True)
                }
            return {
                f"{name} {k}": loss_value(loss, o, getattr(episode, name).y)
                for name, given in outputs.items()
                for k, o in zip(at, given, strict=True)
            }

        rows = []
        for place, values in self._each("val", min(_FEW, self.val), meta, one_task).items():
            name, _, k = place.partition(" ")
            rows.append(row(step, name, values, split="val", inner_step=int(k)))
        return rows

    def _stretched(self, meta: Meta, step: int) -> list[Row]:
        """Support losses after longer inner steps, on a few tasks of `val`."""
        learner, steps = self.learner, self.learner.inner_steps
        if steps == 0:
            return []

        def one_task(episode: Episode, key: Tensor) -> dict[str, Tensor]:
            with running_in(training=False, first_order=True, key=key):
                return stretched_losses(learner, meta, episode, steps)

        found = self._each("val", min(_FEW, self.val), meta, one_task)
        return [row(step, "stretched", v, split="val", scale=float(s)) for s, v in found.items()]

    def episodes(self, split: Split, count: int) -> Episode:
        """The first tasks of a split, stacked."""
        return join([block for block, _ in FixedEpisodes(split, count, SEED).blocks(self.tasks)])

    def on_device(self, episodes: Episode, meta: Meta) -> Episode:
        """Tasks where the meta-parameters are."""
        device = next((leaf.device for leaf in tree.leaves(meta)), torch.device("cpu"))
        return Episode(*(Batch(batch.x.to(device), batch.y.to(device)) for batch in episodes))

    def _each(
        self,
        split: Split,
        count: int,
        meta: Meta,
        one_task: Callable[[Episode, Tensor], Any],
        *,
        wrong_support: bool = False,
    ) -> dict[str, list[float]]:
        """`one_task` of the first `count` tasks: its numbers by name [count], the single one under ''."""
        found: dict[str, list[float]] = {}
        for block, keys in self._blocks(split, count, meta):
            if wrong_support:
                rolled = Batch(*(leaf.roll(1, 0) for leaf in block.support))
                block = Episode(rolled, block.query)
            with torch.no_grad(), running_in(ways=count_ways(block.support.y)):
                values = over_tasks(one_task, block, keys, axis=self.axis, owner=self)
            for name, leaf in values.items() if isinstance(values, dict) else [("", values)]:
                found.setdefault(name, []).extend(leaf.tolist())
        return found

    def _blocks(self, split: Split, count: int, meta: Meta) -> Iterator[tuple[Episode, Tensor]]:
        for block, keys in FixedEpisodes(split, count, SEED).blocks(self.tasks):
            moved = self.on_device(block, meta)
            yield moved, keys.to(moved.query.x.device)

    __hash__ = object.__hash__  # one probe is one owner of how its tasks are lifted


def _paired(count: int) -> int:
    """About so many tasks, none of them alone in its block: its own support would be the wrong one."""
    return max(2, count - (count % BLOCK == 1))


def relative_distance(meta: Meta, other: Meta) -> float:
    """|meta - other| / |meta| over all leaves, by name: trees may have them in another order."""
    ours, theirs = tree.flatten(without_memory(meta)), tree.flatten(other)
    apart = sum(float((leaf - theirs[path]).square().sum()) for path, leaf in ours.items())
    size = sum(float(leaf.square().sum()) for leaf in ours.values())
    return math.sqrt(apart / size) if size else 0.0


def row(
    step: int,
    name: str,
    values: list[float],
    *,
    split: str | None = None,
    inner_step: int | None = None,
    layer: str | None = None,
    scale: float | None = None,
    family: str | None = None,
) -> Row:
    """One line of records; not-finite numbers become None, others keep seven significant digits."""
    place = {"split": split, "inner_step": inner_step, "layer": layer, "scale": scale}
    place |= {"family": family}
    shown = [float(f"{v:.7g}") if math.isfinite(v) else None for v in values]
    return (
        {"step": step, "name": name} | {k: v for k, v in place.items() if v is not None} | {"values": shown}
    )
