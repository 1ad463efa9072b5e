"""`innerloop tradeoff`: what it refuses, what it prints, and that it goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from innerloop.cli.main import main
from synthetic_runs import CONVERGED, write_run
from synthetic_searches import front, write_search

CONFIG = {
    "algorithm": {"name": "MAML", "inner_lr": 0.01, "inner_steps": 1},
    "model": {"name": "MLP", "hidden": [8]},
    "tasks": {"name": "SinusoidFamilies", "kinds": ["sine", "opposite"]},
    "steps": 8,
    "tasks_per_step": 2,
    "validation": {"every": 8, "episodes": 2},
    "probe": {"every": 8, "tasks": 4},
    "threads": 1,
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "stream.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    return str(file)


def told(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    found = capsys.readouterr()
    return found.out, found.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--knob", "retain.repaly=0..1"], "did you mean 'retain.replay'"),
        (["--knob", "retain.replay"], "--knob NAME=LOW..HIGH[:log] or NAME=A,B"),
        (["--knob"], "--knob NAME=LOW..HIGH[:log] or NAME=A,B"),
        (["--knob", "retain.l2=1..2", "--knob=retain.l2=1..3"], "--knob retain.l2 twice"),
        (["--trials", "many"], "--trials = 'many'"),
        (["--seeds", "0"], "seeds >= 1"),
        (["--trails", "3"], "did you mean --trials"),
        (["--resume"], "the same command goes on"),
        (["--tasks", "Sinusoid"], "a stream whose families come once each"),
        (["--space", "nowhere.yaml"], "nowhere.yaml"),
        (["word"], "argument 'word'"),
    ],
)
def test_bad_input_is_told_in_words(
    words: list[str], said: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["tradeoff", "--config", config, "--out", str(tmp_path / "out"), *words]) == 2
    error = told(capsys)[1]
    assert said in error
    assert error.splitlines()[-1].startswith("do: ")


def test_without_optuna_the_extra_is_named(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main(["tradeoff", "--config", config, "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'innerloop[tradeoff]'" in told(capsys)[1]


def test_help_names_what_is_searched_by_default(capsys: pytest.CaptureFixture[str]):
    assert main(["tradeoff", "--help"]) == 0
    out = told(capsys)[0]
    assert "--knob NAME=VALUES" in out
    assert "one at a time" in out


def test_a_report_says_each_run_and_each_search_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("plotly")
    search, run = write_search(tmp_path / "search"), write_run(tmp_path / "run", CONVERGED)
    page = tmp_path / "page.html"
    assert main(["report", str(search), str(run), "-o", str(page)]) == 0
    lines = told(capsys)[0].splitlines()
    assert lines[0].startswith(f"{run}: CONVERGED")
    assert lines[1].startswith(f"{search}: MAML on SinusoidFamilies, 3 trials; what is shown is of 3 seeds")
    assert lines[2:] == [f"report  {page}"]
    words = page.read_text().split("<script>")[0]
    for title in ("Verdict", "Stability", "The price of stability", "Appendix"):
        assert f"{title}</h2>" in words


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"reported": {}}, "does not fit together (KeyError: 'points')"),
        ({"seeds": None}, "does not fit together"),
        ([1], "no JSON object"),
        (None, "neither config.yaml nor front.json"),
    ],
)
def test_a_report_refuses_what_no_search_wrote_and_writes_nothing(
    damage: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "search"
    if damage is not None:
        write_search(folder, front() | damage if isinstance(damage, dict) else damage)
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "-o", str(page)]) == 2
    error = told(capsys)[1].splitlines()
    assert [line.partition(":")[0] for line in error] == ["error", "got", "expected", "do"]
    assert said in error[1]
    assert "'innerloop tradeoff'" in error[2]
    assert not page.exists()


@pytest.mark.slow
def test_a_search_prints_its_front_writes_its_points_and_goes_on(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    space = tmp_path / "space.yaml"
    space.write_text("search:\n  remedy: [replay, l2]\n")
    words = ["tradeoff", "--config", config, "--space", str(space), "--seeds", "1", "--out", str(out)]
    assert main([*words, "--trials", "1", "--confirm", "1", "--seed", "3"]) == 0
    text, progress = told(capsys)
    for name in ("naive", "frozen", "joint", "stability S", "plasticity P", "of 1 fresh seed."):
        assert name in text
    assert "trial 0  naive" in progress
    assert main([*words, "--trials", "2", "--confirm", "0", "--seed", "3", "--json"]) == 0
    printed, progress = told(capsys)
    found = json.loads(printed)
    assert found == json.loads((out / "front.json").read_text())
    assert (found["trials"], found["seeds"], found["fresh_seeds"]) == (2, [3], None)
    assert "trial 0" not in progress
    for point in found["reported"]["points"]:
        if point["on_front"] and "trial" in point:
            assert (
                main(["train", "--config", str(out / "points" / f"{point['name']}.yaml"), "--print-config"])
                == 0
            )
    assert (out / "tradeoff.png").stat().st_size > 10_000
    page = (out / "tradeoff.html").read_text()
    assert "The price of stability" in page
    assert main(["report", str(out), "-o", str(tmp_path / "alone.html")]) == 0
    assert (tmp_path / "alone.html").read_text() == page
    assert "http://" not in page.split("<script>")[0].replace("http://www.w3.org", "")
    assert not [p for p in out.rglob("*") if p.suffix in (".pkl", ".pickle")]


@pytest.mark.slow
def test_two_processes_share_a_search(config: str, tmp_path: Path):
    pytest.importorskip("optuna")
    out = tmp_path / "out"
    words = ["tradeoff", "--config", config, "--knob", "retain.l2=0.1..10:log", "--seeds", "1"]
    words += ["--trials", "4", "--confirm", "1", "--out", str(out)]
    command = [
        sys.executable,
        "-c",
        "import sys; from innerloop.cli.main import main; sys.exit(main(sys.argv[1:]))",
    ]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            command + words, env=alone, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    lines = [line for text in said for line in text.splitlines() if line.startswith("trial ")]
    for anchor in ("naive", "joint"):
        assert sum(line.split()[2:] == [anchor] for line in lines) == 1
    found = json.loads((out / "front.json").read_text())
    assert 4 <= found["trials"] <= 5
    assert found["fresh_seeds"] == [1]
