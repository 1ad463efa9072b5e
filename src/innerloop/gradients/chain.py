"""One task's inner loop as a chain of states: what the gradient paths run and differentiate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import DATA, MetaLearner, final, outer_weights
from innerloop.core.mode import Mode, at_stream, running_in
from innerloop.core.types import Batch, Episode, Fast, Meta, Tree
from innerloop.gradients.base import learned


@dataclass(frozen=True)
class Chain:
    """The inner loop of one task under some meta-parameters; its methods are what gets lifted.

    Attributes:
        steps: numbers of the steps to take, from the state that a method is given.
        first: number of the loop's first step, where an unroll goes on from an earlier outer step.
        stream: number of the stream of randomness of the first of `steps`; a tensor where one graph
            has to serve for any of them.
        first_order: inner gradients are constants to the outer derivative.
        whole: the loop is differentiated from its beginning.
    """

    learner: MetaLearner
    meta: Meta
    steps: Sequence[int]
    first: int = 0
    stream: Tensor | int = 0
    first_order: bool = False
    whole: bool = True

    def advance(self, fast: Fast | None, episode: Episode, key: Tensor) -> Fast:
        """The state after the steps, for its value alone; a chain that has no state yet begins."""
        with self._running(key, first_order=True):
            return final(self._states(fast, episode))

    def segment(self, fast: Fast | None, episode: Episode, key: Tensor) -> dict[str, Any]:
        """The steps, with what they add to the outer objective.

        Returns:
            `fast`, the state after them; where the objective looks at a state on the way, their `share`
            of it; and at the end of the loop `loss` and running `statistics`.
        """
        found: dict[str, Any] = {}
        weights = outer_weights(self.learner)
        end = len(weights) - 1
        # Without inner steps there is no second derivative, so the faster first-order operators will do.
        with self._running(key, first_order=self.first_order or not self.steps):
            at = [0 if fast is None else None, *(k + 1 for k in self.steps)]
            for reached, state in zip(at, self._states(fast, episode), strict=True):
                found["fast"] = state
                if reached is None or not (counts(weights[reached]) or reached == end):
                    continue
                loss, statistics = self.learner.query_loss(self.meta, state, episode.query)
                share = weights[reached] * loss
                found["share"] = found["share"] + share if "share" in found else share
                if reached == end:
                    found |= {"loss": loss, "statistics": statistics}
        return found

    def judged(self, fast: Fast, episode: Episode, key: Tensor) -> dict[str, Any]:
        """The query loss of a state, and running statistics."""
        with self._running(key, first_order=True):
            loss, statistics = self.learner.query_loss(self.meta, fast, episode.query)
        return {"loss": loss, "statistics": statistics}

    def step(self, fast: Fast, episode: Episode, key: Tensor) -> Fast:
        """The steps, to be differentiated."""
        with self._running(key, first_order=self.first_order):
            return final(self._states(fast, episode))

    def _running(self, key: Tensor, *, first_order: bool) -> AbstractContextManager[Mode]:
        return running_in(training=True, first_order=first_order, whole=self.whole, key=key)

    def _states(self, fast: Fast | None, episode: Episode) -> Iterator[Fast]:
        fast = self.learner.begin(self.meta, episode.support) if fast is None else fast
        yield fast
        for index, k in enumerate(self.steps):
            with at_stream(self.stream + index):
                fast = self.learner.step(self.meta, fast, episode.support, self.first + k)
            yield fast


def counts(weight: float | Tensor) -> bool:
    """Whether a state is looked at: one of weight zero is not, one of a weight that changes always is."""
    return isinstance(weight, Tensor) or weight != 0


def as_tree(episodes: Episode) -> Tree:
    support, query = episodes
    return {"support": {"x": support.x, "y": support.y}, "query": {"x": query.x, "y": query.y}}


def as_episodes(node: Tree) -> Episode:
    """The inverse of `as_tree`."""
    return Episode(*(Batch(node[part]["x"], node[part]["y"]) for part in ("support", "query")))


def inputs_of(meta: Meta) -> tuple[Meta, list[Tensor]]:
    """A copy of `meta` whose learned part is to be differentiated with respect to, and that part's leaves."""
    inputs = tree.map(lambda leaf: leaf.detach().requires_grad_(), learned(meta))
    return meta | inputs, tree.leaves(inputs)


def moving(fast: Fast) -> list[Tensor]:
    """The leaves of a state that derivatives flow through: numbers that are not the task's own data."""
    leaves = [leaf for name, node in fast.items() if name != DATA for leaf in tree.leaves(node)]
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def held(fast: Fast, *, requires_grad: bool) -> Fast:
    """A state cut off from what made it."""
    cut = tree.map(lambda leaf: leaf.detach(), fast)
    for leaf in moving(cut) if requires_grad else ():
        leaf.requires_grad_()
    return cut


def pulled(
    outputs: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
    inputs: Sequence[Tensor],
    *,
    keep: bool = False,
) -> list[Tensor | None]:
    """The vector-Jacobian product, where there is one; frees the graph, unless told to `keep` it."""
    pairs = [
        (o, c)
        for o, c in zip(outputs, cotangents, strict=True)
        if o is not None and c is not None and o.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    outs, cots = zip(*pairs, strict=True)
    return list(torch.autograd.grad(outs, inputs, cots, allow_unused=True, retain_graph=keep))
