"""Double sampling: what every class-based source promises, asked of a store whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from innerloop.core.errors import ConfigError, DataError
from innerloop.core.rng import choose
from innerloop.tasks.episodes import choose_within, sample_classes
from innerloop.tasks.sizes import Sizes
from innerloop.tasks.store import ExampleStore, Pool

COUNTS = np.array([6, 9, 7, 12, 6, 8, 10, 6, 7, 11])
SIZES = Sizes(ways=3, shots=2, queries=4)


def numbered(splits: dict[str, list[int]] | None = None) -> ExampleStore:
    """Each example is its own row number, so that an episode shows where it came from."""
    splits = splits or {"train": [0, 1, 2, 3, 4], "val": [5, 6], "test": [7, 8, 9]}
    rows = np.arange(COUNTS.sum(), dtype=np.float32)[:, None]
    pools = {split: Pool.of(ids) for split, ids in splits.items()}
    return ExampleStore(rows, COUNTS, tuple(f"class{i}" for i in range(len(COUNTS))), pools)


def classes_of(rows: torch.Tensor) -> np.ndarray:
    return np.searchsorted(np.cumsum(COUNTS), rows.numpy(), side="right")


def test_support_and_query_are_disjoint_and_without_repeats():
    episode = sample_classes(numbered(), "train", sizes=SIZES, num_tasks=50, rng=0)
    for support, query in zip(episode.support.x[..., 0], episode.query.x[..., 0], strict=True):
        used = [*support.tolist(), *query.tolist()]
        assert len(set(used)) == len(used) == 3 * (2 + 4)


def test_a_label_stands_for_one_class_and_classes_are_distinct():
    episode = sample_classes(numbered(), "train", sizes=SIZES, num_tasks=50, rng=0)
    support, query = classes_of(episode.support.x[..., 0]), classes_of(episode.query.x[..., 0])
    for task in range(50):
        seen = {(int(y), int(c)) for y, c in zip(episode.support.y[task], support[task], strict=True)}
        seen |= {(int(y), int(c)) for y, c in zip(episode.query.y[task], query[task], strict=True)}
        assert len(seen) == 3
        assert len({c for _, c in seen}) == 3


def test_labels_are_class_by_class():
    episode = sample_classes(numbered(), "train", sizes=SIZES, num_tasks=2, rng=0)
    assert episode.support.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert episode.query.y.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 2
    assert episode.support.x.shape == (2, 6, 1)
    assert episode.support.x.dtype == torch.float32
    assert episode.support.y.dtype == torch.int64


def test_labels_are_permuted_from_task_to_task():
    sizes = Sizes(ways=5, shots=1, queries=1)
    episode = sample_classes(numbered(), "train", sizes=sizes, num_tasks=400, rng=0)
    labelled = classes_of(episode.support.x[..., 0])
    for cls in range(5):
        share = (labelled == cls).mean(axis=0)  # how often the class stands at each label
        assert np.abs(share - 0.2).max() < 0.08


def test_every_example_is_drawn_about_equally_often():
    sizes = Sizes(ways=3, shots=1, queries=1)
    episode = sample_classes(numbered(), "test", sizes=sizes, num_tasks=3000, rng=1)
    drawn = np.bincount(episode.support.x.reshape(-1).long().numpy(), minlength=COUNTS.sum())
    ends = np.cumsum(COUNTS)
    for cls in (7, 8, 9):
        share = drawn[ends[cls] - COUNTS[cls] : ends[cls]] / 3000
        assert np.abs(share * COUNTS[cls] - 1).max() < 0.25


def test_task_i_does_not_depend_on_the_number_of_tasks():
    many = sample_classes(numbered(), "train", sizes=SIZES, num_tasks=17, rng=5)
    few = sample_classes(numbered(), "train", sizes=SIZES, num_tasks=4, rng=5)
    assert torch.equal(many.support.x[:4], few.support.x)
    assert torch.equal(many.query.x[:4], few.query.x)


def test_tasks_differ_by_rng_and_by_split():
    splits = {"train": [0, 1, 2, 3, 4], "val": [5, 6, 7, 8, 9], "test": [5, 6, 7]}
    store = ExampleStore(
        np.tile(np.arange(6.0, dtype=np.float32), 10)[:, None],
        np.full(10, 6),
        tuple(map(str, range(10))),
        {s: Pool.of(i) for s, i in splits.items() if s != "test"},
    )
    train = sample_classes(store, "train", sizes=SIZES, num_tasks=8, rng=5)
    assert not torch.equal(
        train.support.x, sample_classes(store, "train", sizes=SIZES, num_tasks=8, rng=6)[0].x
    )
    assert not torch.equal(
        train.support.x, sample_classes(store, "val", sizes=SIZES, num_tasks=8, rng=5)[0].x
    )


def test_a_generator_gives_a_stream_and_an_int_gives_a_task():
    store = numbered()
    one, two = (torch.Generator().manual_seed(3) for _ in range(2))
    first = sample_classes(store, "train", sizes=SIZES, num_tasks=2, rng=one)
    assert torch.equal(first[0].x, sample_classes(store, "train", sizes=SIZES, num_tasks=2, rng=two)[0].x)
    assert not torch.equal(first[0].x, sample_classes(store, "train", sizes=SIZES, num_tasks=2, rng=one)[0].x)


def test_the_global_generators_are_left_alone():
    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample_classes(numbered(), "train", sizes=SIZES, num_tasks=4, rng=0)
    assert torch.equal(before, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_before).all()


@pytest.mark.parametrize("block", [1 << 22, 16, 1])
def test_choosing_among_ragged_classes_equals_choosing_in_each(block, monkeypatch):
    monkeypatch.setattr("innerloop.tasks.episodes._BLOCK", block)
    keys = np.arange(1, 13, dtype=np.uint64).reshape(4, 3) * np.uint64(977)
    populations = np.array([[5, 6, 7], [8, 9, 50], [5, 5, 5], [6, 6, 6]])
    chosen = choose_within(keys, populations, 5)
    for place in np.ndindex(4, 3):
        assert chosen[place].tolist() == choose(keys[place], int(populations[place]), 5).tolist()


def test_rotations_are_classes_of_their_own():
    corner = np.zeros((8, 1, 4, 4), dtype=np.uint8)
    corner[:, :, 0, 0] = 255
    pools = {"train": Pool.of([0], rotations=True), "val": Pool.of([]), "test": Pool.of([1])}
    store = ExampleStore(corner, np.array([4, 4]), ("a", "b"), pools)
    assert store.num_classes == {"train": 4, "val": 0, "test": 1}
    episode = sample_classes(store, "train", sizes=Sizes(4, 1, 2), num_tasks=3, rng=0)
    for task in range(3):
        places = episode.support.x[task, :, 0].reshape(4, 16).argmax(1)
        assert sorted(places.tolist()) == [0, 3, 12, 15]
        queries = episode.query.x[task, :, 0].reshape(8, 16).argmax(1)
        assert queries.tolist() == places.repeat_interleave(2).tolist()
    assert int(corner[:, 0, 0, 0].min()) == 255  # the stored images were not turned


def test_more_ways_than_classes_is_refused():
    with pytest.raises(ConfigError, match=r"ways = 4 with 3 classes in split 'test'"):
        sample_classes(numbered(), "test", sizes=Sizes(4, 1, 1), num_tasks=1, rng=0)


def test_more_examples_than_a_class_has_is_refused_and_the_class_named():
    with pytest.raises(DataError, match="class 'class7' of split 'test' has 6 examples"):
        sample_classes(numbered(), "test", sizes=Sizes(2, 3, 4), num_tasks=1, rng=0)


def test_a_class_in_two_splits_is_refused_and_named():
    with pytest.raises(DataError, match="class 'class4' in train and in test"):
        numbered({"train": [0, 4], "val": [1], "test": [4, 5]})


@pytest.mark.parametrize("num_tasks", [0, -1, 2.0, True])
def test_a_wrong_number_of_tasks_is_refused(num_tasks):
    with pytest.raises(ConfigError, match="num_tasks"):
        sample_classes(numbered(), "train", sizes=SIZES, num_tasks=num_tasks, rng=0)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="one of train, val, test"):
        sample_classes(numbered(), "validation", sizes=SIZES, num_tasks=1, rng=0)  # type: ignore[arg-type]
