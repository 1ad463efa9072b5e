"""`innerloop doctor` as a command: what it prints, in text and JSON, what it exits with, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from innerloop.cli.main import main
from innerloop.diagnose.history import History
from innerloop.diagnose.rules import RULES
from innerloop.diagnose.verdict import State
from unit.diagnose.records import Records, curve, healthy, settled
from unit.diagnose.test_rules import PLANTS, converged, first_order, near_its_edge, rising_support

BEFORE = "--algorithm MAML --tasks Sinusoid --model MLP --model.hidden 5 --steps 10 --probe.tasks 8"


def run_folder(path: Path, records: Records) -> str:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(records.config), "utf-8")
    for name, rows in (("probe.jsonl", records.rows), ("metrics.jsonl", records.metrics)):
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def well(tmp_path: Path) -> str:
    return run_folder(tmp_path / "well", healthy())


@pytest.fixture
def warned(tmp_path: Path) -> str:
    return run_folder(tmp_path / "warned", near_its_edge())


@pytest.fixture
def ill(tmp_path: Path) -> str:
    return run_folder(tmp_path / "ill", rising_support())


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["doctor", *words])
    found = capsys.readouterr()
    assert found.err == ""
    return code, found.out


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code, out = told(capsys, *words, "--json")
    return code, json.loads(out)


# --- text ------------------------------------------------------------------------------------------------


def test_a_healthy_run_has_its_verdict_and_no_findings(well: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = told(capsys, well)
    assert code == 0
    assert out.startswith(f"{well}: IMPROVING: still improving; do not stop (-")
    assert "no findings" in out
    assert "--all names them" in out


def test_a_finding_says_what_by_how_much_why_and_what_to_do(
    ill: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = told(capsys, ill)
    lines = [line.strip() for line in out.splitlines()]
    at = next(i for i, line in enumerate(lines) if "INNER_DIVERGENCE" in line)
    assert lines[at].startswith("[x] error INNER_DIVERGENCE: inner steps go uphill")
    assert lines[at + 1].startswith("value 1, threshold ")
    assert lines[at + 2].startswith("why  ")
    assert any(line.startswith("do   lower the inner rate") for line in lines[at:])
    assert any(line.startswith("--algorithm.inner_lr 0.00") for line in lines[at:])


def test_severity_is_told_in_words_and_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, (records, mark) in enumerate(
        [(rising_support(), "[x] error"), (near_its_edge(), "[!] warn"), (first_order(), "[i] info")]
    ):
        assert mark in told(capsys, run_folder(tmp_path / str(i), records))[1]


def test_all_names_every_rule_with_its_reason(well: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = told(capsys, well, "--all")
    assert all(rule.id in out for rule in RULES)
    assert "not evaluated  FIRST_ORDER_BIAS: the meta-gradient is not a first-order one" in out
    assert "--all names them" not in out


def test_the_worst_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = near_its_edge().put("transduction", 0.1).put("query_leak", 0.5)
    _, out = told(capsys, run_folder(tmp_path / "run", records))
    assert out.index("QUERY_LEAK") < out.index("SAFETY_FACTOR")


# --- JSON ------------------------------------------------------------------------------------------------


def test_json_has_the_keys_that_scripts_read(ill: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = as_json(capsys, ill)
    assert set(found) == {"run", "verdict", "convergence", "findings", "passed", "not_evaluated"}
    assert found["run"] == ill
    assert found["verdict"] in State.__members__
    assert found["convergence"]["state"] == found["verdict"]
    assert isinstance(found["convergence"]["change"], float)
    for finding in found["findings"]:
        assert {"id", "severity", "value", "threshold", "remedy", "options", "title", "why", "advice"} <= set(
            finding
        )
        assert finding["severity"] in ("info", "warn", "error")
        assert isinstance(finding["remedy"], dict)
    assert all(entry["reason"] for entry in found["not_evaluated"])
    ids = [e["id"] for part in ("findings", "passed", "not_evaluated") for e in found[part]]
    assert sorted(ids) == sorted(rule.id for rule in RULES)


def test_json_is_what_the_records_say(ill: str, capsys: pytest.CaptureFixture[str]) -> None:
    from innerloop.diagnose.doctor import diagnose

    _, found = as_json(capsys, ill)
    own = json.loads(json.dumps(diagnose(History.read(ill)).to_dict()))
    assert {name: value for name, value in found.items() if name != "run"} == own


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_every_finding_can_be_printed_both_ways(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "run", PLANTS[name][-1][0]())
    code, found = as_json(capsys, folder)
    assert name in [finding["id"] for finding in found["findings"]]
    assert code == {"error": 2, "warn": 1, "info": 0}[found["findings"][0]["severity"]]
    assert name in told(capsys, folder)[1]


# --- exit codes ------------------------------------------------------------------------------------------


def test_exit_codes_are_those_of_the_worst_finding(
    well: str, warned: str, ill: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [told(capsys, run)[0] for run in (well, warned, ill)] == [0, 1, 2]
    assert [told(capsys, run, "--fail-on", "error")[0] for run in (well, warned, ill)] == [0, 0, 2]
    assert [told(capsys, run, "--fail-on", "warn", "--json")[0] for run in (well, warned, ill)] == [0, 1, 2]


def test_epsilon_reaches_the_verdict(well: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, well)[1]["verdict"] == "IMPROVING"
    code, found = as_json(capsys, well, "--epsilon", "0.5")
    assert found["verdict"] == "CONVERGED"
    assert found["convergence"]["epsilon"] == 0.5
    assert code == 0


# --- several runs ----------------------------------------------------------------------------------------


def seeds(tmp_path: Path, *factors: float) -> list[str]:
    base = curve(settled(), iterates=0.002, own=0.004)
    return [
        run_folder(tmp_path / str(i), healthy(factor * base, config={"seed": i}))
        for i, factor in enumerate(factors)
    ]


def test_seeds_that_agree_are_judged_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = seeds(tmp_path, 1.0, 1.001, 0.999)
    code, found = as_json(capsys, *runs)
    assert code == 0
    assert found["verdict"] == "CONVERGED"
    assert [entry["run"] for entry in found["runs"]] == runs
    assert all(entry["verdict"] == "CONVERGED" for entry in found["runs"])
    assert told(capsys, *runs)[1].startswith("together: CONVERGED")


def test_a_seed_apart_is_a_warning_though_each_run_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = seeds(tmp_path, 1.0, 1.001, 1.5)
    code, found = as_json(capsys, *runs)
    assert code == 1
    assert found["verdict"] == "SEED_DISAGREEMENT"
    assert [finding["id"] for finding in found["findings"]] == ["SEED_DISAGREEMENT"]
    assert all(entry["findings"] == [] for entry in found["runs"])
    assert told(capsys, *runs, "--fail-on", "error")[0] == 0
    assert "SEED_DISAGREEMENT" in told(capsys, *runs)[1]


def test_the_worst_run_of_several_decides(well: str, ill: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, well, ill)[0] == 2


# --- what is refused -------------------------------------------------------------------------------------

REFUSED = [
    [],
    ["nowhere"],
    ["RUN", "nowhere"],
    ["EMPTY"],
    ["RUN", "--fail-on", "info"],
    ["RUN", "--fail-on"],
    ["RUN", "--epsilon", "0"],
    ["RUN", "--epsilon", "-1"],
    ["RUN", "--epsilon", "x"],
    ["RUN", "--epsilon", "nan"],
    ["RUN", "--json", "--json"],
    ["RUN", "--jsn"],
    ["RUN", "--steps", "3"],
    ["RUN", "--html", "/dev/null/x.html"],
    ["--preflight"],
    ["--preflight", "RUN", *BEFORE.split()],
    ["--preflight", *BEFORE.split(), "--out", "x"],
    ["--preflight", *BEFORE.split(), "--resume"],
    ["--preflight", *BEFORE.split(), "--optimizer.lrr", "1"],
    ["--preflight", *BEFORE.split(), "--optimizer.lr", "-1"],
    ["--preflight", *BEFORE.split(), "--html", "x.html"],
    ["--preflight", "--config", "nowhere.yaml"],
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_bad_input_is_told_in_four_lines(
    words: list[str], well: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    stand_ins = {"RUN": well, "EMPTY": str(tmp_path / "empty")}
    assert main(["doctor", *(stand_ins.get(word, word) for word in words)]) == 2
    last = capsys.readouterr().err.splitlines()[-4:]
    assert [line.partition(":")[0] for line in last] == ["error", "got", "expected", "do"]


def test_an_option_that_is_nearly_right_is_named(well: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", well, "--failon", "warn"]) == 2
    assert "--fail-on" in capsys.readouterr().err


DAMAGE = {
    "cut short": '{"step": 3, "na',
    "no object": "[1, 2]\n",
    "no record": '{"step": 1}\n',
    "no step": '{"name": "post", "split": "val", "values": [1.0]}\n',
    "text for numbers": '{"step": 401, "name": "post", "split": "val", "values": ["x"]}\n',
    "other sizes": '{"step": 401, "name": "post", "split": "val", "values": [1.0, 2.0]}\n',
    "empty": '{"step": 401, "name": "post", "split": "val", "values": []}\n',
    "setup of another kind": '{"step": 0, "name": "setup", "value": 3}\n',
    "all null": '{"step": 401, "name": "curvature", "values": [null, null]}\n',
    "no text": "\x00\x01\n",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("file", ["probe.jsonl", "metrics.jsonl"])
def test_damaged_records_end_in_an_answer_or_in_a_message(
    name: str, file: str, well: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And never in a traceback."""
    with (Path(well) / file).open("a", encoding="utf-8") as stream:
        stream.write(DAMAGE[name])
    code = main(["doctor", well])
    out, err = capsys.readouterr()
    if err:
        assert code == 2
        assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "got", "expected", "do"]
    else:
        assert well in out


@pytest.mark.parametrize("file", ["probe.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", None])
def test_files_that_are_missing_or_empty_leave_a_verdict(
    file: str, content: bytes | None, well: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(well) / file).unlink()
    if content is not None:
        (Path(well) / file).write_bytes(content)
    code, out = told(capsys, well)
    assert code == 0
    assert ("UNRESOLVED" in out) is (file == "probe.jsonl")


@pytest.mark.parametrize("file", ["probe.jsonl", "metrics.jsonl"])
def test_a_file_that_is_no_text_is_named(file: str, well: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(well) / file).write_bytes(b"\xff\xfe\x00")
    code = main(["doctor", well])
    err = capsys.readouterr().err
    assert code == 2
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "got", "expected", "do"]
    assert file in err


# --- before training -------------------------------------------------------------------------------------


def before(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--preflight", *BEFORE.split(), *words, "--json"])
    out, err = capsys.readouterr()
    assert err == "asking before training ...\n"
    return code, json.loads(out)


def test_before_training_what_can_be_asked_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaks, the gradient, the inner loop; nothing is written, and nothing is said of convergence."""
    monkeypatch.chdir(tmp_path)
    code, found = before(capsys)
    assert code == 0
    asked = {entry["id"] for entry in found["passed"]}
    assert {"STATE_LEAK", "QUERY_LEAK", "META_GRADIENT_WRONG", "INNER_DIVERGENCE"} <= asked
    assert {"STALLED", "REGRESSION"} <= {entry["id"] for entry in found["not_evaluated"]}
    assert list(tmp_path.iterdir()) == []


def test_before_training_an_inner_rate_that_is_too_large_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, found = before(capsys, "--algorithm.inner_lr", "30")
    assert code == 2
    assert "INNER_DIVERGENCE" in [finding["id"] for finding in found["findings"]]


def test_before_training_settings_may_come_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "algorithm: {name: MAML, inner_lr: 30}\ntasks: Sinusoid\nmodel: {name: MLP, hidden: [5]}\n"
    (tmp_path / "config.yaml").write_text(text + "probe: {tasks: 8}\n", "utf-8")
    assert main(["doctor", "--preflight", "--config", str(tmp_path / "config.yaml")]) == 2
    out = capsys.readouterr().out
    assert out.startswith("before training:\n")
    assert "INNER_DIVERGENCE" in out


# --- what it costs ---------------------------------------------------------------------------------------


def test_stored_runs_are_judged_without_torch(well: str, ill: str) -> None:
    program = (
        "import sys; from innerloop.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(40 + code if 'torch' not in sys.modules else 99)"
    )
    for words, code in (([well], 40), ([ill, "--json"], 42), ([well, ill, "--all"], 42)):
        done = subprocess.run(
            [sys.executable, "-c", program, "doctor", *words], capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr.decode()
        assert done.stderr == b""


def test_a_page_is_written_beside_the_answer(
    well: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["doctor", well, "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "IMPROVING" in out
    assert err == f"report {page}\n"
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_the_page_says_what_the_answer_says(
    well: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same epsilon, so the same verdict."""
    page = tmp_path / "page.html"
    main(["doctor", well, "--html", str(page), "--epsilon", "0.5"])
    assert "CONVERGED" in capsys.readouterr().out
    assert "CONVERGED" in page.read_text("utf-8")
    assert "IMPROVING" not in page.read_text("utf-8")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--preflight", "--html", "--fail-on", "--epsilon", "--all", "--json"):
        assert option in out


def test_a_converged_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = told(capsys, run_folder(tmp_path / "run", converged()))
    assert code == 0
    assert "CONVERGED: converged" in out
