"""Handwritten digits of 8x8 pixels, turned or with their pixels in another order."""

from __future__ import annotations

from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from innerloop.core.errors import check_count, check_range
from innerloop.core.rng import choose, key
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.digit_images import SIDE, digit_store, read_digits, stroke_digits


@final
class Digits(ClassTasks):
    """A class is a digit; its examples are 8x8 images of scikit-learn, float32 [1, 8, 8], ink = 1, paper = 0.

    There are ten classes, and train, val and test share them: they differ in images, half of each digit's in
    train and a quarter each in val and test. What a test task asks is therefore not a new class, but a
    new assignment of labels, from images that were never trained on. Needs scikit-learn, and no download.

    Args:
        rotation: degrees anticlockwise by which every image is turned (bilinear; corners leave the image).
        permutation: seed of an order in which the 64 pixels of every image stand instead; None leaves them.
            Pixels are permuted after turning.
        ways: classes of a task, 2 to 10.
        shots, queries: support and query images of each class; together at most 43 (87 in train).
        train_ways, train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size, the rotation or the seed is out of range, or scikit-learn is not installed.
        DataError: a digit has fewer images than `shots + queries`.

    >>> Digits(rotation=90).sample("test", 4, 0).query.x.shape
    torch.Size([4, 75, 1, 8, 8])

    Reference: Alpaydin and Kaynak 1998, *Optical Recognition of Handwritten Digits*, UCI.
    """

    def __init__(
        self,
        *,
        rotation: float = 0.0,
        permutation: int | None = None,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        check_range("rotation", rotation)
        self.rotation = rotation
        self.permutation = None if permutation is None else check_count("permutation", permutation, low=0)
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )
        self._set_images(*read_digits(type(self).__name__))

    def _set_images(self, images: NDArray[np.float32], digits: NDArray[np.int64]) -> None:
        turned = _turned(images.reshape(-1, SIDE, SIDE), self.rotation)
        if self.permutation is not None:
            pixels = np.array(key(self.permutation, "pixels"), dtype=np.uint64)
            order = choose(pixels, SIDE * SIDE, SIDE * SIDE)
            turned = turned.reshape(len(turned), -1)[:, order]
        self._set_store(digit_store(turned.reshape(-1, 1, SIDE, SIDE), digits))

    @classmethod
    def tiny(cls) -> Self:
        """Ten kinds of synthetic strokes in place of digits, 3-way 1-shot; needs no scikit-learn."""
        return cls._of_strokes(0.0, None)

    @classmethod
    def _of_strokes(cls, rotation: float, permutation: int | None) -> Self:
        source = cls.__new__(cls)
        source.rotation, source.permutation = rotation, permutation
        source._set_sizes(ways=3, shots=1, queries=3, train_ways=None, train_shots=None, train_queries=None)
        source._set_images(*stroke_digits(24))
        return source


def tiny_digits(*, rotation: float = 0.0, permutation: int | None = None) -> Digits:
    """`Digits.tiny()`, turned or permuted: what the stand-ins of streams are made of."""
    return Digits._of_strokes(rotation, permutation)


def _turned(images: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    """Images [N, H, W] turned about their middle; what comes in from outside is paper."""
    if degrees % 360 == 0:
        return images
    turned = [Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image, dtype=np.float32) for image in turned])
