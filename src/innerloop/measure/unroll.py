"""One task's inner loop with its graph, as it runs in training, for what measures its derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import DATA, MetaLearner, states
from innerloop.core.mode import at_stream, count_ways, running_in
from innerloop.core.rng import key, tensor_keys
from innerloop.core.types import Episode, Fast, Meta
from innerloop.diagnose.finding import NotEvaluated
from innerloop.gradients.chain import held

#: What inner steps draw (dropout, minibatches) is the same at every look, so that looks are paired.
KEY = key(0, "measure")


@contextmanager
def as_trained(episode: Episode, *, first_order: bool = False) -> Iterator[None]:
    """Run the block for one task as a training step would, drawing from a key of its own."""
    task_key = tensor_keys(KEY, 1, episode.support.x.device)[0]
    ways = count_ways(episode.support.y)
    with running_in(training=True, first_order=first_order, whole=True, key=task_key, ways=ways):
        yield


def state_after(learner: MetaLearner, meta: Meta, episode: Episode, steps: int) -> Fast:
    """The state after some inner steps, cut off from what made it."""
    with torch.no_grad(), as_trained(episode, first_order=True):
        *_, fast = states(learner, meta, episode.support, steps)
    return held(fast, requires_grad=False)


def unrolled(learner: MetaLearner, meta: Meta, episode: Episode, steps: range, start: Fast) -> list[Fast]:
    """The states from `start`, before the first of `steps`, to after the last, with their graph."""
    found = [start]
    with torch.enable_grad():
        for k in steps:
            with at_stream(k):
                found.append(learner.step(meta, found[-1], episode.support, k))
    return found


def to_differentiate(fast: Fast) -> Fast:
    """A copy of a state all of whose numbers, but for the task's own data, are inputs of a derivative."""
    return held(fast, requires_grad=True)


def adapted(first: Fast, last: Fast) -> list[str]:
    """Paths of the leaves that inner steps change: those under `params`, or where there are none, all others.

    Raises:
        NotEvaluated: there is none, or no derivative passes through the steps.
    """
    before, after = tree.flatten(first), tree.flatten(last)
    changed = [path for path, leaf in before.items() if _moves(path, leaf, after)]
    if not changed:
        raise NotEvaluated("inner steps change no number")
    if not any(after[path].requires_grad for path in changed):
        raise NotEvaluated("no derivative passes through the inner steps")
    return [path for path in changed if path.startswith("params/")] or changed


def _moves(path: str, leaf: Tensor, after: dict[str, Tensor]) -> bool:
    own = path != DATA and not path.startswith(f"{DATA}/")
    return own and leaf.is_floating_point() and path in after and after[path] is not leaf


def need_steps(steps: int) -> None:
    """Raise `NotEvaluated` where there is no inner step to measure."""
    if steps < 1:
        raise NotEvaluated("there are no inner steps")
