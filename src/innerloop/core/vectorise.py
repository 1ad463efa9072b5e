"""The one place that lifts a function of one task to many: `vmap`, chunks of it, or a loop."""

from __future__ import annotations

import logging
import re
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from innerloop.core.errors import ConfigError

TasksAxis: TypeAlias = Literal["auto", "vmap", "loop"] | int
log = logging.getLogger("innerloop")

_FEW_MB = 2**18  # numbers in the inputs of the tasks lifted at once
_LOOPED: weakref.WeakSet[Any] = weakref.WeakSet()  # owners whose operators have no batching rule


def over_tasks(fn: Callable[..., Any], *trees: Any, axis: TasksAxis = "auto", owner: Any = None) -> Any:
    """Apply a function of one task to trees with a leading task axis; outputs are stacked.

    Args:
        fn: from one task's trees to a tree of tensors (dicts and tuples).
        axis: `vmap` all tasks at once, in chunks of an integer number, or a `loop`. `auto` is `vmap` of
            as many tasks as pay (see `_paying`), and the loop for an `owner` that `vmap` cannot lift.
        owner: what `auto` remembers its choice by, usually the learner.
    """
    lifted = [lift(fn)(*(take(tree, part) for tree in trees)) for part, lift in parts(trees, axis, owner)]
    return lifted[0] if len(lifted) == 1 else _join(lifted)


def parts(trees: Any, axis: TasksAxis, owner: Any = None) -> Iterator[tuple[slice, Callable[..., Any]]]:
    """The slices of the task axis to handle one after another, each with what lifts a function to it."""
    check_axis(axis)
    count = num_tasks(trees)
    if axis == "loop" or (axis == "auto" and owner is not None and owner in _LOOPED):
        size, lift = 1, _one
    elif axis == "auto":
        size = min(count, _paying(trees, count))
        lift = _one if size == 1 < count else lambda fn: _vmap_or_loop(fn, owner)
    else:
        size, lift = (count if axis == "vmap" else int(axis)), _vmap
    for start in range(0, count, size):
        yield slice(start, min(start + size, count)), lift


def _paying(trees: Any, count: int) -> int:
    """How many tasks to lift at once: on a CPU, batches beyond a few MB are several times slower."""
    leaves = list(_tensors(trees))
    if leaves[0].device.type != "cpu":
        return count
    return max(1, _FEW_MB * count // sum(leaf.numel() for leaf in leaves))


def check_axis(axis: TasksAxis) -> None:
    """Raise `ConfigError` unless `axis` is a way to lift tasks."""
    if axis in ("auto", "vmap", "loop") or (
        isinstance(axis, int) and not isinstance(axis, bool) and axis > 0
    ):
        return
    raise ConfigError(
        f"tasks_axis = {axis!r}",
        expected="auto, vmap, loop or a positive chunk size",
        do="choose one of these",
    )


def num_tasks(tree: Any) -> int:
    """The length of the leading task axis of a tree."""
    return next(_tensors(tree)).shape[0]


def take(tree: Any, part: slice | int | Tensor) -> Any:
    """Some tasks (or, with an int, one task) of a tree with a leading task axis."""
    return _map(lambda leaf: leaf[part], tree)


def _vmap(fn: Callable[..., Any]) -> Callable[..., Any]:
    return torch.func.vmap(fn, randomness="error")


def _one(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Lift to a slice of any length by a loop."""

    def lifted(*trees: Any) -> Any:
        results = [fn(*(take(tree, i) for tree in trees)) for i in range(num_tasks(trees))]
        return _join([_map(lambda leaf: leaf[None], result) for result in results])

    return lifted


def _vmap_or_loop(fn: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    def lifted(*trees: Any) -> Any:
        try:
            return _vmap(fn)(*trees)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch has no narrower class, and not every message speaks of vmap
            reason = _reason(error)
        results = _one(fn)(*trees)  # raises in a shape that the user knows, where the fault is not of vmap
        log.warning("tasks run in a loop, since vmap cannot: %s", reason)
        if owner is not None:
            _LOOPED.add(owner)
        return results

    return lifted


def _reason(error: RuntimeError) -> str:
    """What stopped `vmap`, in words: the operator as its message names it, or as the source calls it."""
    text = str(error).strip() or type(error).__name__
    operator = re.search(r"aten::\w+(\.\w+)?", text)
    if operator:
        return f"{operator[0]} has no batching rule"
    if ".item()" in text or "control flow" in text:
        return "the model reads a value out of a tensor (.item(), or an `if` on a tensor)"
    if "random operation" in text:
        return "the model draws random numbers of its own"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name != "__torch_function__"]
    call = re.search(r"(\w+)\(", frames[-1].line or "") if frames else None
    return f"{call[1]}: {text.splitlines()[0]}" if call else text.splitlines()[0]


def _map(fn: Callable[[Tensor], Any], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(fn, node) for name, node in tree.items()}
    if isinstance(tree, tuple):
        nodes = [_map(fn, node) for node in tree]
        return type(tree)(*nodes) if hasattr(tree, "_fields") else tuple(nodes)
    return fn(tree)


def _join(trees: list[Any]) -> Any:
    first = trees[0]
    if isinstance(first, dict):
        return {name: _join([tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple):
        nodes = [_join([tree[i] for tree in trees]) for i in range(len(first))]
        return type(first)(*nodes) if hasattr(first, "_fields") else tuple(nodes)
    return torch.cat(trees)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    else:
        for node in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(node)
