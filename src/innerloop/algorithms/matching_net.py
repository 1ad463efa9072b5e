"""Matching networks: a query takes the labels of the support examples that it resembles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import embedding_size
from innerloop.algorithms.embedding import EmbeddingLearner, unit
from innerloop.algorithms.recurrent import lstm_init, lstm_state, lstm_step
from innerloop.core.errors import check_count, check_range
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Meta


class MatchingNet(EmbeddingLearner):
    """Learns an embedding in which a query attends to the support examples of its own class.

        a_i(x) = softmax over i of scale * cos(f(x), g(x_i));   p(n | x) = sum of a_i(x) over the i of class n

    Without `full_context` f and g are the module's embedding e. With it, both see the whole support set:

        g(x_i) = e(x_i) + forward LSTM_i + backward LSTM_i, which read e(x_1), ..., e(x_S)
        h_k = LSTM([e(x), r_k], h_{k-1}) + e(x),  r_k = sum of softmax_i(h_{k-1} . g(x_i)) g(x_i);  f(x) = h_K

    Outer objective: the negative log-likelihood of the query labels; outputs are log p.
    Meta-learned: e, and with `full_context` three LSTM cells. Adapted: nothing; the support is remembered.

    Cost: one forward pass on support and query together, and with `full_context` one LSTM step for each
        support example, twice, and for each read; memory of an ordinary supervised step.

    Strengths: a class may have several modes, since no mean stands for it; with one shot it is a cosine
        `ProtoNet`. Since a cosine is at most 1, attention is never sharp at scale 1, and the loss stays high.
    Published: Omniglot 5-way 1-shot 98.1, 5-way 5-shot 98.9, 20-way 1-shot 93.8, 20-way 5-shot 98.5;
    miniImageNet 5-way 1-shot 43.40 +- 0.78, 5-way 5-shot 51.09 +- 0.71 (Snell et al. 2017, tables 1 and 2);
    miniImageNet 5-way 1-shot 43.56 +- 0.84, 5-way 5-shot 55.31 +- 0.73 (Snell et al. 2017, table 2, with
    full context).

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; pretrained weights are kept.
        full_context: whether embeddings depend on the support set, which is then read in its order.
        processing_steps: reads K of the support set for each query, >= 1, of `full_context`. The paper
            gives no number; Ravi and Larochelle's comparison has 3.
        scale: factor of the cosine, > 0. The paper: 1. Larger ones sharpen the attention.
        embedding_size: D, where the module is not of `il.models`, for the LSTM cells of `full_context`.
        batch_norm: `running`, `support` or `transductive`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MatchingNet(il.models.Conv4(ways=None, width=8))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: one module embeds support and queries, as in its experiments. The first read
    is the mean of the support, since h_0 = 0, which it leaves open.

    Reference: Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra 2016, arXiv 1606.04080.
    """

    bounded = True
    small = {"scale": 30.0}

    def __init__(
        self,
        module: nn.Module,
        *,
        full_context: bool = False,
        processing_steps: int = 3,
        scale: float = 1.0,
        embedding_size: int | None = None,
        batch_norm: BatchNormPolicy = "running",
    ) -> None:
        check_count("processing_steps", processing_steps, low=1)
        check_range("scale", scale, low=0.0, open_low=True)
        super().__init__(module, batch_norm=batch_norm)
        self.full_context = self.ordered = full_context
        self.processing_steps, self.scale, self.embedding_size = processing_steps, scale, embedding_size

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        if not self.full_context:
            return meta
        size = embedding_size(self.module, self.embedding_size)
        inputs = {"forward": size, "backward": size, "attention": 2 * size}
        return meta | {"context": {name: lstm_init(rng, inputs[name], size) for name in inputs}}

    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        if self.full_context:
            support = _in_context(meta["context"], support)
            queries = self._attended(meta["context"], support, queries)
        attention = (self.scale * unit(queries) @ unit(support).T).log_softmax(1)
        none = torch.finfo(attention.dtype).min  # as good as log 0, and its derivatives are numbers
        return torch.where(labels.T > 0, attention[:, None], none).logsumexp(2)

    def _attended(self, context: Meta, support: Tensor, queries: Tensor) -> Tensor:
        """Queries [Q, D] after some steps of an LSTM that reads the support [S, D]."""
        state = lstm_state(context["attention"], len(queries))
        for _ in range(self.processing_steps):
            read = (state["h"] @ support.T).softmax(1) @ support
            state = lstm_step(context["attention"], torch.cat([queries, read], 1), state)
            state = state | {"h": state["h"] + queries}
        return state["h"]


def _in_context(context: Meta, support: Tensor) -> Tensor:
    """Support embeddings [S, D], each with what an LSTM says of those up to it, from both ends."""
    ahead = _read(context["forward"], support)
    return support + ahead + _read(context["backward"], support.flip(0)).flip(0)


def _read(cell: Meta, rows: Tensor) -> Tensor:
    """The outputs [S, D] of a cell that is given one row [D] after another."""
    state, found = lstm_state(cell, 1), []
    for row in rows.unbind():
        state = lstm_step(cell, row[None], state)
        found.append(state["h"])
    return torch.cat(found)
