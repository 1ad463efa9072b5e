"""What every update rule must answer, and the table of rules and settings that are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.rules import SGD, Adagrad, Adam, AdamW, RMSprop

Params = dict[str, Tensor]

#: A hyperparameter is a number, or it is learned: once, once for each parameter, or once for each element.
Form = Literal["fixed", "shared", "by parameter", "by element"]
FORMS: tuple[Form, ...] = ("fixed", "shared", "by parameter", "by element")


@dataclass(frozen=True)
class Case:
    """A rule with settings: numbers, which can be learned, and flags, which cannot."""

    rule: Callable[..., Any]
    optimizer: type[torch.optim.Optimizer]
    numbers: dict[str, float]
    flags: dict[str, bool] = field(default_factory=dict)

    def build(self, learned: dict[str, Any] | None = None) -> Any:
        return self.rule(**self.numbers | (learned or {}), **self.flags)

    def torch_optimizer(self, leaves: list[Tensor]) -> torch.optim.Optimizer:
        settings: dict[str, Any] = self.numbers | self.flags
        betas = settings.pop("beta1", 0.9), settings.pop("beta2", 0.999)
        if self.optimizer in (torch.optim.Adam, torch.optim.AdamW):
            settings["betas"] = betas
        return self.optimizer(leaves, **settings)  # pyright: ignore

    def learned(self, form: Form, like: Params) -> dict[str, Any]:
        """The numbers as tensors in that form, a little different wherever they may be."""
        if form == "fixed":
            return {}
        rng = torch.Generator().manual_seed(1)

        def around(number: float, shape: tuple[int, ...]) -> Tensor:
            return number * (1 + 0.1 * torch.rand(shape, generator=rng, dtype=torch.float64))

        if form == "shared":
            return {what: around(number, ()) for what, number in self.numbers.items()}
        shapes = {n: p.shape if form == "by element" else () for n, p in like.items()}
        return {w: {n: around(number, s) for n, s in shapes.items()} for w, number in self.numbers.items()}


CASES: dict[str, Case] = {
    "SGD": Case(SGD, torch.optim.SGD, {"lr": 0.1}),
    "SGD-momentum": Case(SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8}),
    "SGD-nesterov": Case(SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8}, {"nesterov": True}),
    "SGD-decay": Case(SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "SGD-all": Case(
        SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.2}, {"nesterov": True}
    ),
    "Adam": Case(Adam, torch.optim.Adam, {"lr": 0.1}),
    "Adam-reptile": Case(Adam, torch.optim.Adam, {"lr": 0.01, "beta1": 0.0}),
    "Adam-no-memory": Case(Adam, torch.optim.Adam, {"lr": 0.1, "beta1": 0.0, "beta2": 0.0, "eps": 0.1}),
    "Adam-all": Case(
        Adam, torch.optim.Adam, {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.1, "weight_decay": 0.2}
    ),
    "AdamW": Case(AdamW, torch.optim.AdamW, {"lr": 0.1}),
    "AdamW-all": Case(
        AdamW, torch.optim.AdamW, {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.1, "weight_decay": 0.2}
    ),
    "RMSprop": Case(RMSprop, torch.optim.RMSprop, {"lr": 0.01}),
    "RMSprop-momentum": Case(RMSprop, torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.8}),
    "RMSprop-centered": Case(RMSprop, torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9}, {"centered": True}),
    "RMSprop-all": Case(
        RMSprop,
        torch.optim.RMSprop,
        {"lr": 0.02, "alpha": 0.8, "eps": 0.1, "momentum": 0.5, "weight_decay": 0.2},
        {"centered": True},
    ),
    "Adagrad": Case(Adagrad, torch.optim.Adagrad, {"lr": 0.1}),
    "Adagrad-all": Case(
        Adagrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.3, "weight_decay": 0.2, "initial_accumulator_value": 0.4, "eps": 0.1},
    ),
}

# --- an inner loop of three steps, with dead units ---------------------------------------------------------

STEPS = 3


def start() -> Params:
    """A network of three rectified units: alive, dead in the first step, and dead in all."""
    rng = torch.Generator().manual_seed(0)
    params = {"w": torch.rand(3, 4, generator=rng), "b": torch.tensor([0.5, 0.1, -50.0])}
    params["w"][1] *= -1
    return {n: p.double() for n, p in params.items()} | {"v": torch.tensor([0.7, -0.9, 1.1]).double()}


def batches() -> Tensor:
    """Inputs of the steps and of the query: positive in the first step, later of both signs."""
    x = 0.5 + torch.rand(STEPS + 1, 6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[1:, ::2] *= -1
    return x


def loss(params: Params, x: Tensor) -> Tensor:
    outputs = (x @ params["w"].T + params["b"]).relu() @ params["v"]
    return (outputs - x.sum(-1).sin()).square().mean()


def gradient(params: Params, x: Tensor, functional: bool) -> Params:
    if functional:
        return torch.func.grad(loss)(params, x)
    grads = torch.autograd.grad(loss(params, x), list(params.values()), create_graph=True)
    return dict(zip(params, grads, strict=True))


def outer_loss(rule: Any, params: Params, x: Tensor, functional: bool = True) -> Tensor:
    """The loss after three steps, and a little of every parameter, so that each has a derivative."""
    state = rule.init(params)
    for k in range(STEPS):
        params, state = rule.step(gradient(params, x[k], functional), state, params)
    return loss(params, x[STEPS]) + 0.1 * torch.stack([(p - 2).square().sum() for p in params.values()]).sum()


def outer_gradient(
    case: Case, point: dict[str, Any], x: Tensor, functional: bool = True
) -> dict[str, Tensor]:
    """The derivative of the outer loss by the initialisation and by all that is learned, by path."""

    def outer(point: dict[str, Any]) -> Tensor:
        return outer_loss(case.build(point["learned"]), point["theta"], x, functional)

    if functional:
        return tree.flatten(torch.func.grad(outer)(point))
    point = tree.map(lambda leaf: leaf.detach().clone().requires_grad_(), point)
    grads = torch.autograd.grad(outer(point), tree.leaves(point))
    return dict(zip(tree.flatten(point), grads, strict=True))


def at_start(case: Case, form: Form) -> dict[str, Any]:
    return {"theta": start(), "learned": case.learned(form, start())}


# --- questions -------------------------------------------------------------------------------------------


def follows_torch(case: Case, dtype: torch.dtype) -> None:
    """Eight steps of given gradients, some of them zero, end where torch's optimizer does."""
    rng = torch.Generator().manual_seed(0)
    params = {n: 2 * torch.rand(4, 3, generator=rng, dtype=dtype) - 1 for n in ("a", "b")}
    leaves = [p.clone() for p in params.values()]
    rule, optimizer, off = case.build(), case.torch_optimizer(leaves), []
    state = rule.init(params)
    for k in range(8):
        grads = {n: torch.randn(4, 3, generator=rng, dtype=dtype) for n in params}
        grads["a"][0] = 0.0
        grads["b"][0] *= k > 2
        params, state = rule.step(grads, state, params)
        for leaf, grad in zip(leaves, grads.values(), strict=True):
            leaf.grad = grad.clone()
        optimizer.step()
        off += [(p - q).abs().max() for p, q in zip(params.values(), leaves, strict=True)]
    worst = float(torch.stack(off).max())  # unlike Python's, this maximum does not pass over a NaN
    assert worst <= (1e-6 if dtype == torch.float32 else 1e-12), f"off torch.optim by {worst:.3g}"


def derivatives_are_right(case: Case, form: Form) -> None:
    """By the initialisation and by every learned number, by either autograd: finite differences."""
    point, x, h = at_start(case, form), batches(), 1e-6
    flat = torch.cat([leaf.reshape(-1) for leaf in tree.leaves(point)])
    sizes, shapes = zip(*((leaf.numel(), leaf.shape) for leaf in tree.leaves(point)), strict=True)

    def outer(flat: Tensor) -> Tensor:
        leaves = [part.reshape(s) for part, s in zip(flat.split(sizes), shapes, strict=True)]
        moved = tree.rebuild(point, leaves)
        return outer_loss(case.build(moved["learned"]), moved["theta"], x)

    moves = h * torch.eye(len(flat), dtype=flat.dtype)
    up, down = torch.func.vmap(outer)(flat + moves), torch.func.vmap(outer)(flat - moves)
    expected = dict(zip(tree.flatten(point), ((up - down) / (2 * h)).split(sizes), strict=True))
    for functional in (True, False):
        for path, found in outer_gradient(case, point, x, functional).items():
            assert torch.isfinite(found).all(), f"meta-gradient of {path}: {found}"
            off = (found.reshape(-1) - expected[path]).abs() / expected[path].abs().clamp(min=1)
            assert off.max() <= 1e-6, f"meta-gradient of {path} off finite differences by {off.max():.3g}"


def stays_finite_at_dead_units(case: Case, form: Form) -> None:
    """Where gradients are exactly zero: of some units in some steps, of one in all, of everything."""
    point, x = tree.map(Tensor.float, at_start(case, form)), batches().float()
    all_dead = point | {"theta": point["theta"] | {"b": point["theta"]["b"] - 50}}
    for theta in (point, all_dead):
        for path, found in outer_gradient(case, theta, x).items():
            assert torch.isfinite(found).all(), f"meta-gradient of {path}: {found}"


def stands_still_without_gradients(case: Case) -> None:
    rule, params = case.build(), start()
    state = rule.init(params)
    for _ in range(STEPS):
        params, state = rule.step(tree.zeros_like(params), state, params)
    assert tree.is_finite(params), "not finite without gradients"
    if not (case.numbers.get("weight_decay") or case.rule is AdamW):
        assert all(torch.equal(p, start()[n]) for n, p in params.items()), "moved without gradients"


def vmap_equals_loop(case: Case, form: Form) -> None:
    """Tasks with their own initialisation, data and learned numbers."""
    spread = torch.tensor([1.0, 0.9], dtype=torch.float64)
    points = tree.map(lambda leaf: leaf * spread.reshape(-1, *(1,) * leaf.ndim), at_start(case, form))
    x = torch.stack([batches(), batches().flip(2) * 1.1])

    def one(point: dict[str, Any], x: Tensor) -> dict[str, Tensor]:
        found = outer_loss(case.build(point["learned"]), point["theta"], x)
        return outer_gradient(case, point, x) | {"loss": found}

    lifted = torch.func.vmap(one)(points, x)
    for i in range(len(x)):
        alone = one(tree.map(lambda leaf, i=i: leaf[i], points), x[i])
        for path, found in alone.items():
            off = (lifted[path][i] - found).abs() / found.abs().clamp(min=1)
            assert off.max() <= 1e-12, f"{path} under vmap off the loop by {off.max():.3g}"


def each_has_its_own(case: Case, form: Form) -> None:
    """A learned number reaches its own parameter, or element, and no other."""
    learned, params = case.learned(form, start()), start()
    grads = gradient(params, batches()[1], functional=True)

    def after(learned: dict[str, Any], params: Params, grads: Params) -> Params:
        rule = case.build(learned)
        state = rule.init(params)
        for _ in range(2):
            params, state = rule.step(grads, state, params)
        return params

    for name, found in after(learned, params, grads).items():
        for index in [tuple(i) for i in torch.ones_like(found).nonzero().tolist()]:
            numbers = {w: d[name].expand_as(found)[index] for w, d in learned.items()}
            alone = after(numbers, {"alone": params[name][index]}, {"alone": grads[name][index]})["alone"]
            assert abs(alone - found[index]) <= 1e-12, f"{name}{list(index)} is another's"


def state_is_a_tree_of_floats(case: Case, form: Form, dtype: torch.dtype) -> None:
    """Before and after a step: float tensors of the same shapes, and of the parameters' type."""
    params = {n: p.to(dtype) for n, p in start().items()}
    rule = case.build(tree.map(lambda leaf: leaf.to(dtype), case.learned(form, params)))
    before = rule.init(params)
    moved, after = rule.step(params, before, params)
    for path, leaf in (tree.flatten(before) | tree.flatten(moved, "params")).items():
        assert isinstance(leaf, Tensor), f"{path} is no tensor: {leaf!r}"
        assert leaf.dtype == dtype, f"{path} is {leaf.dtype}"
    shapes = [{path: leaf.shape for path, leaf in tree.flatten(s).items()} for s in (before, after)]
    assert shapes[0] == shapes[1], f"the state changes its shape: {shapes}"


def leaves_its_arguments_alone(case: Case) -> None:
    rule = case.build()
    params, grads = start(), gradient(start(), batches()[1], functional=True)
    state = rule.init(params)
    given = tree.map(torch.clone, {"params": params, "grads": grads, "state": state})
    first = rule.step(grads, state, params)
    again = rule.step(grads, state, params)
    for path, leaf in tree.flatten({"params": params, "grads": grads, "state": state}).items():
        assert torch.equal(leaf, tree.flatten(given)[path]), f"{path} was changed"
    for one, other in zip(map(tree.leaves, first), map(tree.leaves, again), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), "the same step differs"


class _Operations(TorchDispatchMode):
    """Keeps the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def costs_two_operations_a_parameter(case: Case) -> None:
    rule, params = case.build(), start()
    with _Operations() as ran:
        state = rule.init(params)
        assert state == {}, "a state that is not needed"
        rule.step(params, state, params)
    assert ran.names == ["sub"] * len(params), f"ran {ran.names}"


def refuses_what_is_out_of_range(case: Case) -> None:
    """Of plain numbers; and a tensor with axes that belongs to no parameter."""
    wrong: dict[str, list[Any]] = {what: [-0.1, float("nan"), torch.ones(3), "much"] for what in case.numbers}
    for what in wrong.keys() & {"lr", "eps"}:
        wrong[what] += [0.0, float("inf")]
    for what in wrong.keys() & {"beta1", "beta2", "alpha", "momentum"}:
        wrong[what] += [1.0]
    for what, value in [(what, value) for what, values in wrong.items() for value in values]:
        with pytest.raises(ConfigError, match="inner_lr" if what == "lr" else what):
            case.build({what: value})
