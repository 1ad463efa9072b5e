"""What the models of this package offer beyond `nn.Module`: drawing their weights, and fitting a task."""

from __future__ import annotations

import copy
from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.core.types import TaskSpec


class Model(nn.Module):
    """A module whose weights are a function of a generator, never of the global one.

    A subclass is final, holds its arguments on `self`, and calls `draw` at the end of its constructor.
    """

    @abstractmethod
    def draw(self, rng: torch.Generator) -> None:
        """Draw all weights in place."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """The width of its outputs; of its embedding, where it ends before the head."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of an output before it was flattened: that of maps [C, H, W], where it ends with some."""
        return (self.output_size,)

    @classmethod
    @abstractmethod
    def sizes_for(cls, spec: TaskSpec, *, embeds: bool) -> dict[str, Any]:
        """The constructor arguments that the tasks decide: input and output sizes.

        A learner that `embeds` needs no output a class, so the model ends before the head.
        """


def fresh_parameters(module: nn.Module, rng: torch.Generator) -> dict[str, Tensor] | None:
    """Parameters drawn from `rng`, if the module is one of ours and exactly as it was made; else None.

    A model that was trained or loaded differs from a newly made one, so its weights are kept.
    """
    if not isinstance(module, Model):
        return None
    twin = copy.deepcopy(module)
    twin.draw(first_draw())
    made = dict(twin.named_parameters())
    if not all(torch.equal(made[name].to(p.device, p.dtype), p) for name, p in module.named_parameters()):
        return None
    twin.draw(rng)
    return {name: p.detach().clone() for name, p in twin.named_parameters()}


def first_draw() -> torch.Generator:
    """The generator that a newly made model draws its weights from."""
    return torch.Generator().manual_seed(0)


def global_rng_untouched() -> AbstractContextManager[None]:
    """While torch makes layers, which it draws from its global generator before `draw` does so again."""
    return torch.random.fork_rng(devices=[])
