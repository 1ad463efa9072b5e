"""What every source promises, asked of each stand-in by name."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch

from innerloop import tasks
from innerloop.core.errors import ConfigError
from innerloop.core.types import SPLITS

NAMES = sorted(tasks.REGISTRY)
CLASSES = [name for name in NAMES if "ways" in inspect.signature(getattr(tasks, name)).parameters]
TARGETS = [name for name in NAMES if name not in CLASSES]
SIZED = [
    name for name in NAMES if {"shots", "sources"} & set(inspect.signature(getattr(tasks, name)).parameters)
]


def tiny(name: str) -> Any:
    return getattr(tasks, name).tiny()


@pytest.mark.parametrize("name", NAMES)
def test_shapes_follow_the_spec(name):
    source = tiny(name)
    spec = source.spec
    episode = source.sample("test", 3, 0)
    ways = 1 if spec.classes is None else getattr(source, "ways", spec.outputs)
    for batch, each in ((episode.support, spec.shots), (episode.query, spec.queries)):
        assert batch.x.shape == (3, ways * each, *spec.input_shape)
        assert batch.x.dtype == torch.float32
        assert batch.y.shape == ((3, each, spec.outputs) if spec.classes is None else (3, ways * each))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_task_i_does_not_depend_on_the_number_of_tasks(name, split):
    source = tiny(name)
    many, few = source.sample(split, 9, 4), source.sample(split, 2, 4)
    for one, other in zip(many, few, strict=True):
        assert torch.equal(one.x[:2], other.x)
        assert torch.equal(one.y[:2], other.y)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_rng_gives_the_same_tasks_and_another_gives_others(name):
    source = tiny(name)
    assert torch.equal(source.sample("train", 3, 1).query.x, source.sample("train", 3, 1).query.x)
    one, other = source.sample("train", 3, 1).query, source.sample("train", 3, 2).query
    assert not (torch.equal(one.x, other.x) and torch.equal(one.y, other.y))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_stand_on_self_under_their_names(name):
    source = tiny(name)
    for parameter in list(inspect.signature(type(source).__init__).parameters)[1:]:
        assert hasattr(source, parameter), parameter


@pytest.mark.parametrize("name", SIZED)
def test_resizing_changes_test_and_leaves_training(name):
    source = tiny(name)
    other = source.resized(shots=2, queries=1)
    assert (other.spec.shots, other.spec.queries) == (2, 1)
    assert (source.spec.shots, source.spec.queries) != (2, 1)
    before, after = source.sample("train", 2, 0), other.sample("train", 2, 0)
    assert torch.equal(before.support.x, after.support.x)
    assert torch.equal(before.query.x, after.query.x)


@pytest.mark.parametrize("name", CLASSES)
def test_ways_can_be_resized(name):
    assert tiny(name).resized(ways=2).sample("test", 1, 0).support.y.tolist() == [[0, 1]]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SIZED])
def test_a_source_of_one_size_refuses_others(name):
    source = tiny(name)
    assert source.resized(shots=source.spec.shots).spec == source.spec
    with pytest.raises(ConfigError, match="no other sizes"):
        source.resized(queries=source.spec.queries + 1)


@pytest.mark.parametrize("name", CLASSES)
def test_resizing_beyond_the_classes_is_refused(name):
    with pytest.raises(ConfigError, match="ways = 99"):
        tiny(name).resized(ways=99)


@pytest.mark.parametrize("name", CLASSES)
def test_stand_ins_can_be_learned_but_not_perfectly(name):
    episode = tiny(name).resized(ways=5).sample("test", 300, 0)
    distance = torch.cdist(episode.query.x.flatten(2), episode.support.x.flatten(2))
    score = (distance.argmin(-1) == episode.query.y).float().mean().item()  # one shot: the row is the label
    assert 0.5 < score < 0.97


def test_both_kinds_are_there():
    assert {"Arrays", "Omniglot"} < set(CLASSES)
    assert {"Linear", "Sinusoid"} < set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_regression_has_no_ways(name):
    with pytest.raises(ConfigError, match="no ways"):
        tiny(name).resized(ways=2)


def test_unknown_names_are_attribute_errors_and_listing_costs_no_torch():
    with pytest.raises(AttributeError, match="Omnigolt"):
        _ = tasks.Omnigolt  # type: ignore[attr-defined]
    assert set(tasks.REGISTRY) < set(dir(tasks))
    code = "import sys, innerloop.tasks as t; t.REGISTRY; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_registry_names_are_class_names():
    for name in NAMES:
        assert getattr(tasks, name).__name__ == name
