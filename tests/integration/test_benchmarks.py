"""The benchmarks run, say what they measured, and do not rank a wrong gradient."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


TIMED = ("--quick", "--rounds", "2", "--threads", "1")


def run(
    script: str, *words: str, path: str = "", common: tuple[str, ...] = TIMED
) -> subprocess.CompletedProcess[str]:
    paths = [p for p in (path, os.environ.get("PYTHONPATH")) if p]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(FOLDER / script), *common, *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
def test_engine_writes_every_timing(tmp_path: Path) -> None:
    words = ["--works", "sinusoid,protonet,cores,memory/mlp-1step", "--ours", "innerloop", "--peers", "loop"]
    done = run("engine.py", *words, "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["matmul_gflops"]["1 thread"] > 0
    works = {work["name"]: work for work in found["works"]}
    names = {"sinusoid/1step", "sinusoid/5steps", "protonet/8tasks-15queries", "memory/mlp-1step"}
    assert names <= set(works)
    for name in sorted(names - {"memory/mlp-1step"}):
        by_name = {entry["name"]: entry for entry in works[name]["contenders"]}
        assert set(by_name) == {"innerloop", "loop", "supervised limit"}
        assert all(entry["status"] == "ok" and len(entry["ms"]) == 2 for entry in by_name.values())
        assert by_name["innerloop"]["off64"] < 1e-9
        assert works[name]["speedups"]["innerloop"]["torch"]["to"] == "loop"
    memory = works["memory/mlp-1step"]["memory"]
    assert {name: entry["status"] for name, entry in memory.items()} == {"innerloop": "ok", "loop": "ok"}
    assert "float64 off by" in done.stdout


@pytest.mark.slow
def test_pipeline_tells_the_share_of_sampling(tmp_path: Path) -> None:
    done = run("pipeline.py", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    cases = json.loads((tmp_path / "found.json").read_text())["cases"]
    assert len(cases) == 2
    assert all(0 < case["sampling_share"]["median"] < 10 for case in cases)
    assert all(case["evaluation_ms_per_episode"]["median"] > 0 for case in cases)


@pytest.mark.slow
def test_a_missing_peer_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "higher.py").write_text("raise ImportError(\"No module named 'higher'\")")
    words = ["--works", "sinusoid/1step", "--ours", "innerloop", "--peers", "higher,loop"]
    done = run("engine.py", *words, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "higher: skipped, No module named 'higher'" in done.stdout
    assert "[bench]" in done.stdout


@pytest.mark.slow
def test_an_unknown_work_is_refused() -> None:
    done = run("engine.py", "--works", "sinusoids")
    assert done.returncode == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "got", "expected", "do"]
    assert "'sinusoid'" in done.stderr


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import engine

    return engine


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_planted_wrong_gradient_is_timed_and_not_ranked(engine: Any, factor: float) -> None:
    def planted(problem: Any) -> Any:
        step = engine.contenders.loop(problem)
        return lambda: {name: factor * grad for name, grad in step().items()}

    check = engine.Check.of(engine.all_works(quick=True)["sinusoid/1step"])
    result, step = engine.checked(engine.Contender("planted", "torch", planted), check)
    result.ms = [1.0]
    assert step is not None
    assert result.status == ("ok" if factor == 1.0 else "differs")
    assert engine.fastest([result], "torch") is (result if factor == 1.0 else None)


@pytest.mark.slow
def test_the_doctors_table_counts_what_it_found(tmp_path: Path) -> None:
    words = ["--parts", "recall", "--problems", "sinusoid", "--seeds", "2", "--jobs", "1", "--only"]
    file = tmp_path / "found.json"
    command = [sys.executable, str(FOLDER / "doctor.py"), *words, "among the queries", "--json", str(file)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    expected = {"problem": "sinusoid", "fault": "support among the queries", "found": 2, "of": 2}
    assert json.loads(file.read_text("utf-8"))["recall"] == [expected]
    assert "sinusoid: 2 of 2 found, 100.0%" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["query", "support"])
def test_the_adversarial_table_is_made_and_says_what_does_not_hold(attack: str, tmp_path: Path) -> None:
    """After three outer steps nothing is robust, and a benchmark that cannot say so could not fail."""
    words = ("--attack", attack, "--json", str(tmp_path / "all.json"))
    done = run("adversarial.py", *words, common=("--quick",))
    assert done.returncode == 0, done.stderr
    assert f"attack on the {attack} set" in done.stdout
    assert "does not hold: ProtoNet, seed 0" in done.stdout
    (found,) = json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert len(found["attacked"]["robust"]) == 4


@pytest.mark.slow
def test_the_table_of_remedies_is_made_and_a_memory_keeps_most(tmp_path: Path) -> None:
    words = ("--streams", "sinusoids", "--remedies", "naive,recall", "--seeds", "1", "--share", "0.2")
    done = run("stability.py", *words, "--json", str(tmp_path / "all.json"), common=())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "all.json").read_text("utf-8"))["sinusoids"]
    lost = {name: one["metrics"]["forgetting_max_last"] for name, (one,) in found.items()}
    assert lost["recall"] < 0.5 * lost["naive"]
    assert "recall" in done.stdout
