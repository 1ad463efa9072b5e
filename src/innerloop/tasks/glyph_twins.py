"""Characters that look alike: found by comparing pixels, so that no shape stands in two classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Two characters are twins if their upright drawings have at least this cosine, on average over shared faces:
#: within a split, and (stricter, for a shape seen in training must not be tested) in two splits.
TWIN, TWIN_ACROSS = 0.93, 0.88


def similarities(drawings: NDArray[np.uint8], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean cosine over shared faces of every two characters [N, N].

    Args:
        drawings: upright images [faces, N, H, W], zero where a face lacks the character.
        present: which face has which character [faces, N].
    """
    total = np.zeros((drawings.shape[1],) * 2, dtype=np.float32)
    shared = np.zeros_like(total)
    for images, here in zip(drawings, present, strict=True):
        # With 7 bits a sum of 784 products stays below 2**24, so float32 holds it exactly and the result
        # does not depend on the order in which a BLAS adds: the same twins on every machine.
        pixels = (images.reshape(len(images), -1) >> 1).astype(np.float32)
        norms = np.sqrt((pixels**2).sum(axis=1))
        inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        total += (pixels @ pixels.T) * inverse[:, None] * inverse
        flags = here.astype(np.float32)
        shared += np.outer(flags, flags)
    return np.divide(total, shared, out=np.zeros_like(total), where=shared > 0)


def without_twins(alike: NDArray[np.float32], splits: Sequence[str]) -> list[int]:
    """Indices to keep: each in turn, unless it is the twin of one already kept.

    Args:
        alike: similarities [N, N].
        splits: the split that each would go to [N].
    """
    home = np.array(splits)
    kept: list[int] = []
    for index in range(len(alike)):
        limit = np.where(home[kept] == home[index], TWIN, TWIN_ACROSS)
        if not (alike[index, kept] >= limit).any():
            kept.append(index)
    return kept
