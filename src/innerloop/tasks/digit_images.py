"""scikit-learn's 8x8 digits: read, and cut so that no image is in two splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError
from innerloop.core.rng import choose, key, task_keys
from innerloop.core.types import SPLITS
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store

DIGITS, SIDE = 10, 8
_SHARES = {"train": 0.5, "val": 0.25, "test": 0.25}


def read_digits(asked: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images [N, 64] with values 0 to 1, and digits [N].

    Args:
        asked: the source that needs them, for the error.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ConfigError(
            f"{asked} without scikit-learn",
            expected="scikit-learn, whose digits these are",
            do="pip install 'innerloop[sklearn]'",
        ) from error
    images, digits = load_digits(return_X_y=True)
    return (np.asarray(images) / 16).astype(np.float32), np.asarray(digits).astype(np.int64)


def stroke_digits(examples: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Ten kinds of synthetic strokes in place of digits: images [10 * examples, 64] and their kinds."""
    strokes = stroke_store(num_classes=DIGITS, examples=examples, size=SIDE)
    images = (strokes.examples.reshape(len(strokes.examples), -1) / 255).astype(np.float32)
    return images, np.repeat(np.arange(DIGITS), strokes.counts)


def digit_store(images: NDArray[np.float32], digits: NDArray[np.int64]) -> ExampleStore:
    """Each digit thrice, once a split, with images of its own: its images in a fixed random order, cut."""
    keys = task_keys(key(0, "digits"), DIGITS)
    parts: list[NDArray[np.float32]] = []
    for digit in range(DIGITS):
        own = images[digits == digit]
        own = own[choose(keys[digit], len(own), len(own))]
        ends = np.cumsum([int(_SHARES[split] * len(own)) for split in SPLITS])
        parts += np.split(own, ends)[: len(SPLITS)]
    return ExampleStore(
        np.concatenate(parts),
        np.array([len(part) for part in parts], dtype=np.int64),
        tuple(f"{digit} of {split}" for digit in range(DIGITS) for split in SPLITS),
        {split: Pool.of(range(i, len(parts), len(SPLITS))) for i, split in enumerate(SPLITS)},
    )
