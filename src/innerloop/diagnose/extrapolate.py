"""A second opinion: the power law that a learning curve follows, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_POWERS = np.geomspace(0.1, 3.0, 70)
_DELAYS = np.geomspace(0.002, 1.0, 70)  # k0, as shares of the last step
_NEAR, _APART = 500, 10  # of these laws, the best ones and each tenth are tried on resampled curves
_BLOCK = 4  # neighbouring looks that the bootstrap keeps together
_LEAST = 8  # looks that a curve must have


@dataclass(frozen=True)
class Extrapolation:
    """Where a loss curve leads if it goes on as the power law c + a (k + k0)^-b that fits it best.

    Attributes:
        steps: outer steps [n], from the end of the curve to twice as many.
        middle, low, high: the loss there [n]: median and 90 % band of the bootstrap.
        gain: the share of the last loss that is gained by then: median, and the ends of the band.
    """

    steps: Values
    middle: Values
    low: Values
    high: Values
    gain: tuple[float, float, float]


def extrapolate(steps: Values, losses: Values, *, resamples: int = 100) -> Extrapolation | None:
    """The power law through a mean loss curve [K] with its bootstrap band; None for fewer than eight looks.

    The bootstrap draws blocks of residuals, from a generator of its own with a fixed seed.
    """
    count = len(steps)
    if count < _LEAST or not np.isfinite(losses).all() or steps[-1] <= 0:
        return None
    scale = float(np.abs(losses).max()) or 1.0
    curve = losses / scale
    at = np.concatenate([steps, np.linspace(steps[-1], 2 * steps[-1], 9)]) / steps[-1]
    laws = ((at + _DELAYS[:, None, None]) ** -_POWERS[:, None]).reshape(-1, len(at))
    floors, slopes, errors = _fits(laws[:, :count], curve[:, None])
    nearest = int(errors.argmin())
    fitted = (floors + slopes * laws[:, :count])[nearest]
    rest = np.concatenate([curve - fitted, (curve - fitted)[: _BLOCK - 1]])
    rng = np.random.default_rng(0)
    starts = rng.integers(0, count, (resamples, -(-count // _BLOCK), 1)) + np.arange(_BLOCK)
    noise = rest[np.minimum(starts, len(rest) - 1)].reshape(resamples, -1)[:, :count]
    tried = laws[np.union1d(errors[:, 0].argsort()[:_NEAR], np.arange(0, len(laws), _APART))]
    floors, slopes, errors = _fits(tried[:, :count], (fitted + noise).T)
    chosen = errors.argmin(0), np.arange(resamples)
    ahead = floors[chosen] + slopes[chosen] * tried[chosen[0]][:, count:].T
    low, middle, high = scale * np.quantile(ahead, (0.05, 0.5, 0.95), axis=1)
    gains = 1.0 - ahead[-1] / np.maximum(ahead[0], 1e-300)
    worst, usual, best = (float(q) for q in np.quantile(gains, (0.05, 0.5, 0.95)))
    return Extrapolation(at[count:] * steps[-1], middle, low, high, (usual, worst, best))


def _fits(laws: Values, curves: Values) -> tuple[Values, Values, Values]:
    """c and a >= 0 of each law [L, K] through each curve [K, R], and the squared error: [L, R] each."""
    mean, level = laws.mean(1, keepdims=True), curves.mean(0)
    away = laws - mean
    slopes = np.maximum(away @ curves / np.square(away).sum(1, keepdims=True), 0.0)
    squares = np.square(laws).sum(1, keepdims=True)
    products = laws @ curves
    floors = level - slopes * mean
    slopes, floors = np.where(floors < 0, products / squares, slopes), np.maximum(floors, 0.0)
    count = len(curves)
    errors = slopes * (slopes * squares - 2 * products + 2 * count * floors * mean)
    return floors, slopes, errors + count * floors * (floors - 2 * level)
