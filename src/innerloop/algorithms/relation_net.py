"""Relation networks: a learned measure of how alike a query and a class are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from innerloop.algorithms.embedding import EmbeddingLearner
from innerloop.core.errors import ConfigError, check_count
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Batch, Fast, Meta, TaskSpec
from innerloop.models import MLP
from innerloop.models.base import Model, first_draw, global_rng_untouched

_POOLED = 4  # height and width that maps need to be halved twice


class RelationNet(EmbeddingLearner):
    """Learns an embedding, and with it the measure by which embeddings are compared.

        r_n(x) = sigmoid g([sum of f(x_i) over the support of class n, f(x)])

    Outer objective: the mean of (r_n(x) - [n = y])^2 over queries and classes; outputs are the r_n.
    Meta-learned: the embedding f and the relation g. Adapted: nothing; the sums are a closed form.

    Where f ends with maps, [...] stacks their channels, and g is two blocks of a 3x3 convolution, ReLU and
    2x2 max-pooling, and two linear layers, as in the paper; such an f is `Conv4(pooling="max", halvings=2)`.
    Where f ends with vectors, g is a multilayer perceptron.

    Cost: one forward pass on support and query together, and g on every pair of a query and a class, which
        with maps takes most of the time; memory of both.

    Strengths: where no distance fits, as between different kinds of images; it has more to learn than
        `ProtoNet`, and takes longer. Scores are bounded, and a loss of squares is slow while they are wrong.
    Published: Omniglot 5-way 1-shot 99.6 +- 0.2, 5-way 5-shot 99.8 +- 0.1, 20-way 1-shot 97.6 +- 0.2, 20-way
        5-shot 99.1 +- 0.1; miniImageNet 5-way 1-shot 50.44 +- 0.82, 5-way 5-shot 65.32 +- 0.70 (as others
        report the paper; the official code chooses its Omniglot checkpoint on the test classes, and a clean
        re-implementation has 98.02 for 5-way 1-shot).

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D] or to maps [S, C, H, W]; pretrained
            weights are kept.
        hidden: widths of g's hidden linear layers. None is the paper's (8,) after the convolutions, and for
            vectors (64, 64), of which the paper has none.
        embedding_shape: (D,) or (C, H, W), where the module is not of `il.models`.
        batch_norm: `running`, `support` or `transductive`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.RelationNet(il.models.Conv4(ways=None, width=8))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: g has no BatchNorm. f pads its first two convolutions, so that maps are 7x7 on
    Omniglot and not 5x5; g's end at 1x1 in both. The official code normalises by the statistics of the batch
    at test too, so that queries see each other; that is `batch_norm="transductive"`.

    Reference: Sung, Yang, Zhang, Xiang, Torr and Hospedales 2018, arXiv 1711.06025.
    """

    bounded = True

    def __init__(
        self,
        module: nn.Module,
        *,
        hidden: tuple[int, ...] | None = None,
        embedding_shape: tuple[int, ...] | None = None,
        batch_norm: BatchNormPolicy = "running",
    ) -> None:
        self.hidden = None if hidden is None else tuple(hidden)
        self.embedding_shape = None if embedding_shape is None else tuple(embedding_shape)
        self._shape = _shape(module, self.embedding_shape)
        relation = _relation(self._shape, self.hidden)
        self._wrap(module, "cross_entropy", batch_norm, parts={"relation": relation})

    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        channels, *sides = self._shape
        sums = (labels.T @ support)[None].expand(len(queries), -1, -1)
        pairs = torch.stack([sums, queries[:, None].expand_as(sums)], 2)
        scores = self.parts["relation"](meta["relation"], pairs.reshape(-1, 2 * channels, *sides))
        return scores.sigmoid().reshape(sums.shape[:2])

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        with self.net.gathering() as gathered:
            scores = self.predict(meta, fast, query.x)
            loss = (scores - one_hot(query.y, scores.shape[1])).square().mean()
        return loss, dict(gathered)


def _shape(module: nn.Module, given: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of an embedding: (C, H, W) of maps large enough to convolve, or (D,)."""
    known = module.output_shape if isinstance(module, Model) else None
    shape = known if given is None else given
    if shape is None:
        raise ConfigError(
            f"{type(module).__name__}, whose embedding is of unknown shape",
            expected="embedding_shape: (D,), or (C, H, W) of maps",
            do="give embedding_shape=...",
        )
    for size in shape:
        check_count("embedding_shape", size, low=1)
    if len(shape) == 3 and min(shape[1:]) >= _POOLED:
        return shape
    flat = 1
    for size in shape:
        flat *= size
    return (flat,)


def _relation(shape: tuple[int, ...], hidden: tuple[int, ...] | None) -> Model:
    if len(shape) == 3:
        return _Convolutions(shape, (8,) if hidden is None else hidden)
    return MLP(2 * shape[0], 1, hidden=(64, 64) if hidden is None else hidden)


class _Convolutions(Model):
    """Two maps [2C, H, W], stacked, to a number: two convolution blocks with C filters, and linear layers."""

    def __init__(self, shape: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.hidden = shape, hidden
        channels, height, width = shape
        with global_rng_untouched():
            self.body = nn.Sequential(
                *(nn.Conv2d(2 * channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            )
            self.head = MLP(channels * (height // 4) * (width // 4), 1, hidden=hidden)
        self.draw(first_draw())

    @classmethod
    def sizes_for(cls, spec: TaskSpec, *, embeds: bool) -> dict[str, Any]:
        return {}

    @property
    def output_size(self) -> int:
        return 1

    def draw(self, rng: torch.Generator) -> None:
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=rng)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
        self.head.draw(rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
