"""What it costs to start: the library over PyTorch, and the command line without it.

Costs are seconds of processor time, the median of three fresh interpreters: other work on the machine
does not count, and the caches of the file system are warm after the first.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
LIMIT = 0.5
HEAVY = ("torch", "matplotlib", "numpy")

BUSY = f"while time.process_time() < {LIMIT + 0.2}:\n    pass\n"

IMPORT = """
import time
import {base}
start = time.process_time()
import {name}
print(time.process_time() - start)
"""

HELP = """
import sys, time
sys.argv = ["innerloop", "--help"]
{first}
from innerloop.cli.main import entry
try:
    code = entry()
except SystemExit as stop:
    code = stop.code
print(code or 0, [m for m in {heavy} if m in sys.modules], time.process_time(), sep=";", file=sys.stderr)
"""


def run(program: str, path: Path = SOURCE) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs `program`, with the modules in `path` before installed ones."""
    env = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def import_cost(name: str, *, base: str, path: Path = SOURCE) -> float:
    """Seconds that `import name` adds to `import base`."""
    program = IMPORT.format(base=base, name=name)
    return statistics.median(float(run(program, path).stdout.split()[-1]) for _ in range(3))


def help_page(first: str = "") -> tuple[str, str, str, float]:
    """What `innerloop --help` prints, its exit code, the heavy modules it imported and its seconds."""
    pages = [run(HELP.format(first=first, heavy=HEAVY)) for _ in range(3)]
    last = [page.stderr.splitlines()[-1].split(";") for page in pages]
    return pages[0].stdout, last[0][0], last[0][1], statistics.median(float(seconds) for *_, seconds in last)


def test_import_is_cheap_beside_torch() -> None:
    assert import_cost("innerloop", base="torch") <= LIMIT


@pytest.mark.slow
def test_planted_slow_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "planted_slow.py").write_text(f"import time\n{BUSY}", "utf-8")
    assert import_cost("planted_slow", base="sys", path=tmp_path) > LIMIT


def test_help_answers_at_once_and_without_torch() -> None:
    page, code, heavy, seconds = help_page()
    assert code == "0"
    assert all(command in page for command in ("train", "evaluate", "compare", "adapt", "list"))
    assert heavy == "[]"
    assert seconds <= LIMIT


@pytest.mark.slow
def test_planted_slow_and_heavy_help_is_seen() -> None:
    _, _, heavy, seconds = help_page(f"import torch\n{BUSY}")
    assert "torch" in heavy
    assert seconds > LIMIT
