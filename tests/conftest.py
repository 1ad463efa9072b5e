"""What all tests share: one thread, so that numbers do not depend on the machine."""

from __future__ import annotations

import pytest
import torch

from cases import CASES, Case

torch.set_num_threads(1)


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    """Quick are the MLP and BatchNorm under its default policy; the rest is asked by the slow tests."""
    quick = case.network == "mlp" or (case.network == "batch" and case.batch_norm == "support")
    return [] if quick else [pytest.mark.slow]


@pytest.fixture(params=[pytest.param(case, marks=_marks(case)) for case in CASES], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Every case of the table, one after another."""
    return request.param
