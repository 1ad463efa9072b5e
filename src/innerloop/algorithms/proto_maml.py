"""Proto-MAML: MAML whose classifier begins as that of Prototypical Networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from innerloop.algorithms.base import GradientLearner, RuleName
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import count_ways, mode
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled

_WEIGHT, _BIAS = "prototypes.weight", "prototypes.bias"


class ProtoMAML(GradientLearner):
    """Begins each task with the linear classifier that class means stand for, and adapts it with the rest.

    With c_n the mean embedding of class n under theta, the first classifier is that of squared distances,

        w_n = 2 c_n,   b_n = -|c_n|^2;   (phi, w, b)_{k+1} = (phi, w, b)_k - inner_lr * grad L_S(phi, w, b)

    Outer objective: the query loss of the last step, differentiated through all steps and the class means.
    Meta-learned: theta, the embedding. Adapted: the embedding, and a classifier that is no part of theta.

    Cost per inner step: as MAML's; `begin` embeds the support once more.

    Strengths: a sound classifier before the first step, so few steps do and tasks may have any number of
    ways, which MAML's learned classifier does not allow. Rates have to be smaller than MAML's.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; pretrained weights are kept.
        inner_lr: inner step size, > 0.
        inner_steps: steps in training, >= 0; 0 is ProtoNet.
        test_inner_steps: steps at test; None is the same number.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.ProtoMAML(il.models.Conv4(ways=None, width=8))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: there the meta-gradient is first-order; here it is exact, and
    `--gradient FirstOrder` is the paper's.

    Reference: Triantafillou, Zhu, Dumoulin, Lamblin, Evci, Xu, Goroshin, Gelada, Swersky, Manzagol and
    Larochelle 2020, arXiv 1903.03096.
    """

    solves = ("cross_entropy",)
    embeds = any_ways = amortised = True
    gradient = Unrolled()
    small = {"inner_lr": 0.05, "inner_steps": 2}

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        inner_rule: RuleName = "SGD",
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
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
            batch_norm=batch_norm,
        )

    def begin(self, meta: Meta, support: Batch) -> Fast:
        theta = self.weights(meta)
        embedded = self.net(theta, support.x, statistics=meta.get(STATISTICS)).flatten(1)
        labels = one_hot(support.y, mode().ways or count_ways(support.y) or -1).to(embedded.dtype)
        means = (labels.T @ embedded) / labels.sum(0)[:, None]
        params = theta | {_WEIGHT: 2 * means, _BIAS: -means.square().sum(1)}
        fast: Fast = {"params": params, "rule": self.rule.init(params)}
        return fast | {DATA: {"support": support.x}} if self.net.needs_support else fast

    def support_outputs(self, meta: Meta, fast: Fast, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        net, head = _apart(params)
        return linear(self.net(net, inputs, statistics=meta.get(STATISTICS)).flatten(1), *head)

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        net, head = _apart(fast["params"])
        support = fast.get(DATA, {}).get("support")
        embedded = self.net(net, inputs, statistics=meta.get(STATISTICS), support_x=support)
        return linear(embedded.flatten(1), *head)

    def displaced(self, meta: Meta, fast: Fast) -> Meta:
        return meta | {"params": _apart(fast["params"])[0]}


def _apart(params: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The embedding's parameters, and the classifier's weight and bias."""
    net = {name: p for name, p in params.items() if name not in (_WEIGHT, _BIAS)}
    return net, (params[_WEIGHT], params[_BIAS])
