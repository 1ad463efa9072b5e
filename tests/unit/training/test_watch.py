"""A run that is looked at: trained bit for bit as without, looked at as time allows, stopped in time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from innerloop.algorithms import MAML, ProtoNet, Reptile
from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch, Fast, Meta
from innerloop.diagnose.finding import Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.keeper import earliest_best
from innerloop.diagnose.verdict import State, judge
from innerloop.measure.probe import Probe
from innerloop.models import MLP, Conv4
from innerloop.tasks import Bowls, Glyphs, Sinusoid
from innerloop.training import watch as watching
from innerloop.training.config import OptimizerConfig, ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training
from unit.training.resuming import run_to

STEPS = 8


def config(*, probe: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    looks = ProbeConfig(**{"every": 2, "tasks": 4} | (probe or {}))
    usual: dict[str, Any] = {"steps": STEPS, "tasks_per_step": 2, "seed": 3, "compile": False}
    validation = ValidationConfig(every=4, episodes=2)
    return TrainConfig(**{**usual, "validation": validation, "probe": looks} | changes)


def sinusoid(**settings: Any) -> ModuleLearner:
    return MAML(MLP(1, 1, hidden=(5,), **settings), inner_lr=0.01, inner_steps=2, loss="mse")


class Drawing(MAML):
    """Draws from torch's global generator, as a module of a user's may."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        found = super().begin(meta, support)
        return found | {"params": tree.map(lambda p: p + 1e-3 * torch.randn(()), found["params"])}


def images(**settings: Any) -> nn.Module:
    return Conv4(3, size=28, width=2, **settings)


GLYPHS = Glyphs(ways=3, shots=1, queries=2)
KINDS: dict[str, tuple[Any, Any]] = {
    "MAML": (sinusoid, Sinusoid.tiny),
    "Reptile": (
        lambda: Reptile(MLP(1, 1, hidden=(5,)), inner_lr=0.01, inner_steps=2, inner_batch=2, loss="mse"),
        Sinusoid.tiny,
    ),
    "dropout": (lambda: sinusoid(dropout=0.5), Sinusoid.tiny),
    "global generator": (
        lambda: Drawing(MLP(1, 1, hidden=(5,)), inner_lr=0.01, inner_steps=2, loss="mse"),
        Sinusoid.tiny,
    ),
    "ProtoNet": (lambda: ProtoNet(Conv4(None, size=28, width=2)), lambda: GLYPHS),
    "running statistics": (
        lambda: MAML(images(), inner_lr=0.1, inner_steps=1, batch_norm="running"),
        lambda: GLYPHS,
    ),
}


def begin(kind: str, folder: Path, settings: TrainConfig, existing: Any = "refuse") -> Training:
    learner, tasks = KINDS[kind]
    return start(learner(), tasks(), settings, RunFolder(folder), existing)


def finished(training: Training) -> Training:
    for _ in training:
        pass
    return training


def digest(training: Training) -> str:
    """All that is trained: weights, running statistics, optimizer."""
    found = hashlib.sha256()
    for path, leaf in sorted(training.state.tensors().items()):
        found.update(path.encode())
        found.update(leaf.contiguous().numpy().tobytes())
    return found.hexdigest()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "probe.jsonl").read_text("utf-8").splitlines()]


# --- what it leaves alone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "MAML" else [pytest.mark.slow]) for kind in KINDS]
)
def test_training_is_bit_identical_with_and_without_looking(kind: str, tmp_path: Path) -> None:
    found = {}
    for name, probe in (("with", {}), ("without", {"level": "off"}), ("often", {"every": 1, "tasks": 6})):
        torch.manual_seed(5)
        found[name] = digest(finished(begin(kind, tmp_path / name, config(probe=probe))))
    assert found["with"] == found["without"] == found["often"]
    assert len(History.read(tmp_path / "with").looks) == 1 + STEPS // 2


def test_a_look_that_changes_what_is_trained_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: a probe that adapts in place."""
    whole = digest(finished(begin("MAML", tmp_path / "a", config())))
    look = Probe.look

    def meddling(self: Probe, meta: Meta, step: int) -> Any:
        tree.leaves(meta)[0].detach().add_(1e-7)
        return look(self, meta, step)

    monkeypatch.setattr(Probe, "look", meddling)
    assert digest(finished(begin("MAML", tmp_path / "b", config()))) != whole


def test_validation_finds_the_same_best_with_and_without_looking(tmp_path: Path) -> None:
    best = [
        finished(begin("MAML", tmp_path / level, config(probe={"level": level}))).state.best
        for level in ("standard", "off")
    ]
    assert best[0] == best[1]


def test_off_writes_nothing_and_says_nothing(tmp_path: Path) -> None:
    training = begin("MAML", tmp_path / "run", config(probe={"level": "off"}))
    assert [progress.verdict for progress in training] == [None] * STEPS
    assert not (tmp_path / "run/probe.jsonl").exists()
    assert not (tmp_path / "run/worst-tasks.json").exists()
    assert judge(History.read(tmp_path / "run")).notes == ("no probe records",)


def test_a_run_without_a_folder_is_not_looked_at() -> None:
    training = start(sinusoid(), Sinusoid.tiny(), config(), None)
    assert training.watch is None
    assert [progress.verdict for progress in training] == [None] * STEPS


# --- what it writes --------------------------------------------------------------------------------------


def test_lines_are_appended_and_never_changed(tmp_path: Path) -> None:
    file, before = tmp_path / "run/probe.jsonl", ""
    for _ in begin("MAML", tmp_path / "run", config()):
        now = file.read_text("utf-8")
        assert now.startswith(before)
        before = now
    steps = [row["step"] for row in rows(tmp_path / "run")]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS


def test_every_line_has_a_name_and_values_that_json_can_hold(tmp_path: Path) -> None:
    finished(begin("MAML", tmp_path / "run", config()))
    for row in rows(tmp_path / "run"):
        json.dumps(row, allow_nan=False)
        assert set(row) <= {
            "step",
            "name",
            "value",
            "values",
            "split",
            "inner_step",
            "layer",
            "scale",
            "family",
        }
        assert ("values" in row) != ("value" in row)


def test_looks_are_at_the_given_steps_and_at_the_last(tmp_path: Path) -> None:
    finished(begin("MAML", tmp_path / "run", config(probe={"every": 3}, steps=10)))
    history = History.read(tmp_path / "run")
    assert history.looks == [0, 3, 6, 9, 10]
    assert history.wide_looks == [0, 10]
    assert max(history.places("query", "inner_step")) == 5 * 2
    assert history.setup["every"] == 3


def test_the_last_look_names_the_worst_tasks(tmp_path: Path) -> None:
    finished(begin("MAML", tmp_path / "run", config()))
    told = json.loads((tmp_path / "run/worst-tasks.json").read_text("utf-8"))["tasks"]
    losses = History.read(tmp_path / "run").series("post", split="val").last
    assert [task["number"] for task in told] == sorted(range(4), key=lambda i: -losses[i])


def test_what_is_in_memory_is_what_is_in_the_folder(tmp_path: Path) -> None:
    training = finished(begin("MAML", tmp_path / "run", config()))
    assert training.watch is not None
    same_records(training.watch.history, tmp_path / "run")


def same_records(history: History, folder: Path) -> None:
    stored = History.read(folder)
    assert history.looks == stored.looks
    assert history.wide_looks == stored.wide_looks
    assert str(judge(history)) == str(judge(stored))
    for name, place in (("post", {"split": "val"}), ("update", {}), ("signal", {})):
        ours, theirs = history.series(name, **place), stored.series(name, **place)
        assert ours.steps == theirs.steps
        assert [v.tolist() for v in ours.values] == [v.tolist() for v in theirs.values]


# --- what survives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "stop"),
    [("MAML", 5)]
    + [pytest.param("MAML", stop, marks=pytest.mark.slow) for stop in (1, 3, 4, 6)]
    + [pytest.param("dropout", stop, marks=pytest.mark.slow) for stop in (1, 5)],
)
def test_records_are_the_same_after_a_kill_and_a_resume(kind: str, stop: int, tmp_path: Path) -> None:
    """Checkpoints are at 0 and 4: a kill after 3 begins at 0 again, one after 5 at 4."""
    settings = config(probe={"every": 1})
    whole = finished(begin(kind, tmp_path / "whole", settings))
    run_to(begin(kind, tmp_path / "parts", settings), stop, killed=True)
    parts = finished(begin(kind, tmp_path / "parts", settings, "resume"))
    texts = [(tmp_path / name / "probe.jsonl").read_text("utf-8") for name in ("whole", "parts")]
    assert texts[0] == texts[1]
    assert whole.watch is not None
    assert parts.watch is not None
    same_records(parts.watch.history, tmp_path / "whole")
    ours, theirs = whole.watch.tensors(), parts.watch.tensors()
    assert ours.keys() == theirs.keys()
    assert ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_average_is_carried_by_the_checkpoint(tmp_path: Path) -> None:
    """The planted bug: forgetting it changes the records, so the test above would see it."""
    settings = config(probe={"every": 1})
    finished(begin("MAML", tmp_path / "whole", settings))
    run_to(begin("MAML", tmp_path / "parts", settings), 5)
    training = begin("MAML", tmp_path / "parts", settings, "resume")
    assert training.watch is not None
    assert training.watch.tensors()
    training.watch._average = None
    finished(training)
    averaged = [
        [row for row in rows(tmp_path / name) if row["name"] == "averaged"][-1] for name in ("whole", "parts")
    ]
    assert averaged[0]["values"] != averaged[1]["values"]


def test_a_last_line_that_a_kill_cut_short_is_written_again(tmp_path: Path) -> None:
    settings = config(probe={"every": 1})
    finished(begin("MAML", tmp_path / "whole", settings))
    run_to(begin("MAML", tmp_path / "parts", settings), 6, killed=True)
    file = tmp_path / "parts/probe.jsonl"
    file.write_text(file.read_text("utf-8")[:-25], "utf-8")
    assert History.read(tmp_path / "parts").step == 6
    finished(begin("MAML", tmp_path / "parts", settings, "resume"))
    assert file.read_text("utf-8") == (tmp_path / "whole/probe.jsonl").read_text("utf-8")


def test_a_run_that_began_without_a_probe_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_to(begin("MAML", tmp_path / "run", config()), 5)
    (tmp_path / "run/probe.jsonl").unlink()
    with caplog.at_level(logging.WARNING, "innerloop"):
        training = finished(begin("MAML", tmp_path / "run", config(), "resume"))
    assert training.state.step == STEPS
    assert training.watch is None
    assert "without a probe" in caplog.text


# --- how often -------------------------------------------------------------------------------------------


class Clock:
    """A clock that goes on by what its owner says."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def timed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, step: float, look: float, wide: float, steps: int
) -> tuple[Training, float]:
    """A run whose steps and looks take as long as they are said to, and the seconds of its first looks."""
    clock = Clock()
    for module in ("watch", "loop"):
        monkeypatch.setattr(
            f"innerloop.training.{module}.time", SimpleNamespace(perf_counter=clock.perf_counter)
        )

    def lasting(cls: type, name: str, seconds: float) -> None:
        own = getattr(cls, name)

        def longer(self: Any, *args: Any, **settings: Any) -> Any:
            clock.now += seconds * (self.val / 60 if isinstance(self, Probe) else 1.0)
            return own(self, *args, **settings)

        monkeypatch.setattr(cls, name, longer)

    lasting(Training, "_step", step)
    lasting(Probe, "look", look)
    lasting(Probe, "wide", wide)
    settings = config(probe={"every": None, "tasks": 60}, steps=steps, tasks_axis="vmap")
    training = run_to(begin("MAML", folder, settings), watching._TIMED + 1)
    return training, clock.now - step * (watching._TIMED + 1)


@pytest.mark.parametrize(
    ("step", "look", "wide", "steps"),
    [(0.01, 0.02, 0.1, 1000), (0.01, 0.02, 0.1, 100_000), (1.0, 0.01, 0.05, 5000), (0.01, 1.0, 9.0, 3000)],
)
def test_looks_take_their_share_of_the_time_and_no_more(
    step: float, look: float, wide: float, steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first and the last with them, unless those alone take it: then little is left for the others."""
    _, first = timed(monkeypatch, tmp_path / "run", step=step, look=look, wide=wide, steps=steps)
    setup = History.read(tmp_path / "run").setup
    size = setup["val"] / 60
    on_the_way = size * (look + wide / setup["wide"]) / (setup["every"] * step)
    ends = (first + size * (look + wide)) / (steps * step)
    assert on_the_way + ends <= watching._SHARE * 1.02 or on_the_way <= watching._LEAST * 1.02
    assert setup["every"] >= steps / watching._MOST
    assert setup["train"] == setup["val"] // 2
    if setup["every"] > 1 + steps / watching._MOST:
        assert on_the_way > 0.8 * max(watching._LEAST, watching._SHARE - ends)


def test_a_look_is_made_smaller_before_there_are_too_few(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timed(monkeypatch, tmp_path / "run", step=0.01, look=0.02, wide=0.1, steps=2000)
    history = History.read(tmp_path / "run")
    assert history.setup["val"] == 30
    assert 2000 / history.setup["every"] >= watching._ENOUGH


def test_and_never_smaller_than_says_something(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed(monkeypatch, tmp_path / "run", step=0.01, look=0.02, wide=0.1, steps=1000)
    assert History.read(tmp_path / "run").setup["val"] == watching._FEWEST


def test_the_cadence_is_written_down_and_taken_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A resumed run does not measure again, else its looks would fall on other steps."""
    training, _ = timed(monkeypatch, tmp_path / "run", step=0.01, look=0.02, wide=0.1, steps=2000)
    training.save()
    written = [row["value"]["every"] for row in rows(tmp_path / "run") if row["name"] == "setup"]
    assert written[0] is None
    assert written[1] is not None
    settings = config(probe={"every": None, "tasks": 60}, steps=2000, tasks_axis="vmap")
    resumed = run_to(begin("MAML", tmp_path / "run", settings, "resume"), written[1] + 1)
    assert resumed.watch is not None
    assert resumed.watch.history.looks[-1] == written[1]
    assert len(resumed.watch.history.series("post", split="val").last) == 30


@pytest.mark.parametrize("wrong", [{"every": 0}, {"tasks": 3}, {"epsilon": 0.0}, {"level": "deep"}])
def test_settings_that_make_no_probe_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig.from_dict({"probe": wrong})


# --- what follows from it --------------------------------------------------------------------------------

CURVATURES = (0.2, 0.5, 1.0)


def on_a_bowl(folder: Path, rate: float, *, stop: str = "when-converged", steps: int = 400) -> Training:
    module = nn.Linear(len(CURVATURES), 1, bias=False)
    nn.init.constant_(module.weight, 3.0)
    settings = TrainConfig(
        steps=steps,
        tasks_per_step=256,
        compile=False,
        optimizer=OptimizerConfig("SGD", lr=rate),
        validation=ValidationConfig(every=10**6, episodes=2),
        probe=ProbeConfig(every=5, tasks=60),
        stop=stop,  # pyright: ignore[reportArgumentType]
    )
    learner = MAML(module, inner_lr=0.3, inner_steps=1, loss="mse")
    return start(learner, Bowls(CURVATURES), settings, RunFolder(folder))


@pytest.mark.slow
def test_a_run_that_has_converged_stops_and_keeps_the_earliest_of_the_best(tmp_path: Path) -> None:
    training = finished(on_a_bowl(tmp_path / "run", 0.3))
    history = History.read(tmp_path / "run")
    verdicts = [judge(history.until(step)).state for step in history.looks[-3:]]
    assert verdicts == [State.CONVERGED] * 3
    assert training.state.step == history.looks[-1] < 400
    assert training.state.best is not None
    assert training.state.best[1] == earliest_best(history) < training.state.step
    descent = Bowls(CURVATURES).descent(0.3, 1)
    assert training.best_meta is not None
    kept = tree.leaves(training.best_meta["params"])[0].double().flatten()
    assert descent.expected_meta_loss(kept) / descent.floor - 1 < 0.05
    assert (tmp_path / "run/worst-tasks.json").exists()
    assert max(history.places("query", "inner_step")) == 5


@pytest.mark.slow
def test_a_run_that_stopped_stays_so_when_resumed(tmp_path: Path) -> None:
    stopped = finished(on_a_bowl(tmp_path / "run", 0.3))
    text = (tmp_path / "run/probe.jsonl").read_text("utf-8")
    again = start(stopped.learner, Bowls(CURVATURES), stopped.config, RunFolder(tmp_path / "run"), "resume")
    assert list(again) == []
    assert again.state.step == stopped.state.step
    assert (tmp_path / "run/probe.jsonl").read_text("utf-8") == text


@pytest.mark.slow
def test_a_run_that_still_falls_does_not_stop(tmp_path: Path) -> None:
    training = finished(on_a_bowl(tmp_path / "run", 0.004, steps=200))
    assert training.state.step == 200
    assert judge(History.read(tmp_path / "run")).state is State.IMPROVING


@pytest.mark.slow
def test_a_run_that_was_not_asked_to_stop_does_not(tmp_path: Path) -> None:
    training = finished(on_a_bowl(tmp_path / "run", 0.3, stop="never", steps=200))
    assert training.state.step == 200
    assert training.watch is not None
    assert training.watch.may_stop
    training.watch.history.setup["stages"] = [{"family": "a", "start": 200, "end": 300}]
    assert not training.watch.may_stop, "a stage of a stream is still to come"


def test_stopping_needs_a_probe() -> None:
    with pytest.raises(ConfigError, match="when-converged"):
        config(probe={"level": "off"}, stop="when-converged")


def test_an_error_is_told_once_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learner = MAML(MLP(1, 1, hidden=(5,)), inner_lr=30.0, inner_steps=1, loss="mse")
    training = start(learner, Sinusoid.tiny(), config(probe={"every": 1}), RunFolder(tmp_path / "run"))
    with caplog.at_level(logging.WARNING, "innerloop"):
        finished(training)
    assert caplog.text.count("INNER_DIVERGENCE") == 1
    assert f"innerloop doctor {tmp_path / 'run'}" in caplog.text


def test_progress_carries_the_verdict_where_there_was_a_look(tmp_path: Path) -> None:
    verdicts = {p.step: p.verdict for p in begin("MAML", tmp_path / "run", config())}
    assert {step for step, verdict in verdicts.items() if verdict} == {2, 4, 6, 8}


def names_of(findings: Iterable[Any]) -> set[str]:
    return {finding.id for finding in findings if finding.severity is Severity.ERROR}


def test_news_are_told_once(tmp_path: Path) -> None:
    learner = MAML(MLP(1, 1, hidden=(5,)), inner_lr=30.0, inner_steps=1, loss="mse")
    settings = config(probe={"every": 1}, steps=1)
    training = start(learner, Sinusoid.tiny(), settings, RunFolder(tmp_path / "run"))
    watch = training.watch
    assert watch is not None
    watch.begin(training.state, learner.gradient)
    assert names_of(watch.news())
    assert watch.news() == []
