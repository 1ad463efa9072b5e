"""`innerloop bench algorithms`: equal time, the same judge, rows that survive an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from innerloop import algorithms
from innerloop.bench import algorithms as bench
from innerloop.bench.algorithms import Budget, compare_algorithms, table, trained_and_judged
from innerloop.bench.entries import ENTRIES
from innerloop.cli.main import main
from innerloop.core.errors import ConfigError
from innerloop.tasks import Arrays, Omniglot
from innerloop.training import experiment
from innerloop.training.experiment import RunConfig, build_model

#: Those that the comparison leaves out, since their tasks are not classification or not few-shot.
ELSEWHERE = {"ANML", "ConditionalNeuralProcess", "LaMAML", "LearnedOptimizer", "LearningToAdapt", "OML"}


@pytest.fixture
def strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic drawings in the place of the real ones, of 16 x 16 pixels' worth of network."""
    monkeypatch.setattr(experiment, "build_tasks", lambda component: Arrays.tiny())
    small = {"name": "Conv4", "width": 4, "pooling": "stride"}
    monkeypatch.setattr(bench, "ENTRIES", {name: entry | {"model": small} for name, entry in ENTRIES.items()})


def test_every_few_shot_algorithm_has_an_entry() -> None:
    assert set(ENTRIES) == set(algorithms.REGISTRY) - ELSEWHERE


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_an_entry_is_a_configuration_that_can_be_built(name: str) -> None:
    entry = {key: value for key, value in ENTRIES[name].items() if key != "pretrain"}
    config = RunConfig.from_dict(entry | {"algorithm": {"name": name} | entry["algorithm"]})
    spec = Omniglot.tiny().resized(ways=5, shots=1, queries=3).spec
    learner = config.build_learner(spec, module=build_model(config.model, config.algorithm, spec))
    assert type(learner).__name__ == name


@pytest.mark.slow
def test_a_row_tells_what_was_done(strokes: None, tmp_path: Path) -> None:
    budget = Budget(minutes=0.05, threads=1, episodes=20)
    row = trained_and_judged("ProtoNet", budget, str(tmp_path))
    assert row["n"] == 20
    assert row["steps"] >= 1
    assert row["cpu_seconds"] < 60 * 0.05 + 10
    assert row["batch_norm"] == "running"
    assert row["memory_mb"] > 0
    assert json.loads((tmp_path / "ProtoNet.json").read_text("utf-8")) == row
    assert (tmp_path / "runs" / "ProtoNet" / "config.yaml").is_file()
    assert row in list(compare_algorithms(["ProtoNet"], budget, out=tmp_path)), "made twice"


@pytest.mark.slow
def test_one_that_starts_from_another_trains_that_one_first(strokes: None, tmp_path: Path) -> None:
    name = next(name for name, entry in ENTRIES.items() if "pretrain" in entry)
    row = trained_and_judged(name, Budget(minutes=0.1, threads=1, episodes=5), str(tmp_path))
    assert "mean" in row, row
    assert (tmp_path / "runs" / f"{name}-from-{ENTRIES[name]['pretrain']}" / "config.yaml").is_file()


def test_one_that_fails_is_a_row(strokes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ENTRIES["ProtoNet"] | {"tasks_per_step": 0}
    monkeypatch.setattr(bench, "ENTRIES", {"ProtoNet": broken})
    row = trained_and_judged("ProtoNet", Budget(minutes=0.05, threads=1, episodes=5), str(tmp_path))
    assert "tasks_per_step = 0" in row["failed"]
    assert "failed: " in table([row])


def test_the_table_stands_best_first() -> None:
    def row(name: str, mean: float) -> dict[str, Any]:
        numbers = {"steps": 3, "seconds_per_step": 0.1, "memory_mb": 1.0, "parameters": 1000}
        return {"algorithm": name, "mean": mean, "ci95": 0.01, "batch_norm": None, "baselines": {}} | numbers

    lines = table([row("Worse", 0.5), row("Better", 0.75)]).splitlines()
    assert lines[2].startswith("| Better | 75.0 +- 1.0 | none | 3 | 0.100 | 1 | 1,000 |")
    assert lines[3].startswith("| Worse | 50.0")


@pytest.mark.parametrize("how", [{"minutes": 0.0}, {"threads": 0}, {"episodes": 1}, {"seed": -1}])
def test_a_bad_budget_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Budget(**how)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench", "no benchmark"),
        ("bench algoritms", "did you mean 'algorithms'"),
        ("bench algorithms MAMLL", "did you mean 'MAML'"),
        ("bench algorithms --minutes soon", "a number"),
        ("bench algorithms --minuts 1", "did you mean --minutes?"),
        ("bench optimizers", "no RUN"),
    ],
)
def test_the_command_tells_what_is_wrong(
    line: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("line", ["bench --help", "bench algorithms --help", "bench optimizers --help"])
def test_the_command_explains_itself(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    assert "bench" in capsys.readouterr().out
