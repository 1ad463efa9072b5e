"""Small networks to be trained on handwritten digits: problems for an optimizer, not few-shot tasks."""

from __future__ import annotations

from typing import Self, final

from innerloop.core.errors import ConfigError
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.digit_images import DIGITS, digit_store, read_digits, stroke_digits


@final
class OptimizeMLP(ClassTasks):
    """Problems: train a network to tell ten digits apart, judged on digits that it was not trained on.

    The images are the 8x8 digits of scikit-learn, values 0 to 1, as vectors of 64 numbers. A problem has
    some of them to train on (support), others to be judged on (query), and an order of labels of its own.
    Half of each digit's images make problems of train, a quarter each those of val and test, so that an
    image of a test problem is in no training problem. Needs scikit-learn, and no download.

    Args:
        shots: training images of each digit, >= 1.
        queries: test images of each digit, >= 1.
        train_shots, train_queries: sizes of the problems of train; None means the same as at test.

    Raises:
        ConfigError: a size is below 1, or scikit-learn is not installed.
        DataError: a digit has fewer images than `shots + queries`: there are 43 in val and test, 87 in train.

    Example:
        >>> support, query = OptimizeMLP(shots=25, queries=15).sample("test", 4, 0)
        >>> support.x.shape, query.x.shape, sorted(set(support.y[0].tolist()))
        (torch.Size([4, 250, 64]), torch.Size([4, 150, 64]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])

    Reference: Andrychowicz et al. 2016, arXiv 1606.04474, section 3.2, on smaller images.
    """

    def __init__(
        self,
        shots: int = 25,
        queries: int = 15,
        *,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_digits(shots, queries, train_shots, train_queries)
        self._set_store(digit_store(*read_digits(type(self).__name__)))

    def _set_digits(
        self, shots: int, queries: int, train_shots: int | None, train_queries: int | None
    ) -> None:
        self._set_sizes(
            ways=DIGITS,
            shots=shots,
            queries=queries,
            train_ways=DIGITS,
            train_shots=train_shots,
            train_queries=train_queries,
        )

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same digits with other sizes at test; training keeps its sizes.

        Raises:
            ConfigError: `ways` is given.
            DataError: a digit has too few images.
        """
        if ways not in (None, DIGITS):
            raise ConfigError(
                f"ways = {ways!r} for {type(self).__name__}",
                expected="no ways: a problem has all ten digits",
                do="leave ways out; set shots and queries",
            )
        return super().resized(shots=shots, queries=queries)

    @classmethod
    def tiny(cls) -> Self:
        """Ten kinds of synthetic strokes in place of digits; needs no scikit-learn."""
        source = cls.__new__(cls)
        source._set_digits(3, 3, None, None)
        source._set_store(digit_store(*stroke_digits(28)))
        return source
