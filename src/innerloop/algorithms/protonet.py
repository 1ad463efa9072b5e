"""Prototypical networks: classify by the nearest class mean in a learned space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import count_ways, mode
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled


class ProtoNet(ModuleLearner):
    """Learns an embedding in which the mean of a class's support examples stands for the class.

        c_n = mean of f(x) over the support of class n;   logits_n(x) = -||f(x) - c_n||^2

    Meta-learned: the embedding f. Adapted: nothing; the prototypes are a closed form of the support.

    Cost: one forward pass on support and query together; memory of an ordinary supervised step.

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

    embeds = True
    gradient = Unrolled()

    def __init__(self, module: nn.Module, *, batch_norm: BatchNormPolicy = "running") -> None:
        self.inner_steps = self.test_inner_steps = 0
        self._wrap(module, "cross_entropy", batch_norm)

    def begin(self, meta: Meta, support: Batch) -> Fast:
        ways = mode().ways or count_ways(support.y)
        labels = torch.nn.functional.one_hot(support.y, ways or -1)
        return {DATA: {"support": support.x, "labels": labels.to(support.x.dtype)}}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return fast

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        support, labels = fast[DATA]["support"], fast[DATA]["labels"]
        rows = len(support)
        both = torch.cat([support, inputs])  # one pass for both, as in the official code
        embedded = self.net.joint(meta["params"], both, rows=rows, statistics=meta.get(STATISTICS)).flatten(1)
        prototypes = (labels.T @ embedded[:rows]) / labels.sum(0)[:, None]
        return -(embedded[rows:, None] - prototypes[None]).square().sum(-1)
