"""ANIL: MAML that adapts the head alone."""

from __future__ import annotations

from innerloop.algorithms.base import GradientLearner
from innerloop.gradients import Unrolled


class ANIL(GradientLearner):
    """Almost no inner loop: the body is shared by all tasks, and only the last layer adapts.

    Inner loop: h_{k+1} = h_k - inner_lr * grad_h L_S(body, h_k), for the parameters h of the
    module's last layer that has any. Outer objective: L_Q(body, h_K), differentiated exactly.
    Meta-learned: body and head. Adapted: the head.

    Cost per inner step: a forward pass on the support set and the head's backward pass.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] whose last layer is the head.
        inner_lr: inner step size, > 0.
        inner_steps: steps in training, >= 0.
        test_inner_steps: steps at test; None is the same number.
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

    def adapts(self) -> set[str]:
        return self.net.head_names()
