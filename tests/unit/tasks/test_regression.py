"""Sinusoids, lines and harmonics: the distributions that the literature defines."""

from __future__ import annotations

import math

import pytest
import torch

from innerloop.core.errors import ConfigError
from innerloop.tasks import Harmonic, Linear, Sinusoid, SinusoidAndLine


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


def test_harmonics_are_two_waves_of_one_frequency_around_one_place():
    x, y = (t.double().squeeze(-1) for t in Harmonic(shots=60).sample("train", 200, 0).support)
    assert (x.mean(1) - x.mean(1).clamp(-4, 4)).abs().max() < 0.5
    assert x.mean(1).min() < -3.5
    assert x.mean(1).max() > 3.5
    assert abs(x.std(1).mean() - 1.0) < 0.02
    # Given the frequency, four unknowns by least squares; a search finds the frequency within its range.
    frequencies = torch.linspace(4.5, 7.5, 301, dtype=torch.float64)
    angles = frequencies[:, None, None] * x
    basis = torch.stack([angles.sin(), angles.cos(), (2 * angles).sin(), (2 * angles).cos()], -1)
    found = torch.linalg.lstsq(basis, y[None, ..., None].expand(301, -1, -1, -1)).solution
    residual = (basis @ found).squeeze(-1).sub(y).square().mean(-1)
    best = residual.argmin(0)
    assert (residual.amin(0) / y.square().mean(1)).max() < 2e-3
    assert 4.98 <= frequencies[best].min() < 5.1
    assert 6.9 < frequencies[best].max() <= 7.02
    weights = found[best, torch.arange(200)].squeeze(-1)
    amplitudes = torch.stack([weights[:, :2].norm(dim=1), weights[:, 2:].norm(dim=1)])
    # A standard normal's size: a mean of sqrt(2 / pi), a mean square of 1.
    assert (amplitudes.mean(1) - math.sqrt(2 / math.pi)).abs().max() < 0.13
    assert (amplitudes.square().mean(1) - 1.0).abs().max() < 0.3


def test_one_in_two_is_a_line_and_the_others_are_sinusoids():
    x, y = (t.double().squeeze(-1) for t in SinusoidAndLine(shots=20).sample("train", 1000, 0).support)

    def residual(*columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        basis = torch.stack(columns, -1)
        found = torch.linalg.lstsq(basis, y.unsqueeze(-1)).solution
        return (basis @ found).squeeze(-1).sub(y).abs().amax(1), found.squeeze(-1)

    of_line, line = residual(x, torch.ones_like(x))
    of_wave, wave = residual(x.sin(), -x.cos())
    is_line, is_wave = of_line < 1e-5, of_wave < 1e-5
    assert bool((is_line ^ is_wave).all())
    assert abs(is_line.double().mean() - 0.5) < 0.05
    assert line[is_line].abs().max() <= 3.0 + 1e-4
    assert line[is_line].amax(0).min() > 2.9
    assert line[is_line].amin(0).max() < -2.9
    amplitude = wave[is_wave].norm(dim=1)
    assert 0.1 - 1e-4 <= amplitude.min() < 0.3
    assert 4.8 < amplitude.max() <= 5.0 + 1e-4


@pytest.mark.parametrize("source", [Harmonic, SinusoidAndLine])
def test_noise_is_gaussian_on_every_target_and_moves_no_input(source):
    plain, noisy = (source(shots=50, noise=n).sample("train", 200, 0) for n in (0.0, 0.3))
    for before, after in zip(plain, noisy, strict=True):
        assert torch.equal(before.x, after.x)
        added = (after.y - before.y).flatten()
        assert abs(added.mean()) < 0.02
        assert abs(added.std() - 0.3) < 0.01
        assert abs((added.abs() < 0.3).float().mean() - 0.683) < 0.02


def test_outliers_take_the_place_of_some_support_targets_and_of_no_query():
    plain, struck = (Sinusoid(shots=20, outliers=share).sample("test", 500, 0) for share in (0.0, 0.25))
    assert torch.equal(plain.support.x, struck.support.x)
    assert torch.equal(plain.query.x, struck.query.x)
    assert torch.equal(plain.query.y, struck.query.y)
    moved = plain.support.y != struck.support.y
    assert abs(moved.float().mean() - 0.25) < 0.015
    assert moved.float().mean(0).std() < 0.04  # every place of the support is as likely
    values = struck.support.y[moved]
    assert 9.9 < values.max() < 10.0
    assert -10.0 <= values.min() < -9.9
    assert abs(values.mean()) < 0.3
    assert torch.equal(
        Sinusoid(outliers=1.0).sample("val", 2, 0).query.y, Sinusoid().sample("val", 2, 0).query.y
    )


def test_without_outliers_the_numbers_are_those_of_before():
    drawn = Sinusoid(shots=3).sample("train", 2, 0)
    assert drawn.support.y[0, :, 0].tolist() == pytest.approx(
        [-0.47337967, -0.49879789, 0.86464107], abs=1e-6
    )


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), "a", True])
def test_a_wrong_share_of_outliers_is_refused(bad):
    with pytest.raises(ConfigError, match="outliers = "):
        Sinusoid(outliers=bad)


@pytest.mark.parametrize("bad", [-0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("source", [Harmonic, SinusoidAndLine])
def test_a_wrong_noise_is_refused(source, bad):
    with pytest.raises(ConfigError, match="noise = "):
        source(noise=bad)
