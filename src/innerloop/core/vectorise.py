"""The one place that lifts a function of one task to many: `vmap`, chunks of it, or a loop; over threads."""

from __future__ import annotations

import contextvars
import logging
import re
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from innerloop.core.errors import ConfigError
from innerloop.core.memory import is_allocation_failure

log = logging.getLogger("innerloop")


@dataclass(frozen=True)
class Lifting:
    """A settled way to lift tasks.

    Attributes:
        size: tasks handled at once.
        vmap: whether they are lifted by `torch.func.vmap`; otherwise one after another.
        threads: parts of `size` tasks handled side by side, each with one-threaded kernels.
        cores: threads of each kernel where parts are not spread; None leaves torch's number.
        fallback: whether what `vmap` cannot lift is run one task after another instead.
    """

    size: int
    vmap: bool = True
    threads: int = 1
    cores: int | None = None
    fallback: bool = False

    def __str__(self) -> str:
        how = f"vmap of {self.size}" if self.vmap else "loop"
        return f"{how} on {self.threads} threads" if self.threads > 1 else how


TasksAxis: TypeAlias = Literal["auto", "vmap", "loop"] | int | Lifting
Lift: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

_FEW_MB = 2**18  # numbers in the inputs of the tasks lifted at once
_CHUNK = 8  # tasks from which on several chunks are faster than a loop
_LIGHT = 2**21  # multiply-adds of a pass over all tasks below which a second core only costs
_HEAVY = 2**19  # multiply-adds of a pass over a part from which on it keeps a thread busy
_LOOPED: weakref.WeakSet[Any] = weakref.WeakSet()  # owners whose operators have no batching rule


def over_tasks(fn: Callable[..., Any], *trees: Any, axis: TasksAxis = "auto", owner: Any = None) -> Any:
    """Apply a function of one task to trees with a leading task axis; outputs are stacked.

    Args:
        fn: from one task's trees to a tree of tensors (dicts and tuples).
        axis: see `lifting`.
        owner: what `auto` remembers its choice by, usually the learner.
    """
    lifted = each_part(
        lambda part, lift: lift(fn)(*(take(tree, part) for tree in trees)),
        trees,
        lifting(axis, trees, owner),
        owner,
    )
    return join(lifted)


def lifting(axis: TasksAxis, trees: Any, owner: Any = None, work: float = 0.0) -> Lifting:
    """The way that `axis` stands for on these tasks.

    `vmap` is all tasks at once, an integer is chunks of that many, `loop` is one after another. `auto` is
    `vmap` of all tasks where their inputs are small, of chunks where there are many, and otherwise the
    loop, as it is for an `owner` that `vmap` cannot lift; on a CPU it spreads parts that are heavy enough
    over as many threads as torch may use, if the owner is `concurrent`, and has several in memory at once.
    What is light runs on one core.
    """
    if isinstance(axis, Lifting):
        return axis
    check_axis(axis)
    count = num_tasks(trees)
    cpu = _device(trees).type == "cpu"
    cores = torch.get_num_threads() if cpu else 1
    size = 1 if axis == "loop" else count if axis == "vmap" else axis
    if size == "auto":
        size = _paying(trees, count) if cpu else count
        size = 1 if (owner is not None and owner in _LOOPED) or size < min(count, _CHUNK) else size
    size = min(size, count)
    vmap = axis != "loop" and (axis != "auto" or size > 1 or count == 1)
    spread = axis == "auto" and size * work >= _HEAVY and getattr(owner, "concurrent", False)
    threads = min(cores, -(-count // size)) if spread else 1
    light = cpu and 0 < count * work < _LIGHT
    return Lifting(size, vmap, threads, cores=1 if light else None, fallback=axis == "auto" and vmap)


def each_part(fn: Callable[[slice, Lift], Any], trees: Any, how: Lifting, owner: Any = None) -> list[Any]:
    """`fn(part, lift)` for each slice of the task axis; `lift` brings a function of one task to the slice."""
    count = num_tasks(trees)
    slices = [slice(start, min(start + how.size, count)) for start in range(0, count, how.size)]

    def lift(one: Callable[..., Any]) -> Callable[..., Any]:
        if not how.vmap:
            return _one(one)
        return _vmap_or_loop(one, owner) if how.fallback else _vmap(one)

    if how.threads == 1 or len(slices) == 1:
        with _cores(how.cores):
            return [fn(part, lift) for part in slices]
    return _side_by_side([lambda part=part: fn(part, lift) for part in slices], how.threads)


def candidates(count: int, cores: int) -> list[Lifting]:
    """Every way worth trying for `count` tasks: the loop, and `vmap` of 1, 2, 4, ... tasks, spread or not."""
    sizes = sorted({min(2**i, count) for i in range(count.bit_length() + 1)} | {count, -(-count // cores)})
    found = []
    for threads in sorted({1, cores}):
        most = [Lifting(1, vmap=False)] + [Lifting(size) for size in sizes]
        found += [Lifting(w.size, w.vmap, threads) for w in most if -(-count // w.size) >= threads]
    return found


@contextmanager
def _cores(number: int | None) -> Iterator[None]:
    """Run the block with kernels on some cores: handing a small one to another core takes longer than it."""
    before = torch.get_num_threads()
    if number is None or number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _side_by_side(jobs: list[Callable[[], Any]], threads: int) -> list[Any]:
    """Run jobs on threads whose kernels use one core each, in the context of the caller."""
    cores = torch.get_num_threads()
    contexts = [contextvars.copy_context() for _ in jobs]
    try:
        with ThreadPoolExecutor(threads, "innerloop", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(lambda context, job: context.run(job), contexts, jobs))
    finally:
        torch.set_num_threads(cores)  # a thread's setting is also what threads started later begin with


def _paying(trees: Any, count: int) -> int:
    """How many tasks to lift at once: on a CPU, batches beyond a few MB are several times slower."""
    return max(1, _FEW_MB * count // sum(leaf.numel() for leaf in _tensors(trees)))


def check_axis(axis: TasksAxis) -> None:
    """Raise `ConfigError` unless `axis` is a way to lift tasks."""
    if axis in ("auto", "vmap", "loop") or isinstance(axis, Lifting):
        return
    if isinstance(axis, int) and not isinstance(axis, bool) and axis > 0:
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
        return join([_map(lambda leaf: leaf[None], result) for result in results])

    return lifted


def _vmap_or_loop(fn: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    def lifted(*trees: Any) -> Any:
        if owner is not None and owner in _LOOPED:
            return _one(fn)(*trees)
        try:
            return _vmap(fn)(*trees)
        except RuntimeError as error:  # torch has no narrower class, and not every message speaks of vmap
            if is_allocation_failure(error):
                raise
            reason = _reason(error)
        results = _one(fn)(*trees)  # raises in a shape that the user knows, where the fault is not of vmap
        if owner is None or owner not in _LOOPED:
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


def join(trees: list[Any]) -> Any:
    """Trees of several parts as one, along the task axis."""
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, dict):
        return {name: join([tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple):
        nodes = [join([tree[i] for tree in trees]) for i in range(len(first))]
        return type(first)(*nodes) if hasattr(first, "_fields") else tuple(nodes)
    return torch.cat(trees)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    else:
        for node in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(node)


def _device(tree: Any) -> torch.device:
    return next(_tensors(tree)).device
