"""Pure functions of tensors as compiled graphs, each traced and compiled once.

A function is traced below autograd and `torch.func`, so that its graph holds plain arithmetic: derivatives
and task axes are already in it, and no Python runs between its operators. What is static in it (a learner's
settings, the number of steps) has to be in its key.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from innerloop.core import tree
from innerloop.core.mode import mode, running_in
from innerloop.core.types import Tree

log = logging.getLogger("innerloop")

Fn = Callable[..., Tree]


def eagerly(fn: Fn, key: Hashable, *trees: Tree) -> Tree:
    """What runs a function without compiling it."""
    return fn(*trees)


class Compiler:
    """Runs functions as compiled graphs, of which it keeps one for each key and shape of inputs.

    Attributes:
        seconds: time spent on tracing and compiling so far.
        failure: why it runs everything eagerly; None while all is well.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.failure: str | None = None
        self._graphs: dict[Hashable, _Graph] = {}
        self._lock = threading.Lock()

    def __call__(self, fn: Fn, key: Hashable, *trees: Tree) -> Tree:
        if self.failure is not None:
            return fn(*trees)
        now = mode()
        leaves = [leaf for node in trees for leaf in tree.leaves(node)]
        leaves.append(_progress(now.progress, leaves))
        shapes = tuple((tuple(leaf.shape), leaf.dtype, leaf.device) for leaf in leaves)
        full = (key, tuple(map(tree.structure, trees)), shapes, now.ways, now.training, now.precision)
        with self._lock:
            graph = self._graphs.get(full)
            if graph is None:
                graph = self._made(fn, trees, leaves)
                if graph is None:
                    return fn(*trees)
                self._graphs[full] = graph
        return graph(leaves)

    def _made(self, fn: Fn, trees: tuple[Tree, ...], leaves: list[Tensor]) -> _Graph | None:
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler about itself
                graph = _Graph(fn, trees, leaves)
                graph(leaves)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever stops a compiler, training goes on without it
            self.failure = _reason(error)
            log.warning("steps run eagerly, since they cannot be compiled: %s", self.failure)
            return None
        taken = time.perf_counter() - started
        self.seconds += taken
        log.info("compiled a graph in %.0f s", taken)
        return graph


def _progress(progress: float | Tensor, beside: list[Tensor]) -> Tensor:
    """How far training is, as a number of the type and on the device of a graph's other inputs."""
    like = next((leaf for leaf in beside if leaf.is_floating_point()), torch.empty(0))
    return torch.as_tensor(progress, dtype=like.dtype, device=like.device)


def _reason(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # the compiler wraps what its back end raised
    return next(iter(str(cause).strip().splitlines()), type(cause).__name__)[:200]


class _Graph:
    def __init__(self, fn: Fn, trees: tuple[Tree, ...], leaves: list[Tensor]) -> None:
        self._outputs: Tree = {}

        def flat(*given: Tensor) -> list[Tensor]:
            supply = iter(given)
            with running_in(progress=given[-1]):  # it changes with every outer step, so it is no constant
                found = fn(*(tree.map(lambda _: next(supply), node) for node in trees))
            self._outputs = tree.map(lambda _: 0, found)
            return [leaf.detach() for leaf in tree.leaves(found)]

        traced = make_fx(flat)(*leaves)
        self._cuda = leaves[0].device.type == "cuda"
        # On CUDA, "reduce-overhead" records the whole graph and replays it: small kernels without launches.
        self._run = torch.compile(
            traced, fullgraph=True, dynamic=False, mode="reduce-overhead" if self._cuda else None
        )

    def __call__(self, leaves: list[Tensor]) -> Tree:
        with torch.no_grad():
            found = self._run(*leaves)
        if self._cuda:  # a replay writes its outputs to the same place again
            found = [leaf.clone() for leaf in found]
        return tree.rebuild(self._outputs, found)


_COMPILERS: weakref.WeakKeyDictionary[Any, Compiler] = weakref.WeakKeyDictionary()


def compiler_of(owner: Any) -> Compiler:
    """The compiler that keeps an owner's graphs for as long as the owner lives."""
    if owner not in _COMPILERS:
        _COMPILERS[owner] = Compiler()
    return _COMPILERS[owner]


def settings(owner: Any) -> Hashable:
    """The plain settings of an object, which a graph has taken as constants."""
    return tuple((name, _hashable(value)) for name, value in vars(owner).items())


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
