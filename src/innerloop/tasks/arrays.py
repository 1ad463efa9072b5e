"""Tasks from arrays in memory: one line for own data."""

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from innerloop.core.errors import DataError, check_count
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.splits import by_class
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store


@final
class Arrays(ClassTasks):
    """A class is a value of `y`; its examples are the rows of `x` with that value.

    Args:
        x: examples [N, ...], an array or tensor of numbers; images are [N, C, H, W]. uint8 is read as
            pixels and scaled to [0, 1]; everything else is taken as float32.
        y: labels [N], whole numbers or strings.
        ways: classes of a task, >= 2.
        shots, queries: support and query examples of each class.
        train_ways, train_shots, train_queries: sizes of training tasks; None means the same as at test.
        val_fraction, test_fraction: share of the classes in these splits, in [0, 1); train has the rest.
        split_seed: which classes go where.

    Raises:
        ConfigError: a size or fraction is out of range, or a split has fewer classes than `ways`.
        DataError: unequal lengths, NaN or infinite values, values that are no numbers, or a class with
            fewer than `shots + queries` examples.

    Example:
        >>> x = np.arange(120.0).reshape(60, 2)
        >>> tasks = Arrays(x, np.repeat(np.arange(12), 5), ways=2, shots=1, queries=2)
        >>> tasks.sample("test", 4, 0).query.x.shape
        torch.Size([4, 4, 2])
    """

    def __init__(
        self,
        x: ArrayLike | torch.Tensor,
        y: ArrayLike | torch.Tensor,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        self.x, self.y = x, y
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.split_seed = check_count("split_seed", split_seed, low=0)
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )
        examples, counts, names = sorted_by_class(as_examples(x), as_labels(y))
        splits = by_class(len(names), val_fraction=val_fraction, test_fraction=test_fraction, seed=split_seed)
        pools = {split: Pool.of(members) for split, members in splits.items()}
        self._set_store(ExampleStore(examples, counts, names, pools))

    @classmethod
    def tiny(cls) -> Self:
        """24 synthetic classes with 8 images [1, 28, 28] each, 3-way 1-shot."""
        store = stroke_store()
        labels = np.repeat(np.arange(len(store.counts)), store.counts)
        return cls(store.examples, labels, ways=3, shots=1, queries=3)


def sorted_by_class(
    examples: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64], tuple[str, ...]]:
    """Examples class by class in the order of their labels, the number of each, and its name."""
    if len(examples) != len(labels):
        raise DataError(
            f"x with {len(examples)} rows and y with {len(labels)}",
            expected="one label for each example",
            do="pass arrays of equal length",
        )
    names, ids, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(ids, kind="stable")
    return examples[order], counts.astype(np.int64), tuple(str(name) for name in names)


def _array(name: str, values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    try:
        return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except (ValueError, TypeError) as error:  # a ragged list; a tensor type that numpy lacks
        raise DataError(
            f"{name} is no array ({' '.join(str(error).split())[:100]})",
            expected="examples of one shape, in a type that numpy has",
            do="pad or crop the examples to one shape, or convert them to float32",
        ) from error


def as_examples(x: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """uint8 as it is, any other number as finite float32."""
    values = _array("x", x)
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"x of type {values.dtype}",
            expected="numbers: float, int, uint8 or bool",
            do="convert x, for example with np.asarray(x, dtype=np.float32)",
        )
    if values.ndim < 2:
        raise DataError(
            f"x of shape {values.shape}",
            expected="[N, ...]: one row for each example",
            do="reshape a single feature to [N, 1]",
        )
    if values.dtype == np.uint8:
        return values
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported here
        values = values.astype(np.float32)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        raise DataError(
            f"x with NaN or infinite values in {int((~finite).sum())} rows, first {int(np.argmin(finite))}",
            expected="finite numbers within float32",
            do="remove or fill these rows",
        )
    return values


def as_labels(y: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """Whole numbers or strings [N]."""
    labels = _array("y", y)
    if labels.ndim != 1 or labels.dtype.kind not in "biuUS":
        raise DataError(
            f"y of type {labels.dtype} and shape {labels.shape}",
            expected="[N] whole numbers or strings, one label for each example",
            do="pass class labels, for example y.astype(int) or y.argmax(axis=1)",
        )
    return labels
