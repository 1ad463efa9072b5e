"""FOMAML: MAML without second derivatives."""

from __future__ import annotations

from innerloop.algorithms.base import GradientLearner
from innerloop.gradients import FirstOrder


class FOMAML(GradientLearner):
    """MAML whose outer gradient holds the inner gradients constant.

    Inner loop: as in MAML, phi_{k+1} = phi_k - inner_lr * grad L_S(phi_k).
    Outer gradient: grad L_Q at phi_K, applied to theta.
    Meta-learned: theta, all parameters of the module. Adapted: all of them.

    Cost per inner step: one forward and backward pass on the support set; memory does not grow
    with `inner_steps`.

    Strengths: MAML for large models and many inner steps, in flat memory and a third of the work; on images
    close to MAML with few ways. Worse with many ways, and where the path of adaptation matters.
    Published: Omniglot 5-way 1-shot 98.3 +- 0.5, 5-way 5-shot 99.2 +- 0.2, 20-way 1-shot 89.4 +- 0.5, 20-way
    5-shot 97.9 +- 0.1 (the Reptile paper, as the iMAML paper quotes it); miniImageNet 5-way 1-shot 48.07 +-
    1.75, 5-way 5-shot 63.15 +- 0.91 (the paper, table 1).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
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

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.FOMAML(il.models.MLP(1, 1), inner_lr=0.01, inner_steps=5, loss="mse")
    >>> learner.gradient.exact
    False

    Differences from the paper: none.

    Reference: Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.2.
    """

    gradient = FirstOrder()
