"""How a learned update sees a gradient: two numbers of size about one, whatever the gradient's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_and_sign(x: Tensor, p: float) -> Tensor:
    """Logarithm and sign of numbers of any size, [...] to [..., 2].

        (log|x| / p, sign x) where |x| >= e^-p,   (-1, e^p x) elsewhere

    Both are continuous, and 0 becomes (-1, 0). What is not finite stays so.

    Args:
        p: where logarithms end, > 0: numbers below e^-p count as small.

    Reference: Andrychowicz et al. 2016, arXiv 1606.04474, appendix A.

    >>> log_and_sign(torch.tensor([1.0, -0.1, 1e-9]), 10.0)
    tensor([[ 0.0000e+00,  1.0000e+00],
            [-2.3026e-01, -1.0000e+00],
            [-1.0000e+00,  2.2026e-05]])
    """
    size = x.abs().clamp_min(math.exp(-p)).log() / p
    return torch.stack([size, (x * math.exp(p)).clamp(-1.0, 1.0)], dim=-1)
