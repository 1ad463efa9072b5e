"""How a piece of code is being run: meta-training or not, with which derivatives, for which key.

A learner is written once, for one task. What differs between a training step, a first-order step
and an evaluation is ambient and stands here, so that no learner mentions it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from innerloop.core.rng import fold_key

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Mode:
    """The ambient state of a run.

    Attributes:
        training: meta-training: dropout is on, and `running` statistics are gathered, not used.
        first_order: inner gradients are constants to the outer derivative.
        whole: what becomes of a loop follows from its beginning, so that `begin` may compute what
            every step needs; not so where derivatives are cut on the way, or taken at the end alone.
        ways: number of classes of the tasks at hand, which under `vmap` cannot be read from labels.
        root: int64 scalar tensor, the task's source of randomness; None means none may be used.
        path: the streams that lead from `root` to `key`.
        precision: the type that forward passes compute in (autocast); None is that of the parameters.
        progress: the share of the outer steps that are done, for what is annealed over training; 1 wherever
            nothing is trained. In a compiled graph it is a tensor without axes, so that one serves for all.
        tape: what is asked for an inner gradient in place of computing it, given how to compute it: a
            check holds inner gradients constant with it.
    """

    training: bool = False
    first_order: bool = False
    whole: bool = True
    ways: int | None = None
    root: Tensor | None = field(default=None, repr=False)
    path: tuple[int | Tensor, ...] = ()
    precision: torch.dtype | None = None
    progress: float | Tensor = 1.0
    tape: Callable[[Callable[[], Gradients]], Gradients] | None = field(default=None, repr=False)

    @property
    def key(self) -> Tensor | None:
        """The key of this place, derived when it is asked for: most models draw nothing."""
        key = self.root
        for stream in self.path:
            key = None if key is None else fold_key(key, stream)
        return key


_MODE: ContextVar[Mode] = ContextVar("innerloop_mode", default=Mode())  # noqa: B039 (frozen)


def mode() -> Mode:
    """How the code that asks is being run."""
    return _MODE.get()


@contextmanager
def running_in(**changes: Any) -> Iterator[Mode]:
    """Run the block in the current mode with some fields changed; `key` starts a new source of randomness."""
    if "key" in changes:
        changes |= {"root": changes.pop("key"), "path": ()}
    changed = replace(_MODE.get(), **changes)
    token = _MODE.set(changed)
    try:
        yield changed
    finally:
        _MODE.reset(token)


@contextmanager
def at_stream(stream: int | Tensor) -> Iterator[None]:
    """Run the block with the key of an inner step (or of a layer), so that recomputing it repeats it."""
    with running_in(path=(*_MODE.get().path, stream)):
        yield


def count_ways(labels: Tensor) -> int | None:
    """How many classes the labels of some tasks tell of; None where labels are not classes."""
    return None if labels.is_floating_point() else int(labels.max()) + 1
