"""Meta-learner LSTM: the learner's parameters are the cell state of an LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner, minibatch
from innerloop.algorithms.preprocess import log_and_sign
from innerloop.algorithms.recurrent import lstm_init, lstm_state, lstm_step
from innerloop.core import tree
from innerloop.core.errors import check_count, check_range
from innerloop.core.functional import BatchNormPolicy, inner_gradient_and_loss
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients import FirstOrder

_SMALL = 0.01  # weights begin uniform within this


class MetaLSTM(GradientLearner):
    """Learns how much of each parameter to forget and how much of its gradient to take, step by step.

        h_k = LSTM([pre(g_k), pre(L_k)], h_{k-1}),   g_k = grad L_S(c_{k-1}),   L_k = L_S(c_{k-1})
        f_k = sigmoid(w_f . [h_k, c_{k-1}, f_{k-1}] + b_f)
        i_k = sigmoid(w_i . [h_k, c_{k-1}, i_{k-1}] + b_i)
        c_k = f_k * c_{k-1} - i_k * g_k

    for every parameter c of the module alike; `pre` is logarithm and sign.
    Outer objective: the query loss of the last step; g and L are constants to it.
    Meta-learned: c_0, and the LSTM and gates that all parameters share. Adapted: all of c.

    Cost per inner step: one forward and backward pass on the support set, and some 2000 multiply-adds for
    each parameter; training keeps about 200 numbers for each parameter and step.

    Strengths: it learns rates, decay and when to stop, not only where to begin. Its state is many
    times the size of the model, so it is for small ones.
    Published: miniImageNet 5-way 1-shot 43.44 +- 0.77, 5-way 5-shot 60.60 +- 0.71 (the MAML paper, table 1).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept as c_0.
        hidden: cells of the LSTM, >= 1. The paper: 20.
        preprocess: logarithms end at -preprocess, > 0. The paper: 10.
        pre_sigmoid: whether gates are fed back as they are before their sigmoid, as in the official code.
        inner_steps: steps in training, >= 0. The official code: 12 for one shot, 8 for five.
        test_inner_steps: steps at test; None is the same number.
        inner_batch: support examples of a step, drawn anew for each; None takes them all.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    The official code trains with Adam at 1e-3 and clips the norm of the meta-gradient at 0.25.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MetaLSTM(il.models.MLP(1, 1), loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> sorted(meta)
    ['gates', 'lstm', 'params']
    >>> bool(meta["gates"]["input"]["bias"].sigmoid() < 0.02)  # it begins near plain SGD with a small rate
    True

    Differences from the paper: minibatches are drawn afresh for each step, without passing through the
    support set in turn; statistics of BatchNorm are the support set's, not averages over its minibatches.
    A port of the official code is reported to reach 57.8 to 58.1 on the 5-shot task.

    Reference: Ravi and Larochelle 2017, Optimization as a Model for Few-Shot Learning (ICLR).
    """

    gradient = FirstOrder()
    small = {"inner_steps": 5}

    def __init__(
        self,
        module: nn.Module,
        *,
        hidden: int = 20,
        preprocess: float = 10.0,
        pre_sigmoid: bool = False,
        inner_steps: int = 12,
        test_inner_steps: int | None = None,
        inner_batch: int | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            loss=loss,
            batch_norm=batch_norm,
        )
        check_count("hidden", hidden, low=1)
        check_range("preprocess", preprocess, low=0.0, open_low=True)
        if inner_batch is not None:
            check_count("inner_batch", inner_batch, low=1)
        self.hidden, self.preprocess, self.pre_sigmoid = hidden, preprocess, pre_sigmoid
        self.inner_batch = inner_batch

    def init(self, rng: torch.Generator) -> Meta:
        def drawn(shape: int | torch.Size, low: float, high: float) -> Tensor:
            return torch.empty(shape).uniform_(low, high, generator=rng)

        lstm = tree.map(lambda leaf: drawn(leaf.shape, -_SMALL, _SMALL), lstm_init(rng, 4, self.hidden))
        gates = {
            name: {"weight": drawn(self.hidden + 2, -_SMALL, _SMALL), "bias": drawn(1, low, low + 1.0)}
            for name, low in (("forget", 4.0), ("input", -5.0))
        }
        return super().init(rng) | {"lstm": lstm, "gates": gates}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        count = sum(p.numel() for p in meta["params"].values())
        state = lstm_state(meta["lstm"], count)
        none = state["h"].new_zeros(count)
        return super().begin(meta, support) | {"lstm": state, "gates": {"forget": none, "input": none}}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        batch = minibatch(support, self.inner_batch)
        grads, loss = inner_gradient_and_loss(
            lambda params: self.inner_loss(meta, fast, params, batch), fast["params"]
        )
        grad, cell = (torch.cat([p.reshape(-1) for p in of.values()]) for of in (grads, fast["params"]))
        seen = [log_and_sign(grad, self.preprocess), log_and_sign(loss, self.preprocess).expand(len(grad), 2)]
        lstm = lstm_step(meta["lstm"], torch.cat(seen, dim=1), fast["lstm"])
        logits = {
            name: torch.cat([lstm["h"], torch.stack([cell, before], dim=1)], dim=1)
            @ meta["gates"][name]["weight"]
            + meta["gates"][name]["bias"]
            for name, before in fast["gates"].items()
        }
        gates = {name: logit.sigmoid() for name, logit in logits.items()}
        after = gates["forget"] * cell - gates["input"] * grad
        parts = after.split([p.numel() for p in fast["params"].values()])
        params = {n: v.reshape(p.shape) for (n, p), v in zip(fast["params"].items(), parts, strict=True)}
        return fast | {"params": params, "lstm": lstm, "gates": logits if self.pre_sigmoid else gates}
