"""Batch normalisation whose second derivative is written by hand.

A channel has `m` numbers `x`, with mean `mu` and `r = 1/sqrt(var + eps)`, and `h = (x - mu) r`. With the
projection `P(z) = z - mean(z) - h mean(z h)`, which is its own transpose,

    y = w h + b        gx = w r P(gy)        gw = sum(gy h)        gb = sum(gy)

and the backward pass of these three, for their cotangents `(u, V, v)`, is

    gy' = w r P(u) + V h + v        w' = r <u, P(gy)>        x' = r P(k) - w' w r h / m

    where  k = V gy - (w r / m) (sum(u h) gy + gw u)

Everything is a sum over a channel, or a combination of `gy`, `u` and `x` with one factor a channel: a
few passes over memory, where plain arithmetic makes dozens. Channels do not meet, so that the channels of
many tasks are the channels of one tensor, and `vmap` is a change of shape.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from innerloop.core.kernels.switch import lifted

Given: TypeAlias = Tensor | None
_ALL = [True, True, True]


def batch_norm(x: Tensor, weight: Given, bias: Given, eps: float) -> Tensor:
    """`x` [S, C, ...] normalised by its own statistics, scaled and shifted."""
    return _Forward.apply(x, weight, bias, eps)[0]


class _Forward(torch.autograd.Function):
    """`y`, and `mu` and `r` for its backward pass."""

    @staticmethod
    def forward(x: Tensor, weight: Given, bias: Given, eps: float) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, _, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Given, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gx, gw, gb = _Backward.apply(gy, *ctx.saved_tensors, ctx.eps)
        needed = ctx.needs_input_grad
        return gx, gw if needed[1] else None, gb if needed[2] else None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Given, bias: Given, eps: float) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        tasks = info.batch_size
        flat = (_values(v, d, tasks) for v, d in zip((weight, bias), in_dims[1:3], strict=True))
        return _apart(_Forward.apply(_maps(x, in_dims[0], tasks), *flat, eps), tasks)


class _Backward(torch.autograd.Function):
    """`gx`, `gw` and `gb`. `mu` and `r` are constants here, since what depends on them is in `x'`."""

    @staticmethod
    def forward(gy: Tensor, x: Tensor, weight: Given, mean: Tensor, r: Tensor, eps: float) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _first(gy, x, weight, mean, r, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Given, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gy, x, weight, *rest = ctx.saved_tensors
        # The passes below are not differentiable, nor is there a rule for a hidden axis.
        if torch.is_grad_enabled() or lifted(*cotangents, gy, x, weight):
            found = by_formula(cotangents, gy, x, weight, ctx.eps)
        else:
            found = in_few_passes(cotangents, gy, x, weight, rest, ctx.eps)
        return *found, None, None, None

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, gy: Tensor, x: Tensor, weight: Given, mean: Tensor, r: Tensor, eps: float
    ) -> Any:
        tasks = info.batch_size
        maps = (_maps(t, d, tasks) for t, d in zip((gy, x), in_dims[:2], strict=True))
        flat = (_values(t, d, tasks) for t, d in zip((weight, mean, r), in_dims[2:5], strict=True))
        return _apart(_Backward.apply(*maps, *flat, eps), tasks)


def by_formula(
    cotangents: tuple[Tensor, ...], gy: Tensor, x: Tensor, weight: Given, eps: float
) -> tuple[Tensor, Tensor, Given]:
    """`gy'`, `x'` and `w'` as they stand above, which autograd can differentiate again."""
    u, v, vb = cotangents
    dims, m = _over(x), x.numel() // x.shape[1]
    v, vb = _each(v, x), _each(vb, x)
    w = torch.ones_like(v) if weight is None else _each(weight, x)
    var, mean = torch.var_mean(x, dim=dims, correction=0, keepdim=True)
    r = torch.rsqrt(var + eps)
    h = (x - mean) * r

    def projected(z: Tensor) -> Tensor:
        return z - z.mean(dims, keepdim=True) - h * (z * h).mean(dims, keepdim=True)

    k = v * gy - w * r / m * ((u * h).sum(dims, keepdim=True) * gy + (gy * h).sum(dims, keepdim=True) * u)
    to_weight = r * (u * projected(gy)).sum(dims, keepdim=True)
    to_x = r * projected(k) - to_weight * w * r * h / m
    return w * r * projected(u) + v * h + vb, to_x, None if weight is None else to_weight.flatten()


def in_few_passes(
    cotangents: tuple[Tensor, ...], gy: Tensor, x: Tensor, weight: Given, kept: list[Tensor], eps: float
) -> tuple[Tensor, Tensor, Given]:
    """The same, with the sums over a channel worked out and the rest folded into factors."""
    u, v, vb = cotangents
    mean, r, gw, gb = kept
    m = x.numel() // x.shape[1]
    wr = r if weight is None else weight * r
    to_gy, u_h, u_sum = _first(u, x, weight, mean, r, eps)
    inner = (u * gy).sum(_over(x)) - (u_sum * gb + u_h * gw) / m  # <u, P(gy)>
    to_gy = to_gy.addcmul_(x, _each(v * r, x)).add_(_each(vb - v * r * mean, x))

    of_gy, of_u = v - wr * u_h / m, -wr * gw / m  # k = of_gy gy + of_u u
    k_mean, k_h = (of_gy * gb + of_u * u_sum) / m, (of_gy * gw + of_u * u_h) / m
    of_x = -r * r * (k_h + wr * inner / m)
    to_x = torch.addcmul(_each(-r * k_mean - of_x * mean, x), x, _each(of_x, x))
    to_x = to_x.addcmul_(gy, _each(r * of_gy, x)).addcmul_(u, _each(r * of_u, x))
    return to_gy, to_x, None if weight is None else r * inner


def _first(gy: Tensor, x: Tensor, weight: Given, mean: Tensor, r: Tensor, eps: float) -> Any:
    given = torch.ops.aten.native_batch_norm_backward
    return given(gy, x, weight, None, None, mean, r, True, eps, _ALL)


def _over(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]


def _each(values: Tensor, x: Tensor) -> Tensor:
    """One value a channel, shaped to meet x [S, C, ...]."""
    return values.view(-1, *(1,) * (x.ndim - 2))


def _maps(x: Tensor, dim: int | None, tasks: int) -> Tensor:
    """Maps [S, C, ...] of each task as [S, T*C, ...]: no copy if they lay so before."""
    x = x.unsqueeze(1).expand(-1, tasks, *x.shape[1:]) if dim is None else x.movedim(dim, 1)
    return x.flatten(1, 2)


def _values(values: Given, dim: int | None, tasks: int) -> Given:
    """Values [C] of each task as [T*C]."""
    if values is None:
        return None
    return (values.expand(tasks, -1) if dim is None else values.movedim(dim, 0)).flatten()


def _apart(found: tuple[Tensor, Tensor, Tensor], tasks: int) -> Any:
    """Maps and two values a channel with an axis of tasks, and where it is."""
    maps, *values = found
    return (maps.unflatten(1, (tasks, -1)), *(v.view(tasks, -1) for v in values)), (1, 0, 0)
