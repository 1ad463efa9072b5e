"""The page on forgetting: outputs of real commands, and the metrics that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from _pages import convergence, forgetting
from innerloop.cli.main import COMMANDS

PAGE = (Path(__file__).parents[3] / "docs/what-does-my-model-forget.md").read_text("utf-8")
STORY = ("naive", "replay", "recall")
STORED = {path.stem: path.read_text("utf-8") for path in forgetting.FOLDER.glob("*.txt")}


def test_every_output_on_the_page_is_one_that_the_command_makes() -> None:
    shown = re.findall(r"_static/forgetting/([\w-]+)\.txt", PAGE)
    assert set(shown) == set(forgetting.TRANSCRIPTS) == set(STORED)


@pytest.mark.parametrize("name", forgetting.TRANSCRIPTS)
def test_an_output_is_of_the_command_lines_that_stand_in_the_script(name: str) -> None:
    lines = convergence.commands(STORED[name])
    for line, template in zip(lines, forgetting.TRANSCRIPTS[name], strict=True):
        before, _, after = template.partition("{remedy}")
        assert line.startswith(before)
        assert line.endswith(after)
        assert shlex.split(line)[1] in COMMANDS


def test_the_story_of_the_page_is_that_of_its_outputs() -> None:
    assert "error FORGETTING" in STORED["naive"]
    assert "error FORGETTING" not in STORED["replay"]
    assert "--retain.replay 0.5" in convergence.commands(STORED["replay"])[0]
    assert "FORGETTING" in STORED["replay"]
    assert "--retain.recall 8" in convergence.commands(STORED["recall"])[0]
    assert "FORGETTING:" not in STORED["recall"]


@pytest.mark.slow
def test_the_commands_make_the_same_findings_again(tmp_path: Path) -> None:
    forgetting.make(tmp_path, STORY)
    found = re.compile(r"^\[.\] (?:error|warn) ([A-Z_]+):", re.MULTILINE)
    for name in STORY:
        again = (tmp_path / f"{name}.txt").read_text("utf-8")
        assert found.findall(again) == found.findall(STORED[name]), name
    assert (tmp_path / "families.png").is_file()
