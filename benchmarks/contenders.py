"""Who is timed: innerloop, the peers as their documentation runs them, and the supervised limit.

A contender is a function of a `Problem` that prepares everything and returns its meta-step: a call without
arguments that gives the gradient of the mean query loss by parameter name (nothing, for the limit).

learn2learn and torchmeta do not install on Python 3.11 and newer, so they are not here, nor are stand-ins for
them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from works import Network, Params, Problem

import innerloop as il

Step = Callable[[], Mapping[str, Any]]
Kind = Literal["ours", "torch", "jax", "limit"]


class Skipped(Exception):
    """A contender that does not take part, and why."""


@dataclass(frozen=True)
class Contender:
    """Attributes:
    unasked: families of works in which it takes part without being named; None is all of them.
    """

    name: str
    kind: Kind
    prepare: Callable[[Problem], Step]
    unasked: tuple[str, ...] | None = None


def need(module: str) -> Any:
    """A peer's module, imported when it is first needed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Skipped(f"{error}; do: pip install -c constraints.txt -e '.[bench]'") from error


# --- innerloop: what is compared, and under which names ---------------------------------------------------


def innerloop(problem: Problem, **how: Any) -> Step:
    """`il.meta_gradient`, with default settings unless `how` says otherwise."""
    work, network = problem.work, problem.network()
    settings: dict[str, Any] = {"batch_norm": "transductive"}  # the batch at hand, as in every peer
    if work.inner_steps:
        loss = "cross_entropy" if work.ways else "mse"
        settings |= {"inner_lr": work.inner_lr, "inner_steps": work.inner_steps, "loss": loss}
    learner = getattr(il.algorithms, work.algorithm)(network, **settings)
    learner.to(problem.device)
    meta = learner.init(torch.Generator().manual_seed(0)) | {"params": values(network)}
    return lambda: il.meta_gradient(learner, meta, problem.episodes, **how)[0]["params"]


def innerloop_recompute(problem: Problem) -> Step:
    if not hasattr(il.gradients, "Recompute"):
        raise Skipped("il.gradients has no Recompute")
    if not problem.work.inner_steps:
        raise Skipped("no inner steps to recompute")
    return innerloop(problem, gradient=il.gradients.Recompute())


def innerloop_thrifty(problem: Problem) -> Step:
    """The least memory for an exact gradient: one step's graph of one task at a time."""
    if not problem.work.inner_steps:
        raise Skipped("no inner steps to recompute")
    return innerloop(problem, gradient=il.gradients.Recompute(), tasks_axis="loop")


def innerloop_compiled(problem: Problem) -> Step:
    if "compile" not in inspect.signature(il.meta_gradient).parameters:
        raise Skipped("il.meta_gradient has no argument `compile`")
    return innerloop(problem, compile=True)


OURS = [
    Contender("innerloop", "ours", innerloop),
    Contender("innerloop-recompute", "ours", innerloop_recompute),
    Contender("innerloop-thrifty", "ours", innerloop_thrifty, unasked=("memory",)),
    # Not in the memory works: its peak is the compiler's.
    Contender("innerloop-compiled", "ours", innerloop_compiled, unasked=("sinusoid", "conv4", "transformer")),
]

# --- peers ------------------------------------------------------------------------------------------------


def loop(problem: Problem) -> Step:
    """Plain PyTorch, written by hand: a loop over tasks, `create_graph=True`, one backward pass a task."""
    network, work = problem.network(), problem.work
    if work.algorithm == "ProtoNet":
        return lambda: _gradient(network, lambda: _each_prototypical(problem, network))

    def query_loss(support: il.Batch, query: il.Batch) -> Tensor:
        fast: Params = dict(network.head.named_parameters())
        x = network.body(support.x)
        for _ in range(work.inner_steps):
            loss = problem.loss(functional_call(network.head, fast, (x,)), support.y)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {n: p - work.inner_lr * g for (n, p), g in zip(fast.items(), grads, strict=True)}
        return problem.loss(functional_call(network.head, fast, (network.body(query.x),)), query.y)

    def backward() -> None:
        for support, query in problem.tasks():
            (query_loss(support, query) / work.tasks).backward()

    return lambda: _gradient(network, backward)


def higher(problem: Problem) -> Step:
    """As in its examples/maml-omniglot.py: a patched copy and a differentiable SGD for each task."""
    library, work = need("higher"), _stepping(problem)
    network = problem.network()
    optimizer = torch.optim.SGD(network.head.parameters(), lr=work.inner_lr)

    def backward() -> None:
        for support, query in problem.tasks():
            with library.innerloop_ctx(network.head, optimizer, copy_initial_weights=False) as (fast, inner):
                x = network.body(support.x)
                for _ in range(work.inner_steps):
                    inner.step(problem.loss(fast(x), support.y))
                (problem.loss(fast(network.body(query.x)), query.y) / work.tasks).backward()

    return lambda: _gradient(network, backward)


def torchopt(problem: Problem) -> Step:
    """As in its examples/few-shot/maml_omniglot.py: `MetaSGD`, one backward pass for all tasks."""
    library, work = need("torchopt"), _stepping(problem)
    network = problem.network()
    head = network.head
    inner = library.MetaSGD(head, lr=work.inner_lr)

    def backward() -> None:
        before = library.extract_state_dict(head, by="reference", detach_buffers=True)
        inner_before = library.extract_state_dict(inner, by="reference")
        losses = []
        for support, query in problem.tasks():
            x = network.body(support.x)
            for _ in range(work.inner_steps):
                inner.step(problem.loss(head(x), support.y))
            losses.append(problem.loss(head(network.body(query.x)), query.y))
            library.recover_state_dict(head, before)
            library.recover_state_dict(inner, inner_before)
        torch.stack(losses).mean().backward()

    return lambda: _gradient(network, backward)


def vmap(problem: Problem) -> Step:
    """`torch.func`: the gradient of a vmapped inner loop, BatchNorm patched as the documentation says."""
    _stepping(problem)
    network = problem.network()
    torch.func.replace_all_batch_norm_modules_(network)
    return _vmapped(problem, network)


def vmap_written(problem: Problem) -> Step:
    """The same with normalisation in plain arithmetic: under `vmap` the fused ones derive wrongly twice."""
    _stepping(problem)
    network = problem.network()
    written_out(network)
    if not any(isinstance(module, WrittenNorm) for module in network.modules()):
        raise Skipped("no normalisation to write out: the same as vmap")
    return _vmapped(problem, network)


def vmap_compiled(problem: Problem) -> Step:
    """The written-out one under `torch.compile`, which unrolls the steps: seconds to minutes to compile."""
    _stepping(problem)
    network = problem.network()
    written_out(network)
    return torch.compile(_vmapped(problem, network))


def jax(problem: Problem) -> Step:
    """`jit` of the gradient of a vmapped inner loop, in a file of its own."""
    need("jax")
    need("optax")
    return importlib.import_module("jax_peer").prepare(problem)


PEERS = [
    Contender("higher", "torch", higher),
    Contender("torchopt", "torch", torchopt),
    Contender("vmap", "torch", vmap),
    Contender("vmap-written", "torch", vmap_written),
    Contender("loop", "torch", loop),
    # On a CPU, its batched convolutions take many seconds a step, and as many tens of seconds to compile.
    Contender("jax", "jax", jax, unasked=("sinusoid", "anil")),
    Contender("vmap-compiled", "torch", vmap_compiled, unasked=()),
]


def supervised(problem: Problem) -> Step:
    """The limit: the images of all tasks, support and query, once forward and backward as one batch."""
    network = problem.network()
    support, query = problem.episodes
    x, y = (torch.cat([s, q], 1).flatten(0, 1) for s, q in zip(support, query, strict=True))

    def step() -> Params:
        network.zero_grad()
        problem.loss(network(x), y).backward()
        return {}

    return step


LIMIT = Contender("supervised limit", "limit", supervised)

# --- what they share --------------------------------------------------------------------------------------


def values(network: nn.Module) -> Params:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def _stepping(problem: Problem) -> Any:
    if not problem.work.inner_steps:
        raise Skipped("no inner loop to differentiate")
    return problem.work


def _gradient(network: Network, backward: Callable[[], None]) -> Params:
    network.zero_grad()
    backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def _vmapped(problem: Problem, network: Network) -> Step:
    work, params = problem.work, values(network)

    def forward(params: Params, x: Tensor, part: str) -> Tensor:
        own = {n.removeprefix(f"{part}."): p for n, p in params.items() if n.startswith(f"{part}.")}
        return functional_call(network.get_submodule(part), own, (x,))

    def task_loss(params: Params, support: il.Batch, query: il.Batch) -> Tensor:
        x = forward(params, support.x, "body")
        fast = {name: p for name, p in params.items() if name.startswith("head.")}
        for _ in range(work.inner_steps):
            grads = torch.func.grad(lambda fast: problem.loss(forward(fast, x, "head"), support.y))(fast)
            fast = {name: p - work.inner_lr * grads[name] for name, p in fast.items()}
        return problem.loss(forward(fast, forward(params, query.x, "body"), "head"), query.y)

    def meta_loss(params: Params) -> Tensor:
        return torch.func.vmap(task_loss, in_dims=(None, 0, 0))(params, *problem.episodes).mean()

    return lambda: torch.func.grad(meta_loss)(params)


def _each_prototypical(problem: Problem, network: Network) -> None:
    for support, query in problem.tasks():
        embedded = network(torch.cat([support.x, query.x]))
        # The labels of a batch are 0, 1, ..., ways - 1, again and again.
        supports, queries = embedded.split([len(support.y), len(query.y)])
        prototypes = supports.view(-1, problem.work.ways, supports.shape[-1]).mean(
            0
        )  # labels 0, 1, ... repeat
        distances = (queries[:, None] - prototypes).square().sum(-1)
        (problem.loss(-distances, query.y) / problem.work.tasks).backward()


class WrittenNorm(nn.Module):
    """A batch or layer norm in plain arithmetic, always with the statistics of the batch at hand."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm | nn.LayerNorm) -> None:
        super().__init__()
        self.over_batch = not isinstance(norm, nn.LayerNorm)
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        over = [d for d in range(x.ndim) if d != 1] if self.over_batch else [-1]
        shape = (-1, *(1,) * (x.ndim - 2)) if self.over_batch else (-1,)
        var, mean = torch.var_mean(x, over, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight.view(shape) + self.bias.view(shape)


def written_out(module: nn.Module) -> None:
    """Replace the norms inside a module."""
    for name, child in module.named_children():
        if isinstance(child, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            setattr(module, name, WrittenNorm(child))
        else:
            written_out(child)
