"""Trajectories of characters: in their order, under numbers that last, with others to remember."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch
from innerloop.tasks import ClassIncrementalOmniglot


@pytest.fixture(scope="module")
def tiny() -> ClassIncrementalOmniglot:
    return ClassIncrementalOmniglot.tiny()


def classes_of(source: ClassIncrementalOmniglot, batch: Batch) -> Tensor:
    """Which stored class each drawing of a batch is of, found by its pixels."""
    stored = torch.from_numpy(source._store.examples).flatten(1).float() / 255
    rows = torch.cdist(batch.x.flatten(2), stored[None]).argmin(-1)
    ends = torch.from_numpy(source._store.counts).cumsum(0)
    return torch.searchsorted(ends, rows, right=True)


def test_characters_come_one_after_another(tiny: ClassIncrementalOmniglot) -> None:
    y = tiny.sample("train", 20, 0).support.y
    assert y.shape == (20, 4)
    assert bool((y[:, 0] == y[:, 1]).all() and (y[:, 2] == y[:, 3]).all() and (y[:, 1] != y[:, 2]).all())


def labels_last(source: ClassIncrementalOmniglot) -> None:
    """In training a label is the number of the character among those of training, in every task."""
    episode = source.sample("train", 20, 0)
    for batch in episode:
        assert torch.equal(
            torch.from_numpy(source._store.pools["train"].ids)[batch.y], classes_of(source, batch)
        )


def test_labels_last_from_task_to_task(tiny: ClassIncrementalOmniglot) -> None:
    labels_last(tiny)
    assert len(tiny.sample("train", 50, 0).support.y.unique()) == 12


def test_planted_labels_of_each_task_are_seen(tiny: ClassIncrementalOmniglot) -> None:
    def renumbered(split: Any, num_tasks: int, rng: Any) -> Any:
        episode = ClassIncrementalOmniglot.tiny().sample(split, num_tasks, rng)
        return episode._replace(support=Batch(episode.support.x, torch.arange(4).expand(num_tasks, 4)))

    planted = ClassIncrementalOmniglot.tiny()
    planted.sample = renumbered  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        labels_last(planted)


def test_what_is_to_be_remembered_is_of_other_characters(tiny: ClassIncrementalOmniglot) -> None:
    episode = tiny.sample("train", 30, 1)
    own, others = episode.query.y[:, :4], episode.query.y[:, 4:]
    assert torch.equal(own, episode.support.y)
    assert others.shape == (30, 3)
    assert not bool((others[:, :, None] == episode.support.y[:, None]).any())
    assert all(len(row.unique()) == 3 for row in others)


def test_support_and_query_are_disjoint(tiny: ClassIncrementalOmniglot) -> None:
    for split in ("train", "test"):
        episode = tiny.sample(split, 10, 0)
        assert float(torch.cdist(episode.support.x.flatten(2), episode.query.x.flatten(2)).min()) > 0


def test_unknown_characters_are_numbered_as_they_come(tiny: ClassIncrementalOmniglot) -> None:
    episode = tiny.resized(ways=4, shots=2, queries=1).sample("test", 2, 0)
    assert episode.support.y.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 2
    assert episode.query.y.tolist() == [[0, 1, 2, 3]] * 2
    trained = set(tiny._store.pools["train"].ids.tolist())
    assert not trained & set(classes_of(tiny, episode.support).flatten().tolist())


def test_pooled_batches_have_the_same_labels(tiny: ClassIncrementalOmniglot) -> None:
    batches = tiny.pooled(10, 0)
    ids = torch.from_numpy(tiny._store.pools["train"].ids)
    assert torch.equal(ids[batches.support.y], classes_of(tiny, batches.support))


def test_what_is_made_of_drawings_comes_in_the_same_trajectories(tiny: ClassIncrementalOmniglot) -> None:
    means = tiny.mapped(lambda x: x.mean((1, 2)), block=7)
    before, after = tiny.sample("train", 3, 5), means.sample("train", 3, 5)
    assert means.spec.input_shape == (28,)
    assert torch.allclose(before.query.x.mean((2, 3)), after.query.x)
    assert torch.equal(before.query.y, after.query.y)


def test_a_head_that_is_too_small_is_refused(omniglot_root: Path) -> None:
    with pytest.raises(ConfigError, match="outputs = 700"):
        ClassIncrementalOmniglot(omniglot_root, outputs=700)
    with pytest.raises(ConfigError, match="together at most 792"):
        ClassIncrementalOmniglot(omniglot_root, remember=790)
    with pytest.raises(ConfigError, match="lake"):
        ClassIncrementalOmniglot(omniglot_root, protocol="lakes")  # type: ignore[arg-type]


def test_six_hundred_characters_are_one_pass(omniglot_root: Path) -> None:
    source = ClassIncrementalOmniglot(omniglot_root).resized(ways=600)
    assert source.spec.classes == {"train": 792, "val": 172, "test": 659}
    episode = source.sample("test", 1, 0)
    assert episode.support.x.shape == (1, 9000, 1, 28, 28)
    assert episode.query.y.shape == (1, 3000)
    assert episode.support.y[0].diff().unique().tolist() == [0, 1]


def test_more_characters_than_outputs_are_refused(tiny: ClassIncrementalOmniglot) -> None:
    tiny.outputs, before = 4, tiny.outputs
    try:
        with pytest.raises(ConfigError, match="outputs = 4"):
            tiny.resized(ways=5)
    finally:
        tiny.outputs = before
