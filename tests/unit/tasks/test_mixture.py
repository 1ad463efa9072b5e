"""Several sources as one: whose task each is, and what sources have to agree in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.rng import key
from innerloop.core.types import SPLITS, Episode
from innerloop.tasks import Arrays, Linear, Mixture, Sinusoid
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import RunConfig, describe
from unit.training.resuming import sinusoid_learner


def straight(episode: Episode) -> list[bool]:
    """Whether the points of each task lie on a line: least squares leaves nothing over."""
    found = []
    for x, y in zip(*(torch.cat([b[i] for b in episode], 1) for i in range(2)), strict=True):
        design = torch.cat([x, torch.ones_like(x)], 1).double()
        fitted = design @ torch.linalg.lstsq(design, y.double()).solution
        found.append(float((fitted - y).abs().max()) < 1e-4)
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_is_of_the_family_that_is_told(split: Any) -> None:
    """Planted: the families of another key, or of another split, are not these."""
    source = Mixture(["Sinusoid", "Linear"])
    lines = straight(source.sample(split, 40, 3))
    assert lines == [family == 1 for family in source.families(split, 40, 3)]
    assert lines != [family == 1 for family in source.families(split, 40, 4)]
    others = [other for other in SPLITS if other != split]
    assert all(lines != [family == 1 for family in source.families(other, 40, 3)] for other in others)


def test_the_tasks_of_a_family_are_its_source_s_own() -> None:
    source = Mixture([{"name": "Sinusoid", "shots": 3}, Linear(shots=3)])
    families = np.array(source.families("train", 12, 5))
    drawn = source.sample("train", 12, 5)
    for number, own in enumerate((Sinusoid(shots=3), Linear(shots=3))):
        where = np.flatnonzero(families == number)
        alone = own.sample("train", len(where), key(5, "family", number))
        assert torch.equal(drawn.query.y[where], alone.query.y)
        assert torch.equal(drawn.support.x[where], alone.support.x)


def test_families_come_as_often_as_they_weigh() -> None:
    source = Mixture(["Sinusoid", "Linear", "SinusoidAndLine"], weights=[6, 3, 1])
    counts = np.bincount(source.families("train", 6000, 0), minlength=3) / 6000
    assert np.abs(counts - [0.6, 0.3, 0.1]).max() < 0.02
    assert set(Mixture(["Sinusoid", "Linear"], weights=[0, 1]).families("train", 50, 0)) == {1}


def test_resizing_changes_every_family() -> None:
    other = Mixture.tiny().resized(shots=7)
    assert other.sample("test", 6, 0).support.x.shape == (6, 7, 1)
    assert other.families("test", 6, 0) == Mixture.tiny().families("test", 6, 0)


def test_classes_of_several_sources_count_together_and_are_not_pooled() -> None:
    source = Mixture([Arrays.tiny(), Arrays.tiny()])
    assert source.spec.classes == {split: 2 * n for split, n in (Arrays.tiny().spec.classes or {}).items()}
    assert source.sample("train", 3, 0).support.y.shape[0] == 3
    with pytest.raises(ConfigError, match="labels mean the same"):
        source.pooled(2, 0)


def test_it_is_written_down_and_made_again() -> None:
    source = Mixture([{"name": "Sinusoid", "outliers": 0.1}, "Linear"], weights=[1.0, 2.0])
    config = describe(sinusoid_learner(), source, TrainConfig())
    assert config.tasks["sources"] == [{"name": "Sinusoid", "outliers": 0.1}, "Linear"]
    again = RunConfig.from_dict(config.to_dict()).build()[1]
    assert torch.equal(again.sample("train", 9, 1).query.y, source.sample("train", 9, 1).query.y)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "one source": (["Sinusoid"], None, "two sources or more"),
    "no list": ("Sinusoid", None, "two sources or more"),
    "an unknown source": (["Sinusoid", "Lineer"], None, "did you mean 'Linear'"),
    "an unknown setting": (["Linear", {"name": "Sinusoid", "outlier": 1.0}], None, "did you mean outliers"),
    "a setting out of range": (["Linear", {"name": "Sinusoid", "outliers": -1.0}], None, "outliers = -1.0"),
    "no name": (["Linear", {"noise": 1.0}], None, "add its name"),
    "nothing of the kind": (["Linear", 3], None, "a source of type int"),
    "other sizes": (["Linear", {"name": "Sinusoid", "shots": 3}], None, "shots = 5 and Sinusoid with 3"),
    "other inputs": (["Linear", "Cart"], None, "input_shape"),
    "a weight missing": (["Linear", "Sinusoid"], [1.0], "1 weights for 2 sources"),
    "a weight below zero": (["Linear", "Sinusoid"], [1.0, -1.0], "weights = -1.0"),
    "no weight at all": (["Linear", "Sinusoid"], [0.0, 0.0], "all zero"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_mixture_is_refused(name: str) -> None:
    sources, weights, told = WRONG[name]
    with pytest.raises(ConfigError, match=told):
        Mixture(sources, weights)


def test_training_tasks_of_different_sizes_are_refused() -> None:
    source = Mixture([Sinusoid(train_shots=3), Linear()])
    with pytest.raises(ContractError, match="train_shots"):
        source.sample("train", 8, 0)
