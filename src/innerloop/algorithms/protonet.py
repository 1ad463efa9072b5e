"""Prototypical networks: classify by the nearest class mean in a learned space."""

from __future__ import annotations

from torch import Tensor

from innerloop.algorithms.embedding import EmbeddingLearner
from innerloop.core.types import Meta


class ProtoNet(EmbeddingLearner):
    """Learns an embedding in which the mean of a class's support examples stands for the class.

        c_n = mean of f(x) over the support of class n;   logits_n(x) = -||f(x) - c_n||^2

    Outer objective: the cross-entropy of these logits on the query set, differentiated exactly.
    Meta-learned: the embedding f. Adapted: nothing; the prototypes are a closed form of the support.

    Cost: one forward pass on support and query together; memory of an ordinary supervised step.

    Strengths: the first to try for classification: nothing to tune, fast, any number of ways at test,
    inductive. Not for regression, nor where tasks differ in what makes two examples alike.
    Published: Omniglot 5-way 1-shot 98.8, 5-way 5-shot 99.7, 20-way 1-shot 96.0, 20-way 5-shot 98.9;
    miniImageNet 5-way 1-shot 49.42 +- 0.78, 5-way 5-shot 68.20 +- 0.66 (the paper, tables 1 and 2).

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; pretrained weights are kept.
        batch_norm: `running` is what the official code does; `support` and `transductive` as elsewhere.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.ProtoNet(il.models.Conv4(ways=None, width=8))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: it trains with more ways than it tests with (60 on Omniglot); that
    is a setting of the tasks, `train_ways`.

    Reference: Snell, Swersky and Zemel 2017, arXiv 1703.05175.
    """

    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        prototypes = (labels.T @ support) / labels.sum(0)[:, None]
        return -(queries[:, None] - prototypes[None]).square().sum(-1)
