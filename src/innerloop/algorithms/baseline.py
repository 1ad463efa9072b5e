"""Baseline: an ordinary classifier, and a new linear head for each task."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

from innerloop.algorithms.pooled import PooledLearner, uniform_within
from innerloop.core.functional import Params
from innerloop.core.rng import fold_key


class Baseline(PooledLearner):
    """Trains an ordinary classifier, freezes its features, and fits a linear head to each task.

    In training, on batches of examples of all training classes: cross-entropy of W f(x) + b, for one head
    (W, b) with a row for each of them. At test, for a fresh head of the task's classes,

        v_{k+1} = momentum v_k + (1 - dampening) (grad L_B(h_k) + weight_decay h_k)
        h_{k+1} = h_k - inner_lr v_{k+1}

    on minibatches B of the support.

    Outer objective: the cross-entropy of the common head; there are no inner steps in training.
    Meta-learned: the embedding f, and the common head, of use in training alone. Adapted: the task's head.

    Cost per inner step: the head's forward and backward pass; the support is embedded once. Training costs
    what ordinary supervised training does.

    Strengths: the honest rival of every meta-learner, strong with deep networks and where test classes are
    far from the training ones. Weaker at one shot, and of no use where a class is another in every task.
    Published: none verified.

    Args:
        module: any embedding, [S, ...] to [S, D] (or to maps, which are flattened); pretrained weights are
            kept.
        classes: number of training classes, >= 2; a run's configuration takes it from the tasks.
        inner_lr: step size of the head's gradient descent, > 0.
        test_inner_steps: its steps, >= 0.
        inner_batch: support examples of a step, drawn anew for each; None takes them all.
        momentum: of the head's gradient descent, in [0, 1).
        dampening: share of each new gradient that the momentum leaves out, in [0, 1]; not at the first step.
        weight_decay: factor of half the head's squared norm, >= 0.
        embedding_size: the width D of a module that is not of `il.models`.
        batch_norm: `running`, as in ordinary training; `support` and `transductive` as elsewhere.

    Train it with `tasks_per_step` batches, each as large as a training task (`train_ways`, `train_shots`,
    `train_queries`).

    >>> import torch, innerloop as il
    >>> tasks = il.tasks.Arrays.tiny()
    >>> learner = il.algorithms.Baseline(il.models.Conv4(None, width=8), classes=tasks.spec.classes["train"])
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> batches = tasks.pooled(4, 0)
    >>> il.meta_gradient(learner, meta, batches)[1].losses.shape
    torch.Size([4])

    Differences from the paper: a fresh head is the same draw for every task, and each step draws its
    minibatch anew. The official code takes 100 passes through the support set in minibatches, not 100 steps.

    Reference: Chen, Liu, Kira, Wang and Huang 2019, arXiv 1904.04232.
    """

    def fresh(self, classes: int, width: int, key: Tensor) -> Params:
        bound = width**-0.5
        weight = uniform_within(bound, (classes, width), fold_key(key, 0))
        return {"weight": weight, "bias": uniform_within(bound, (classes,), fold_key(key, 1))}

    def logits(self, head: Params, embedded: Tensor) -> Tensor:
        return linear(embedded, head["weight"], head["bias"])
