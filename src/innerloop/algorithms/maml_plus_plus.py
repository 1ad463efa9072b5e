"""MAML++: MAML, with what makes it train steadily."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner, at_step
from innerloop.algorithms.layers import normalisation_parameters
from innerloop.core.errors import check_range
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.mode import mode
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients import Unrolled
from innerloop.rules import SGD, UpdateRule

_FLOOR = 0.03  # of the weights of all steps but the last, as a share of where they begin


class MAMLPlusPlus(GradientLearner):
    """MAML whose every step has rates, normalisations and a share of the objective of its own.

    For every layer l (a parameter tensor) and inner step k of K, with learned rates a:

        phi_{l, k+1} = phi_{l, k} - a_{l, k} grad_l L_S(phi_k)

    Normalisations have a scale and a shift for each step, which do not adapt.

    Outer objective: the sum of v_k L_Q(phi_k) over k = 1 ... K. The weights v begin at 1/K each; those before
    the last fall linearly to 0.03/K, and the last takes the rest.
    Meta-learned: theta, the rates of each layer and step, the normalisations of each step. Adapted: theta.

    Cost per inner step: as MAML's, and in training a forward and backward pass on the query set.

    Strengths: deep networks and several inner steps, where MAML is unsteady; little to tune, since rates are
    learned. Every step costs a look at the query set.
    Published: Omniglot 5-way 1-shot 99.47, 5-way 5-shot 99.93; miniImageNet 5-way 1-shot 52.15 +- 0.26, 5-way
    5-shot 68.32 +- 0.44 (secondary sources; the official code averages five checkpoints at test).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: where the rates begin, > 0. The official code: 0.1 on Omniglot, 0.01 on miniImageNet.
        inner_steps: steps in training, >= 0. The official code: 5.
        test_inner_steps: steps at test; None is the same number. Steps beyond the training ones take the last
            one's rates and normalisations.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        anneal_until: the share of training over which the weights fall, in [0, 1]; 0 is none of it. The
            official code: 10 of 100 epochs on Omniglot, 15 on miniImageNet.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    The paper's cosine schedule is the outer optimizer's: `--optimizer.schedule cosine --optimizer.min_lr
    1e-5`; its first-order beginning, which the official configurations leave out, is the outer loop's:
    `--objective.first_order_until 0.5`. Where losses have no bound (squared errors), one task that diverges
    under its learned rates spoils an outer step: there, train with `--optimizer.clip_norm 10`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MAMLPlusPlus(il.models.Conv4(ways=5, width=8), inner_steps=3)
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> meta["rates"]["head.bias"].shape, meta["norms"]["body.0.1.weight"].shape
    (torch.Size([3]), torch.Size([3, 8]))

    Differences from the paper: weights fall at every outer step, not once an epoch, and keep their floor;
    the official code drops all but the last once they have fallen. Statistics of BatchNorm follow
    `batch_norm` and are not kept for each step; the official code keeps them so and never uses them. Other
    normalisations are treated as BatchNorm is.

    Reference: Antoniou, Edwards and Storkey 2019, arXiv 1810.09502.
    """

    gradient = Unrolled()
    steps_alike = False

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        test_inner_steps: int | None = None,
        inner_clip: float | None = None,
        anneal_until: float = 0.1,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_range("anneal_until", anneal_until, low=0.0, high=1.0)
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_clip=inner_clip,
            loss=loss,
            batch_norm=batch_norm,
        )
        self.anneal_until = anneal_until
        self._norms = normalisation_parameters(module)

    def objective_weights(self) -> Sequence[float | Tensor] | None:
        steps = self.inner_steps
        if steps == 0:
            return None
        left = 1.0 - mode().progress / self.anneal_until if self.anneal_until else 0.0
        left = left.clamp(min=_FLOOR) if isinstance(left, Tensor) else max(left, _FLOOR)
        return (*(left / steps,) * (steps - 1), 1.0 - (steps - 1) * left / steps)

    def adapts(self) -> set[str]:
        return set(self.net.names) - self._norms

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        steps = max(1, self.inner_steps)
        params = {name: p for name, p in meta["params"].items() if name not in self._norms}
        rates = {name: p.new_full((steps,), self.inner_lr) for name, p in params.items()}
        norms = {name: torch.stack([p] * steps) for name, p in meta["params"].items() if name in self._norms}
        return meta | {"params": params, "rates": rates} | ({"norms": norms} if norms else {})

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return super().begin(meta, support) | self._norms_at(meta, 0)

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        norms = self._norms_at(meta, k)
        now = meta | at_step(meta, ("rates",), k) | {"params": meta["params"] | norms.get("norms", {})}
        return super().step(now, fast, support, k) | norms

    def rule_at(self, meta: Meta) -> UpdateRule:
        return SGD(lr=meta["rates"])

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        whole = meta | {"params": meta["params"] | fast.get("norms", {})}
        return super().predict(whole, fast, inputs)

    def _norms_at(self, meta: Meta, k: int) -> Fast:
        """The normalisations of step `k`: those of its pass over the support, and of the queries after it."""
        return at_step(meta, ("norms",), k) if "norms" in meta else {}
