"""The probe of a stream: each family on its own tasks, adapted to afresh, at stated steps."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.types import Meta
from innerloop.measure.families import Families, looks_at
from innerloop.measure.probe import Probe
from innerloop.models import MLP
from innerloop.tasks import Bowls, Sinusoid, TaskStream
from unit.training.resuming import Setup, finish, small_config

NEAR, FAR = Bowls((0.1, 0.7, 1.9), centre=0.5), Bowls((0.3, 0.5, 0.9), centre=-4.0)
RATE, STEPS = 0.4, 3


def stream(**settings: Any) -> TaskStream:
    return TaskStream([NEAR, FAR], ["near", "far"], **settings)


def learner() -> MAML:
    return MAML(MLP(3, 1, hidden=(), bias=False), inner_lr=RATE, inner_steps=STEPS, loss="mse")


def meta(*theta: float) -> Meta:
    return {"params": {"head.weight": torch.tensor([theta or (1.0, -2.0, 0.3)])}}


def families(
    tasks: Any = None, steps: int = 40, tasks_per_step: int = 4, which: MAML | None = None
) -> Families:
    found = Families.of(which or learner(), tasks or stream(), steps, tasks_per_step, "vmap")
    assert found is not None
    return found


# --- which steps -----------------------------------------------------------------------------------------


def test_other_sources_have_none() -> None:
    assert Families.of(learner(), Sinusoid(), 40, 4, "vmap") is None


@pytest.mark.parametrize(("count", "steps"), [(2, 40), (3, 100), (3, 10), (5, 1000), (2, 6)])
@pytest.mark.parametrize("rounds", [1, 2])
def test_it_looks_before_training_at_the_end_of_each_stage_and_soon_after_each_switch(
    count: int, steps: int, rounds: int
) -> None:
    tasks = TaskStream([NEAR] * count, rounds=rounds)
    found = families(tasks, steps)
    edges = [stage.steps(steps) for stage in tasks.stages]
    assert {0, *(end for _, end in edges)} <= found.at
    assert max(found.at) == steps
    for start, end in edges:
        within = sorted(step - start for step in found.at if start < step <= end)
        if end - start >= 4:
            assert within[0] == 1, "a dip right after a switch is not missed"
        gaps = [b - a for a, b in pairwise([0, *within])]
        assert max(gaps) <= -(-(end - start) // 8) + 1, "evenly within the stage"
        assert len(within) <= 8 + (end - start).bit_length()


def test_after_a_switch_it_looks_often_and_then_evenly() -> None:
    assert sorted(looks_at([(40, 80)]) - {0}) == [41, 42, 44, 45, 48, 50, 55, 60, 65, 70, 75, 80]


def test_a_stage_ends_for_the_records_where_it_ends_for_training() -> None:
    """10 steps of three families: the fourth is still of the first."""
    found = families(TaskStream([NEAR, FAR, NEAR]), 10)
    assert [(s["start"], s["end"]) for s in found.setup()["stages"]] == [(0, 4), (4, 7), (7, 10)]


@pytest.mark.slow
def test_a_run_looks_at_these_steps_and_at_no_others(tmp_path: Path) -> None:
    tasks = TaskStream([{"name": "Sinusoid"}, {"name": "Linear", "shots": 5}])
    setup = Setup(tasks=lambda: tasks, config=small_config())
    training = setup.start(tmp_path)
    expected = families(tasks, 6, 2, training.learner).at  # pyright: ignore[reportArgumentType]
    finish(training)
    rows = [json.loads(line) for line in (tmp_path / "probe.jsonl").read_text().splitlines()]
    for name in tasks.names:
        found = [row["step"] for row in rows if row["name"] == "post" and row.get("family") == name]
        assert found == sorted(expected)
    setups = [row["value"] for row in rows if row["name"] == "setup"]
    assert next(value["families"] for value in setups if "families" in value) == ["Sinusoid", "Linear"]


# --- how many tasks --------------------------------------------------------------------------------------


def test_the_number_of_tasks_follows_from_the_work_of_training() -> None:
    sizes = [families(steps=40, tasks_per_step=num).count for num in (1, 16, 30, 1000)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (16, 50)
    looks = len(families().at) * 2
    for num, size in zip((1, 16, 30, 1000), sizes, strict=True):
        assert size == 16 or looks * size <= 0.2 * 40 * num * 3


# --- what is recorded ------------------------------------------------------------------------------------


def test_each_family_is_judged_on_its_own_tasks_by_the_closed_form() -> None:
    found = families()
    rows = found.look(meta(), 12)
    theta = meta()["params"]["head.weight"][0].double()
    for name, bowls in (("near", NEAR), ("far", FAR)):
        centres = bowls.centres(Probe(learner(), bowls, found.count).episodes("val", found.count))
        expected = bowls.descent(RATE, STEPS).meta_losses(theta, centres)
        for what in ("post", "score"):
            (row,) = [r for r in rows if r["family"] == name and r["name"] == what]
            torch.testing.assert_close(torch.tensor(row["values"]).double(), expected, rtol=2e-4, atol=1e-6)
            assert (row["step"], row["split"], len(row["values"])) == (12, "val", found.count)
    assert len(rows) == 4


def test_adaptation_is_afresh_each_time() -> None:
    found, start = families(), meta()
    before = tree.map(torch.clone, start)
    first = found.look(start, 1)
    assert found.look(start, 1) == first
    assert torch.equal(start["params"]["head.weight"], before["params"]["head.weight"])
    other = families(TaskStream([FAR, NEAR], ["far", "near"])).look(start, 1)
    assert sorted(map(str, other)) == sorted(map(str, first)), "the order of families makes no difference"


def test_the_loss_without_inputs_is_recorded_once() -> None:
    found = families()
    rows = found.trivial()
    assert [(r["step"], r["name"], r["family"], len(r["values"])) for r in rows] == [
        (0, "trivial", name, found.count) for name in ("near", "far")
    ]
    for row, bowls in zip(rows, (NEAR, FAR), strict=True):
        y = Probe(learner(), bowls, found.count).episodes("val", found.count).support.y[..., 0]
        torch.testing.assert_close(torch.tensor(row["values"]), y.var(1, correction=0), rtol=1e-5, atol=1e-6)


def test_the_facts_are_names_sizes_and_stages_in_outer_steps() -> None:
    found = families(stream(rounds=2), 40)
    stages = [("near", 0, 10), ("far", 10, 20), ("near", 20, 30), ("far", 30, 40)]
    assert found.setup() == {
        "families": ["near", "far"],
        "family_tasks": found.count,
        "stages": [{"family": name, "start": start, "end": end} for name, start, end in stages],
    }


def test_where_all_come_at_once_there_are_no_stages_and_looks_as_of_one() -> None:
    found = families(stream(schedule="joint"))
    assert found.setup()["stages"] == []
    assert found.at == looks_at([(0, 40)])
