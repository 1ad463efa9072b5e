"""A learner with a memory: a task begins from what was learned when such tasks came."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from itertools import chain
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.learner import DATA, FROZEN, MEMORY, without_memory
from innerloop.core.likeness import embedding, log_likelihoods, no_keys
from innerloop.core.mode import mode
from innerloop.core.types import Batch, Fast, Meta

Learner = TypeVar("Learner", bound=ModuleLearner)


def recalling(learner: Learner, slots: int) -> Learner:
    """The same learner with an external memory of so many slots, which `begin` reads outside of training.

    A slot is a pair: its key says which tasks it is for (`core/likeness.py`), its value is all that was
    learned until then. `meta["memory"]` holds them; a task is adapted to from the value whose key fits its
    support set best, or from what is learned today, which has a key too. In training nothing is read.
    Writing is not the learner's: see `training/retain/recollection.py`. Keys are made of support sets as
    large as those of training; with fewer examples they are less sure.

    Cost: the memory holds `slots` times what `meta` does; a task is embedded once, with D = 128 features and
    a triangular system of as many unknowns for each key.

    Reference: a memory beside the network is that of Santoro et al. 2016; initialisations by kind of task are
    those of Jerfel et al. 2019 (arXiv 1812.06080) and Yao et al. 2019 (arXiv 1905.05301). Keys and values
    are ours.

    >>> import torch, innerloop as il
    >>> learner = recalling(il.algorithms.MAML(il.models.MLP(1, 1, hidden=(8,)), loss="mse"), 2)
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> meta["memory"]["values"]["params"]["head.weight"].shape
    torch.Size([2, 1, 8])
    """
    if hasattr(learner, "memory_slots"):
        return learner
    other = copy.copy(learner)
    other.__class__ = _with_memory(type(learner), slots)
    return other


def remembered(meta: Meta) -> Meta:
    """The part of `meta` that a slot keeps: all that changes in training."""
    return {name: node for name, node in meta.items() if name not in (MEMORY, FROZEN)}


@cache
def _with_memory(kind: Any, slots: int) -> Any:
    """A subclass of a learner's class, under its name: what it is and what it can do stay the same."""

    @final
    class Recalling(kind):
        memory_slots = slots

        def init(self, rng: torch.Generator) -> Meta:
            meta = super().init(rng)
            values = tree.map(lambda leaf: leaf.new_zeros((slots, *leaf.shape)), remembered(meta))
            return meta | {MEMORY: {"keys": no_keys(1 + slots), "values": values}}

        def begin(self, meta: Meta, support: Batch) -> Fast:
            if MEMORY not in meta or mode().training or not len(support.x):
                return super().begin(without_memory(meta), support)
            value = _fitting(meta, support)
            fast = super().begin(without_memory(meta) | value, support)
            return fast | {DATA: fast.get(DATA, {}) | {"recalled": value}}

        def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
            return super().step(_begun_from(meta, fast), fast, support, k)

        def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
            return super().predict(_begun_from(meta, fast), fast, inputs)

        def predict_each(self, meta: Meta, states: Iterable[Fast], inputs: Tensor) -> list[Tensor]:
            rest = iter(states)
            first = next(rest)
            return super().predict_each(_begun_from(meta, first), chain([first], rest), inputs)

        def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
            return super().query_loss(_begun_from(meta, fast), fast, query)

        def distribution(self, meta: Meta, fast: Fast, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return super().distribution(_begun_from(meta, fast), fast, inputs)

        def displaced(self, meta: Meta, fast: Fast) -> Meta:
            """Without a memory: what goes on from here is one line of tasks, to which nothing is recalled."""
            return super().displaced(_begun_from(meta, fast), fast)

    Recalling.__name__, Recalling.__qualname__ = kind.__name__, kind.__qualname__
    Recalling.__module__, Recalling.__doc__ = kind.__module__, kind.__doc__
    return Recalling


def _begun_from(meta: Meta, fast: Fast) -> Meta:
    """What a task's state began from."""
    return without_memory(meta) | fast.get(DATA, {}).get("recalled", {})


def _fitting(meta: Meta, support: Batch) -> Meta:
    """The value whose key is likeliest for the support set; today's where no key knows of tasks."""
    keys, values = meta[MEMORY]["keys"], meta[MEMORY]["values"]
    place = log_likelihoods(keys, embedding(keys["scale"], support)).nan_to_num(nan=-torch.inf).argmax(-1)

    def chosen(today: Tensor, slots: Tensor) -> Tensor:
        return torch.cat([today[None], slots]).index_select(0, place.reshape(1))[0]

    return tree.map(chosen, remembered(meta), values)
