"""Backpropagation through the inner loop, one segment of steps at a time.

A sweep keeps the states at which segments begin, and then goes backwards: it runs a segment again
with its graph, pulls the cotangent of the segment's last state back to its first, and frees the graph.
One segment of all steps is ordinary backpropagation; segments of one step need the memory of one.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.compiled import settings
from innerloop.core.learner import MetaLearner, outer_weights
from innerloop.core.types import Fast, Meta, Tree
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, shaped_like, weighted_sum
from innerloop.gradients.carry import carried, resumed, steps_done
from innerloop.gradients.chain import Chain, as_episodes, as_tree, counts, held, inputs_of, moving, pulled


class Sweep(MetaGradient, ABC):
    """The backward sweep that the backpropagating paths share; they differ in these settings.

    Inner gradients are taken with `torch.func` inside, tasks are lifted around them, and the outer
    gradient is an ordinary backward pass, summed over tasks as it goes.

    Attributes:
        segment: steps run again at a time; None is all that are swept, which are then run but once.
        last: steps swept, counted from the end; None is all.
        horizon: inner steps of an unroll that is carried over outer steps; None begins each anew.
        first_order: inner gradients are constants.
    """

    segment: int | None = None
    last: int | None = None
    horizon: int | None = None
    first_order: bool = False

    def begin(self, tasks: Tasks) -> Tasks:
        return resumed(tasks, self.horizon)

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        segments = self.segments(learner.inner_steps)
        first = steps_done(tasks.carry)
        link = _Link(self, learner, meta, tasks, lift, first)
        fast: Fast = {} if tasks.carry is None else tasks.carry["state"]
        if segments[0].start > 0:
            fast = link.advance(fast, range(segments[0].start))
        starts = [fast]
        for steps in segments[:-1]:
            starts.append(link.advance(starts[-1], steps))

        total = [torch.zeros_like(leaf) for leaf in tree.leaves(learned(meta))]
        cotangents: dict[str, Tensor] = {}
        last: dict[str, Any] = {}
        for index in reversed(range(len(segments))):
            found = link.pull(starts.pop(), cotangents, segments[index], to_start=index > 0)
            for path, grad in found["grads"].items():
                total[int(path)].add_(grad)
            cotangents = found["cotangents"]
            last = last or {name: found[name] for name in ("loss", "statistics", "fast")}
            del found
        grads = shaped_like(meta, tree.rebuild(learned(meta), total))
        carry = carried(tasks, first + learner.inner_steps, last["fast"], self.horizon)
        return Estimate(grads, last["loss"], last["statistics"], carry=carry)

    def segments(self, steps: int) -> list[range]:
        """The steps of each segment that is swept, in order; there is always one, if an empty one."""
        first = 0 if self.last is None else max(0, steps - self.last)
        size = self.segment or max(1, steps)
        return [range(k, min(k + size, steps)) for k in range(first, steps, size)] or [range(0)]

    def passes(self, steps: int) -> float:
        # A step is a forward and a backward pass (3 in all); the backward pass of both is twice that.
        swept = steps if self.last is None else min(self.last, steps)
        if self.first_order:
            return 3.0 * steps
        return 3.0 * (steps - len(self.segments(swept)[-1])) + 9.0 * swept

    def memory(self, steps: int, params: int, activations: int) -> float:
        swept = steps if self.last is None else min(self.last, steps)
        if self.first_order:
            return float(params * (steps + 1) + 2 * activations)
        graph = min(self.segment or max(1, swept), max(1, swept)) * (2 * params + 4 * activations)
        return float(graph + len(self.segments(steps)) * params)


class _Link:
    """Runs and pulls back segments of some tasks' chains: pure functions of trees, that can be compiled."""

    def __init__(
        self, path: Sweep, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift, first: int
    ) -> None:
        self.path, self.learner, self.lift, self.first = path, learner, lift, first
        self.run, self.carrying = tasks.run, path.horizon is not None
        self.given = (meta, as_tree(tasks.episodes), tasks.keys)
        self.weights = {} if tasks.weights is None else {"tasks": tasks.weights}

    def advance(self, start: Fast, steps: range) -> Fast:
        def advanced(start: Fast, meta: Meta, episodes: Tree, keys: Tensor, stream: Tensor) -> Fast:
            with torch.no_grad():
                return self._lifted(self._chain(meta, steps, stream).advance, start, episodes, keys)

        return self.run(advanced, self._key("advance", steps), start, *self.given, self._stream(steps))

    def pull(
        self, start: Fast, cotangents: dict[str, Tensor], steps: range, *, to_start: bool
    ) -> dict[str, Any]:
        """The gradients that come from a segment, by number of the leaf, and what it is to pass further back.

        Returns:
            `grads` and `cotangents`, for the leaves of `meta` and of `start` that have one; `fast` where it
            is to be carried on; `loss` and `statistics` at the end of the loop.
        """

        def pulled_back(
            start: Fast,
            cotangents: Tree,
            weights: Tree,
            meta: Meta,
            episodes: Tree,
            keys: Tensor,
            stream: Tensor,
        ) -> dict[str, Any]:
            whole, leaves = inputs_of(meta)
            start = held(start, requires_grad=to_start)
            with torch.enable_grad():
                found = self._lifted(self._chain(whole, steps, stream).segment, start, episodes, keys)
            ends = moving(found["fast"])
            share = weighted_sum(found["share"], weights.get("tasks")) if "share" in found else None
            kept = {
                name: tree.map(torch.Tensor.detach, found.get(name, {})) for name in ("loss", "statistics")
            }
            kept["fast"] = tree.map(torch.Tensor.detach, found["fast"]) if self.carrying else {}
            one = None if share is None else torch.ones_like(share)
            before = moving(start) if to_start else []
            del found
            outputs = [share, *ends]
            grads = pulled(
                outputs, [one, *(cotangents.get(str(i)) for i in range(len(ends)))], [*leaves, *before]
            )
            return kept | {
                "grads": _numbered(grads[: len(leaves)]),
                "cotangents": _numbered(grads[len(leaves) :]),
            }

        key = self._key("pull", steps, to_start)
        given = (start, cotangents, self.weights, *self.given, self._stream(steps))
        found = self.run(pulled_back, key, *given)
        return {"statistics": {}, "grads": {}, "cotangents": {}, "fast": {}} | found

    def _chain(self, meta: Meta, steps: range, stream: Tensor) -> Chain:
        whole = self.path.last is None and self.path.horizon is None
        return Chain(self.learner, meta, steps, self.first, stream, self.path.first_order, whole)

    def _lifted(self, method: Callable[..., Tree], start: Fast, episodes: Tree, keys: Tensor) -> Tree:
        stacked = as_episodes(episodes)
        if not start:
            return self.lift(lambda episode, key: method(None, episode, key))(stacked, keys)
        return self.lift(method)(start, stacked, keys)

    def _stream(self, steps: range) -> Tensor:
        return torch.tensor(self.first + steps.start, device=self.given[2].device)

    def _key(self, name: str, steps: range, *more: Hashable) -> Hashable:
        """Everything that makes one segment's graph differ from another's."""
        place = len(steps) if self.learner.steps_alike else (self.first, steps)
        weights = outer_weights(self.learner)[steps.start + 1 : steps.stop + 1]
        looked_at = tuple(map(counts, weights))  # their values are settings, or come with the progress
        ends = steps.stop == self.learner.inner_steps
        return (name, place, looked_at, ends, self.path, settings(self.learner), self.carrying, *more)


def _numbered(found: list[Tensor | None]) -> dict[str, Tensor]:
    return {str(i): leaf for i, leaf in enumerate(found) if leaf is not None}
