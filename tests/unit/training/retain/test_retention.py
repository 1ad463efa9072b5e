"""Remedies together: their order, what they are told, what is replayed; and settings that are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from innerloop.algorithms import MAML
from innerloop.core.errors import ConfigError
from innerloop.core.vectorise import take
from innerloop.gradients import Truncated
from innerloop.models import MLP
from innerloop.tasks import Sinusoid, TaskStream
from innerloop.training.config import TrainConfig
from innerloop.training.retain.anchor import Anchor
from innerloop.training.retain.check import check_retained
from innerloop.training.retain.config import RetainConfig
from innerloop.training.retain.memory import TaskMemory
from innerloop.training.retain.projection import projected
from innerloop.training.retain.retention import Retention, retention
from unit.training.retain.moments import EPISODES, META, at, flat, moment

EVERYTHING = {
    "replay": 0.5, "memory": 4, "l2": 0.1, "ewc": 0.2, "si": 0.3, "distill": 0.4, "project": True
}  # fmt: skip
GRADS, AFTER = at(1.0, 2.0, 3.0), at(0.9, 1.8, 2.7)
FEW = take(EPISODES, slice(0, 4))


def all_on() -> Retention:
    """After a step and the end of a stage."""
    found = Retention(RetainConfig(**EVERYTHING), 0)
    found.changed(GRADS, moment(META, FEW))
    found.stepped(GRADS, META, AFTER, FEW, [0] * 4)
    found.stage_ended(moment(META, FEW))
    return found


# --- which, and in which order ---------------------------------------------------------------------------


def test_without_settings_there_is_nothing() -> None:
    assert retention(RetainConfig(), 0) is None
    assert not Retention(RetainConfig(), 0).active


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "memory"])
def test_each_setting_turns_one_remedy_on(name: str) -> None:
    found = retention(RetainConfig(**{name: EVERYTHING[name]}), 0)
    assert found is not None
    assert found.takes_stock == (name not in ("replay", "project"))


def test_a_projection_comes_before_all_that_adds_to_the_gradient() -> None:
    """It is about the gradient of tasks: a pull to an anchor is not in conflict with the past."""
    found, only = Retention(RetainConfig(project=True, l2=2.0), 0), Anchor(2.0)
    found.stepped(GRADS, META, AFTER, FEW, [0] * 4)
    found.anchored(AFTER)
    only.anchored(AFTER)
    step = moment(META, FEW)
    against = moment(META, FEW).gradient(FEW)
    grads = at(*(-flat(against) + torch.tensor([0.5, 0.0, 0.0])).tolist())
    pull = flat(only.changed(at(0, 0, 0), step))
    expected = flat(projected(grads, against)) + pull
    torch.testing.assert_close(flat(found.changed(grads, step)), expected, rtol=1e-9, atol=1e-12)


def test_the_forces_of_several_remedies_add_up() -> None:
    together = all_on()
    here = moment(AFTER, FEW)
    base = at(0, 0, 0)
    total = flat(together.changed(base, here))
    parts = [flat(remedy.changed(base, here)) for remedy in together._remedies.values()]
    torch.testing.assert_close(total, torch.stack(parts).sum(0), rtol=1e-9, atol=1e-12)
    assert sum(bool(part.any()) for part in parts) == 4, "l2, ewc, si and distill pull; the others do not"


def test_all_of_it_is_the_same_after_a_checkpoint() -> None:
    one, two = all_on(), Retention(RetainConfig(**EVERYTHING), 0)
    kept = {path: leaf.clone() for path, leaf in one.tensors().items()}
    assert all(path.startswith("retain/") for path in kept)
    two.restore(kept | {"meta/other": torch.zeros(1)}, one.values(), "cpu")
    assert all(torch.equal(two.tensors()[path], leaf) for path, leaf in kept.items())
    assert two.tensors().keys() == kept.keys()
    assert two.values() == one.values()
    here = moment(AFTER, FEW)
    assert torch.equal(flat(one.changed(GRADS, here)), flat(two.changed(GRADS, here)))


# --- replay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0.25, 1), (0.5, 2), (0.6, 2), (0.75, 3)])
def test_so_many_of_a_steps_tasks_come_from_the_memory(share: float, count: int) -> None:
    found = Retention(RetainConfig(replay=share, memory=4), 0)
    past, fresh = take(EPISODES, slice(4, 6)), take(EPISODES, slice(0, 4))
    found.stepped(GRADS, META, AFTER, past, [8, 9])
    mixed, families = found.mixed(fresh, [1, 1, 2, 2], 0)
    assert torch.equal(mixed.query.y[: 4 - count], fresh.query.y[: 4 - count]), "the first ones stay"
    remembered = {float(y): family for y, family in zip(past.query.y[:, 0, 0], (8, 9), strict=True)}
    drawn = [float(y) for y in mixed.query.y[4 - count :, 0, 0]]
    assert families == [1, 1, 2, 2][: 4 - count] + [remembered[y] for y in drawn]


def test_an_empty_memory_leaves_a_step_as_it_is() -> None:
    found = Retention(RetainConfig(replay=0.5), 0)
    mixed, families = found.mixed(FEW, [0, 1, 2, 3], 0)
    assert mixed is FEW
    assert families == [0, 1, 2, 3]


def test_what_was_replaced_and_never_trained_on_is_not_kept() -> None:
    found = Retention(RetainConfig(replay=0.5, memory=100), 0)
    found.mixed(FEW, [0, 0, 0, 0], 0)
    found.stepped(GRADS, META, AFTER, FEW, [0, 0, 0, 0])
    assert len(found._memory) == 4, "the first step has nothing to replay, and trains on all"
    found.mixed(FEW, [1, 1, 2, 2], 1)
    found.stepped(GRADS, META, AFTER, FEW, [1, 1, 2, 2])
    assert found._memory.families == [0, 0, 0, 0, 1, 1]


def test_a_projection_alone_keeps_every_task() -> None:
    found = Retention(RetainConfig(project=True, memory=100), 0)
    for _ in range(2):
        assert found.mixed(FEW, [0] * 4, 0)[0] is FEW
        found.stepped(GRADS, META, AFTER, FEW, [0] * 4)
    assert len(found._memory) == 8


def test_the_memory_is_a_function_of_the_runs_seed() -> None:
    def kept(seed: int) -> Any:
        found = Retention(RetainConfig(project=True, memory=2), seed)
        for _ in range(4):
            found.stepped(GRADS, META, AFTER, EPISODES, [0] * 6)
        return found.tensors()["retain/memory/query/y"]

    assert torch.equal(kept(1), kept(1))
    assert any(not torch.equal(kept(1), kept(seed)) for seed in (2, 3, 4))
    assert isinstance(Retention(RetainConfig(), 0)._memory, TaskMemory)


# --- refused ---------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"replay": 1.0}, "retain.replay = 1"),
    ({"replay": -0.1}, "retain.replay = -0.1"),
    ({"replay": float("nan")}, "retain.replay = nan"),
    ({"memory": 0}, "retain.memory = 0"),
    ({"memory": 2.5}, "retain.memory = 2.5"),
    ({"balance": "fair"}, "retain.balance = 'fair'"),
    ({"l2": -1.0}, "retain.l2 = -1"),
    ({"l2": float("inf")}, "retain.l2 = inf"),
    ({"ewc": -1.0}, "retain.ewc = -1"),
    ({"ewc_decay": 1.5}, "retain.ewc_decay = 1.5"),
    ({"ewc_tasks": 0}, "retain.ewc_tasks = 0"),
    ({"si": -1.0}, "retain.si = -1"),
    ({"si_damping": 0.0}, "retain.si_damping = 0"),
    ({"distill": -1.0}, "retain.distill = -1"),
]


@pytest.mark.parametrize(("settings", "got"), BAD, ids=[got for _, got in BAD])
def test_a_setting_out_of_range_is_refused_by_name(settings: dict[str, Any], got: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(got)) as caught:
        RetainConfig(**settings)
    assert caught.value.expected
    assert caught.value.do


def test_settings_of_a_file_are_typed_and_near_names_told() -> None:
    values = {"retain": {"replay": "0.5", "project": True, "ewc_decay": None}}
    assert TrainConfig.from_dict(values).retain == RetainConfig(replay=0.5, project=True)
    with pytest.raises(ConfigError, match=r"unknown setting retain\.repaly") as caught:
        TrainConfig.from_dict({"retain": {"repaly": 0.5}})
    assert "did you mean retain.replay?" in caught.value.do


def told(settings: dict[str, Any], tasks: Any = None, **train: Any) -> ConfigError:
    learner = MAML(MLP(1, 1, hidden=(4,)), loss="mse")
    config = TrainConfig(retain=RetainConfig(**settings), **train)
    with pytest.raises(ConfigError) as caught:
        check_retained(learner, tasks or TaskStream.tiny(), config)
    return caught.value


@pytest.mark.parametrize(("share", "num", "count"), [(0.1, 4, 0), (0.9, 4, 4), (0.5, 1, 0)])
def test_a_share_that_replays_no_task_or_all_is_refused(share: float, num: int, count: int) -> None:
    error = told({"replay": share}, tasks_per_step=num)
    assert error.got == f"retain.replay = {share:g} of tasks_per_step = {num}: {count} of them replayed"
    assert "tasks_per_step" in error.do


def test_replay_with_unrolls_that_persist_is_refused() -> None:
    error = told({"replay": 0.5}, gradient=Truncated(last=1, horizon=8))
    assert "unrolls that persist" in error.got


@pytest.mark.parametrize("name", ["l2", "ewc", "si", "distill"])
def test_taking_stock_of_stages_where_there_are_none_is_refused(name: str) -> None:
    for tasks in (Sinusoid.tiny(), TaskStream(["Sinusoid", "Linear"], schedule="joint")):
        error = told({name: 1.0}, tasks)
        assert f"retain.{name} = 1 on {type(tasks).__name__}" in error.got
        assert "families come one after another" in error.expected


@pytest.mark.parametrize("settings", [{"l2": 1.0}, {"distill": 1.0}])
def test_an_earlier_run_is_enough_for_what_needs_an_anchor_alone(settings: dict[str, Any]) -> None:
    learner, config = MAML(MLP(1, 1, hidden=(4,)), loss="mse"), TrainConfig(start="runs/before")
    for name, value in settings.items():
        changed = TrainConfig(start=config.start, retain=RetainConfig(**{name: value}))
        check_retained(learner, Sinusoid.tiny(), changed)


@pytest.mark.parametrize("name", ["ewc", "si"])
def test_an_earlier_run_is_not_enough_for_what_weighs_parameters(name: str) -> None:
    assert "start" not in told({name: 1.0}, Sinusoid.tiny(), start="runs/before").do


def test_replay_needs_no_stages() -> None:
    learner = MAML(MLP(1, 1, hidden=(4,)), loss="mse")
    check_retained(learner, Sinusoid.tiny(), TrainConfig(retain=RetainConfig(replay=0.5, project=True)))
