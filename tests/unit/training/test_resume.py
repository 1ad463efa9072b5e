"""A run that was stopped, killed or damaged goes on bitwise as if nothing had happened."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from innerloop import algorithms
from innerloop.core.errors import ConfigError, ContractError, DataError, NonFiniteError
from innerloop.gradients import Evolution, Truncated
from innerloop.models import MLP, Conv4
from innerloop.tasks import Arrays, Sinusoid
from innerloop.training.config import OptimizerConfig, ProbeConfig
from innerloop.training.folder import RunFolder
from innerloop.training.run import load
from unit.training.resuming import (
    Setup,
    finish,
    resumes_bitwise,
    run_to,
    same_outcome,
    small_config,
    unrolling_learner,
)

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "Adam"},
    {"name": "AdamW", "weight_decay": 0.1},
    {"name": "RMSprop", "momentum": 0.5},
    {"name": "SGD", "lr": 0.01, "momentum": 0.9},
    {"name": "SGD", "lr": 0.01},
]
SCHEDULES: list[dict[str, Any]] = [
    {"schedule": "constant", "warmup": 4},
    {"schedule": "linear"},
    {"schedule": "cosine", "min_lr": 1e-5},
    {"schedule": "step", "decay_every": 2},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["schedule"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join(map(str, o.values())))
def test_resume_is_bitwise(optimizer: dict[str, Any], schedule: dict[str, Any], tmp_path: Path) -> None:
    resumes_bitwise(Setup.optimized(**optimizer | schedule, clip_norm=1.0, l2=1e-3), tmp_path)


SETUPS: dict[str, Setup] = {
    "dropout": Setup(lambda: algorithms.MAML(MLP(1, 1, hidden=(5,), dropout=0.5), loss="mse")),
    "minibatches": Setup(
        lambda: algorithms.Reptile(MLP(1, 1, hidden=(5,)), inner_steps=3, inner_batch=2, loss="mse"),
        config=small_config(optimizer=OptimizerConfig("SGD", lr=1.0, schedule="linear")),
    ),
    "running": Setup(lambda: algorithms.ProtoNet(Conv4(None, width=3), batch_norm="running"), Arrays.tiny),
    "running-adapted": Setup(lambda: algorithms.FOMAML(Conv4(3, width=3), batch_norm="running"), Arrays.tiny),
    "first-order": Setup(config=small_config(gradient="FirstOrder", tasks_axis=1)),
    "truncated-unroll": Setup(unrolling_learner, config=small_config(gradient=Truncated(last=1, horizon=8))),
    "evolution-unroll": Setup(
        unrolling_learner, config=small_config(gradient=Evolution(sigma=0.02, pairs=2, horizon=8))
    ),
    "momentum-unroll": Setup(
        lambda: unrolling_learner(momentum=0.5), config=small_config(gradient=Truncated(horizon=100))
    ),
    "sparse-checkpoints": Setup(config=small_config(checkpoint_every=4, log_every=5)),
}


@pytest.mark.parametrize("name", SETUPS)
def test_resume_is_bitwise_whatever_a_run_carries(name: str, tmp_path: Path) -> None:
    resumes_bitwise(SETUPS[name], tmp_path)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_an_unroll_is_carried_over_a_stop_wherever_it_is(stop: int, tmp_path: Path) -> None:
    """Two inner steps in each outer step, of unrolls of eight: a fresh one begins at the fourth."""
    setup = SETUPS["truncated-unroll"]
    resumes_bitwise(setup, tmp_path, (stop,))
    carry = run_to(setup.start(tmp_path / "one"), stop).state.carry
    assert int(carry["steps"][0]) == 2 * ((stop - 1) % 4 + 1)


@pytest.mark.parametrize("stops", [(1,), (2,), (5,), (1, 2, 3, 4, 5), (2, 2), (6,)])
def test_resume_is_bitwise_wherever_it_stops(stops: tuple[int, ...], tmp_path: Path) -> None:
    resumes_bitwise(Setup(), tmp_path, stops)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resume_is_bitwise_after_a_kill(stop: int, tmp_path: Path) -> None:
    resumes_bitwise(
        Setup(config=small_config(checkpoint_every=4, log_every=1)), tmp_path, (stop,), killed=True
    )


def test_a_run_does_not_depend_on_being_written(tmp_path: Path) -> None:
    from innerloop.training.fit import start

    setup = Setup()
    written = finish(setup.start(tmp_path / "run"))
    silent = start(setup.learner(), setup.tasks(), setup.config, None)
    for _ in silent:
        pass
    assert all(torch.equal(written.tensors[path], leaf) for path, leaf in silent.state.tensors().items())


# --- damage ----------------------------------------------------------------------------------------------


def flip(folder: RunFolder, name: str) -> None:
    path = folder.path / "checkpoints" / f"{name}.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def truncate(folder: RunFolder, name: str) -> None:
    path = folder.path / "checkpoints" / f"{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def empty(folder: RunFolder, name: str) -> None:
    (folder.path / "checkpoints" / f"{name}.safetensors").write_bytes(b"")


def lose_tensors(folder: RunFolder, name: str) -> None:
    (folder.path / "checkpoints" / f"{name}.safetensors").unlink()


def garble_values(folder: RunFolder, name: str) -> None:
    (folder.path / "checkpoints" / f"{name}.json").write_text('{"step": 4, "sha')


def lose_values(folder: RunFolder, name: str) -> None:
    (folder.path / "checkpoints" / f"{name}.json").unlink()


Damage = Callable[[RunFolder, str], None]


@pytest.mark.parametrize("damage", [flip, truncate, empty, lose_tensors, garble_values])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    damage: Damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup()
    whole = finish(setup.start(tmp_path / "whole"))
    stopped = run_to(setup.start(tmp_path / "run"), 5)
    assert stopped.folder is not None
    assert stopped.folder.checkpoints() == ["step-5", "step-4"]
    damage(stopped.folder, "step-5")
    with caplog.at_level(logging.WARNING, logger="innerloop"):
        resumed = setup.start(tmp_path / "run", "resume")
    assert resumed.state.step == 4
    assert "step-5.safetensors" in caplog.text
    assert "using the one before it" in caplog.text
    same_outcome(whole, finish(resumed))


def test_a_checkpoint_cut_before_its_values_does_not_count(tmp_path: Path) -> None:
    setup = Setup()
    whole = finish(setup.start(tmp_path / "whole"))
    stopped = run_to(setup.start(tmp_path / "run"), 5)
    assert stopped.folder is not None
    lose_values(stopped.folder, "step-5")
    resumed = setup.start(tmp_path / "run", "resume")
    assert resumed.state.step == 4
    same_outcome(whole, finish(resumed))


@pytest.mark.parametrize("damage", [flip, lose_values, lose_tensors])
def test_a_cut_while_the_best_is_written_is_survived(
    damage: Damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill after the new best tensors and before their hash, at a step not yet checkpointed."""
    setup = Setup()
    whole = finish(setup.start(tmp_path / "whole"))
    best_step = whole.values["best"][1]
    assert best_step == 6, "choose a setup that ends with its best step"
    stopped = run_to(setup.start(tmp_path / "run"), 5)
    assert stopped.folder is not None
    damage(stopped.folder, "best")
    with caplog.at_level(logging.WARNING, logger="innerloop"):
        resumed = setup.start(tmp_path / "run", "resume")
    assert "best.safetensors" in caplog.text
    same_outcome(whole, finish(resumed))


def test_all_checkpoints_damaged_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    setup = Setup()
    stopped = run_to(setup.start(tmp_path / "run"), 5)
    folder = stopped.folder
    assert folder is not None
    for name in ("step-4", "step-5"):
        flip(folder, name)
    before = folder.metrics()
    with pytest.raises(DataError, match="2 checkpoints, all damaged"):
        setup.start(tmp_path / "run", "resume")
    assert folder.metrics() == before
    assert load(tmp_path / "run").step in (0, 2, 4)  # the best is still there


def test_a_kill_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    setup = Setup()
    whole = finish(setup.start(tmp_path / "whole"))
    started = setup.start(tmp_path / "run")
    started._validate()  # killed between the first look and the first checkpoint
    same_outcome(whole, finish(setup.start(tmp_path / "run", "resume")))


def test_a_kill_after_the_first_checkpoint_does_not_repeat_the_first_look(tmp_path: Path) -> None:
    setup = Setup()
    whole = finish(setup.start(tmp_path / "whole"))
    run_to(setup.start(tmp_path / "run"), 1)
    for suffix in ("json", "safetensors"):
        (tmp_path / "run" / "checkpoints" / f"step-1.{suffix}").unlink()
    resumed = setup.start(tmp_path / "run", "resume")
    assert resumed.state.step == 0
    same_outcome(whole, finish(resumed))


def test_a_line_of_metrics_cut_short_is_dropped(tmp_path: Path) -> None:
    setup = Setup()
    whole = finish(setup.start(tmp_path / "whole"))
    run_to(setup.start(tmp_path / "run"), 4)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "lo')
    same_outcome(whole, finish(setup.start(tmp_path / "run", "resume")))


def test_lines_of_steps_after_the_checkpoint_are_rewound(tmp_path: Path) -> None:
    setup = Setup(config=small_config(checkpoint_every=4, log_every=1))
    whole = finish(setup.start(tmp_path / "whole"))
    training = setup.start(tmp_path / "run")
    for progress in training:
        if progress.step == 5:
            break  # killed: not saved
    folder = RunFolder(tmp_path / "run")
    assert max(row["step"] for row in folder.metrics()) == 5
    resumed = setup.start(tmp_path / "run", "resume")
    assert max(row["step"] for row in folder.metrics()) == resumed.state.step == 4
    same_outcome(whole, finish(resumed))


def test_a_finished_run_is_resumed_to_itself(tmp_path: Path) -> None:
    setup = Setup()
    whole = finish(setup.start(tmp_path / "run"))
    same_outcome(whole, finish(setup.start(tmp_path / "run", "resume")))


def test_resuming_where_nothing_is_starts_a_run(tmp_path: Path) -> None:
    setup = Setup()
    same_outcome(finish(setup.start(tmp_path / "a")), finish(setup.start(tmp_path / "b", "resume")))


# --- whose folder it is ----------------------------------------------------------------------------------


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    setup = Setup()
    run_to(setup.start(tmp_path / "run"), 2)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="already holds a run"):
        setup.start(tmp_path / "run")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_overwriting_starts_again(tmp_path: Path) -> None:
    setup = Setup()
    run_to(Setup(config=small_config(seed=9)).start(tmp_path / "run"), 4)
    again = finish(setup.start(tmp_path / "run", "overwrite"))
    same_outcome(again, finish(setup.start(tmp_path / "whole")))


@pytest.mark.parametrize("existing", ["refuse", "overwrite", "resume"])
def test_a_folder_of_something_else_is_never_touched(existing: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="not a run folder"):
        Setup().start(tmp_path, existing)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "other",
    [
        lambda: algorithms.MAML(MLP(1, 1, hidden=(6,)), loss="mse"),
        lambda: algorithms.MAML(MLP(1, 1, hidden=(5, 5)), loss="mse"),
        lambda: algorithms.MAML(nn.Linear(1, 1), loss="mse"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(other: Any, tmp_path: Path) -> None:
    run_to(Setup().start(tmp_path / "run"), 4)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ContractError, match="as the model has it"):
        Setup(other).start(tmp_path / "run", "resume")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics
    with pytest.raises(ContractError, match="as the model has it"):
        load(tmp_path / "run", module=other().module)


def test_a_folder_that_is_no_run_does_not_load(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ContractError, match="a run folder"):
            load(path)


# --- what is kept ----------------------------------------------------------------------------------------


def test_the_best_step_by_validation_is_kept(tmp_path: Path) -> None:
    outcome = finish(Setup().start(tmp_path / "run"))
    looks = [row for row in outcome.metrics if row["kind"] == "validation"]
    assert [row["step"] for row in looks] == [0, 2, 4, 6]
    best = min(looks, key=lambda row: row["mean"])
    run = load(tmp_path / "run")
    assert run.step == best["step"]
    again = run.evaluate(split="val", episodes=3, seed=3)
    assert again.to_dict()["mean"] == best["mean"]


def test_the_best_is_not_the_last_when_training_makes_it_worse(tmp_path: Path) -> None:
    setup = Setup(config=small_config(optimizer=OptimizerConfig("SGD", lr=3.0, clip_norm=1.0)))
    outcome = finish(setup.start(tmp_path / "run"))
    looks = {row["step"]: row["mean"] for row in outcome.metrics if row["kind"] == "validation"}
    assert outcome.values["best"][1] == min(looks, key=lambda step: looks[step]) != 6
    assert load(tmp_path / "run").step == outcome.values["best"][1]


def test_training_that_leaves_the_finite_numbers_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    setup = Setup(config=small_config(optimizer=OptimizerConfig("SGD", lr=1e6)))
    training = setup.start(tmp_path / "run")
    with pytest.raises(NonFiniteError, match=r"step 2: tasks 0, 1 of 2 .*\n.*checkpoints/step-0") as raised:
        finish(training)
    assert len(str(raised.value).splitlines()) <= 5
    assert RunFolder(tmp_path / "run").checkpoints() == ["step-0"]
    assert load(tmp_path / "run").step == 0


def test_two_numbered_checkpoints_are_kept(tmp_path: Path) -> None:
    finish(Setup().start(tmp_path / "run"))
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"{n}.{s}" for n in ("best", "step-4", "step-6") for s in ("json", "safetensors")]


def test_every_line_and_file_of_a_run_is_json(tmp_path: Path) -> None:
    finish(Setup().start(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    texts = [*lines, (tmp_path / "run" / "environment.json").read_text()]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert all(isinstance(json.loads(text, parse_constant=refuse), dict) for text in texts)


def test_tasks_of_a_step_do_not_depend_on_what_went_before(tmp_path: Path) -> None:
    seen: dict[str, list[float]] = {"whole": [], "parts": []}

    def recording(name: str) -> Any:
        class Recorded:
            def __init__(self) -> None:
                self.inner = Sinusoid.tiny()
                self.spec = self.inner.spec

            def sample(self, split: Any, num_tasks: int, rng: Any) -> Any:
                episodes = self.inner.sample(split, num_tasks, rng)
                if split == "train" and num_tasks == 2:
                    seen[name].append(float(episodes.support.x.sum()))
                return episodes

        return Recorded

    # The probe draws training tasks of its own, which are not those of a step.
    unwatched = small_config(probe=ProbeConfig(level="off"))
    finish(Setup(tasks=recording("whole"), config=unwatched).start(tmp_path / "whole"))
    setup = Setup(tasks=recording("parts"), config=unwatched)
    run_to(setup.start(tmp_path / "parts"), 3)
    finish(setup.start(tmp_path / "parts", "resume"))
    assert seen["whole"] == seen["parts"]
    assert len(set(seen["whole"])) == 6
