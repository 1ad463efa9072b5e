"""Kernels give the derivatives of plain arithmetic, in any lifting; each check has its planted bug."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from innerloop.core.kernels import normalisation, switched_off
from innerloop.core.kernels.switch import applies, lifted
from innerloop.core.normalise import TwiceDifferentiable

TASKS, EPS = 3, 1e-3
SHAPES = {"images": (4, 2, 3, 3), "one pixel": (5, 2, 1, 1), "rows": (6, 2), "signals": (3, 2, 4)}
AFFINE = {"plain": (False, False), "scaled": (True, False), "shifted": (False, True), "both": (True, True)}
Args = tuple[Tensor, ...]


def drawn(shape: tuple[int, ...], count: int, dtype: torch.dtype = torch.float64) -> Args:
    """Maps, weights and biases of some tasks."""
    rng = torch.Generator().manual_seed(len(shape))
    sizes = [(count, *shape), (count, shape[1]), (count, shape[1])]
    return tuple(torch.randn(size, generator=rng, dtype=torch.float64).to(dtype) for size in sizes)


def inner(affine: tuple[bool, bool]) -> Callable[..., Args]:
    """The gradient of a curved loss of one normalised batch, with respect to all that goes in."""

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        w, b = weight if affine[0] else None, bias if affine[1] else None
        y = F.batch_norm(x, None, None, w, b, training=True, eps=EPS)
        return (torch.sin(y) * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).mean()

    def gradient(*args: Tensor) -> Args:
        with TwiceDifferentiable():
            return torch.func.grad(loss, (0, 1, 2))(*args)

    return gradient


def second(args: Args, affine: tuple[bool, bool], lift: str, on: bool = True) -> list[Tensor]:
    """Inner gradients of each task, and the gradient of a curved function of them."""
    leaves = [arg.clone().requires_grad_() for arg in args]
    gradient = inner(affine)
    with nullcontext() if on else switched_off():
        if lift == "vmap":
            first = torch.func.vmap(gradient)(*leaves)
        elif lift == "chunks":
            cut = [
                torch.func.vmap(gradient)(*(leaf[part] for leaf in leaves))
                for part in (slice(2), slice(2, 9))
            ]
            first = tuple(torch.cat(found) for found in zip(*cut, strict=True))
        else:
            found = [gradient(*(leaf[i] for leaf in leaves)) for i in range(len(leaves[0]))]
            first = tuple(torch.stack(values) for values in zip(*found, strict=True))
        outer = torch.autograd.grad(curved(first), leaves, allow_unused=True, materialize_grads=True)
    return [*(value.detach() for value in first), *outer]


def curved(values: Args) -> Tensor:
    return sum((torch.cos(3 * value) * value).sum() for value in values)  # pyright: ignore[reportReturnType]


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, as a share of the largest entry."""
    scale = max(float(value.abs().max()) for value in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / scale


# --- derivatives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lift", ["vmap", "chunks", "loop"])
@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("shape", SHAPES)
def test_two_derivatives_equal_those_of_plain_arithmetic(shape: str, affine: str, lift: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        args = drawn(SHAPES[shape], TASKS, dtype)
        expected = second(args, AFFINE[affine], "loop", on=False)
        assert apart(second(args, AFFINE[affine], lift), expected) < tolerance


def difference_quotient(affine: tuple[bool, bool]) -> float:
    """How far a derivative of the inner gradient, lifted by vmap, is from a difference quotient."""
    args = drawn(SHAPES["images"], TASKS)
    directions = tuple(torch.cos(1 + torch.arange(a.numel(), dtype=a.dtype)).view_as(a) for a in args)
    gradient = torch.func.vmap(inner(affine))
    step = 1e-5
    ahead, behind = (
        curved(gradient(*(a + s * d for a, d in zip(args, directions, strict=True)))) for s in (step, -step)
    )
    along = sum((g * d).sum() for g, d in zip(second(args, affine, "vmap")[3:], directions, strict=True))
    return abs(float((ahead - behind) / (2 * step) / along) - 1)


@pytest.mark.parametrize("affine", AFFINE)
def test_a_second_derivative_equals_a_difference_quotient(affine: str) -> None:
    assert difference_quotient(AFFINE[affine]) < 1e-6


def lost(index: int, factor: float) -> Callable[..., Any]:
    """The second derivative with one of its three results scaled by mistake."""
    right = normalisation.in_few_passes

    def wrong(*args: Any) -> tuple[Any, ...]:
        return tuple(v if i != index or v is None else factor * v for i, v in enumerate(right(*args)))

    return wrong


def without_term() -> Callable[..., Any]:
    """The second derivative whose `k` has lost `gw u`."""
    right = normalisation.in_few_passes

    def wrong(cotangents: Args, gy: Tensor, x: Tensor, weight: Any, kept: list[Tensor], eps: float) -> Any:
        mean, r, gw, gb = kept
        return right(cotangents, gy, x, weight, [mean, r, torch.zeros_like(gw), gb], eps)

    return wrong


def first_task_s(values: Any, dim: int | None, tasks: int) -> Any:
    """Values a channel, of which every task is given those of the first."""
    return None if values is None else (values if dim is None else values.select(dim, 0)).repeat(tasks)


PLANTED = {
    "gy": ("in_few_passes", lost(0, 1.001)),
    "x": ("in_few_passes", lost(1, 0.0)),
    "weight": ("in_few_passes", lost(2, 0.0)),
    "term": ("in_few_passes", without_term()),
    "tasks": ("_values", first_task_s),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_wrong_second_derivative_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, *PLANTED[bug])
    args = drawn(SHAPES["images"], TASKS)
    assert apart(second(args, (True, True), "vmap"), second(args, (True, True), "loop", on=False)) > 1e-5
    if bug != "tasks":  # whose mistake is the same in both derivatives
        assert difference_quotient((True, True)) > 1e-6


def test_torch_s_own_operator_is_caught_under_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why there is a kernel at all; once torch is mended, the kernel has only its speed to speak for it."""
    monkeypatch.setattr("innerloop.core.normalise.lifted", lambda *_: False)
    args = drawn(SHAPES["images"], TASKS)
    assert apart(second(args, (True, True), "vmap"), second(args, (True, True), "loop", on=False)) > 1e-5


def test_a_third_derivative_is_right() -> None:
    args = drawn(SHAPES["images"], 2)

    def third(on: bool) -> list[Tensor]:
        leaves = [arg.clone().requires_grad_() for arg in args]
        with nullcontext() if on else switched_off():
            first = torch.func.vmap(inner((True, True)))(*leaves)
            outer = torch.autograd.grad(curved(first), leaves, create_graph=True)
            return list(torch.autograd.grad(curved(outer), leaves))

    assert apart(third(True), third(False)) < 1e-10


def test_derivatives_nest_inside_vmap() -> None:
    args = drawn(SHAPES["images"], TASKS)

    def nested(on: bool) -> list[Tensor]:
        both = torch.func.grad(lambda *one: curved(inner((True, True))(*one)), (0, 1, 2))
        with nullcontext() if on else switched_off():
            return list(torch.func.vmap(both)(*args))

    assert apart(nested(True), nested(False)) < 1e-10


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_what_tasks_share_gets_the_sum_of_their_derivatives(shared: int) -> None:
    args = drawn(SHAPES["images"], TASKS)
    dims = tuple(None if i == shared else 0 for i in range(3))

    def total(lift: bool) -> list[Tensor]:
        leaves = [(a[0] if i == shared else a).clone().requires_grad_() for i, a in enumerate(args)]
        whole = [leaf.expand(TASKS, *leaf.shape) if i == shared else leaf for i, leaf in enumerate(leaves)]
        gradient = inner((True, True))
        with nullcontext() if lift else switched_off():
            found = torch.func.vmap(gradient, dims)(*leaves) if lift else torch.func.vmap(gradient)(*whole)
            return list(torch.autograd.grad(curved(found), leaves))

    assert apart(total(True), total(False)) < 1e-10


# --- when they are used ----------------------------------------------------------------------------------


def calls(monkeypatch: pytest.MonkeyPatch, block: AbstractContextManager[Any], dtype: torch.dtype) -> int:
    """How often a lifted module's batch norm reaches the kernel."""
    seen: list[Tensor] = []
    right = normalisation.batch_norm

    def counted(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x)
        return right(x, *rest)

    monkeypatch.setattr(normalisation, "batch_norm", counted)
    net = nn.BatchNorm2d(2, track_running_stats=False).to(dtype)
    with block, TwiceDifferentiable():
        torch.func.vmap(net)(drawn(SHAPES["images"], TASKS, dtype)[0])
    return len(seen)


@pytest.mark.parametrize(
    ("block", "dtype", "used"),
    [
        (nullcontext(), torch.float32, 1),
        (switched_off(), torch.float32, 0),
        (nullcontext(), torch.bfloat16, 0),
        (torch.autocast("cpu", torch.bfloat16), torch.float32, 0),
    ],
    ids=["on", "off", "bfloat16", "autocast"],
)
def test_the_kernel_is_used_in_full_precision_unless_switched_off(
    block: Any, dtype: torch.dtype, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls(monkeypatch, block, dtype) == used


def test_other_devices_and_mixed_types_are_left_to_plain_arithmetic() -> None:
    x = torch.ones(2, 2)
    assert applies(x, None, x)
    assert not applies(x, x.double())
    assert not applies(torch.ones(2, 2, device="meta"))


def test_a_hidden_axis_is_seen_below_other_transforms() -> None:
    found: list[bool] = []

    def look(x: Tensor) -> Tensor:
        found.append(lifted(None, x))
        return x.sum()

    x = torch.ones(3)
    (
        look(x),
        torch.func.grad(look)(x),
        torch.func.vmap(look)(x),
        torch.func.vmap(torch.func.grad(look))(x[None]),
    )
    assert found == [False, False, True, True]


def test_a_trace_sees_through_the_kernel() -> None:
    args = drawn(SHAPES["images"], TASKS)
    graph = make_fx(lambda *given: second(given, (True, True), "vmap"))(*args)
    assert any("native_batch_norm" in str(node.target) for node in graph.graph.nodes)
    assert apart(graph(*args), second(args, (True, True), "vmap")) < 1e-12
