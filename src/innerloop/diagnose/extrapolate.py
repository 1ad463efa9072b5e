"""A second opinion: the power law that a learning curve follows, and where it leads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_POWERS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_DELAYS = (0.0, 0.05, 0.2, 0.5, 1.0)  # k0, as shares of the last step
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
    at = np.concatenate([steps, np.linspace(steps[-1], 2 * steps[-1], 9)]) / steps[-1]
    fitted = _fit(at, losses[:, None], count)[:count, 0]
    rest = np.concatenate([losses - fitted, (losses - fitted)[: _BLOCK - 1]])
    rng = np.random.default_rng(0)
    starts = rng.integers(0, count, (resamples, -(-count // _BLOCK), 1)) + np.arange(_BLOCK)
    noise = rest[np.minimum(starts, len(rest) - 1)].reshape(resamples, -1)[:, :count]
    ahead = _fit(at, (fitted + noise).T, count)[count:]
    low, middle, high = np.quantile(ahead, (0.05, 0.5, 0.95), axis=1)
    gains = 1.0 - ahead[-1] / np.maximum(ahead[0], 1e-300)
    worst, usual, best = (float(q) for q in np.quantile(gains, (0.05, 0.5, 0.95)))
    return Extrapolation(at[count:] * steps[-1], middle, low, high, (usual, worst, best))


def _fit(at: Values, curves: Values, count: int) -> Values:
    """The best power law with c, a >= 0 through each curve [count, R], at all places `at`: [n, R]."""
    least = np.full(curves.shape[1], np.inf)
    found = np.zeros((len(at), curves.shape[1]))
    for power in _POWERS:
        for delay in _DELAYS:
            column = (at + delay + 1.0 / count) ** -power
            seen = column[:count]
            inner = np.linalg.pinv(np.stack([np.ones(count), seen], axis=1)) @ curves
            c, a = inner[0], inner[1]
            flat, steep = a < 0, (a >= 0) & (c < 0)
            a = np.where(flat, 0.0, np.where(steep, seen @ curves / (seen @ seen), a))
            c = np.where(flat, curves.mean(0), np.where(steep, 0.0, c))
            law = c + a * column[:, None]
            errors = np.square(curves - law[:count]).sum(0)
            better = errors < least
            least, found = np.where(better, errors, least), np.where(better, law, found)
    return found
