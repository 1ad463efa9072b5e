"""OML: a representation under which learning one class after another does not undo itself."""

from __future__ import annotations

from innerloop.algorithms.trajectory import TrajectoryLearner
from innerloop.gradients import Unrolled


class OML(TrajectoryLearner):
    """Learns the features that a head can be trained on online, one example at a time, without forgetting.

    Along a trajectory (x_1, y_1), (x_2, y_2), ..., class after class, with the body theta held:

        W_{k+1} = W_k - inner_lr * grad_W L(head(W_k, theta(x_k)), y_k)

    The head's rows for the trajectory's classes begin anew in each task, so that none can be known by heart.
    Outer objective: the loss of W_K on other examples of the trajectory and on examples of other classes,
    which are to be remembered; differentiated through all steps, in theta and in W_0.
    Meta-learned: the body, and the initial head. Adapted: the head.

    Cost per inner step: the head's forward and backward pass on one example; the body's features of the
    trajectory are computed once, where the head is a linear layer that the module ends with and nothing is
    dropped. A head of many outputs costs most of a step.

    Strengths: for streams of hundreds of classes that come one after another and are seen once; needs tasks
    whose labels keep their meaning, such as `ClassIncrementalOmniglot`. On few-shot tasks it is ANIL, one
    example at a time.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] whose last layer is the head.
        inner_lr: inner step size, > 0. The official code: 0.03.
        inner_steps: steps in training, >= 0; as many as the support has examples are one pass over it. The
            official code: 5 for each of 3 classes.
        test_inner_steps: steps at test; None is the same number.
        inner_batch: examples a step, >= 1.
        reset: whether the head's rows for the classes of the support begin anew in each task. Where the
            support has all classes of the head, as in few-shot tasks, none do.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`; with the latter nothing is reset.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`. The
            paper's networks have no BatchNorm.

    >>> import torch, innerloop as il
    >>> tasks = il.tasks.ClassIncrementalOmniglot.tiny()
    >>> learner = il.algorithms.OML(il.models.Conv4(tasks.spec.outputs, width=8, norm="none"))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> il.meta_gradient(learner, meta, tasks.sample("train", 4, 0))[1].losses.shape
    torch.Size([4])

    Differences from the paper: as in the official code since July 2020, the head is one linear layer, rows
    are drawn anew with variance 2 / width while biases are kept, and the query has other examples of the
    trajectory's classes than its support. There the new rows replace the learned ones for good; here they
    are the task's own, and the learned ones stay for tasks that are to remember the class.

    Reference: Javed and White 2019, arXiv 1905.12588.
    """

    gradient = Unrolled()
