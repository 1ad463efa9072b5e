"""A bounded memory of tasks, from which each that was seen is equally likely to be drawn."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from innerloop.core.rng import choose, key, task_keys, uniform
from innerloop.core.types import Batch, Episode, Meta
from innerloop.training.retain.base import Moment, Remedy
from innerloop.training.retain.config import Balance

_LEAVES = ("support/x", "support/y", "query/x", "query/y")


@final
class TaskMemory(Remedy):
    """Keeps at most `size` tasks, whole, by reservoir sampling (Vitter 1985, algorithm R).

    With `balance="family"` each family seen so far has an equal part of the size and a reservoir of its own;
    when a new family comes, the parts of the others shrink by dropping tasks at random.

    Args:
        seed: of the run; what is kept is a function of it and of the tasks, in their order.
    """

    def __init__(self, size: int, balance: Balance, seed: int) -> None:
        self.size, self.balance, self._seed = size, balance, seed
        self._tasks: list[tuple[Tensor, ...]] = []
        self._families: list[int] = []
        self._seen: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def families(self) -> list[int]:
        """The family of each task that is kept."""
        return list(self._families)

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        return grads

    def take_in(self, tasks: Episode, families: list[int]) -> None:
        """Offer tasks [T, ...] to the memory, in their order."""
        leaves = (*tasks.support, *tasks.query)
        for i, family in enumerate(families):
            place = self._place(family)
            if place is None:
                continue
            one = tuple(leaf[i].detach().clone() for leaf in leaves)
            if place == len(self._tasks):
                self._tasks.append(one)
                self._families.append(family)
            else:
                self._tasks[place], self._families[place] = one, family

    def drawn(self, count: int, place: int) -> tuple[Episode, list[int]] | None:
        """`count` tasks at random with their families, distinct while there are as many; None if empty."""
        held = len(self._tasks)
        if not held or not count:
            return None
        chosen = choose(task_keys(key(place, "replay"), 1), held, min(count, held))[0].tolist()
        chosen = (chosen * -(-count // len(chosen)))[:count]
        leaves = [torch.stack([self._tasks[i][n] for i in chosen]) for n in range(len(_LEAVES))]
        return Episode(Batch(*leaves[:2]), Batch(*leaves[2:])), [self._families[i] for i in chosen]

    def _place(self, family: int) -> int | None:
        """Where the next task of a family goes: the end, in the place of another, or nowhere."""
        group = family if self.balance == "family" else 0
        before = self._seen.get(group, 0)
        self._seen[group] = before + 1
        quota = self._quota(group)
        own = [i for i, f in enumerate(self._families) if self.balance == "reservoir" or f == family]
        if len(own) < quota:
            return len(self._tasks)
        draw = uniform(task_keys(key(self._seed, "reservoir", group, before), 1), 1)[0, 0]
        slot = int(draw * (before + 1))
        return own[slot] if slot < quota else None

    def _quota(self, group: int) -> int:
        """The tasks that a group may keep; those of the others are dropped down to theirs."""
        if self.balance == "reservoir":
            return self.size
        groups = sorted(self._seen)
        quotas = {g: self.size // len(groups) + (n < self.size % len(groups)) for n, g in enumerate(groups)}
        for other in groups:
            own = [i for i, f in enumerate(self._families) if f == other]
            if len(own) > quotas[other]:
                kept = choose(
                    task_keys(key(self._seed, "shrink", other, len(groups)), 1), len(own), quotas[other]
                )
                gone = set(own) - {own[i] for i in kept[0]}
                self._tasks = [t for i, t in enumerate(self._tasks) if i not in gone]
                self._families = [f for i, f in enumerate(self._families) if i not in gone]
        return quotas[group]

    def tensors(self) -> dict[str, Tensor]:
        if not self._tasks:
            return {}
        return {name: torch.stack([task[n] for task in self._tasks]) for n, name in enumerate(_LEAVES)}

    def values(self) -> dict[str, Any]:
        return {"families": self.families, "seen": {str(group): n for group, n in self._seen.items()}}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._families = list(values.get("families", []))
        self._seen = {int(group): n for group, n in values.get("seen", {}).items()}
        leaves = [tensors[name] for name in _LEAVES if name in tensors]
        self._tasks = [tuple(leaf[i].clone() for leaf in leaves) for i in range(len(self._families))]
