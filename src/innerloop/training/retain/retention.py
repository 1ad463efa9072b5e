"""All that a run does against forgetting: its remedies, in a fixed order, and the memory that they share."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import join, num_tasks, take
from innerloop.training.retain.anchor import Anchor
from innerloop.training.retain.base import Moment, Remedy
from innerloop.training.retain.config import RetainConfig
from innerloop.training.retain.consolidation import Consolidation
from innerloop.training.retain.distillation import Distillation
from innerloop.training.retain.intelligence import Intelligence
from innerloop.training.retain.memory import TaskMemory
from innerloop.training.retain.projection import Projection
from innerloop.training.retain.recollection import Recollection


@final
class Retention:
    """The remedies that a configuration turns on.

    A projection comes before whatever adds to the gradient: it is about the gradient of tasks.
    """

    def __init__(self, config: RetainConfig, seed: int) -> None:
        self.config = config
        self._memory = TaskMemory(config.memory, config.balance, seed)
        on: dict[str, Remedy | None] = {
            "memory": self._memory if config.remembers else None,
            "project": Projection(self._memory) if config.project else None,
            "distill": Distillation(config.distill) if config.distill else None,
            "l2": Anchor(config.l2) if config.l2 else None,
            "ewc": Consolidation(config.ewc, config.ewc_decay) if config.ewc else None,
            "recall": Recollection() if config.recall else None,
            "si": Intelligence(config.si, config.si_damping) if config.si else None,
        }
        self._remedies = {name: remedy for name, remedy in on.items() if remedy is not None}

    @property
    def active(self) -> bool:
        """Whether anything is done at all."""
        return bool(self._remedies)

    @property
    def takes_stock(self) -> bool:
        """Whether anything is done at the end of a stage."""
        return bool(self._remedies.keys() - {"memory", "project"})

    def mixed(self, tasks: Episode, families: list[int], key: int) -> tuple[Episode, list[int]]:
        """A step's tasks with a share of them from the memory in the place of the last ones."""
        count = round(self.config.replay * len(families))
        found = self._memory.drawn(count, key)
        if found is None:
            return tasks, families
        left = len(families) - count
        remembered, theirs = found
        return join([take(tasks, slice(0, left)), remembered]), families[:left] + theirs

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        """The meta-gradient to follow."""
        for remedy in self._remedies.values():
            grads = remedy.changed(grads, moment)
        return grads

    def stepped(self, grads: Meta, before: Meta, after: Meta, tasks: Episode, families: list[int]) -> None:
        """Take note of a step, and keep some of its tasks."""
        for remedy in self._remedies.values():
            remedy.stepped(grads, before, after)
        if "memory" in self._remedies:
            count = num_tasks(tasks) - (round(self.config.replay * len(families)) if len(self._memory) else 0)
            self._memory.take_in(take(tasks, slice(0, count)), families[:count])

    def stage_ended(self, moment: Moment) -> None:
        """Take stock of what a stage has taught."""
        for remedy in self._remedies.values():
            remedy.stage_ended(moment)

    def anchored(self, meta: Meta) -> None:
        """Take the meta-parameters of an earlier run for a first anchor."""
        for remedy in self._remedies.values():
            remedy.anchored(meta)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, by path."""
        return {
            f"retain/{name}/{path}": leaf.detach().contiguous()
            for name, remedy in self._remedies.items()
            for path, leaf in remedy.tensors().items()
        }

    def values(self) -> dict[str, Any]:
        """The rest of it, as plain values."""
        return {name: remedy.values() for name, remedy in self._remedies.items()}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any], device: Any) -> None:
        """Take over what a checkpoint kept."""
        for name, remedy in self._remedies.items():
            start = f"retain/{name}/"
            own = {
                p.removeprefix(start): leaf.to(device) for p, leaf in tensors.items() if p.startswith(start)
            }
            remedy.restore(own, values.get(name, {}))


def retention(config: RetainConfig, seed: int) -> Retention | None:
    """The remedies of a run, or None where there are none."""
    found = Retention(config, seed)
    return found if found.active else None
