"""The examples run, and show what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples"


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
def test_a_neural_process_is_set_beside_the_exact_posterior(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--steps", "800", "--tasks", "100", "--out", str(out)]
    done = run("neural_process.py", *words)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +(\d+)" + r"  +(-?\d+\.\d+) \+- \d\.\d+" * 3, done.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 2, 5, 10, 20]
    ours, exact, constant = ([float(row[column]) for row in rows] for column in (1, 2, 3))
    assert exact == sorted(exact)
    assert len(set(constant)) == 1
    assert exact[0] > constant[0]
    assert all(one < best for one, best in zip(ours, exact, strict=True)), "better than possible"
    assert ours[-1] > ours[0] + 0.1, "more points, better predictions"
    assert ours[-1] > constant[-1] + 0.2
    with Image.open(out / "curves.png") as picture:
        assert picture.size == (1350, 690)
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20, "an empty picture"
    again = run("neural_process.py", *words)
    assert again.stdout == done.stdout, "a run that is there is not trained again"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = run("neural_process.py", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "exists and is not a run folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_model_that_adapts_follows_a_cart_whose_mass_changes(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = run("learning_to_adapt.py", "--steps", "150", "--episodes", "6", "--out", str(out))
    assert done.returncode == 0, done.stderr
    row = r"^(\w[\w ,.-]+?)" + r"  +(\d\.\d+) \+- \d\.\d+" * 3 + "$"
    rows = [(name, *map(float, rest)) for name, *rest in re.findall(row, done.stdout, re.MULTILINE)]
    assert [name.partition(" at rate")[0] for name, *_ in rows] == 2 * [
        "adapts",
        "the same, not adapted",
        "trained jointly",
        "trained jointly, fine-tuned",
    ]
    adapts, alone, joint, tuned = rows[:4]
    for settled in (1, 3):  # before the change, and from two seconds after it
        assert adapts[settled] < 0.75 * alone[settled]
        assert adapts[settled] < 0.75 * joint[settled]
    assert adapts[2] < tuned[2], "just after the change what was tuned to the old mass is the worst"
    assert all(0 < value < 1 for _, *values in rows[4:] for value in values)
    with Image.open(out / "adaptation.png") as picture:
        assert picture.size == (1050, 840)
        assert len(np.unique(np.asarray(picture.convert("L").resize((90, 72))))) > 20, "an empty picture"
