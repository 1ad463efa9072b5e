"""BOIL: MAML that adapts the body alone."""

from __future__ import annotations

from innerloop.algorithms.base import GradientLearner
from innerloop.gradients import Unrolled


class BOIL(GradientLearner):
    """Body only in the inner loop: features change from task to task, the last layer does not.

    Inner loop: b_{k+1} = b_k - inner_lr * grad_b L_S(b_k, head), for all parameters b but those of the
    module's last layer that has any. Outer objective: L_Q(b_K, head), differentiated exactly.
    Meta-learned: body and head. Adapted: the body.

    Cost per inner step: as MAML's, without the head's own gradient. Memory grows with `inner_steps`.

    Strengths: where tasks need other features rather than another last layer, as under a change of domain;
    one large step does. Not where the head must learn a new output, as in regression.
    Published: miniImageNet 5-way 1-shot 49.61 +- 0.16, 5-way 5-shot 66.45 +- 0.37 (the paper, as LibFewShot
    quotes it).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] whose last layer is the head.
        inner_lr: inner step size, > 0. The paper: 0.5 with Conv4 on miniImageNet.
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
    >>> learner = il.algorithms.BOIL(il.models.MLP(1, 1, hidden=(40,)), loss="mse")
    >>> sorted(learner.adapts())
    ['body.1.bias', 'body.1.weight']

    Differences from the paper: none; the script that came with it gives the head the body's rate, which
    is MAML.

    Reference: Oh, Yoo, Kim and Yun 2021, arXiv 2008.08882.
    """

    gradient = Unrolled()

    def adapts(self) -> set[str]:
        return set(self.net.names) - self.net.head_names()
