"""The documentation builds, strictly and without a network; what its pages show runs as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from _pages.docstrings import lacking
from _pages.public import arguments_of, own_docstring
from innerloop.cli import settings
from innerloop.cli.main import COMMANDS
from innerloop.cli.options import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXTERNAL = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^\"]*\"")
FONT = re.compile(r"@import|@font-face|url\(\s*['\"]?(?:https?:)?//")

#: What is done to the package before a build, and what the build has to say of it.
PLANTS = {
    "MAML.__doc__ = MAML.__doc__.replace('Strengths:', 'Merits:')": "MAML: no 'Strengths:'",
    "ANIL.__doc__ = ANIL.__doc__.replace('inner_lr: inner', 'rate: inner')": (
        "ANIL: argument inner_lr is not described"
    ),
    "ProtoNet.__doc__ = None": "innerloop.algorithms.ProtoNet: no docstring",
}


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def copied(folder: Path) -> Path:
    """The sources of the documentation in another place, without what was built."""
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("_build", "reference"))
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    return folder / "docs"


def build(source: Path, plant: str = "pass", builder: str = "html") -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does, after some lines of code."""
    code = f"""
import sys
from innerloop.algorithms import ANIL, MAML, ProtoNet
{plant}
from sphinx.cmd.build import build_main
sys.exit(build_main(["-W", "--keep-going", "-n", "-q", "-b", {builder!r}, {str(source)!r}, "built"]))
"""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )


def own_data(folder: Path) -> None:
    """What the pages call your own images and arrays: classes that differ, examples that differ less."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (30, 28, 28, 3))
    for index, pattern in enumerate(patterns):
        place = folder / "my/images" / f"class{index}"
        place.mkdir(parents=True)
        for n in range(8):
            noisy = (0.7 * pattern + 0.3 * rng.integers(0, 256, pattern.shape)).astype(np.uint8)
            Image.fromarray(noisy).save(place / f"{n}.png")
    centres = rng.normal(size=(20, 6))
    np.save(folder / "labels.npy", np.repeat(np.arange(20), 10))
    np.save(folder / "features.npy", np.repeat(centres, 10, axis=0) + 0.3 * rng.normal(size=(200, 6)))


def page_id(path: Path) -> str:
    return path.stem


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    own_data(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_the_algorithm_that_a_page_writes_is_documented_as_ours_are() -> None:
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(blocks(ROOT / "docs/writing-an-algorithm.md", "python")[0], "page", "exec"), names)
    kind = names["OneRate"]
    assert isinstance(kind, type)
    assert lacking(own_docstring(kind), arguments_of(kind)) == []


@pytest.mark.parametrize(
    "line",
    [
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("innerloop ")
    ],
)
def test_every_command_line_is_understood(line: str) -> None:
    _, command, *rest = shlex.split(line, comments=True)
    assert command in COMMANDS
    if command == "train" and "--resume" not in rest:
        settings.gather(parse(rest, settings.takes))


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning_or_a_network(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
    source = copied(tmp_path)
    made = build(source)
    assert (made.returncode, made.stderr) == (0, "")
    built = source / "built"
    for page in built.rglob("*.html"):
        assert EXTERNAL.findall(page.read_text("utf-8")) == [], page
    for style in built.rglob("*.css"):
        assert FONT.findall(style.read_text("utf-8")) == [], style
    table = (built / "how-to-choose.html").read_text("utf-8")
    assert 'href="reference/algorithms/MAML.html"' in table
    assert "5-way 1-shot 98.7 ± 0.4" in table


@pytest.mark.slow
def test_planted_gaps_fail_the_build(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
    source = copied(tmp_path)
    with (source / "concepts.md").open("a", encoding="utf-8") as page:
        page.write("\n{py:obj}`innerloop.gradients.Gone` and [nowhere](gone.md)\n")
    made = build(source, "\n".join(PLANTS), builder="dummy")
    assert made.returncode == 1
    for told in PLANTS.values():
        assert f"WARNING: undocumented: {told}" in made.stderr
    assert "reference target not found: innerloop.gradients.Gone" in made.stderr
    assert "gone.md" in made.stderr


def test_what_comes_from_elsewhere_is_seen() -> None:
    assert EXTERNAL.findall('<script async src="https://cdn.example/x.js">')
    assert EXTERNAL.findall('<link rel="stylesheet" href="//fonts.example/css">')
    assert not EXTERNAL.findall('<a href="https://arxiv.org/abs/1">paper</a><link href="_static/x.css">')
    assert FONT.findall("@font-face { src: url(https://fonts.example/a.woff) }")
