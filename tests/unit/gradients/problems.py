"""Learners of every kind that meta-gradients are asked about, each beside its own loop in plain torch.

The loop by hand shares no code with the package: modules by `torch.func.functional_call`, inner
gradients by `torch.autograd.grad(create_graph=True)`, one task at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop.algorithms import MAML
from innerloop.algorithms.base import GradientLearner
from innerloop.core import tree
from innerloop.core.functional import inner_gradient
from innerloop.core.learner import MetaLearner
from innerloop.core.losses import loss_value
from innerloop.core.types import Batch, Episode, Fast, Loss, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.gradients import Unrolled
from innerloop.models import Conv4
from innerloop.rules import SGD, Adam
from innerloop.tasks import Sinusoid

STEPS, LR, TASKS = 3, 0.05, 4
Params = dict[str, Tensor]
ByHand = Callable[[Meta, Batch, Batch], Tensor]


@dataclass(frozen=True)
class Problem:
    """A learner, where its gradient is taken, and the outer objective of one task written by hand."""

    learner: Any
    meta: Meta
    episodes: Episode
    by_hand: ByHand


# --- networks and tasks ----------------------------------------------------------------------------------


def network(seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    wide = int(torch.randint(3, 8, ()))
    return nn.Sequential(nn.Linear(1, wide), nn.Tanh(), nn.Linear(wide, 4), nn.Tanh(), nn.Linear(4, 1))


class Block(nn.Module):
    """A transformer block over short sequences [S, 3, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1))


class RowsNorm(nn.Module):
    """BatchNorm with the statistics of the first rows, by its formula."""

    rows: int | None = None

    def __init__(self, source: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = source.weight, source.bias, source.eps

    def forward(self, x: Tensor) -> Tensor:
        seen = x[: RowsNorm.rows]
        mean = seen.mean((0, 2, 3), keepdim=True)
        var = ((seen - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scaled = (x - mean) / torch.sqrt(var + self.eps)
        return scaled * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def sinusoids(count: int = TASKS) -> Episode:
    drawn = Sinusoid(shots=4, queries=5).sample("train", count, 1)
    return Episode(*(Batch(b.x.double() / 3, b.y.double()) for b in drawn))


def sequences(count: int = TASKS) -> Episode:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(count, 8, 3, 4, generator=rng, dtype=torch.float64)
    y = x[..., 0].mean(-1, keepdim=True) * torch.randn(count, 1, 1, generator=rng, dtype=torch.float64)
    return Episode(Batch(x[:, :4], y[:, :4]), Batch(x[:, 4:], y[:, 4:]))


def pictures(count: int = TASKS) -> Episode:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(count, 7, 1, 16, 16, generator=rng, dtype=torch.float64)
    y = torch.arange(2).repeat(count, 4)[:, :7]
    return Episode(Batch(x[:, :3], y[:, :3]), Batch(x[:, 3:], y[:, 3:]))


# --- by hand ---------------------------------------------------------------------------------------------

Update = Callable[[Params, Params, dict[str, Any], Meta, int], Params]


def descent(phi: Params, grads: Params, kept: dict[str, Any], meta: Meta, k: int) -> Params:
    return {n: p - LR * grads[n] for n, p in phi.items()}


def loop_by_hand(
    net: nn.Module, loss: Loss, update: Update = descent, *, joint: bool = False, weights: Any = None
) -> ByHand:
    """The outer objective of one task; `joint` passes support and query together."""
    each = weights or (0.0,) * (STEPS - 1) + (1.0,)
    value = F.cross_entropy if loss == "cross_entropy" else F.mse_loss

    def judged(phi: Params, support: Batch, query: Batch) -> Tensor:
        RowsNorm.rows = len(support.x) if joint else None
        if not joint:
            return value(functional_call(net, phi, (query.x,)), query.y)
        outputs = functional_call(net, phi, (torch.cat([support.x, query.x]),))
        return value(outputs[len(support.x) :], query.y)

    def objective(meta: Meta, support: Batch, query: Batch) -> Tensor:
        phi, total, kept = dict(meta["params"]), torch.zeros(()), {}
        for k in range(STEPS):
            RowsNorm.rows = None
            fit = value(functional_call(net, phi, (support.x,)), support.y)
            found = torch.autograd.grad(fit, list(phi.values()), create_graph=True)
            phi = update(phi, dict(zip(phi, found, strict=True)), kept, meta, k)
            if each[k]:
                total = total + each[k] * judged(phi, support, query)
        return total

    return objective


def momentum_by_hand(phi: Params, grads: Params, kept: dict[str, Any], meta: Meta, k: int) -> Params:
    kept["b"] = {n: 0.9 * kept["b"][n] + g if k else g for n, g in grads.items()}
    return {n: p - LR * kept["b"][n] for n, p in phi.items()}


def adam_by_hand(phi: Params, grads: Params, kept: dict[str, Any], meta: Meta, k: int) -> Params:
    m, v = kept.get("m", dict.fromkeys(phi, 0.0)), kept.get("v", dict.fromkeys(phi, 0.0))
    kept["m"] = {n: 0.9 * m[n] + 0.1 * g for n, g in grads.items()}
    kept["v"] = {n: 0.999 * v[n] + 0.001 * g**2 for n, g in grads.items()}
    t = k + 1
    return {
        n: p - LR * kept["m"][n] / (1 - 0.9**t) / (torch.sqrt(kept["v"][n] / (1 - 0.999**t)) + 1e-3)
        for n, p in phi.items()
    }


def rates_by_hand(phi: Params, grads: Params, kept: dict[str, Any], meta: Meta, k: int) -> Params:
    return {n: p - meta["lr"][n] * grads[n] for n, p in phi.items()}


def cell_by_hand(phi: Params, grads: Params, kept: dict[str, Any], meta: Meta, k: int) -> Params:
    cell, after = meta["cell"], {}
    for n, p in phi.items():
        h = kept.get(n, torch.zeros(*p.shape, 3))
        seen = torch.cat([grads[n][..., None], h], -1)
        z = 1 / (1 + torch.exp(-(seen @ cell["gate"])))
        kept[n] = (1 - z) * h + z * torch.tanh(seen @ cell["new"])
        after[n] = p - 0.1 * (kept[n] * cell["out"]).sum(-1)
    return after


# --- learners of our own ---------------------------------------------------------------------------------


class LearnedRates(GradientLearner):
    """Meta-SGD: a rate for every parameter is learned beside the initialisation."""

    gradient = Unrolled()

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        rates = {n: torch.linspace(0.02, 0.1, p.numel()).view(p.shape) for n, p in meta["params"].items()}
        return meta | {"lr": rates}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        def support_loss(params: Params) -> Tensor:
            return loss_value(self.loss, self.net(params, support.x), support.y)

        grads = inner_gradient(support_loss, fast["params"])
        params, state = SGD(lr=self.rates(meta, k)).step(grads, fast["rule"], fast["params"])
        return fast | {"params": params, "rule": state}

    def rates(self, meta: Meta, k: int) -> Any:
        return meta["lr"]


class RatePerStep(LearnedRates):
    """A learned rate for each step, so that steps are not alike."""

    def init(self, rng: torch.Generator) -> Meta:
        return super().init(rng) | {"lr": torch.linspace(0.02, 0.2, STEPS)}

    def rates(self, meta: Meta, k: int) -> Any:
        return meta["lr"][k]


class LearnedOptimizer(MetaLearner):
    """A gated recurrent cell, the same for every coordinate, takes gradients to steps."""

    loss: Loss = "mse"
    inner_steps = STEPS
    gradient = Unrolled()

    def init(self, rng: torch.Generator) -> Meta:
        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng, dtype=torch.float64) / 2

        params = {"0.weight": drawn(4, 1), "0.bias": drawn(4), "2.weight": drawn(1, 4), "2.bias": drawn(1)}
        return {"params": params, "cell": {"gate": drawn(4, 3), "new": drawn(4, 3), "out": drawn(3)}}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        hidden = {n: p.new_zeros(*p.shape, 3) for n, p in meta["params"].items()}
        return {"params": meta["params"], "hidden": hidden}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        def support_loss(params: Params) -> Tensor:
            return loss_value(self.loss, self.outputs(params, support.x), support.y)

        grads = inner_gradient(support_loss, fast["params"])
        hidden = {n: self.cell(meta["cell"], grads[n], h) for n, h in fast["hidden"].items()}
        params = {n: p - 0.1 * hidden[n] @ meta["cell"]["out"] for n, p in fast["params"].items()}
        return {"params": params, "hidden": hidden}

    def cell(self, cell: Params, grad: Tensor, hidden: Tensor) -> Tensor:
        seen = torch.cat([grad[..., None], hidden], -1)
        gate, new = torch.sigmoid(seen @ cell["gate"]), torch.tanh(seen @ cell["new"])
        return (1 - gate) * hidden + gate * new

    def outputs(self, params: Params, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ params["0.weight"].T + params["0.bias"])
        return hidden @ params["2.weight"].T + params["2.bias"]

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return self.outputs(fast["params"], inputs)


# --- the table -------------------------------------------------------------------------------------------


def double(meta: Meta) -> Meta:
    """At a point without zero biases."""
    rng = torch.Generator().manual_seed(1)
    return tree.map(lambda p: p.double() + 0.02 * torch.randn(p.shape, generator=rng).double(), meta)


def mlp(seed: int = 3, kind: Any = MAML, update: Update = descent, rule: Any = None, **set_: Any) -> Problem:
    net = network(seed).double()
    learner = kind(net, inner_lr=LR, inner_steps=STEPS, loss="mse")
    learner.rule = rule or learner.rule
    for name, value in set_.items():
        setattr(learner, name, value)
    by_hand = loop_by_hand(net, "mse", update, weights=set_.get("step_weights"))
    return Problem(learner, double(learner.init(torch.Generator())), sinusoids(), by_hand)


def conv(policy: Any) -> Problem:
    net = Conv4(2, size=16, width=2).double()
    learner = MAML(net, inner_lr=LR, inner_steps=STEPS, batch_norm=policy)
    plain = copy.deepcopy(net)
    for block in plain.body:
        block[1] = RowsNorm(block[1])  # pyright: ignore
    by_hand = loop_by_hand(plain, "cross_entropy", joint=policy == "support")
    meta = learner.init(torch.Generator().manual_seed(0))
    rest = {name: node for name, node in meta.items() if name != "params"}
    return Problem(learner, double({"params": meta["params"]}) | rest, pictures(), by_hand)


def transformer() -> Problem:
    torch.manual_seed(0)
    net = Block().double()
    learner = MAML(net, inner_lr=LR, inner_steps=STEPS, loss="mse")
    plain = copy.deepcopy(net)
    plain.block.self_attn.forward = attention_by_hand(plain.block.self_attn)  # pyright: ignore
    return Problem(learner, double(learner.init(torch.Generator())), sequences(), loop_by_hand(plain, "mse"))


def attention_by_hand(layer: nn.MultiheadAttention) -> Callable[..., Any]:
    def attend(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        q, k, v = (x @ layer.in_proj_weight.T + layer.in_proj_bias).chunk(3, -1)
        heads = []
        for a in (slice(0, 2), slice(2, 4)):
            scores = torch.einsum("sid,sjd->sij", q[..., a], k[..., a]) / 2**0.5
            heads.append(torch.softmax(scores, -1) @ v[..., a])
        return layer.out_proj(torch.cat(heads, -1)), None

    return attend


def recurrent() -> Problem:
    torch.manual_seed(0)
    learner = LearnedOptimizer()
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    by_hand = loop_by_hand(net, "mse", cell_by_hand)
    return Problem(learner, learner.init(torch.Generator().manual_seed(0)), sinusoids(), by_hand)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mlp": mlp,
    "another mlp": lambda: mlp(seed=5),
    "weighted steps": lambda: mlp(step_weights=(0.2, 0.3, 0.5)),
    "sum over steps": lambda: mlp(step_weights=(1.0,) * STEPS),
    "momentum": lambda: mlp(rule=SGD(LR, momentum=0.9), update=momentum_by_hand),
    "Adam": lambda: mlp(rule=Adam(LR, eps=1e-3), update=adam_by_hand),
    "learned rates": lambda: mlp(kind=LearnedRates, update=rates_by_hand),
    "rate of each step": lambda: mlp(
        kind=RatePerStep,
        update=lambda phi, g, kept, meta, k: {n: p - meta["lr"][k] * g[n] for n, p in phi.items()},
    ),
    "recurrent rule": recurrent,
    "conv support": lambda: conv("support"),
    "conv transductive": lambda: conv("transductive"),
    "conv running": lambda: conv("running"),
    "transformer": transformer,
}


def gradient_by_hand(problem: Problem) -> Meta:
    """The mean over tasks, one after another."""
    kept = {name: node for name, node in problem.meta.items() if name != "statistics"}
    inputs = tree.map(lambda p: p.detach().clone().requires_grad_(), kept)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tasks = [take(problem.episodes, i) for i in range(num_tasks(problem.episodes))]
        total = sum(problem.by_hand(inputs, *task) for task in tasks) / len(tasks)
    finally:
        torch.set_default_dtype(before)
    return tree.rebuild(kept, list(torch.autograd.grad(total, tree.leaves(inputs))))  # pyright: ignore
