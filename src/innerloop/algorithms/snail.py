"""SNAIL: temporal convolutions and attention over the support set, read as a sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from innerloop.algorithms import base
from innerloop.algorithms.sequence import SequenceLearner
from innerloop.core.errors import ConfigError, check_count
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Meta
from innerloop.models import MLP


class SNAIL(SequenceLearner):
    """Reads (x_1, y_1), ..., (x_S, y_S), (x, ?) with causal layers, and answers for x from the last place.

    Each layer adds to what every place t of the sequence holds, and sees nothing after it:

        dense:      z_t <- [z_t, tanh(A z') * sigmoid(B z')],  z' = [z_{t-d}, z_t];  d = 1, 2, 4, ... in turn
        attention:  z_t <- [z_t, sum over u <= t of softmax_u(q(z_t) . k(z_u) / sqrt(|k|)) v(z_u)]

    Attention comes first and last, with dense layers in between.

    Outer objective: the cross-entropy of each query, which ends a sequence of its own.
    Meta-learned: the embedding and all layers. Adapted: nothing; what a task is stands in the activations.

    Cost: one forward pass over S + Q places, since every query's sequence begins with the same support;
    attention grows with the square of S. Memory of an ordinary supervised step.

    Strengths: nothing is assumed of how labels are to be used, so it also serves where no metric does; but
    `ways` and, in practice, shots are those of training, and it has many more parameters than a metric.
    Published: miniImageNet 5-way 1-shot 55.71 +- 0.99, 5-way 5-shot 68.88 +- 0.92 (Rusu et al. 2019,
    table 1).

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; pretrained weights are kept.
        ways: classes of a task, >= 2; filled in from the tasks by a configuration.
        embedding_size: D, where the module is not a model of this package.
        max_length: the longest sequence, S + 1, that dense layers are to span: d runs up to half of it. 26 is
            5-way 5-shot and a query. Longer ones are read too, beyond that span by attention alone.
        filters: width of a dense layer, >= 1.
        keys: width of queries and keys of each attention layer; as many as there are such layers.
        values: width of what each attention layer reads.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.SNAIL(il.models.Conv4(ways=None, width=8), ways=3, max_length=8)
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().resized(ways=3).sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: widths are ours, and smaller. In meta-training the support is read in an
    order drawn for each task, and many queries share one support set.

    Reference: Mishra, Rohaninejad, Chen and Abbeel 2018, arXiv 1707.03141.
    """

    floor = 0.4  # of three ways: what reads labels as inputs soon knows a few training classes by heart

    def __init__(
        self,
        module: nn.Module,
        *,
        ways: int = 5,
        embedding_size: int | None = None,
        max_length: int = 26,
        filters: int = 32,
        keys: tuple[int, ...] = (32, 32, 32),
        values: tuple[int, ...] = (32, 32, 32),
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        for name, value, low in [("ways", ways, 2), ("max_length", max_length, 2), ("filters", filters, 1)]:
            check_count(name, value, low=low)
        for name, sizes in [("keys", keys), ("values", values)]:
            for size in sizes:
                check_count(name, size)
        if len(keys) != len(values) or not keys:
            raise ConfigError(
                f"{len(keys)} keys and {len(values)} values",
                expected="a width of both for each attention layer, one at least",
                do="give as many keys as values",
            )
        self.ways, self.embedding_size, self.max_length = ways, embedding_size, max_length
        self.filters, self.keys, self.values = filters, tuple(keys), tuple(values)
        size = base.embedding_size(module, embedding_size) + ways
        self._dilations = [2**i for i in range(math.ceil(math.log2(max_length)))]
        parts: dict[str, nn.Module] = {}
        for block, (key, value) in enumerate(zip(self.keys, self.values, strict=True)):
            for dilation in self._dilations if block else []:
                parts[f"dense{block}_{dilation}"] = MLP(2 * size, 2 * filters, hidden=())
                size += filters
            parts[f"attention{block}"] = MLP(size, 2 * key + value, hidden=())
            size += value
        self._wrap(module, "cross_entropy", batch_norm, parts | {"head": MLP(size, ways, hidden=())})

    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        rows = len(support)
        unknown = torch.zeros_like(labels[:1]).expand(len(queries), -1)
        places = torch.cat([torch.cat([support, labels], 1), torch.cat([queries, unknown], 1)])
        for block in range(len(self.keys)):
            for dilation in self._dilations if block else []:
                both = torch.cat([_earlier(places, rows, dilation), places], 1)
                filtered, gate = self._linear(meta, f"dense{block}_{dilation}", both).chunk(2, 1)
                places = torch.cat([places, filtered.tanh() * gate.sigmoid()], 1)
            sizes = [self.keys[block], self.keys[block], self.values[block]]
            asked, keys, values = self._linear(meta, f"attention{block}", places).split(sizes, 1)
            places = torch.cat([places, _attended(asked, keys, values, rows)], 1)
        return self._linear(meta, "head", places[rows:])

    def _linear(self, meta: Meta, name: str, places: Tensor) -> Tensor:
        return self.parts[name](meta[name], places)


def _earlier(places: Tensor, rows: int, distance: int) -> Tensor:
    """What stands `distance` before each place, [S + Q, C], or zeros. Each query follows the support."""
    padded = torch.cat([torch.zeros_like(places[:1]), places])
    at = [1 + t - distance for t in [*range(rows), *[rows] * (len(places) - rows)]]
    return padded[torch.tensor([max(0, t) for t in at], device=places.device)]


def _attended(asked: Tensor, keys: Tensor, values: Tensor, rows: int) -> Tensor:
    """What each place reads, [S + Q, V]: from the support before it, and from itself."""
    places = torch.arange(len(keys), device=keys.device)
    before = places[:rows] < places[:, None].clamp(max=rows)
    scores = (asked @ keys[:rows].T).masked_fill(~before, -torch.inf)
    own = (asked * keys).sum(1, keepdim=True)
    weights = (torch.cat([scores, own], 1) * keys.shape[1] ** -0.5).softmax(1)
    return weights[:, :rows] @ values[:rows] + weights[:, rows:] * values
