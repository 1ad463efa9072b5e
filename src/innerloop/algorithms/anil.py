"""ANIL: MAML that adapts the head alone."""

from __future__ import annotations

from innerloop.algorithms.head import HeadLearner
from innerloop.gradients import Unrolled


class ANIL(HeadLearner):
    """Almost no inner loop: the body is shared by all tasks, and only the last layer adapts.

    Inner loop: h_{k+1} = h_k - inner_lr * grad_h L_S(body, h_k), for the parameters h of the
    module's last layer that has any. Outer objective: L_Q(body, h_K), differentiated exactly.
    Meta-learned: body and head. Adapted: the head.

    Cost per inner step: the head's forward and backward pass; the body's features of the support set are
    computed once, where the head is a linear layer that the module ends with and nothing is dropped.

    Strengths: as good as MAML on few-shot images at a fraction of its cost, since what tasks share there is
    the features. Not where a task needs features of its own, as under a change of domain or in regression.
    Published: Omniglot 20-way 1-shot 96.2 +- 0.5, 20-way 5-shot 98.0 +- 0.3; miniImageNet 5-way 1-shot 46.7
    +- 0.4, 5-way 5-shot 61.5 +- 0.5 (the paper, table 2).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] whose last layer is the head.
        inner_lr: inner step size, > 0.
        inner_steps: steps in training, >= 0.
        test_inner_steps: steps at test; None is the same number.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings; for
            others (momentum), set `rule` on the learner.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import innerloop as il
    >>> learner = il.algorithms.ANIL(il.models.MLP(1, 1, hidden=(40,)), loss="mse")
    >>> sorted(learner.adapts())
    ['head.bias', 'head.weight']

    Differences from the paper: none.

    Reference: Raghu, Raghu, Bengio and Vinyals 2020, arXiv 1909.09157.
    """

    gradient = Unrolled()
