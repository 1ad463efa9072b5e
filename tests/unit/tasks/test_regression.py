"""Sinusoids and lines: the distributions that the literature defines."""

from __future__ import annotations

import math

import pytest
import torch

from innerloop.core.errors import ConfigError
from innerloop.tasks import Linear, Sinusoid


def test_sinusoids_are_a_sine_of_amplitude_and_phase_in_range():
    episode = Sinusoid(shots=40, queries=40).sample("train", 300, 0)
    x, y = episode.support.x.double().squeeze(-1), episode.support.y.double().squeeze(-1)
    # y = (A cos p) sin x - (A sin p) cos x: two unknowns, found by least squares, leave no residual.
    basis = torch.stack([x.sin(), -x.cos()], -1)
    found = torch.linalg.lstsq(basis, y.unsqueeze(-1)).solution
    assert (basis @ found).squeeze(-1).sub(y).abs().max() < 1e-5
    amplitude, phase = found.squeeze(-1).norm(dim=1), torch.atan2(found[:, 1, 0], found[:, 0, 0])
    assert 0.1 <= amplitude.min() < 0.3
    assert 4.8 < amplitude.max() <= 5.0
    assert abs(amplitude.mean() - 2.55) < 0.25
    assert -1e-4 <= phase.min() < 0.1
    assert math.pi - 0.1 < phase.max() <= math.pi + 1e-4
    assert x.min() >= -5
    assert x.max() <= 5
    assert abs(x.mean()) < 0.1
    # The query lies on the same curve.
    q = episode.query.x.double().squeeze(-1)
    assert (torch.stack([q.sin(), -q.cos()], -1) @ found).sub(episode.query.y).abs().max() < 1e-4


def test_amplitude_phase_and_inputs_are_independent():
    episode = Sinusoid(shots=3, queries=1).sample("train", 4000, 0)
    x = episode.support.x.squeeze(-1)
    power = episode.support.y.squeeze(-1).abs().mean(1)
    correlation = torch.corrcoef(torch.cat([x.T, power[None]]))
    assert (correlation - torch.eye(4)).abs().max() < 0.06


def test_lines_have_slopes_and_intercepts_in_range():
    x, y = (t.double().squeeze(-1) for t in Linear(shots=30).sample("test", 400, 0).support)
    basis = torch.stack([x, torch.ones_like(x)], -1)
    found = torch.linalg.lstsq(basis, y.unsqueeze(-1)).solution
    assert (basis @ found).squeeze(-1).sub(y).abs().max() < 1e-5
    assert found.abs().max() <= 2.0 + 1e-4
    assert found.amax(0).min() > 1.9
    assert found.amin(0).max() < -1.9


@pytest.mark.parametrize("source", [Sinusoid, Linear])
def test_splits_are_independent_streams(source):
    drawn = [source().sample(split, 4, 0).support.x for split in ("train", "val", "test")]
    assert not any(torch.equal(a, b) for a, b in (drawn[:2], drawn[1:], drawn[::2]))


def test_training_may_have_sizes_of_its_own():
    source = Sinusoid(shots=5, queries=15, train_shots=10, train_queries=7)
    assert source.sample("train", 2, 0).support.x.shape == (2, 10, 1)
    assert source.sample("train", 2, 0).query.x.shape == (2, 7, 1)
    assert source.sample("val", 2, 0).support.x.shape == (2, 5, 1)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", True, float("nan")])
@pytest.mark.parametrize("name", ["shots", "queries", "train_shots", "train_queries"])
def test_wrong_sizes_are_refused_by_name(name, bad):
    with pytest.raises(ConfigError, match=rf"{name} = .*\nexpected: a whole number, {name} >= 1"):
        Sinusoid(**{name: bad})
