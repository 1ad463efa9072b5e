"""Batches of all training classes at once: what a label means, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from innerloop.core.errors import ConfigError
from innerloop.core.types import Episode
from innerloop.tasks import Arrays, Glyphs, Sinusoid
from innerloop.tasks.episodes import pooled_batches
from innerloop.tasks.sizes import Sizes
from innerloop.tasks.store import ExampleStore, Pool

COUNTS = np.array([6, 9, 7, 12, 6, 8])
TRAIN = [4, 1, 3]  # 6 + 9 + 12 examples
SIZES = Sizes(ways=3, shots=2, queries=4)


def numbered(rotations: bool = False) -> ExampleStore:
    """Each example is a picture whose corner holds its row number, so that a batch shows its origin."""
    pictures = np.zeros((COUNTS.sum(), 1, 2, 2), dtype=np.float32)
    pictures[:, 0, 0, 0] = np.arange(1, 1 + COUNTS.sum())
    pools = {"train": Pool.of(TRAIN, rotations=rotations), "val": Pool.of([0]), "test": Pool.of([2, 5])}
    return ExampleStore(pictures, COUNTS, tuple(f"class{i}" for i in range(6)), pools)


def examples(episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
    """Support and query together: pictures [T, N, 1, 2, 2] and labels [T, N]."""
    return torch.cat([b.x for b in episode], 1), torch.cat([b.y for b in episode], 1)


@pytest.mark.parametrize("rotations", [False, True])
def test_a_label_is_the_number_of_its_class_in_the_training_pool_in_every_batch(rotations: bool) -> None:
    episode = pooled_batches(numbered(rotations), sizes=SIZES, num_batches=40, rng=0)
    x, labels = examples(episode)
    rows = x.amax((2, 3, 4)).long() - 1
    stored = np.searchsorted(np.cumsum(COUNTS), rows.numpy(), side="right").flatten().tolist()
    corner = x.flatten(3).argmax(-1).flatten()
    turns = torch.tensor([0, 3, 1, 2])[corner].tolist()  # anticlockwise from the upper left
    meant = [(c, turn) for c in TRAIN for turn in (range(4) if rotations else [0])]
    assert labels.unique().tolist() == list(range(len(meant))), "some class never occurs"
    assert [meant[label] for label in labels.flatten().tolist()] == list(zip(stored, turns, strict=True))


def test_examples_of_a_batch_are_distinct_and_each_is_as_likely_as_any() -> None:
    x, _ = examples(pooled_batches(numbered(), sizes=SIZES, num_batches=600, rng=0))
    rows = x.amax((2, 3, 4)).long()
    assert all(len(set(batch)) == 18 for batch in rows.tolist())
    counts = rows.flatten().bincount()
    drawn = counts[counts > 0].double()
    assert len(drawn) == 27  # of 6 + 9 + 12
    assert float((drawn / drawn.sum() * 27 - 1).abs().max()) < 0.15


def test_sizes_are_those_of_a_training_task() -> None:
    episode = pooled_batches(numbered(), sizes=SIZES, num_batches=5, rng=0)
    assert episode.support.x.shape == (5, 6, 1, 2, 2)
    assert episode.query.y.shape == (5, 12)
    assert episode.query.y.dtype == torch.int64
    small = Arrays.tiny()
    assert small.pooled(2, 0).support.x.shape == small.sample("train", 2, 0).support.x.shape


def test_batches_are_a_function_of_their_key_and_number() -> None:
    source = Glyphs.tiny()
    many, few, other = source.pooled(6, 3), source.pooled(2, 3), source.pooled(2, 4)
    for ours, theirs in zip(many, few, strict=True):
        assert torch.equal(ours.x[:2], theirs.x)
        assert torch.equal(ours.y[:2], theirs.y)
    assert not torch.equal(few.query.y, other.query.y)
    assert not torch.equal(many.query.y[0], many.query.y[1])


def test_batches_hold_training_classes_alone() -> None:
    source = Arrays.tiny()
    classes = source.spec.classes
    assert classes is not None
    labels = source.pooled(60, 0).query.y
    assert sorted(labels.unique().tolist()) == list(range(classes["train"]))


def test_without_classes_training_tasks_are_all_there_is_to_pool() -> None:
    source = Sinusoid.tiny()
    for ours, theirs in zip(source.pooled(3, 1), source.sample("train", 3, 1), strict=True):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)


def test_batches_larger_than_the_pool_are_refused() -> None:
    with pytest.raises(ConfigError):
        pooled_batches(numbered(), sizes=Sizes(4, 1, 1), num_batches=1, rng=0)
