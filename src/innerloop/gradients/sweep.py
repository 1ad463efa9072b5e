"""Backpropagation through the inner loop, one segment of steps at a time.

A sweep keeps the states at which segments begin, and then goes backwards: it runs a segment again
with its graph, pulls the cotangent of the segment's last state back to its first, and frees the graph.
One segment of all steps is ordinary backpropagation; segments of one step need the memory of one.
"""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import STATISTICS, MetaLearner
from innerloop.core.types import Fast, Meta
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, with_statistics
from innerloop.gradients.carry import carried, resumed, steps_done
from innerloop.gradients.chain import Chain, held, inputs_of, moving, pulled


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
        inputs, leaves = inputs_of(learned(meta))
        whole = inputs | ({STATISTICS: meta[STATISTICS]} if STATISTICS in meta else {})
        first, steps = steps_done(tasks.carry), learner.inner_steps
        chain = Chain(learner, whole, first, self.first_order)
        segments = self.segments(steps)
        fast = None if tasks.carry is None else tasks.carry["state"]
        starts: list[Fast | None] = []
        with torch.no_grad():
            if segments[0].start > 0:
                fast = self._lifted(lift, chain.advance, fast, tasks, range(segments[0].start))
            for steps_here in segments[:-1]:
                starts.append(fast)
                fast = self._lifted(lift, chain.advance, fast, tasks, steps_here)
        starts.append(fast)

        total = [torch.zeros_like(leaf) for leaf in leaves]
        cotangents: list[Tensor | None] | None = None
        last: dict = {}
        for index in reversed(range(len(segments))):
            start = starts.pop()
            if start is not None:
                start = held(start, requires_grad=index > 0)
            with torch.enable_grad():
                found = self._lifted(lift, chain.segment, start, tasks, segments[index])
            last = last or {name: tree.map(_value, node) for name, node in found.items()}
            ends = moving(found["fast"])
            share = found["share"].sum() if "share" in found else None
            outputs = [share, *(ends if cotangents else [])]
            one = None if share is None else torch.ones_like(share)
            before = moving(start) if start is not None and index > 0 else []
            del found, ends
            grads = pulled(outputs, [one, *(cotangents or [])], [*leaves, *before])
            for sum_so_far, grad in zip(total, grads, strict=False):
                if grad is not None:
                    sum_so_far.add_(grad)
            cotangents = grads[len(leaves) :]
        grads = with_statistics(tree.rebuild(inputs, total), meta)
        carry = carried(tasks, first + steps, last["fast"], self.horizon)
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

    def _lifted(self, lift, method, fast: Fast | None, tasks: Tasks, steps: range):
        if fast is None:
            return lift(lambda episode, key: method(None, episode, key, steps))(tasks.episodes, tasks.keys)
        lifted = lift(lambda state, episode, key: method(state, episode, key, steps))
        return lifted(fast, tasks.episodes, tasks.keys)


def _value(leaf: Tensor) -> Tensor:
    return leaf.detach()
