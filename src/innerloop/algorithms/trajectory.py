"""What the learners share whose inner loop reads the support in its order, a few examples a step."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import RuleName
from innerloop.algorithms.head import HeadLearner
from innerloop.core.errors import check_count
from innerloop.core.functional import BatchNormPolicy, Params
from innerloop.core.losses import loss_value
from innerloop.core.mode import mode
from innerloop.core.rng import fold_key, keyed_normal
from innerloop.core.types import Batch, Fast, Loss, Meta

_FRESH = -(2**20)  # of a task's key, apart from those of inner steps (from 0) and of layers (from -1 down)


class TrajectoryLearner(HeadLearner, ABC):
    """Adapts the head along the support, one example after another, as they come.

    Step k learns from the next `inner_batch` examples of the support; the first follow on the last.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] whose last layer is the head.
        inner_lr: inner step size, > 0.
        inner_steps: steps in training, >= 0; as many as the support has examples are one pass.
        test_inner_steps: steps at test; None is the same number.
        inner_batch: examples a step, >= 1.
        reset: whether the head's rows for the classes of a support begin anew in each task.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: weights of the query loss after each inner step; None is the last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.
    """

    ordered = True
    steps_alike = False
    small = {"inner_lr": 0.5, "inner_steps": 6}

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.03,
        inner_steps: int = 15,
        test_inner_steps: int | None = None,
        inner_batch: int = 1,
        reset: bool = True,
        inner_rule: RuleName = "SGD",
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        self.reset = reset
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_rule=inner_rule,
            inner_clip=inner_clip,
            step_weights=step_weights,
            loss=loss,
            batch_norm=batch_norm,
        )
        self.inner_batch = check_count("inner_batch", inner_batch)

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = super().begin(meta, support)
        if not self.reset or self.loss != "cross_entropy":
            return fast
        return fast | {"params": renewed(fast["params"], support.y)}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        rows = turn(len(support.y), k, self.inner_batch or 1)
        once = "features" in fast
        here = fast | {"features": fast["features"][rows]} if once else fast

        def loss(params: Params) -> Tensor:
            # Without features of its own a step computes those of the whole support, since that is what
            # BatchNorm has its statistics of.
            outputs = self.support_outputs(meta, here, params, support.x)
            return loss_value(self.loss, outputs if once else outputs[rows], support.y[rows])

        return self.descended(meta, fast, loss)


def turn(size: int, k: int, each: int) -> list[int]:
    """The rows of a support of that size that step `k` learns from: the next `each`, round and round."""
    each = min(each, size)
    return [(k * each + i) % size for i in range(each)]


def renewed(head: Params, labels: Tensor) -> Params:
    """A head whose rows for the classes of `labels` [S] are drawn anew, normal of variance 2 / width.

    Where those are all rows there are, they stay: a task that has every class begins with what was learned.
    """
    key = mode().root
    if key is None:  # nothing may be drawn at random here, so all tasks have one draw
        key = torch.zeros((), dtype=torch.int64, device=labels.device)
    key = fold_key(key, _FRESH)

    def anew(name: str, leaf: Tensor) -> Tensor:
        if not name.endswith("weight") or leaf.ndim != 2:
            return leaf
        present = (labels[:, None] == torch.arange(len(leaf), device=labels.device)).any(0)
        chosen = present & ~present.all()
        fresh = keyed_normal(key, tuple(leaf.shape)).to(leaf.dtype) * (2.0 / leaf.shape[1]) ** 0.5
        return torch.where(chosen[:, None], fresh, leaf)

    return {name: anew(name, leaf) for name, leaf in head.items()}
