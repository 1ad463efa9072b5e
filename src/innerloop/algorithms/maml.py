"""MAML: an initialisation from which a few gradient steps suffice."""

from __future__ import annotations

from innerloop.algorithms.base import GradientLearner
from innerloop.gradients import Unrolled


class MAML(GradientLearner):
    """Learns an initialisation from which a few steps of gradient descent solve a new task.

    Inner loop, from phi_0 = theta, on the mean support loss L_S:

        phi_{k+1} = phi_k - inner_lr * grad L_S(phi_k)

    Outer objective: the query loss L_Q(phi_K) of the last step, differentiated through all steps.
    Meta-learned: theta, all parameters of the module. Adapted: all of them.

    Cost per inner step: one forward and backward pass on the support set, and in training the
    backward pass of both. Memory grows with `inner_steps`.

    Strengths: the reference for any model and any loss, regression included: nothing but an initialisation
    is learned. Sensitive to `inner_lr`, and costly with many inner steps.
    Published: Omniglot 5-way 1-shot 98.7 +- 0.4, 5-way 5-shot 99.9 +- 0.1, 20-way 1-shot 95.8 +- 0.3, 20-way
    5-shot 98.9 +- 0.2; miniImageNet 5-way 1-shot 48.70 +- 1.84, 5-way 5-shot 63.11 +- 0.92 (the paper, table
    1); sinusoid 5-shot MSE 0.67 after 1 step, 0.38 after 5, 0.35 after 10 (the paper, table 2).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: inner step size, > 0. The paper: 0.4 on Omniglot 5-way, 0.01 on the sinusoid.
        inner_steps: steps in training, >= 0; 0 is joint training, without adaptation.
        test_inner_steps: steps at test; None is the same number. The paper: 3 on Omniglot 5-way.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings; for
            others (momentum), set `rule` on the learner.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MAML(il.models.MLP(1, 1), inner_lr=0.01, inner_steps=1, loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> grads, record = il.meta_gradient(learner, meta, il.tasks.Sinusoid().sample("train", 4, 0))
    >>> record.losses.shape
    torch.Size([4])

    Differences from the paper: the official code normalises with the statistics of each batch,
    the query batch included (`batch_norm="transductive"`), and does not adapt BatchNorm's shift.

    Reference: Finn, Abbeel and Levine 2017, arXiv 1703.03400.
    """

    gradient = Unrolled()
