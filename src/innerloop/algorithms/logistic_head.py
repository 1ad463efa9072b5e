"""LR-D2: logistic regression on learned features, by Newton steps that are differentiated through."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from innerloop.algorithms.embedding import EmbeddingLearner, with_ones
from innerloop.core.errors import check_count, check_range
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Meta


class LogisticHead(EmbeddingLearner):
    """Learns features on which a few Newton steps of logistic regression generalise.

    For each class against the rest, from w = 0, with X the support embeddings and a 1 for the bias:

        mu = sigmoid(X w),  s = mu (1 - mu),  z = X w + (y - mu) / s
        w <- X^T (X X^T + lambda diag(s)^-1)^-1 z;   the class's logit = a x_q w

    which are Newton's steps on sum of log(1 + exp(-t x w)) + lambda/2 |w|^2, t = 2y - 1.

    Outer objective: the cross-entropy of the queries, differentiated through all steps.
    Meta-learned: the embedding, lambda (as its logarithm) and the scale a. Adapted: w.

    Cost: one forward pass on support and query together, and for each Newton step and each class a linear
        system of as many unknowns as there are support examples; memory of an ordinary supervised step.

    Strengths: a head made for classification where `RidgeHead` is made for numbers: examples that are right
        already stop to matter. It costs more where there are many classes.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; pretrained weights are kept.
        newton_steps: Newton steps, >= 1. The official code: 1 and 5 for several classes, 10 for two.
        init_lambda: the regularisation that lambda begins with, > 0. The official code: 50 for several
            classes, 1 for two.
        init_scale: what the scale a begins with, > 0.
        batch_norm: `running`, `support` or `transductive`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.LogisticHead(il.models.Conv4(ways=None, width=8))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: with two classes the paper solves one problem; here the two mirror each
    other, and the difference of their logits is twice the paper's, which `a` makes up for. Several classes
    are one against the rest, as in the official code, which learns no scale and keeps lambda as it was given.

    Reference: Bertinetto, Henriques, Torr and Vedaldi 2019, arXiv 1805.08136.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        newton_steps: int = 5,
        init_lambda: float = 1.0,
        init_scale: float = 1.0,
        batch_norm: BatchNormPolicy = "running",
    ) -> None:
        check_count("newton_steps", newton_steps, low=1)
        check_range("init_lambda", init_lambda, low=0.0, open_low=True)
        check_range("init_scale", init_scale, low=0.0, open_low=True)
        super().__init__(module, batch_norm=batch_norm)
        self.newton_steps, self.init_lambda, self.init_scale = newton_steps, init_lambda, init_scale

    def init(self, rng: torch.Generator) -> Meta:
        head = {
            "log_lambda": torch.tensor(math.log(self.init_lambda)),
            "scale": torch.tensor(float(self.init_scale)),
        }
        return super().init(rng) | {"head": head}

    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        head, rows = meta["head"], with_ones(support)
        dual = newton(rows @ rows.T, 2 * labels - 1, head["log_lambda"].exp(), self.newton_steps)
        return head["scale"] * (with_ones(queries) @ (rows.T @ dual))


def newton(gram: Tensor, signs: Tensor, strength: Tensor, steps: int) -> Tensor:
    """Coefficients [S, N] of N logistic regressions with labels +1 and -1 [S, N], on inner products [S, S].

    Systems are scaled by the root of s from both sides: what is divided by s in the textbook's form then has
    no division left, and nothing overflows where an example is certain.
    """
    scores, dual = torch.zeros_like(signs), torch.zeros_like(signs)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(steps):
        root = (0.5 * (logsigmoid(scores) + logsigmoid(-scores))).exp()
        target = root * scores + signs * (-0.5 * signs * scores).exp()
        of_class = root.T[:, :, None]
        system = of_class * gram * of_class.mT + strength * identity
        dual = root * torch.linalg.solve_ex(system, target.T[:, :, None]).result[:, :, 0].T
        scores = gram @ dual
    return dual
