"""Meta-transfer learning: pretrained weights that stay, and a scale and shift of each that are learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import RuleName
from innerloop.algorithms.head import HeadLearner
from innerloop.core.errors import ContractError
from innerloop.core.functional import BatchNormPolicy, Params
from innerloop.core.learner import FROZEN
from innerloop.core.types import Loss, Meta
from innerloop.gradients import Unrolled


class MetaTransfer(HeadLearner):
    """Keeps the filters of a pretrained network, and learns how much of each a few-shot learner should use.

    A layer with weights W and biases b, which are never moved, computes

        y = (W * S1) x + (b + S2)

    with a number in S1 for each kernel of a convolution, or each output of a linear layer, from 1, and one in
    S2 for each bias, from 0. Inner loop: gradient descent on L_S for the head alone, as ANIL's.

    Outer objective: the query loss of the last step, differentiated through all steps.
    Meta-learned: S1 and S2 of every layer but the head, the scales and shifts of normalisations, and the
    initial head. Adapted: the head.

    Cost per inner step: the head's forward and backward pass; the features of the support are computed once,
    where the head is a linear layer that the module ends with and nothing is dropped.

    Strengths: deep networks that few tasks would spoil, where a classifier of many classes can be trained
    first. Without a pretrained network it scales random filters: start from a run of `Baseline`.
    Published: miniImageNet 5-way 1-shot 60.2 +- 1.8, 5-way 5-shot 74.3 +- 0.9 (the paper, ResNet-12);
    miniImageNet 5-way 1-shot 40.97, 5-way 5-shot 57.12 (LibFewShot, four blocks of 64 filters).

    Args:
        module: a pretrained `nn.Module` from [S, ...] to [S, outputs] whose last layer is the head; or one
            that a run fills as it begins (`--start`).
        inner_lr: inner step size, > 0. The official code: 0.01.
        inner_steps: steps in training, >= 0. The official code: 100.
        test_inner_steps: steps at test; None is the same number.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`. Under the
            first two, S2 in front of BatchNorm does nothing, since it is subtracted with the mean.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MetaTransfer(il.models.Conv4(5, width=8))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> meta["frozen"]["body.1.0.weight"].shape, meta["scales"]["body.1.0.weight"].shape
    (torch.Size([8, 8, 3, 3]), torch.Size([8, 8]))

    Differences from the paper: its meta-batches of hard tasks, drawn again from the classes that went worst,
    are not here: the tasks of a step do not depend on what went before. All of `meta` has one outer rate;
    the official code has a larger one for the head, and inner gradients that are constants (`FirstOrder`).

    Reference: Sun, Liu, Chua and Schiele 2019, arXiv 1812.02391.
    """

    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 100,
        test_inner_steps: int | None = None,
        inner_rule: RuleName = "SGD",
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
            inner_rule=inner_rule,
            inner_clip=inner_clip,
            step_weights=step_weights,
            loss=loss,
            batch_norm=batch_norm,
        )
        if not any(leaf.ndim >= 2 for leaf in self._body(self.net.params()).values()):
            raise ContractError(
                f"{type(module).__name__}, which is a head alone",
                expected="a network with layers before its head",
                do="use a deeper module",
            )

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        body = self._body(meta["params"])
        scaled = {name: weight for name, weight in body.items() if weight.ndim >= 2}
        layers = {_layer(name) for name in scaled}
        shifted = {name: b for name, b in body.items() if b.ndim == 1 and _layer(name) in layers}
        frozen = scaled | shifted
        learned = {name: leaf for name, leaf in meta["params"].items() if name not in frozen}
        return meta | {
            "params": learned,
            FROZEN: frozen,
            "scales": {name: torch.ones_like(weight[_each(weight)]) for name, weight in scaled.items()},
            "shifts": {name: torch.zeros_like(bias) for name, bias in shifted.items()},
        }

    def weights(self, meta: Meta) -> Params:
        frozen, scales, shifts = meta[FROZEN], meta["scales"], meta.get("shifts", {})
        scaled = {name: frozen[name] * _beside(scale, frozen[name]) for name, scale in scales.items()}
        return meta["params"] | scaled | {name: frozen[name] + shift for name, shift in shifts.items()}

    def _body(self, params: Params) -> Params:
        head = self.adapts()
        return {name: leaf for name, leaf in params.items() if name not in head}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _each(weight: Tensor) -> tuple[int | slice, ...]:
    """What picks one number for each kernel [o, i] of a convolution, and for each output [o] of a matrix."""
    kept = 2 if weight.ndim > 2 else 1
    return (slice(None),) * kept + (0,) * (weight.ndim - kept)


def _beside(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(*scale.shape, *(1,) * (weight.ndim - scale.ndim))
