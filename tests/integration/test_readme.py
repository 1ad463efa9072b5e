"""What the README shows runs, as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from innerloop.cli import settings
from innerloop.cli.main import COMMANDS
from innerloop.cli.options import parse

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_example_runs_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    accuracy = float(re.search(r"accuracy ([\d.]+) \+-", capsys.readouterr().out)[1])
    assert accuracy > 40.0  # twice what guessing gives


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.splitlines() if line.startswith("innerloop ")]
)
def test_every_command_line_is_understood(line: str) -> None:
    _, command, *rest = shlex.split(line, comments=True)
    assert command in COMMANDS
    if command == "train":
        settings.gather(parse(rest, settings.takes))


def test_blocks_are_found_by_language() -> None:
    assert blocks("sh", "```sh\na\n```\n```python\nb\n```\n") == ["a\n"]
