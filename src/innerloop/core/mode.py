"""How a piece of code is being run: meta-training or not, with which derivatives, for which key.

A learner is written once, for one task. What differs between a training step, a first-order step
and an evaluation is ambient and stands here, so that no learner mentions it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from innerloop.core.rng import fold_key


@dataclass(frozen=True)
class Mode:
    """The ambient state of a run.

    Attributes:
        training: meta-training: dropout is on, and `running` statistics are gathered, not used.
        first_order: inner gradients are constants to the outer derivative.
        ways: number of classes of the tasks at hand, which under `vmap` cannot be read from labels.
        key: int64 scalar tensor, the task's source of randomness; None means none may be used.
    """

    training: bool = False
    first_order: bool = False
    ways: int | None = None
    key: Tensor | None = field(default=None, repr=False)


_MODE: ContextVar[Mode] = ContextVar("innerloop_mode", default=Mode())  # noqa: B039 (frozen)


def mode() -> Mode:
    return _MODE.get()


@contextmanager
def running_in(**changes: Any) -> Iterator[Mode]:
    """Run the block in the current mode with some fields changed."""
    changed = replace(_MODE.get(), **changes)
    token = _MODE.set(changed)
    try:
        yield changed
    finally:
        _MODE.reset(token)


@contextmanager
def at_stream(stream: int) -> Iterator[None]:
    """Run the block with the key of an inner step (or of a layer), so that recomputing it repeats it."""
    key = _MODE.get().key
    with running_in(key=None if key is None else fold_key(key, stream)):
        yield


def count_ways(labels: Tensor) -> int | None:
    """How many classes the labels of some tasks tell of; None where labels are not classes."""
    return None if labels.is_floating_point() else int(labels.max()) + 1
