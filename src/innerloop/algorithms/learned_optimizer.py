"""A learned optimizer: the inner step itself is a network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner
from innerloop.algorithms.optimizer_networks import LSTMNetwork, MLPNetwork, OptimizerNetwork
from innerloop.algorithms.trained_optimizer import TrainedOptimizer
from innerloop.core import tree
from innerloop.core.errors import check_count, check_range, unknown
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA
from innerloop.core.mode import mode
from innerloop.core.rng import fold_key, keyed_normal
from innerloop.core.types import Batch, Fast, Loss, Meta, Tree
from innerloop.gradients import Truncated
from innerloop.rules import UpdateRule

_STARTS = 1 << 21  # streams of a task's key from here on draw its starting point
_FLOOR = 1e-30  # a loss of zero has a logarithm here
_HIDDEN = {"lstm": 20, "mlp": 32}
_SCALE = {"lstm": 0.1, "mlp": 1e-3}


@dataclass(frozen=True)
class LearnedRule:
    """A network of `optimizer_networks` with its weights, as an update rule."""

    network: OptimizerNetwork
    weights: Tree

    def init(self, params: dict[str, Tensor]) -> Tree:
        return self.network.start(self.weights, params)

    def step(
        self, grads: dict[str, Tensor], state: Tree, params: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tree]:
        updates, after = self.network.step(self.weights, grads, state, params)
        return {name: p + updates[name] for name, p in params.items()}, after


class LearnedOptimizer(GradientLearner):
    """Learns an optimizer: a small network that turns gradients into steps, coordinate by coordinate.

        g_k, h_{k+1} = m(pre(grad L_S(theta_k)), h_k);   theta_{k+1} = theta_k + g_k

    Outer objective: the sum of L_Q(theta_k) over the steps, by truncated backpropagation through unrolls
    that go on over outer steps; gradients of the optimizee are constants.
    Meta-learned: the weights of m. Adapted: the module, from a start that is drawn anew for each task.

    Cost per inner step: one forward and backward pass on the support set, one forward pass on the
    query set, and for each of the module's parameters some 5000 multiply-adds (LSTM of 20 cells); training
    keeps the activations of `inner_steps` steps of m.

    Strengths: many similar optimization problems, of which each has to be cheap; the trained optimizer serves
    as a `torch.optim.Optimizer`. Beyond the problems and horizons that it has seen it may fail.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs], the optimizee: its shapes count, its
            weights do not.
        architecture: `lstm`, LSTM layers, as in the paper; or `mlp`, hidden layers on the gradient's
            moving averages, which costs less and keeps less.
        hidden: width of the network's layers, >= 1; None is 20 cells (the paper) or 32 units.
        layers: of the network, >= 0; 0 is a linear map. The paper: 2.
        preprocess: gradients are seen as logarithm and sign, with logarithms that end at -preprocess; None
            shows them as they are. The paper: 10. The official code: 5, and None on quadratics. For `lstm`.
        output_scale: what the network's output is multiplied by, > 0; None is 0.1 for `lstm`, 0.001 for
            `mlp`. The official code: 1 on quadratics, 0.01 on MNIST.
        init_scale: every parameter of the optimizee starts at N(0, init_scale^2), >= 0; None draws each
            tensor with the mean and the spread of the module's own. The official code: 0.01.
        inner_steps: steps between two outer steps, >= 1, of an unroll of 100. The paper: 20.
        test_inner_steps: steps at test; None is the same number. The paper: 100.
        inner_batch: support examples of a step, drawn anew for each; None takes them all.
        log_loss: whether the outer objective sums logarithms of losses, so that easy and hard problems, and
            early and late steps, weigh alike. The paper: no.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    `--gradient Truncated` with other arguments sets another horizon; `--gradient Evolution
    --gradient.horizon 100` is persistent evolution strategies.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.LearnedOptimizer(il.models.MLP(10, 1, hidden=(), bias=False), loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> net = torch.nn.Linear(3, 2)
    >>> optimizer = learner.optimizer(meta, net.parameters())
    >>> net(torch.ones(1, 3)).sum().backward()
    >>> optimizer.step()

    Differences from the paper: the loss before the first step is not in the outer objective, since no
    weight of m moves it.

    Reference: Andrychowicz et al. 2016, arXiv 1606.04474; the features of `mlp`: Metz et al. 2019,
    arXiv 1810.10180.
    """

    gradient = Truncated(last=None, horizon=100, first_order=True)
    small = {"inner_steps": 5, "test_inner_steps": 10, "init_scale": None}

    def __init__(
        self,
        module: nn.Module,
        *,
        architecture: Literal["lstm", "mlp"] = "lstm",
        hidden: int | None = None,
        layers: int = 2,
        preprocess: float | None = 10.0,
        output_scale: float | None = None,
        init_scale: float | None = 0.01,
        inner_steps: int = 20,
        test_inner_steps: int | None = 100,
        inner_batch: int | None = None,
        log_loss: bool = False,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_count("inner_steps", inner_steps, low=1)
        super().__init__(
            module,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            step_weights=(1.0,) * inner_steps,
            loss=loss,
            batch_norm=batch_norm,
        )
        if inner_batch is not None:
            check_count("inner_batch", inner_batch, low=1)
        if init_scale is not None:
            check_range("init_scale", init_scale, low=0.0)
        self.architecture, self.hidden, self.layers = architecture, hidden, layers
        self.preprocess, self.output_scale = preprocess, output_scale
        self.init_scale, self.inner_batch, self.log_loss = init_scale, inner_batch, log_loss
        self.network = self._network()

    def _network(self) -> OptimizerNetwork:
        if self.architecture not in _HIDDEN:
            raise unknown("architecture", str(self.architecture), _HIDDEN)
        hidden = _HIDDEN[self.architecture] if self.hidden is None else self.hidden
        scale = _SCALE[self.architecture] if self.output_scale is None else self.output_scale
        check_count("hidden", hidden, low=1)
        check_count("layers", self.layers, low=0)
        check_range("output_scale", scale, low=0.0, open_low=True)
        if self.preprocess is not None:
            check_range("preprocess", self.preprocess, low=0.0, open_low=True)
        if self.architecture == "mlp":
            return MLPNetwork(hidden, self.layers, scale)
        return LSTMNetwork(hidden, self.layers, self.preprocess, scale)

    def init(self, rng: torch.Generator) -> Meta:
        """The optimizer's weights; the optimizee has none of its own."""
        kept = {name: node for name, node in super().init(rng).items() if name != "params"}
        return {"optimizer": self.network.init(rng)} | kept

    def begin(self, meta: Meta, support: Batch) -> Fast:
        params = self.start(meta)
        fast: Fast = {"params": params, "rule": self.rule_at(meta).init(params)}
        return fast | {DATA: {"support": support.x}} if self.net.needs_support else fast

    def start(self, meta: Meta) -> dict[str, Tensor]:
        """Where a task's parameters start, drawn from its key; always the same without one."""
        like = tree.leaves(meta)[0]
        key = mode().key
        if key is None:
            key = torch.zeros((), dtype=torch.int64, device=like.device)
        drawn = {}
        for index, (name, own) in enumerate(self.module.named_parameters()):
            noise = keyed_normal(fold_key(key, _STARTS + index), tuple(own.shape)).to(like)
            if self.init_scale is not None:
                drawn[name] = self.init_scale * noise
            else:
                drawn[name] = own.detach().mean().to(like) + own.detach().std(correction=0).to(like) * noise
        return drawn

    def rule_at(self, meta: Meta) -> UpdateRule:
        return LearnedRule(self.network, meta["optimizer"])

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        loss, statistics = super().query_loss(meta, fast, query)
        return (loss.clamp_min(_FLOOR).log() if self.log_loss else loss), statistics

    def displaced(self, meta: Meta, fast: Fast) -> Meta:
        raise NotImplementedError(f"{type(self).__name__} has no initialisation to displace")

    def optimizer(self, meta: Meta, params: Iterable[Tensor] | Iterable[dict[str, Any]]) -> TrainedOptimizer:
        """The trained optimizer for any parameters, as torch's optimizers are used.

        Args:
            params: parameters, or parameter groups as dicts; a group's `lr` is a factor of its steps, 1
                unless given, that schedulers may change.
        """
        return TrainedOptimizer(params, self.network, meta["optimizer"])
