"""Problems made of scikit-learn's digits: which images are where, and what happens without the package."""

from __future__ import annotations

import sys

import pytest
import torch

from innerloop.core.errors import ConfigError, DataError
from innerloop.core.types import SPLITS
from innerloop.tasks import OptimizeMLP


@pytest.fixture(scope="module")
def digits() -> OptimizeMLP:
    return OptimizeMLP()


def images(source: OptimizeMLP, split, num: int = 12) -> set[tuple[float, ...]]:
    support, query = source.sample(split, num, 0)
    return {tuple(row.tolist()) for batch in (support, query) for row in batch.x.flatten(0, 1)}


def test_no_image_is_in_problems_of_two_splits(digits: OptimizeMLP):
    train, val, test = (images(digits, split) for split in SPLITS)
    assert min(len(train), len(val), len(test)) > 400
    assert not train & val
    assert not train & test
    assert not val & test


def test_support_and_query_of_a_problem_share_no_image(digits: OptimizeMLP):
    support, query = digits.sample("test", 5, 1)
    for one, other in zip(support.x, query.x, strict=True):
        assert torch.cdist(one, other).min() > 0


def test_images_are_vectors_from_zero_to_one_and_labels_are_permuted(digits: OptimizeMLP):
    support, _ = digits.sample("train", 3, 0)
    assert support.x.shape == (3, 250, 64)
    assert (float(support.x.min()), float(support.x.max())) == (0.0, 1.0)
    means = support.x.reshape(3, 10, 25, 64).mean(2)
    nearest = torch.cdist(means[0], means[1]).argmin(1)
    assert sorted(nearest.tolist()) == list(range(10)), "both problems have all ten digits"
    assert nearest.tolist() != list(range(10)), "in an order of their own"


def test_a_network_can_be_trained_on_them(digits: OptimizeMLP):
    support, query = (type(b)(b.x[0], b.y[0]) for b in digits.sample("test", 1, 0))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(support.x), support.y).backward()
        optimizer.step()
    assert float((net(query.x).argmax(1) == query.y).float().mean()) > 0.8


def test_more_images_than_there_are_is_refused():
    with pytest.raises(DataError, match="43 examples"):
        OptimizeMLP(shots=30, queries=15)


def test_without_scikit_learn_the_extra_is_named_and_the_stand_in_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'innerloop\[sklearn\]'"):
        OptimizeMLP()
    assert OptimizeMLP.tiny().sample("train", 1, 0).support.x.shape == (1, 30, 64)
