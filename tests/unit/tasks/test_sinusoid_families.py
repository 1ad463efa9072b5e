"""Families of waves: what they are, that they contradict, and that the same kind again does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.rng import key
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.gradients.single import meta_gradient
from innerloop.models import MLP
from innerloop.tasks import SinusoidFamilies
from innerloop.tasks.base import TaskSource

ALL = ["sine", "opposite", "small", "fast", "square"]


def points(kind: str, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets [T, S] of many points each of many tasks."""
    source = SinusoidFamilies([kind, "sine"], shots=1, queries=60).family(0)
    query = source.sample(split, 200, 0).query  # type: ignore[arg-type]
    return query.x[..., 0].double(), query.y[..., 0].double()


@pytest.mark.parametrize(
    ("kind", "frequency", "amplitudes", "phases"),
    [
        ("sine", 1.0, (2, 5), (0, np.pi)),
        ("opposite", 1.0, (2, 5), (np.pi, 2 * np.pi)),
        ("small", 1.0, (1, 2), (0, np.pi)),
        ("fast", 1.5, (2, 5), (0, np.pi)),
    ],
)
def test_amplitude_and_phase_are_in_the_ranges_of_the_family(
    kind: str, frequency: float, amplitudes: tuple[float, float], phases: tuple[float, float]
) -> None:
    """Recovered by least squares on sin(w x) and cos(w x), which leaves nothing over only for the right w."""
    x, y = points(kind)
    design = torch.stack([(frequency * x).sin(), (frequency * x).cos()], -1)
    found = torch.linalg.lstsq(design, y[..., None]).solution
    assert (design @ found - y[..., None]).abs().max() < 1e-4
    a, b = found[:, 0, 0], found[:, 1, 0]  # A cos p and -A sin p
    amplitude, phase = (a**2 + b**2).sqrt(), torch.atan2(-b, a).remainder(2 * np.pi)
    for values, (low, high) in ((amplitude, amplitudes), (phase, phases)):
        assert low - 1e-4 <= values.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < values.max() <= high + 1e-4


def test_a_square_wave_has_the_sign_of_a_sine_and_one_height() -> None:
    _, y = points("square")
    heights = y.abs()
    assert (heights - heights[:, :1]).abs().max() < 1e-6
    assert 2 <= heights.min() < heights.max() <= 5


def test_the_same_kind_again_is_the_same_distribution_and_has_a_number() -> None:
    """Planted: another kind is not."""
    quiet = SinusoidFamilies(["sine", "sine", "opposite"])
    assert quiet.names == ("sine 1", "sine 2", "opposite")
    first, second, third = (quiet.family(i).sample("test", 9, 4).query.y for i in range(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    ("kinds", "told"), [(["sine", "smal"], "did you mean 'small'"), (["sine"], "two sources or more")]
)
def test_what_is_no_kind_is_refused(kinds: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SinusoidFamilies(kinds)


def score(learner: MAML, meta: dict, family: TaskSource) -> float:
    """1 - loss / that of the mean of the support, on fixed test tasks."""
    found = evaluate(learner, meta, family, FixedEpisodes("test", 100, 0), tasks_axis="vmap", curve=False)
    support, query = family.sample("test", 300, 7)
    trivial = float((support.y.mean(1, keepdim=True) - query.y).square().mean())
    return 1.0 - float(np.mean(found.scores)) / trivial


def fall(kinds: list[str], steps: int = 400) -> tuple[float, float]:
    """How well the first family is learned, and how far it falls while the others are trained on."""
    stream = SinusoidFamilies(kinds)
    learner = MAML(MLP(1, 1, hidden=(40, 40)), inner_lr=0.01, inner_steps=5, loss="mse")
    meta = learner.init(torch.Generator().manual_seed(0))
    leaves = list(tree.leaves(meta))
    optimizer = torch.optim.Adam(leaves, 2e-3)
    learned = 0.0
    for step in range(steps * len(kinds)):
        if step == steps:
            learned = score(learner, meta, stream.family(0))
        episodes = stream.at(step / (steps * len(kinds))).sample("train", 8, key(0, step))
        gradient, _ = meta_gradient(learner, meta, episodes, tasks_axis="vmap")
        for leaf, value in zip(leaves, tree.leaves(gradient), strict=True):
            leaf.grad = value
        torch.nn.utils.clip_grad_norm_(leaves, 10.0)
        optimizer.step()
    return learned, learned - score(learner, meta, stream.family(0))


@pytest.mark.slow
def test_families_that_contradict_are_forgotten_and_the_same_family_again_is_not() -> None:
    for other in ("opposite", "fast"):
        learned, lost = fall(["sine", other])
        assert learned > 0.75
        assert lost > 0.2
    assert fall(["sine", "sine"])[1] < 0.02
