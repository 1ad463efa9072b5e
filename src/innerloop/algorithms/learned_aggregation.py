"""Learning to aggregate: whom to believe, of several workers that each send a gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner
from innerloop.algorithms.preprocess import log_and_sign
from innerloop.core import tree
from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.functional import BatchNormPolicy, inner_gradient
from innerloop.core.losses import loss_value
from innerloop.core.mode import at_stream
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients import Unrolled
from innerloop.models import MLP
from innerloop.rules import SGD, UpdateRule

_FEATURES = 5  # of a worker's gradient of one tensor
_LOSS = "/loss"  # stands among the parameters of an inner gradient; no parameter has such a name
_TINY = 1e-16  # under a root, so that a gradient of zero has a derivative


class LearnedAggregation(GradientLearner):
    """Learns how much each worker's gradient counts, where MAML takes the mean of them.

    A worker is one support example, or one of `workers` groups of them. It sends the gradient g_i of its own
    loss L_i; a small network f, one for all parameter tensors, looks at what came for a tensor:

        u_i = (log and sign of |g_i| and of L_i, cosine of g_i and the mean gradient)
        w = softmax over i of q . f(u_i, mean u) / sqrt(width)
        phi_{k+1} = phi_k - a * sum_i w_i g_i, from phi_0 = theta

    Outer objective: the query loss of the last step, differentiated through all steps.
    Meta-learned: theta, f, q, and a rate `a` for each parameter tensor. Adapted: all of theta.

    Cost per inner step: one forward and backward pass on the support set, as MAML's, but a gradient for each
    worker is kept: memory is that many times the parameters. With BatchNorm a worker's loss depends on all
    examples, so every worker takes a pass over all of them. On small networks a step takes about four times
    as long as MAML's.

    Strengths: where some of the support cannot be trusted (wrong labels, broken workers), and such are met in
    training; where all of it can, the mean is as good and cheaper.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: the rates at first, > 0.
        inner_steps: steps in training, >= 0.
        test_inner_steps: steps at test; None is the same number.
        workers: groups of support examples, in the order in which they come, of equal size, >= 1; None is one
            for each example.
        width: of the two hidden layers of f, and of q, >= 1.
        attention: standard deviation of q at first, >= 0. At 0 all workers count alike, which is MAML; f then
            has no gradient until q has moved.
        p: gradients and losses below e^-p count as small, > 0.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.LearnedAggregation(il.models.MLP(1, 1), loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> sorted(meta)
    ['keys', 'params', 'query', 'rates']
    >>> tasks = il.tasks.Sinusoid(shots=10, outliers=0.3).sample("train", 4, 0)
    >>> il.meta_gradient(learner, meta, tasks)[1].losses.shape
    torch.Size([4])

    Differences from the paper: there a recurrent network reads what machines that train one model send,
    coordinate by coordinate; here it is attention over any number of workers, tensor by tensor, inside a
    few-shot inner loop. The loss of a worker is told to the network, as to the paper's second one.

    Reference: Ji, Chen, Wang, Yu and Li 2019, IJCAI, doi 10.24963/ijcai.2019/363.
    """

    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        workers: int | None = None,
        width: int = 16,
        attention: float = 0.01,
        p: float = 10.0,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            loss=loss,
            batch_norm=batch_norm,
        )
        self.workers = None if workers is None else check_count("workers", workers)
        self.width = check_count("width", width)
        check_range("attention", attention, low=0.0)
        check_range("p", p, low=0.0, open_low=True)
        self.attention, self.p = attention, p
        self.ordered = workers is not None and workers > 1
        self._wrap(module, loss, batch_norm, {"keys": MLP(2 * _FEATURES, None, hidden=(width, width))})

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        rates = tree.map(lambda leaf: torch.full((), self.inner_lr, dtype=leaf.dtype), meta["params"])
        return meta | {"rates": rates, "query": self.attention * torch.randn(self.width, generator=rng)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        self._groups(support)
        return super().begin(meta, support)

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        grads, losses = self.sent(meta, fast, support)
        shares = self.shares(meta, grads, losses)
        mixed = {name: torch.tensordot(shares[name], grad, 1) for name, grad in grads.items()}
        params, state = self.rule_at(meta).step(mixed, fast["rule"], fast["params"])
        return fast | {"params": params, "rule": state}

    def rule_at(self, meta: Meta) -> UpdateRule:
        return SGD(lr=meta["rates"])

    def sent(self, meta: Meta, fast: Fast, support: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """What the W workers send, each tensor with W in front, and their losses [W]."""
        groups = self._groups(support)

        def loss_of(params: dict[str, Tensor], batch: Batch, place: Tensor) -> Tensor:
            if not self.net.has_batch_norm:
                with at_stream(place):  # a worker drops units of its own
                    return self.inner_loss(meta, fast, params, batch)
            outputs = self.support_outputs(meta, fast, params, batch.x).unflatten(0, groups.y.shape[:2])
            each = torch.func.vmap(lambda o, y: loss_value(self.loss, o, y))(outputs, groups.y)
            return (each * (places == place)).sum()

        def of_worker(batch: Batch, place: Tensor) -> dict[str, Tensor]:
            def scaled(given: dict[str, Tensor]) -> Tensor:
                params = {name: value for name, value in given.items() if name != _LOSS}
                # The derivative by this factor of one is the worker's loss.
                return given[_LOSS] * loss_of(params, batch, place)

            return inner_gradient(scaled, fast["params"] | {_LOSS: support.x.new_ones(())})

        places = torch.arange(len(groups.y), device=support.x.device)
        # A pass of its own for each worker, though it is the same one: a norm has to know that it is lifted.
        whole = Batch(*(part.expand(len(places), *part.shape) for part in support))
        found = torch.func.vmap(of_worker)(whole if self.net.has_batch_norm else groups, places)
        losses = found.pop(_LOSS)
        return found, losses

    def shares(self, meta: Meta, grads: dict[str, Tensor], losses: Tensor) -> dict[str, Tensor]:
        """How much each worker counts, by its gradients and `losses` [W]: [W] for each tensor, of sum one."""
        own = self._features([grad.flatten(1) for grad in grads.values()], losses)
        seen = torch.cat([own, own.mean(1, keepdim=True).expand_as(own)], dim=-1)
        keys = self.parts["keys"](meta["keys"], seen.flatten(0, 1)).unflatten(0, own.shape[:2])
        scores = keys @ meta["query"] / self.width**0.5
        return dict(zip(grads, scores.softmax(-1), strict=True))

    def _features(self, grads: list[Tensor], losses: Tensor) -> Tensor:
        """What is told of each worker's gradient of each tensor, L times [W, n] to [L, W, 5]."""
        means = [grad.mean(0) for grad in grads]
        norms = (torch.stack([grad.square().sum(1) for grad in grads]) + _TINY).sqrt()
        common = (torch.stack([mean.square().sum() for mean in means]) + _TINY).sqrt()
        cosine = torch.stack([g @ m for g, m in zip(grads, means, strict=True)]) / (norms * common[:, None])
        sizes = [log_and_sign(size, self.p) for size in (norms, losses.expand_as(norms))]
        return torch.cat([*sizes, cosine[..., None]], dim=-1)

    def _groups(self, support: Batch) -> Batch:
        """The support with an axis of workers in front, [W, examples, ...]."""
        size = len(support.y)
        count = size if self.workers is None else self.workers
        if size % count:
            raise ConfigError(
                f"workers = {count} for {size} support examples",
                expected="as many examples for each worker",
                do="choose a number of workers that divides them, or none",
            )
        return Batch(*(part.unflatten(0, (count, size // count)) for part in support))
