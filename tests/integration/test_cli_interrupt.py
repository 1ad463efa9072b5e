"""Ctrl-C and SIGTERM on a real process: the step is finished, saved, and the run goes on bitwise."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from safetensors.torch import load_file

from innerloop.cli.main import main

STEPS = 200
# How often the probe looks is timed unless it is given, and checkpoints keep what it averages over looks.
LINE = (
    f"--algorithm MAML --tasks Sinusoid --steps {STEPS} --validation.every 25 --validation.episodes 2 "
    "--probe.every 20 --probe.tasks 8"
)
PROGRAM = "import sys; from innerloop.cli.main import entry; sys.exit(entry())"


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *words]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *LINE.split(), "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_bitwise(
    number: signal.Signals, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"
    words = command("train", *LINE.split(), "--out", str(folder))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        # The first look is told before the first step is done, so many steps are left.
        for line in process.stdout:
            if line.startswith("before training"):
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    printed = out.splitlines()[-1].strip()
    assert printed == f"innerloop train --resume --out {shlex.quote(str(folder))}"
    assert (folder / "validation.png").is_file()
    assert not (folder / f"checkpoints/step-{STEPS}.json").exists()

    assert main(shlex.split(printed)[1:]) == 0
    for name in (f"step-{STEPS}", "best"):
        ours, theirs = (
            load_file(str(run / f"checkpoints/{name}.safetensors")) for run in (folder, uninterrupted)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_closed_pipe_is_no_error() -> None:
    with subprocess.Popen(command("train", "--help"), stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 141
