"""ALFA: the rate and the weight decay of every inner step, generated from where it is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner, at_step
from innerloop.core.errors import check_range
from innerloop.core.functional import BatchNormPolicy, FunctionalModule
from innerloop.core.types import Batch, Fast, Loss, Meta, Tree
from innerloop.gradients import Unrolled
from innerloop.models import MLP
from innerloop.rules import UpdateRule


class ALFA(GradientLearner):
    """Learns, with the initialisation, a small network that sets the step sizes of each task's inner loop.

    For every layer l (a parameter tensor) and step k, with g a network of one hidden layer,

        (u, v) = g(mean of phi_l, mean of grad_l L_S; all layers l)
        phi_l <- (1 - b_{l,k} v_l) phi_l - a_{l,k} u_l grad_l L_S

    Outer objective: the query loss of the last step, differentiated through all steps, g included.
    Meta-learned: theta, g, and the factors a and b of each layer and step. Adapted: all of theta.

    Cost per inner step: as MAML's; g has 2 L inputs, hidden units and outputs for L layers, which is little.

    Strengths: tasks that need other step sizes than the training tasks did, and many inner steps; g has the
    layers of one network, so that it is of no use to another.
    Published: miniImageNet 5-way 1-shot 50.58 +- 0.51, 5-way 5-shot 69.12 +- 0.47 (secondary sources, four
    convolutions); miniImageNet 5-way 1-shot 59.74 +- 0.49, 5-way 5-shot 77.96 +- 0.41 (secondary sources,
    ResNet-12).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: where the factors `a` begin, > 0.
        weight_decay: the factors `b` begin at `inner_lr` times it, >= 0.
        inner_steps: steps in training, >= 0. The official code: 5.
        test_inner_steps: steps at test; None is the same number. Steps beyond the training ones take the last
            one's factors.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    Rates that grow with the gradient can make a task diverge where losses have no bound (squared errors), and
    one such task spoils an outer step: train with `--optimizer.clip_norm 10`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.ALFA(il.models.MLP(1, 1, hidden=(8,)), inner_steps=2, loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> meta["rates"]["head.bias"], meta["generator"]["head.weight"].shape
    (tensor([0.0100, 0.0100]), torch.Size([8, 8]))

    Differences from the paper: g begins near 1 (its last bias is 1), so that training begins near MAML; in
    the official code it begins near 0. The official code holds the gradient means constant that g is given;
    here the meta-gradient is exact. BatchNorm's scale and shift adapt, which the official code leaves alone.
    There is no variant with a random initialisation that is not learned.

    Reference: Baik, Choi, Choi, Kim and Lee 2020, arXiv 2011.00209.
    """

    gradient = Unrolled()
    steps_alike = False

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        weight_decay: float = 5e-4,
        inner_steps: int = 5,
        test_inner_steps: int | None = None,
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_range("weight_decay", weight_decay, low=0.0)
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
        self.weight_decay = weight_decay
        size = 2 * len(self.adapts())
        self._wrap(module, loss, batch_norm, parts={"generator": MLP(size, size, hidden=(size,))})

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        generator = meta["generator"]
        generator |= {"head.bias": torch.ones_like(generator["head.bias"])}
        steps = max(1, self.inner_steps)

        def factors(value: float) -> dict[str, Tensor]:
            return {name: p.new_full((steps,), value) for name, p in meta["params"].items()}

        decays = factors(self.inner_lr * self.weight_decay)
        return meta | {"generator": generator, "rates": factors(self.inner_lr), "decays": decays}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return super().step(meta | at_step(meta, ("rates", "decays"), k), fast, support, k)

    def rule_at(self, meta: Meta) -> UpdateRule:
        return _Generated(self.parts["generator"], meta["generator"], meta["rates"], meta["decays"])


@dataclass(frozen=True)
class _Generated:
    """Gradient descent with weight decay, whose numbers a network makes of what it is given."""

    net: FunctionalModule
    weights: dict[str, Tensor]
    rates: dict[str, Tensor]
    decays: dict[str, Tensor]

    def init(self, params: dict[str, Tensor]) -> Tree:
        return {}

    def step(
        self, grads: dict[str, Tensor], state: Tree, params: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tree]:
        means = [node[name].mean() for node in (params, grads) for name in params]
        scales, decays = self.net(self.weights, torch.stack(means)[None])[0].chunk(2)
        return {
            name: (1.0 - self.decays[name] * decays[i]) * p - self.rates[name] * scales[i] * grads[name]
            for i, (name, p) in enumerate(params.items())
        }, state
