"""Conditional neural processes: a regression in one forward pass, with an error bar."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from innerloop.algorithms import base
from innerloop.core.errors import check_count, check_range
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import mode
from innerloop.core.rng import fold_key, keyed_uniform
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled
from innerloop.models import MLP


class ConditionalNeuralProcess(base.ModuleLearner):
    """Reads the support set as a mean of encodings, and predicts a mean and a standard deviation from it.

        r = mean over the support of h(f(x_i), y_i);   (m, s) = g(f(x), r)
        y | x ~ N(m, sd^2),   sd = min_sd + (1 - min_sd) softplus(s)

    Outer objective: -log N(y; m, sd^2), mean over support and query points, with a random part of the
    support as what is read.
    Meta-learned: the embedding f, the encoder h and the decoder g. Adapted: nothing; r is a mean.

    Cost: one forward pass for each support and query point, without inner gradients; memory of an
    ordinary supervised step.

    Strengths: predictive uncertainty (`Adapted.distribution`) and any number of support points at the price
    of a forward pass; it underfits where many points pin a function down, since all pass through one mean.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; `MLP(1, None, hidden=())` leaves a
            number as it is, which is the paper's regression.
        targets: width of a target, >= 1; filled in from the tasks by a configuration.
        embedding_size: D, where the module is not a model of this package.
        representation: width of r, >= 1.
        encoder: widths of the hidden layers of h.
        decoder: widths of the hidden layers of g.
        min_sd: the least standard deviation, in [0, 1). The paper: 0.1.
        random_context: whether meta-training reads a random number of support points, from one to all,
            drawn for each task, so that the learner serves any number of them.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.ConditionalNeuralProcess(il.models.MLP(1, None))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> fast = learner.begin(meta, il.Batch(torch.zeros(3, 1), torch.ones(3, 1)))
    >>> mean, sd = learner.distribution(meta, fast, torch.zeros(2, 1))
    >>> mean.shape, bool((sd > 0.1).all())
    (torch.Size([2, 1]), True)

    Differences from the paper: x may pass through an embedding first; widths and depths are ours.

    Reference: Garnelo, Rosenbaum, Maddison et al. 2018, arXiv 1807.01613.
    """

    solves = ("mse",)
    embeds = amortised = True
    inner_steps = test_inner_steps = 0
    gradient = Unrolled()
    small = {"random_context": False}

    def __init__(
        self,
        module: nn.Module,
        *,
        targets: int = 1,
        embedding_size: int | None = None,
        representation: int = 128,
        encoder: tuple[int, ...] = (128, 128, 128),
        decoder: tuple[int, ...] = (128, 128),
        min_sd: float = 0.1,
        random_context: bool = True,
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_count("targets", targets)
        check_count("representation", representation)
        check_range("min_sd", min_sd, low=0.0, high=1.0 - 1e-9)
        self.targets, self.embedding_size, self.representation = targets, embedding_size, representation
        self.encoder, self.decoder = tuple(encoder), tuple(decoder)
        self.min_sd, self.random_context = min_sd, random_context
        size = base.embedding_size(module, embedding_size)
        parts = {
            "encoder": MLP(size + targets, representation, hidden=self.encoder),
            "decoder": MLP(size + representation, 2 * targets, hidden=self.decoder),
        }
        self._wrap(module, "mse", batch_norm, parts)

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {DATA: {"x": support.x, "y": support.y, "weights": self._weights(support.y)}}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return fast

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return self.distribution(meta, fast, inputs)[0]

    def distribution(self, meta: Meta, fast: Fast, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, sd = self._at_all(meta, fast, inputs)
        rows = len(fast[DATA]["y"])
        return mean[rows:], sd[rows:]

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        with self.net.gathering() as gathered:
            mean, sd = self._at_all(meta, fast, query.x)
        off = (torch.cat([fast[DATA]["y"], query.y]) - mean) / sd
        loss = (0.5 * off.square() + sd.log() + 0.5 * math.log(2 * math.pi)).sum(-1).mean()
        return loss, dict(gathered)

    def _at_all(self, meta: Meta, fast: Fast, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at the support inputs, then at others: all are embedded in one pass."""
        x, y, weights = (fast[DATA][name] for name in ("x", "y", "weights"))
        rows = len(y)
        embedded = self.net.joint(
            meta.get("params", {}), torch.cat([x, inputs]), rows=rows, statistics=meta.get(STATISTICS)
        ).flatten(1)
        encoded = self.parts["encoder"](meta["encoder"], torch.cat([embedded[:rows], y], 1))
        summary = (weights @ encoded / weights.sum()).expand(len(embedded), -1)
        decoded = self.parts["decoder"](meta["decoder"], torch.cat([embedded, summary], 1))
        mean, raw = decoded.chunk(2, 1)
        return mean, self.min_sd + (1.0 - self.min_sd) * nn.functional.softplus(raw)

    def _weights(self, y: Tensor) -> Tensor:
        """Ones [S]; zeros at the points that are not read, which keeps the shape whatever their number."""
        ones, key = torch.ones_like(y[:, 0]), mode().key
        if not (self.random_context and mode().training) or key is None:
            return ones
        drawn = keyed_uniform(fold_key(key, 0), (1 + len(y),))
        count = 1 + (drawn[0] * len(y)).floor()
        return ones * (drawn[1:].argsort().argsort() < count)
