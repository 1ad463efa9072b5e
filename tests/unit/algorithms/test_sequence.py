"""What is read as a sequence: in training in an order drawn for each task, elsewhere as it was given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from innerloop.algorithms import SNAIL
from innerloop.core.errors import DataError
from innerloop.core.mode import running_in
from innerloop.core.types import Batch
from innerloop.models import MLP
from innerloop.testing.questions import inner_keys
from innerloop.training.adapted import Adapted

LEARNER = SNAIL(MLP(1, None, hidden=(4,)), ways=3, max_length=4, filters=2, keys=(2, 2), values=(2, 2))
SUPPORT = Batch(torch.arange(6.0)[:, None], torch.tensor([0, 0, 1, 1, 2, 2]))


def sequence(key: Tensor | None, *, training: bool = True) -> tuple[list[float], list[list[float]]]:
    with running_in(training=training, key=key):
        data = LEARNER.begin({}, SUPPORT)["data"]
    return data["support"][:, 0].tolist(), data["labels"].tolist()


def test_in_training_tasks_are_read_in_orders_of_their_own() -> None:
    first = []
    for key in inner_keys(120):
        x, labels = sequence(key)
        assert sorted(x) == list(range(6))
        assert [row.index(1.0) for row in labels] == [int(value) // 2 for value in x], "labels follow"
        assert (x, labels) == sequence(key), "the same key, the same order"
        first.append(x[0])
    counts = torch.bincount(torch.tensor(first).long(), minlength=6)
    assert bool((counts > 4).all()), "each example may come first"  # 20 +- 4 standard deviations


def test_elsewhere_it_is_read_as_it_was_given() -> None:
    for read in (sequence(None), sequence(inner_keys(1)[0], training=False)):
        assert read == (list(range(6)), torch.eye(3).repeat_interleave(2, 0).tolist())


def test_fewer_classes_than_in_training_can_be_adapted_to_and_more_are_refused() -> None:
    meta = LEARNER.init(torch.Generator().manual_seed(0))
    model = Adapted.of(LEARNER, meta, [0.0, 1.0], ["cat", "dog"], None)
    assert set(model.predict([0.5, 2.0])) <= {"cat", "dog"}
    with pytest.raises(DataError, match="4 classes\nexpected: at most 3"):
        Adapted.of(LEARNER, meta, [0.0, 1.0, 2.0, 3.0], [5, 6, 7, 8], None)
