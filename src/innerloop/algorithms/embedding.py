"""What the learners share that need no inner step: support and queries in one learned space."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import count_ways, mode
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled


class EmbeddingLearner(ModuleLearner, ABC):
    """Embeds support and queries in one pass, and compares them there (`outputs`).

    Args:
        module: any embedding, [S, ...] to [S, D] (or to maps, which are flattened).
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.
    """

    solves = ("cross_entropy",)
    embeds = any_ways = amortised = True
    inner_steps = test_inner_steps = 0
    gradient = Unrolled()

    def __init__(self, module: nn.Module, *, batch_norm: BatchNormPolicy = "running") -> None:
        self._wrap(module, "cross_entropy", batch_norm)

    @abstractmethod
    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Outputs [Q, ways] for embedded queries [Q, D], of embedded support [S, D] and labels [S, ways].

        Labels are one-hot; whatever weighs an example by them also weighs it under `vmap`.
        """

    def begin(self, meta: Meta, support: Batch) -> Fast:
        ways = mode().ways or count_ways(support.y)
        labels = torch.nn.functional.one_hot(support.y, ways or -1)
        return {DATA: {"support": support.x, "labels": labels.to(support.x.dtype)}}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return fast

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        support, labels = fast[DATA]["support"], fast[DATA]["labels"]
        rows = len(support)
        both = torch.cat([support, inputs])  # one pass for both: what BatchNorm sees, and half the calls
        embedded = self.net.joint(meta.get("params", {}), both, rows=rows, statistics=meta.get(STATISTICS))
        embedded = embedded.flatten(1)
        return self.outputs(meta, embedded[:rows], labels, embedded[rows:])


def unit(rows: Tensor) -> Tensor:
    """Rows [S, D] at length one; a row of zeros stays one, and passes its gradient on unscaled.

    They are scaled first, so that the square of no length overflows or vanishes.
    """
    largest = rows.detach().abs().amax(1, keepdim=True)
    rows = rows / torch.where(largest == 0, 1.0, largest)
    length = rows.square().sum(1, keepdim=True)
    return rows * torch.where(length == 0, 1.0, length).rsqrt()


def with_ones(rows: Tensor) -> Tensor:
    """Rows [S, D] with a column of ones [S, D + 1], so that a linear function of them may have a bias."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
