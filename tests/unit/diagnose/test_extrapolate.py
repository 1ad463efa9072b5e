"""The second opinion: a power law is found again, its band holds the truth, and odd curves end in None."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from innerloop.diagnose.extrapolate import extrapolate

AT = np.arange(10.0, 610.0, 10.0)


def law(at: np.ndarray, floor: float, scale: float, delay: float, power: float) -> np.ndarray:
    return floor + scale * (at + delay) ** -power


@pytest.mark.parametrize(
    ("floor", "scale", "delay", "power"),
    [(0.5, 20.0, 30.0, 1.0), (0.0, 3.0, 10.0, 0.35), (1.0, 400.0, 60.0, 1.5), (0.2, 2.0, 10.0, 0.2)],
)
def test_a_power_law_is_continued(floor: float, scale: float, delay: float, power: float) -> None:
    found = extrapolate(AT, law(AT, floor, scale, delay, power))
    assert found is not None
    truth = law(found.steps, floor, scale, delay, power)
    np.testing.assert_allclose(found.middle, truth, rtol=0.01)
    assert found.steps[0] == AT[-1]
    assert found.steps[-1] == 2 * AT[-1]
    assert found.gain[0] == pytest.approx(1 - truth[-1] / truth[0], abs=0.005)


@pytest.mark.parametrize(("noise", "off", "least"), [(0.003, 0.02, 0.15), (0.03, 0.05, 0.6)])
def test_laws_that_differ_in_all_are_found_again_in_noise(noise: float, off: float, least: float) -> None:
    """Off by little at twice the steps, and in the band.

    The band is of the noise: where there is next to none, the choice of the law is the larger part of a small
    error, so the band holds the truth less often than its 90 %.
    """
    rng = np.random.default_rng(0)
    held, errors = 0, []
    for _ in range(40):
        floor, scale, power = rng.uniform(0.0, 1.0), rng.uniform(0.5, 5.0), rng.uniform(0.3, 1.5)
        delay = 10 ** rng.uniform(0.5, 2.3)
        scale *= (AT[0] + delay) ** power
        clean = law(AT, floor, scale, delay, power)
        found = extrapolate(AT, clean + noise * clean[-1] * rng.standard_normal(len(AT)))
        assert found is not None
        truth = law(found.steps[-1:], floor, scale, delay, power)[0]
        errors.append(abs(found.middle[-1] / truth - 1))
        held += found.low[-1] <= truth <= found.high[-1]
    assert np.median(errors) < 0.5 * off
    assert np.quantile(errors, 0.9) < off
    assert held / 40 >= least


def test_the_ends_of_the_band_are_in_order() -> None:
    rng = np.random.default_rng(1)
    found = extrapolate(AT, law(AT, 0.5, 20.0, 30.0, 1.0) + 0.05 * rng.standard_normal(len(AT)))
    assert found is not None
    assert (found.low <= found.middle).all()
    assert (found.middle <= found.high).all()
    usual, worst, best = found.gain
    assert worst <= usual <= best


def test_a_flat_curve_has_nothing_to_gain() -> None:
    found = extrapolate(AT, np.full(len(AT), 2.0))
    assert found is not None
    assert found.gain == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)


def test_a_curve_that_rises_is_not_expected_to_fall() -> None:
    found = extrapolate(AT, np.linspace(1.0, 2.0, len(AT)))
    assert found is not None
    assert found.gain[0] == pytest.approx(0.0, abs=1e-3)


def test_it_says_the_same_each_time() -> None:
    losses = law(AT, 0.5, 20.0, 30.0, 1.0) + 0.01 * np.sin(AT)
    one, other = extrapolate(AT, losses), extrapolate(AT, losses)
    assert one is not None
    assert other is not None
    assert one.gain == other.gain


@pytest.mark.parametrize(
    ("steps", "losses"),
    [
        (AT[:7], np.ones(7)),
        (AT, np.full(len(AT), np.nan)),
        (AT, np.append(np.ones(len(AT) - 1), np.inf)),
        (np.zeros(10), np.ones(10)),
        (np.array([]), np.array([])),
    ],
)
def test_too_short_or_not_finite_is_no_curve(steps: np.ndarray, losses: np.ndarray) -> None:
    assert extrapolate(steps, losses) is None


@settings(max_examples=30, deadline=None)
@given(
    arrays.arrays(
        float,
        st.integers(0, 30),
        elements=st.floats(0, 1e12) | st.sampled_from([0.0, np.nan, np.inf, 1e-300, 1e300]),
    )
)
def test_nothing_is_raised_whatever_the_losses(losses: np.ndarray) -> None:
    found = extrapolate(np.arange(1.0, len(losses) + 1.0), losses, resamples=5)
    assert found is None or len(found.middle) == len(found.steps)
