"""The largest eigenvalue of a linear map that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Vector = Tensor  # [n]


def largest_eigenvalue(
    product: Callable[[Vector], Vector], start: Vector, *, steps: int, tolerance: float
) -> float:
    """The largest real part of an eigenvalue, by Arnoldi's iteration.

    After k products it is the largest Ritz value of the space that power iteration has passed through so far,
    so it needs fewer of them, and no shift where a negative eigenvalue is larger in size. For a symmetric map
    it approaches from below.

    Args:
        product: the map, from [n] to [n]; symmetric or not.
        start: where to begin; a random direction is not orthogonal to what is looked for.
        steps: products at most, >= 1; as many vectors are kept.
        tolerance: relative change of the value, twice in a row, at which to stop.
    """
    steps = min(steps, start.numel())
    basis = (start / start.norm())[None]
    reduced = torch.zeros(steps, steps, dtype=torch.float64)
    smallest = 10 * torch.finfo(start.dtype).eps
    value, settled = float("nan"), 0
    for k in range(steps):
        image = product(basis[k])
        size = float(image.norm())
        for _ in range(2):  # once leaves rounding errors that pass for eigenvalues
            overlaps = basis @ image
            reduced[: k + 1, k] += overlaps.cpu().double()
            image = image - overlaps @ basis
        square = reduced[: k + 1, : k + 1]
        if not bool(torch.isfinite(square).all()):
            return float("nan")
        found = float(torch.linalg.eigvals(square).real.max())
        settled = settled + 1 if abs(found - value) <= tolerance * abs(found) else 0
        value, rest = found, float(image.norm())
        if settled == 2 or rest <= smallest * size or k + 1 == steps:
            break
        reduced[k + 1, k] = rest
        basis = torch.cat([basis, (image / rest)[None]])
    return value
