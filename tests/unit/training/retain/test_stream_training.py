"""A run on a stream: what each step trains on, what is replayed, and that a stop changes nothing."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from innerloop.cli.main import main
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.rng import generator, key
from innerloop.core.types import Episode
from innerloop.core.vectorise import num_tasks
from innerloop.gradients import Unrolled
from innerloop.gradients.base import learned
from innerloop.tasks import TaskStream
from innerloop.training import step as steps_of
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.experiment import describe
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training
from innerloop.training.retain.base import Moment
from innerloop.training.retain.config import RetainConfig
from innerloop.training.retain.retention import Retention
from innerloop.training.step import Engine, outer_step, stage_ends
from unit.training.resuming import (
    STEPS,
    Setup,
    finish,
    resumes_bitwise,
    run_to,
    same_outcome,
    sinusoid_learner,
    small_config,
)

SIZES = {"shots": 4, "queries": 6}
SETTINGS: dict[str, dict[str, Any]] = {
    "replay": {"replay": 0.5, "memory": 3},
    "balanced": {"replay": 0.5, "memory": 3, "balance": "family"},
    "project": {"project": True, "memory": 3},
    "l2": {"l2": 1.0},
    "ewc": {"ewc": 1.0, "ewc_tasks": 3},
    "online-ewc": {"ewc": 1.0, "ewc_tasks": 3, "ewc_decay": 0.5},
    "si": {"si": 1.0},
    "distill": {"distill": 1.0},
    "recall": {"recall": 2},
}
SETTINGS["everything"] = {n: v for one in SETTINGS.values() for n, v in one.items()}


def stream(families: int = 2, **settings: Any) -> TaskStream:
    kinds = ["Sinusoid", "Linear"]
    return TaskStream([{"name": kinds[i % 2]} | SIZES for i in range(families)], **settings)


def retaining(tasks: Any = stream, **settings: Any) -> Setup:
    return Setup(tasks=tasks, config=small_config(retain=RetainConfig(**settings), tasks_axis="vmap"))


def _slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


class Seen:
    """What reaches the meta-gradient, step by step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tasks: list[Episode] = []
        self.families: list[Any] = []
        asked = steps_of.gradient_of

        def gradient_of(state: Any, learner: Any, episodes: Episode, engine: Any, config: Any, families: Any):
            self.tasks.append(episodes)
            self.families.append(families)
            return asked(state, learner, episodes, engine, config, families)

        monkeypatch.setattr(steps_of, "gradient_of", gradient_of)


def trained(tasks: TaskStream, config: TrainConfig, steps: int | None = None) -> Training:
    """Outer steps alone, without looks."""
    training = Training(sinusoid_learner(), tasks, config)
    for _ in range(config.steps if steps is None else steps):
        outer_step(training.state, training.learner, tasks, Engine(Unrolled(), "vmap"), config)
    return training


def leaves(training: Training) -> list[torch.Tensor]:
    return [leaf.clone() for leaf in tree.leaves(learned(training.state.meta))]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(a, b, strict=True))


# --- what is trained on ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("families", "steps"), [(2, 6), (3, 10), (3, 11), (4, 10)])
def test_each_step_is_trained_on_the_family_of_its_stage(
    families: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, tasks = Seen(monkeypatch), stream(families)
    config = small_config(steps=steps)
    trained(tasks, config)
    order = [family for stage in tasks.stages for family in [stage.family] * _length(stage.steps(steps))]
    assert [set(found) for found in seen.families] == [{family} for family in order]
    for step, (found, family) in enumerate(zip(seen.tasks, order, strict=True)):
        place = key(key(config.seed, "tasks", step), "family", family)
        expected = tasks.family(family).sample("train", 2, place)
        assert torch.equal(found.support.x, expected.support.x)
        assert torch.equal(found.query.y, expected.query.y)


def _length(edges: tuple[int, int]) -> int:
    return edges[1] - edges[0]


def test_stages_in_steps_are_those_of_the_families_that_are_drawn() -> None:
    """For any number of families, rounds and steps: the first and the last step of each stage are of it."""
    for families, rounds in itertools.product(range(2, 8), (1, 2)):
        tasks = TaskStream(["Sinusoid"] * families, rounds=rounds)
        for steps in range(families * rounds, 150, 7):
            for stage in tasks.stages:
                first, after = stage.steps(steps)
                assert tasks.weights_at(first / steps)[stage.family] == 1.0
                assert tasks.weights_at((after - 1) / steps)[stage.family] == 1.0


def test_stages_rounded_to_the_nearest_step_would_end_before_the_last_of_theirs() -> None:
    """The planted bug, 10 steps of three families: round(10 / 3) is 3, and step 4 is of the first still."""
    tasks = stream(3)
    config = small_config(steps=10)
    assert stage_ends(tasks, config) == [4, 7, 10]
    assert [round(stage.end * 10) for stage in tasks.stages] == [3, 7, 10]
    assert tasks.at(3 / 10).families("train", 5, 0) == [0] * 5
    assert tasks.at(4 / 10).families("train", 5, 0) == [1] * 5


def test_a_drift_goes_over_from_one_family_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    trained(stream(schedule="drift"), small_config(steps=20, tasks_per_step=20))
    shares = [sum(families) / 20 for families in seen.families]
    assert shares[0] == 0.0
    assert sum(shares[:7]) / 7 < 0.3 < 0.7 < sum(shares[13:]) / 7


def test_a_joint_schedule_has_all_families_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    trained(stream(schedule="joint"), small_config(tasks_per_step=20))
    assert all(5 <= sum(families) <= 15 for families in seen.families)


# --- what is replayed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "num"), [(0.25, 4), (0.5, 5), (0.75, 4)])
def test_exactly_so_many_tasks_of_a_step_are_remembered_ones(
    share: float, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, tasks = Seen(monkeypatch), stream()
    config = small_config(tasks_per_step=num, retain=RetainConfig(replay=share))
    trained(tasks, config)
    trained_on: set[tuple[float, ...]] = set()
    for step, found in enumerate(seen.tasks):
        fresh = tasks.at(step / STEPS).sample("train", num, key(config.seed, "tasks", step))
        given, own = _told(found), _told(fresh)
        replayed = round(share * num) if step else 0
        assert num_tasks(found) == num
        assert given[: num - replayed] == own[: num - replayed]
        assert not set(given[num - replayed :]) & set(own)
        assert set(given[num - replayed :]) <= trained_on
        trained_on |= set(given)


def _told(episodes: Episode) -> list[tuple[float, ...]]:
    return [tuple(row.flatten().tolist()) for row in episodes.query.y]


def test_families_are_those_of_the_tasks_that_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    trained(stream(), small_config(tasks_per_step=4, retain=RetainConfig(replay=0.5)))
    assert seen.families[3][:2] == [1, 1], "the second stage begins"
    assert seen.families[3][2:] == [0, 0], "and has only the first to remember"


# --- the end of a stage ----------------------------------------------------------------------------------


def test_stock_is_taken_after_each_stage_on_tasks_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    moments: list[Moment] = []
    monkeypatch.setattr(Retention, "stage_ended", lambda self, moment: moments.append(moment))
    at: list[int] = []
    tasks, config = stream(3), small_config(steps=10, retain=RetainConfig(ewc=1.0, ewc_tasks=5))
    training = Training(sinusoid_learner(), tasks, config)
    for number in range(1, 11):
        before = len(moments)
        outer_step(training.state, training.learner, tasks, Engine(Unrolled(), "vmap"), config)
        at += [number] * (len(moments) - before)
    assert at == [4, 7, 10]
    assert [moment.families for moment in moments] == [[0] * 5, [1] * 5, [2] * 5]
    assert [num_tasks(moment.tasks) for moment in moments] == [5, 5, 5]


@pytest.mark.parametrize("name", ["l2", "ewc", "si", "distill"])
def test_what_takes_stock_changes_nothing_before_there_is_any(name: str) -> None:
    """Bitwise the same weights up to the end of the first stage, and others one step later."""
    retain = RetainConfig(**SETTINGS[name])
    runs = [
        (trained(stream(), small_config(retain=r), 3), trained(stream(), small_config(retain=r), 5))
        for r in (RetainConfig(), retain)
    ]
    assert same(leaves(runs[0][0]), leaves(runs[1][0]))
    assert not same(leaves(runs[0][1]), leaves(runs[1][1]))


# --- without remedies ------------------------------------------------------------------------------------


def test_without_a_remedy_weights_are_bitwise_those_of_the_plain_loop() -> None:
    config, tasks = small_config(optimizer=OptimizerConfig(lr=0.01)), stream()
    learner = sinusoid_learner()
    meta = learner.init(generator(config.seed, "init"))
    flat = [leaf.requires_grad_() for leaf in tree.leaves(learned(meta))]
    adam = torch.optim.Adam(flat, 0.01)
    for step in range(STEPS):
        episodes = tasks.at(step / STEPS).sample("train", 2, key(config.seed, "tasks", step))
        detached = tree.map(torch.Tensor.detach, meta)
        place = key(config.seed, "inner", step)
        grads = Unrolled().estimate(learner, detached, episodes, axis="vmap", key=place)[0]
        for leaf, grad in zip(flat, tree.leaves(learned(grads)), strict=True):
            leaf.grad = grad
        adam.step()
    found = trained(tasks, config)
    assert found.state.retention is None
    assert same(leaves(found), flat)


def test_a_remedy_of_weight_zero_is_none() -> None:
    off = RetainConfig(replay=0.0, l2=0.0, ewc=0.0, si=0.0, distill=0.0, project=False, memory=7)
    assert same(
        leaves(trained(stream(), small_config(retain=off))), leaves(trained(stream(), small_config()))
    )


@pytest.mark.parametrize(
    "name", [n if n in ("replay", "everything") else _slow(n) for n in SETTINGS if n != "recall"]
)
def test_every_remedy_but_a_memory_changes_the_weights_and_nothing_of_the_learner(name: str) -> None:
    config = small_config(steps=20, tasks_per_step=2)  # so many that some are in conflict
    plain = trained(stream(), config)
    found = trained(stream(), replace(config, retain=RetainConfig(**SETTINGS[name])))
    assert not same(leaves(found), leaves(plain))
    assert vars(found.learner).keys() == vars(plain.learner).keys() == vars(sinusoid_learner()).keys()
    written = [describe(one.learner, stream(), small_config()).algorithm for one in (found, plain)]
    assert written[0] == written[1]


# --- a stop in between -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_resume_is_bitwise_within_a_stage(name: str, tmp_path: Path) -> None:
    resumes_bitwise(retaining(**SETTINGS[name]), tmp_path, (2, 4))


@pytest.mark.parametrize("stop", [_slow(1), 3, _slow(5)])
def test_resume_is_bitwise_with_every_remedy_wherever_it_stops(stop: int, tmp_path: Path) -> None:
    """A stage ends after the third step, so that is a stop between two."""
    resumes_bitwise(retaining(**SETTINGS["everything"]), tmp_path, (stop,))


@pytest.mark.slow
def test_resume_is_bitwise_after_a_kill(tmp_path: Path) -> None:
    setup = retaining(lambda: stream(3), **SETTINGS["everything"])
    setup = replace(setup, config=replace(setup.config, checkpoint_every=4, log_every=1))
    resumes_bitwise(setup, tmp_path, (5,), killed=True)


@pytest.mark.slow
def test_a_state_that_forgets_what_was_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a checkpoint without what remedies keep."""
    setup = retaining(**SETTINGS["everything"])
    whole = finish(setup.start(tmp_path / "whole"))
    run_to(setup.start(tmp_path / "run"), 4)
    monkeypatch.setattr(Retention, "restore", lambda self, tensors, values, device: None)
    parts = finish(setup.start(tmp_path / "run", "resume"))
    with pytest.raises(AssertionError, match="differ at"):
        same_outcome(replace(whole, tensors=_weights(whole)), replace(parts, tensors=_weights(parts)))


def _weights(outcome: Any) -> dict[str, torch.Tensor]:
    return {path: leaf for path, leaf in outcome.tensors.items() if path.startswith("meta/")}


def records(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "probe.jsonl").read_text().splitlines()]
    return [row for row in rows if "family" in row]


@pytest.mark.parametrize("stop", [_slow(2), _slow(3), 4])
def test_records_of_families_are_the_same_after_a_resume(stop: int, tmp_path: Path) -> None:
    setup = retaining(**SETTINGS["replay"])
    finish(setup.start(tmp_path / "whole"))
    run_to(setup.start(tmp_path / "parts"), stop)
    finish(setup.start(tmp_path / "parts", "resume"))
    whole, parts = records(tmp_path / "whole"), records(tmp_path / "parts")
    assert whole == parts
    assert {row["name"] for row in whole} == {"trivial", "post", "score", "sequential"}
    assert {row["step"] for row in whole if row["name"] == "post"} >= {0, 3, STEPS}


# --- more steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [STEPS + 2, STEPS - 1])
def test_a_stream_is_not_resumed_with_another_number_of_steps(steps: int, tmp_path: Path) -> None:
    setup = retaining()
    run_to(setup.start(tmp_path / "run"), 4)
    before = (tmp_path / "run/config.yaml").read_text()
    longer = replace(setup, config=replace(setup.config, steps=steps))
    with pytest.raises(
        ConfigError, match=f"steps = {steps} for a run on a stream that was begun with 6"
    ) as e:
        longer.start(tmp_path / "run", "resume")
    assert "another number moves those that are over" in e.value.expected
    assert "set start" in e.value.do
    assert (tmp_path / "run/config.yaml").read_text() == before


def test_one_whose_families_come_all_at_once_is(tmp_path: Path) -> None:
    setup = retaining(lambda: stream(schedule="joint"), **SETTINGS["replay"])
    run_to(setup.start(tmp_path / "run"), 4)
    longer = replace(setup, config=replace(setup.config, steps=8))
    assert longer.start(tmp_path / "run", "resume").state.step == 4


def test_a_run_that_was_stopped_before_its_first_checkpoint_may_begin_with_other_steps(
    tmp_path: Path,
) -> None:
    setup = retaining()
    folder = tmp_path / "run"
    setup.start(folder)
    assert not RunFolder(folder).checkpoints()
    assert replace(setup, config=replace(setup.config, steps=8)).start(folder, "resume").state.step == 0


@pytest.mark.slow
def test_the_command_line_says_so_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = retaining()
    run_to(setup.start(tmp_path / "run"), 4)
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "8"]) == 2
    told = capsys.readouterr().err
    assert "steps = 8 for a run on a stream that was begun with 6" in told
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 0
