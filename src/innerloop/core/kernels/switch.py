"""Whether the kernels of this package are used, and for which tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]

_ON: ContextVar[bool] = ContextVar("innerloop_kernels", default=True)


@contextmanager
def switched_off() -> Iterator[None]:
    """Run the block with plain arithmetic: the same numbers to rounding, in more time.

    The switch is a context variable: it holds for this thread, and for those that copy its context.
    """
    token = _ON.set(False)
    try:
        yield
    finally:
        _ON.reset(token)


def applies(*tensors: Tensor | None) -> bool:
    """Whether a kernel may take these: on a CPU, in one full precision, and not under autocast."""
    if not _ON.get() or torch.is_autocast_enabled("cpu"):
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    return dtype in (torch.float32, torch.float64) and all(
        tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in given
    )


def lifted(*tensors: Tensor | None) -> bool:
    """Whether `vmap` has given one of these an axis that their shapes do not show."""
    return any(tensor is not None and _has_hidden_axis(tensor) for tensor in tensors)


def _has_hidden_axis(tensor: Tensor) -> bool:
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False
