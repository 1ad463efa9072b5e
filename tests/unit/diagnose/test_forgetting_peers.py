"""The same matrices in avalanche-lib: equal where definitions agree, and unlike where they do not.

The numbers written here are what avalanche-lib 0.6.0 printed for these matrices, by `theirs` below, so they
are asked of us without it; where it can be imported, it is asked again. It is no dependency of ours.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from innerloop.diagnose.estimate import Estimate, Measure
from innerloop.diagnose.forgetting import (
    backward_transfer,
    forgetting_first_last,
    forgetting_max_last,
    forward_transfer,
)
from unit.diagnose.test_forgetting import FOUR, GAIN, PEAK, matrix

VERSION = "0.6.0"

MATRICES = {"peak": PEAK, "four": FOUR, "gain": GAIN}

#: What avalanche-lib 0.6.0 gives: means over experiences of its Forgetting, BWT and ForwardTransfer.
PRINTED = {
    "peak": (0.125, -0.125, 0.175),
    "four": (0.2166666666666667, -0.2166666666666667, 0.16666666666666666),
    "gain": (-0.050000000000000044, 0.050000000000000044, 0.050000000000000044),
}

#: Of the first experience of "peak", whose scores are .90, .95, .80.
FIRST = 0.09999999999999998


def value(found: Measure) -> float:
    assert isinstance(found, Estimate)
    return found.value


def ours(means: list[list[float]]) -> tuple[float, float, float]:
    asked = matrix(means)
    return (
        value(forgetting_first_last(asked)),
        value(backward_transfer(asked)),
        value(forward_transfer(asked)),
    )


@pytest.mark.parametrize("name", MATRICES)
def test_first_last_forgetting_and_both_transfers_are_avalanches(name: str) -> None:
    assert ours(MATRICES[name]) == pytest.approx(PRINTED[name], abs=1e-12)


def test_max_last_forgetting_is_not_avalanches_where_a_family_gains_after_its_stage() -> None:
    """Its initial value is that after the family's own stage, .90; ours is the largest, .95."""
    found = value(forgetting_max_last(matrix(PEAK)))
    assert found == pytest.approx((0.15 + 0.15) / 2, abs=1e-12)
    assert PRINTED["peak"][0] == pytest.approx((FIRST + 0.15) / 2, abs=1e-12)
    for name in ("four", "gain"):  # no family gains between its stage and the last but one: the same
        found = value(forgetting_max_last(matrix(MATRICES[name])))
        assert found == pytest.approx(PRINTED[name][0], abs=1e-12)


@pytest.fixture(scope="module")
def avalanche() -> ModuleType:
    try:
        return importlib.import_module("avalanche")
    except Exception as error:  # its own imports fail in several ways where torchvision does not fit torch
        pytest.skip(f"avalanche-lib cannot be imported: {error}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MATRICES)
def test_avalanche_still_says_the_same(avalanche: ModuleType, name: str) -> None:
    printed = theirs(MATRICES[name])
    assert printed == pytest.approx(ours(MATRICES[name]), abs=1e-12)
    if avalanche.__version__ == VERSION:
        assert printed == pytest.approx(PRINTED[name], abs=1e-15)


def theirs(means: list[list[float]]) -> tuple[float, float, float]:
    """Means over experiences of Avalanche's metrics, updated as its plugins update them.

    An experience is `initial` while it is the one just trained on; the last values are forgotten before each
    evaluation; forward transfer is updated for the next experience alone.
    """
    changes = importlib.import_module("avalanche.evaluation.metrics.forgetting_bwt")
    transfers = importlib.import_module("avalanche.evaluation.metrics.forward_transfer")
    forgetting, backward, forward = changes.Forgetting(), changes.BWT(), transfers.ForwardTransfer()
    for j, score in enumerate(means[0]):
        forward.update(j, score, initial=True)
    for i, row in enumerate(means[1:]):
        for metric in (forgetting, backward):
            metric.reset_last()
            for j, score in enumerate(row):
                metric.update(j, score, initial=i == j)
        if i + 1 < len(row):
            forward.update(i + 1, row[i + 1])
    results = [metric.result() for metric in (forgetting, backward, forward)]
    found = [sum(result.values()) / len(result) for result in results]
    return found[0], found[1], found[2]
