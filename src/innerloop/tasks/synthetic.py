"""Stand-ins for image data: classes of noisy pen strokes, made in milliseconds without any file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from innerloop.core.rng import key, task_keys, uniform
from innerloop.tasks.store import ExampleStore, Pool

_SEED = 20


def stroke_store(
    *, num_classes: int = 24, examples: int = 8, size: int = 28, channels: int = 1, rotations: bool = False
) -> ExampleStore:
    """A store of stroke images uint8 [N, channels, size, size], ink 255; half of the classes train.

    A class is a path through four random points; an example moves every point a little, so that a
    learner beats chance and does not reach certainty.
    """
    points = uniform(task_keys(key(_SEED, "strokes"), num_classes), 8, 0.18, 0.82).reshape(
        num_classes, 1, 4, 2
    )
    jitter = uniform(task_keys(key(_SEED, "jitter"), num_classes * examples), 8, -0.1, 0.1)
    drawn = points + jitter.reshape(num_classes, examples, 4, 2)
    images = _draw(drawn.reshape(-1, 4, 2), size)
    half, quarter = num_classes // 2, num_classes // 4
    return ExampleStore(
        np.repeat(images[:, None], channels, axis=1),
        np.full(num_classes, examples, dtype=np.int64),
        tuple(f"stroke{i:02d}" for i in range(num_classes)),
        {
            "train": Pool.of(range(half), rotations=rotations),
            "val": Pool.of(range(half, half + quarter)),
            "test": Pool.of(range(half + quarter, num_classes)),
        },
    )


def _draw(points: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Polylines through points [N, P, 2] in the unit square, as images [N, size, size] with a soft pen."""
    along = np.linspace(0.0, 1.0, size, endpoint=False)[None, :, None]
    segments = [start + (end - start) * along for start, end in _pairs(points)]
    ink = np.concatenate(segments, axis=1) * (size - 1)
    grid = np.arange(size, dtype=np.float64)
    # A Gaussian pen is separable, so each dot of ink costs two profiles and their outer product.
    rows, columns = (np.exp(-((grid - ink[..., axis : axis + 1]) ** 2) / 1.2) for axis in (0, 1))
    return (np.minimum(np.einsum("nkr,nkc->nrc", rows, columns), 1.0) * 255).astype(np.uint8)


def _pairs(points: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    return [(points[:, i : i + 1], points[:, i + 1 : i + 2]) for i in range(points.shape[1] - 1)]
