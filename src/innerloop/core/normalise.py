"""Normalisations whose second derivative can be trusted.

Under `vmap`, torch's fused batch, layer and instance norm give a right first derivative and a wrong
second one, silently (pytorch/functorch issue 534; seen up to torch 2.13). The meta-gradient is a second
derivative, so wherever one may be taken, these operators are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from innerloop.core.attention import multi_head_attention_forward, scaled_dot_product_attention
from innerloop.core.kernels import normalisation
from innerloop.core.kernels.switch import applies, lifted


class TwiceDifferentiable(TorchFunctionMode):
    """While active, fused normalisations and attention run as plain arithmetic, also inside modules."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))


def normalised(x: Tensor, *, over: list[int], eps: float) -> Tensor:
    """`x` with mean 0 and variance 1 over some dimensions."""
    var, mean = torch.var_mean(x, dim=over, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One value a channel, shaped to meet x [S, C, ...]."""
    return values.view(-1, *(1,) * (x.ndim - 2))


def scaled_and_shifted(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """`x * weight + bias`, where they are given."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.layer_norm`."""
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    return scaled_and_shifted(normalised(input, over=list(range(-count, 0)), eps=eps), weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.instance_norm`, without updating running statistics."""
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    values = normalised(input, over=list(range(2, input.ndim)), eps=eps)
    return _by_channel(values, weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`; running statistics that it would update in place are refused."""
    if not training or running_mean is not None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if applies(input, weight, bias):
        # Without an axis of tasks torch's own second derivative is right; with a shift alone it raises.
        if lifted(input, weight, bias) or (weight is None and bias is not None):
            return normalisation.batch_norm(input, weight, bias, eps)
        return torch.batch_norm(input, weight, bias, None, None, True, momentum, eps, False)
    values = normalised(input, over=[dim for dim in range(input.ndim) if dim != 1], eps=eps)
    return _by_channel(values, weight, bias)


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    weight, bias = (None if v is None else per_channel(v, x) for v in (weight, bias))
    return scaled_and_shifted(x, weight, bias)


_WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
    F.multi_head_attention_forward: multi_head_attention_forward,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
}
