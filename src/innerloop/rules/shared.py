"""What the rules share: hyperparameters that may be learned, and arithmetic that can be differentiated."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError, check_range
from innerloop.rules.base import Params

#: A number; or, to be learned, a tensor without axes, or a tensor by parameter name, each of a shape
#: that broadcasts to its parameter's.
Hyper: TypeAlias = float | Tensor | dict[str, Tensor]

BELOW_ONE = 1.0 - 1e-9


def check_hyper(
    name: str, value: Hyper, *, low: float = 0.0, high: float = float("inf"), open_low: bool = False
) -> None:
    """Raise `ConfigError` unless plain numbers are in range: under vmap, a tensor's cannot be looked at."""
    if isinstance(value, Tensor) and value.ndim > 0:
        raise ConfigError(
            f"{name} of shape {tuple(value.shape)}",
            expected=f"a number, a tensor without axes, or a dict of tensors for {name}",
            do="give shapes by parameter name, {'weight': tensor, ...}",
        )
    for leaf in tree.leaves(value):
        if not isinstance(leaf, Tensor):
            check_range(name, leaf, low=low, high=high, open_low=open_low)


def at(value: Hyper, name: str) -> float | Tensor:
    """A hyperparameter's value for the parameter of that name."""
    if not isinstance(value, dict):
        return value
    if name not in value:
        raise ContractError(
            f"a hyperparameter for {', '.join(value) or 'no parameter'}, and none for {name}",
            expected="one tensor for each adapted parameter",
            do="use the names of meta['params']",
        )
    return value[name]


def is_off(value: Hyper) -> bool:
    """Whether a hyperparameter is the plain number zero, so that its term costs nothing."""
    return not isinstance(value, (Tensor, dict)) and value == 0


def moved(p: Tensor, direction: Tensor, lr: float | Tensor) -> Tensor:
    """`p - lr * direction`, in one operation where the rate is a plain number."""
    return p - lr * direction if isinstance(lr, Tensor) else torch.sub(p, direction, alpha=lr)


def decayed(grads: Params, params: Params, weight_decay: Hyper) -> Params:
    """The gradient of the loss plus weight_decay / 2 times the parameters' squared norm."""
    if is_off(weight_decay):
        return grads
    return {name: grads[name] + at(weight_decay, name) * p for name, p in params.items()}


def averaged(decay: Hyper, old: Params, new: Params) -> Params:
    """An exponential moving average, one step on."""
    return {n: at(decay, n) * old[n] + (1 - at(decay, n)) * new[n] for n in old}


def no_weight(decay: Hyper, params: Params) -> Hyper:
    """The weight of the data in a moving average before its first step: zero, in the shape of `decay`."""
    if isinstance(decay, dict):
        return {n: p.new_zeros(torch.as_tensor(at(decay, n)).shape) for n, p in params.items()}
    return next(iter(params.values())).new_zeros(())


def more_weight(decay: Hyper, weight: Hyper) -> Hyper:
    """That weight one step on: 1 - decay^t after t steps.

    As a recursion it has a derivative at decay = 0, and in float32 it keeps the digits that
    subtracting a power close to 1 would lose.
    """
    return tree.map(lambda w, d: d * w + (1 - d), weight, decay)


def squared(grads: Params) -> Params:
    return {name: g * g for name, g in grads.items()}


def clipped(grads: Params, bound: float) -> Params:
    """Gradients scaled down together, so that their norm over all leaves is at most `bound`.

    A gradient within the bound passes as it is, to the last bit, and so do its derivatives. Beyond it the
    result has the norm `bound`, and moves with the direction alone.
    """
    largest = torch.stack([g.detach().abs().amax() for g in grads.values()]).amax()
    unit = torch.where(largest > bound, largest, torch.ones_like(largest))  # so that no square overflows
    norm = unit * root(torch.stack([(g / unit).square().sum() for g in grads.values()]).sum())
    scale = bound / norm.clamp(min=bound)
    return {name: g * scale for name, g in grads.items()}


def root(v: Tensor) -> Tensor:
    """The square root, with derivative zero at zero.

    The true one is infinite there: it would turn every meta-gradient into NaN wherever a gradient
    is exactly zero, as at a dead unit. What is divided by this root is then zero as well, so that zero
    is not only finite: g / (|g| + eps) does have the derivative 1 / eps.
    """
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, torch.ones_like(v)).sqrt(), torch.zeros_like(v))
