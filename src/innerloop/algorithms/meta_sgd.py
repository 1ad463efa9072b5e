"""Meta-SGD: an initialisation, and a rate for each of its numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner
from innerloop.core import tree
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Loss, Meta
from innerloop.gradients import Unrolled
from innerloop.rules import SGD, UpdateRule


class MetaSGD(GradientLearner):
    """Learns, with the initialisation, the direction and the length of the inner step.

    Inner loop: phi_{k+1} = phi_k - a * grad L_S(phi_k), elementwise, from phi_0 = theta.
    Outer objective: the query loss of the last step, differentiated through all steps.
    Meta-learned: theta, and a rate `a` of either sign for every number in it. Adapted: all of theta.

    Cost per inner step: as MAML's. `meta` is twice as large.

    Strengths: where one step must do: its length and direction are learned, so there is no `inner_lr` to
    tune. Not for large models, whose every number gets a rate that can overfit to the training tasks.
    Published: Omniglot 5-way 1-shot 99.53 +- 0.26, 5-way 5-shot 99.93 +- 0.09 (as the T-NAS paper quotes
    it); miniImageNet 5-way 1-shot 50.47 +- 1.87, 5-way 5-shot 64.03 +- 0.94 (as the CAVIA and COMLN papers
    quote it).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: the rates begin uniformly between half of it and one and a half, > 0.
        inner_steps: steps in training, >= 0. The paper: 1.
        test_inner_steps: steps at test; None is the same number.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MetaSGD(il.models.MLP(1, 1), loss="mse")
    >>> sorted(learner.init(torch.Generator().manual_seed(0)))
    ['params', 'rates']

    Differences from the paper: none known; the range that rates are drawn from is ours.

    Reference: Li, Zhou, Chen and Li 2017, arXiv 1707.09835.
    """

    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_clip=inner_clip,
            step_weights=step_weights,
            loss=loss,
            batch_norm=batch_norm,
        )

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)

        def drawn(leaf: Tensor) -> Tensor:
            return self.inner_lr * (0.5 + torch.rand(leaf.shape, generator=rng)).to(leaf)

        return meta | {"rates": tree.map(drawn, meta["params"])}

    def rule_at(self, meta: Meta) -> UpdateRule:
        return SGD(lr=meta["rates"])
