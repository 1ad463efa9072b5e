"""`innerloop stability` as a user meets it: a table, findings, a file, exit codes, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from innerloop.cli.main import main

SHORT = "--validation.episodes 4 --validation.every 100 --probe.level off --threads 1 --compile false"
MAML = f"--algorithm MAML --algorithm.inner_lr 0.01 --algorithm.inner_steps 2 --steps 100 {SHORT}"
SINUSOID = f"{MAML} --tasks Sinusoid --tasks.shots 8 --model.hidden 20,20 --tasks-per-step 8"
EDGE = (
    "--algorithm MAML --algorithm.inner_lr 0.055 --algorithm.inner_steps 10 --tasks Linear --tasks.shots 8 "
    f"--model.hidden 8 --steps 2 {SHORT}"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two seeds on sinusoids."""
    path = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        assert main(["train", *SINUSOID.split(), "--seed", str(seed), "--out", str(path / f"s{seed}")]) == 0
    return path


def told(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["stability", *line.split()])
    found = capsys.readouterr()
    return code, found.out, found.err


def as_json(capsys: pytest.CaptureFixture[str], line: str) -> dict[str, Any]:
    return json.loads(told(capsys, f"{line} --json")[1])


def test_a_run_is_judged_and_everything_is_written_down(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(capsys, f"{runs}/s0 --episodes 20")
    written = json.loads((runs / "s0/stability.json").read_text("utf-8"))
    lines = out.splitlines()
    assert "20 test tasks of seed 0, 8-shot" in lines[0]
    assert re.match(r"undisturbed mse \d.* \+- .*, better than a constant guess by ", lines[1])
    shares = [int(m[1]) for m in re.finditer(r"(-?\d+) \+- \d+ %  ", out)]
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == len(written["effects"]) > 10
    assert "not measured  " in out
    assert "tasks without classes" in out
    assert str(runs / "s0/stability.json") in out
    assert "inner rate" in err
    assert code == {"error": 2, "warn": 1}.get(worst(written), 0)
    for effect in written["effects"]:
        assert len(effect["differences"]) == (effect["n"] if effect["paired"] else 0)
    assert {row["name"] for row in written["records"]["rows"]} == {e["name"] for e in written["effects"]}


def worst(found: dict[str, Any]) -> str:
    severities = [finding["severity"] for finding in found["findings"]]
    return next((s for s in ("error", "warn", "info") if s in severities), "none")


def test_json_is_one_object_with_everything_but_the_records(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, f"{runs}/s0 --episodes 12 --only support-order,inner_steps")
    assert {"run", "setup", "undisturbed", "effects", "findings", "passed", "not_evaluated"} <= set(found)
    assert {e["name"] for e in found["effects"]} == {"support order", "inner steps"}
    order = next(e for e in found["effects"] if e["name"] == "support order")
    assert abs(order["harm"]) < 1e-5
    assert order["n"] == 12
    assert "records" not in found
    silent = {answer["id"]: answer["reason"] for answer in found["not_evaluated"]}
    assert silent["ADVERSARIAL"] == "not measured"


def test_the_same_question_has_the_same_answer(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{runs}/s0 --episodes 12 --only support-labels,query-inputs"
    assert as_json(capsys, line) == as_json(capsys, line)
    assert as_json(capsys, line) != as_json(capsys, f"{line} --seed 1")


def test_another_seed_is_paired_task_by_task(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, f"{runs}/s0 {runs}/s1 --episodes 20 --only seed")
    (effect,) = found["effects"]
    assert (effect["name"], effect["size"], effect["paired"], effect["n"]) == ("seed", "seed 1", True, 20)
    back = as_json(capsys, f"{runs}/s1 {runs}/s0 --episodes 20 --only seed")["effects"][0]
    assert back["harm"] == pytest.approx(-effect["harm"], rel=1e-4)
    alone = as_json(capsys, f"{runs}/s0 --episodes 20 --only seed")
    assert "folders of other seeds" in alone["not_measured"][0]["reason"]


def test_another_source_is_judged_by_its_own_guess(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"{runs}/s0 --episodes 20 --only unfamiliar-tasks --ood Linear --ood.queries 6"
    (effect,) = as_json(capsys, line)["effects"]
    assert (effect["name"], effect["size"], effect["paired"]) == (
        "unfamiliar tasks",
        "Linear, queries 6",
        False,
    )
    row = json.loads((runs / "s0/stability.json").read_text("utf-8"))["records"]["rows"][0]
    assert row["shots"] == 8


def test_the_same_source_with_other_settings_keeps_what_is_not_given(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"{runs}/s0 --episodes 20 --only unfamiliar-tasks --ood Sinusoid --ood.outliers 0.5"
    (effect,) = as_json(capsys, line)["effects"]
    assert effect["harm"] > 0


def test_an_inner_rate_at_its_edge_fails_the_command_and_the_remedy_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps this long oscillate on straight lines, and a little longer ones diverge."""
    run = f"{tmp_path}/edge"
    assert main(["train", *EDGE.split(), "--out", run]) == 0
    code, out, _ = told(capsys, f"{run} --episodes 40 --only inner-rate")
    assert code == 2, out
    assert "[x] error BRITTLE_INNER_LR" in out
    (finding,) = json.loads(Path(run, "stability.json").read_text("utf-8"))["findings"]
    again = ["train", "--config", f"{run}/config.yaml", *finding["options"].split(), "--out", f"{run}2"]
    assert main(again) == 0
    code, out, _ = told(capsys, f"{run}2 --episodes 40 --only inner-rate")
    assert code == 0, out
    assert "no findings" in out


def test_help_needs_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "--help")
    assert code == 0
    assert "usage: innerloop stability RUN [RUN ...]" in out
    assert all(len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no run folder"),
        ("nowhere", "no such folder"),
        ("{run} --episodes 3", "at least 10"),
        ("{run} --episodes many", "--episodes = 'many'"),
        ("{run} --split tests", "--split = 'tests'"),
        ("{run} --only inner-rat", "did you mean 'inner rate'?"),
        ("{run} --ood Sinusoit", "Sinusoid"),
        ("{run} --ood Sinusoid --ood.shotz 3", "did you mean ood.shots?"),
        ("{run} --ood Quadratics", "input_shape"),
        ("{run} --ood.shots 3", "without --ood"),
        ("{run} --fail-on sometimes", "warn or error"),
        ("{run} --epsilon 3", "--epsilon"),
    ],
)
def test_bad_input_is_refused_in_four_lines(
    line: str, said: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(capsys, line.format(run=runs / "s0"))
    last = err.splitlines()[-4:]
    assert code == 2
    assert out == ""
    assert [text.split(":")[0] for text in last] == ["error", "got", "expected", "do"], err
    assert said in "\n".join(last)
    assert "Traceback" not in err


def test_runs_of_other_settings_are_no_other_seeds(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"{SINUSOID.replace('--steps 100', '--steps 2')} --out {tmp_path}/other"
    assert main(["train", *line.split()]) == 0
    code, _, err = told(capsys, f"{runs}/s0 {tmp_path}/other")
    assert code == 2
    assert "differ in nothing but their seed" in err
