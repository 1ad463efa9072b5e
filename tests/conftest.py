"""What all tests share: one thread, so that numbers do not depend on the machine."""

from __future__ import annotations

import pytest
import torch

from cases import CASES, Case

torch.set_num_threads(1)


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    """Every case of the table, one after another."""
    return request.param
