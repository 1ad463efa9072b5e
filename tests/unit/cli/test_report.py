"""`innerloop report` and `innerloop watch` as commands: what they print, write, refuse and return."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from innerloop.cli import watch
from innerloop.cli.main import main
from innerloop.report.records import read
from synthetic_runs import CONVERGED, DIVERGED, HEALTHY, STALLED, write_run


def test_a_report_is_written_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, target = write_run(tmp_path / "run", CONVERGED), tmp_path / "page.html"
    assert main(["report", str(run), "-o", str(target)]) == 0
    out = capsys.readouterr().out
    assert "CONVERGED" in out
    assert str(target) in out
    assert target.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nowhere"],
        ["RUN", "--epsilon", "0"],
        ["RUN", "--epsilon", "x"],
        ["RUN", "--epsilon", "nan"],
        ["RUN", "--colour"],
        ["RUN", "-o"],
        ["RUN", "-o", "/dev/null/x.html"],
    ],
)
def test_bad_input_is_told_in_four_lines(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    assert main(["report", *(str(run) if word == "RUN" else word for word in words)]) == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "error",
        "got",
        "expected",
        "do",
    ]


def test_epsilon_reaches_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", HEALTHY)
    said = []
    for epsilon in ("0.01", "0.6"):
        main(["report", str(run), "-o", str(tmp_path / "r.html"), "--epsilon", epsilon])
        said.append(capsys.readouterr().out.split(":")[1].strip())
    assert said[0] == "IMPROVING"
    assert said[1] != "IMPROVING"


# --- watch -----------------------------------------------------------------------------------------------


def test_once_says_the_verdict_the_findings_and_the_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", STALLED)
    assert main(["watch", str(run), "--once"]) == 0
    out = capsys.readouterr().out
    found = read(run).diagnosis
    assert found.verdict.state.name in out
    assert found.findings
    assert all(finding.id in out for finding in found.findings)
    assert "probe loss after adaptation" in out
    assert "training loss" in out
    assert "\x1b" not in out


def test_a_run_without_a_probe_shows_its_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", HEALTHY, probe=False)
    assert main(["watch", str(run), "--once"]) == 0
    assert "validation mse" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nowhere"], ["RUN", "--every", "0"], ["RUN", "--every", "x"]])
def test_watch_refuses_what_it_cannot_watch(words: list[str], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert main(["watch", *(str(run) if word == "RUN" else word for word in words)]) == 2


def shortened(run: Path, step: int) -> list[str]:
    """Leave only the records up to a step; returns those taken away."""
    taken = []
    for name in ("metrics.jsonl", "probe.jsonl"):
        lines = (run / name).read_text("utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        (run / name).write_text("\n".join(kept) + "\n", "utf-8")
        taken += lines[len(kept) :] if name == "metrics.jsonl" else []
    return taken


def test_a_run_is_finished_when_all_steps_are_done_or_none_can_follow(tmp_path: Path) -> None:
    whole, growing = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    shortened(growing, 1200)
    assert watch.finished(read(whole))
    assert not watch.finished(read(growing))
    last = [line for line in (whole / "metrics.jsonl").read_text("utf-8").splitlines() if "train" in line][-1]
    with (growing / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(last + "\n")
    assert not watch.finished(read(growing))
    with (growing / "metrics.jsonl").open("a", encoding="utf-8") as file:
        row = {"kind": "nonfinite", "step": 1201, "failed_tasks": 4, "tasks": 4}
        file.write(json.dumps(row) + "\n")
    assert watch.finished(read(growing))


def test_a_run_that_may_stop_is_finished_only_if_it_was_asked_to(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", CONVERGED)
    shortened(run, 2200)
    assert read(run).diagnosis.verdict.stops
    assert not watch.finished(read(run))
    config = json.loads((run / "config.yaml").read_text("utf-8")) | {"stop": "when-converged"}
    (run / "config.yaml").write_text(json.dumps(config), "utf-8")
    assert watch.finished(read(run))


def test_watching_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", DIVERGED)
    rest = shortened(run, 1200)

    def grow() -> None:
        time.sleep(0.3)
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n".join(rest) + "\n")

    other = threading.Thread(target=grow)
    other.start()
    assert main(["watch", str(run), "--every", "0.05"]) == 0
    other.join()
    out = capsys.readouterr().out
    assert "step 1200/2400" in out
    assert "step 2400/2400" in out


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of a terminal")
def test_control_c_ends_watching_with_130(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    shortened(run, 1200)
    program = "import sys; from innerloop.cli.main import entry; sys.exit(entry())"
    command = [sys.executable, "-c", program, "watch", str(run), "--every", "0.1"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def as_in_a_terminal() -> None:  # what a shell starts in the background is told to ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, preexec_fn=as_in_a_terminal, **pipes) as watching:
        try:
            assert watching.stdout is not None
            assert watching.stdout.readline()
            time.sleep(0.5)
            watching.send_signal(signal.SIGINT)
            _, err = watching.communicate(timeout=60)
        finally:
            watching.kill()
    assert watching.returncode == 130
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a terminal of POSIX")
def test_on_a_terminal_the_picture_is_drawn_in_place(tmp_path: Path) -> None:
    import pty

    run = write_run(tmp_path / "run")
    program = "import sys; from innerloop.cli.main import entry; sys.exit(entry())"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", program, "watch", str(run)]
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "50"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env) as watching:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            seen += part
            if not part:
                break
        assert watching.wait(60) == 0
    os.close(ours)
    text = seen.decode("utf-8", "replace")
    assert "\x1b[" in text
    assert "IMPROVING" in text
