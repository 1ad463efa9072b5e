"""The report of runs that were trained: nothing that was measured is left out, and its instructions work."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest

from innerloop.cli.main import main
from innerloop.report import page
from innerloop.report.records import read
from innerloop.report.sections import SECTIONS

TINY = "--steps 60 --tasks-per-step 2 --validation.every 30 --validation.episodes 4 --probe.every 3 --seed 3"
ASKED = {
    "families of tasks",
    "families over training",
    "families after each stage",
    "metrics of forgetting",
    "perturbations",
    "findings of perturbations",
    "meta-gradient against quotients",
    "clipped steps",
}  # where there is one, or on demand
RUNS = {
    "MAML on Sinusoid": (
        "--algorithm MAML --tasks Sinusoid --algorithm.inner_steps 2",
        {"comparison"} | ASKED,
    ),
    "ProtoNet on Glyphs": (
        "--algorithm ProtoNet --tasks Glyphs --model.width 4 --tasks.queries 3 --tasks.ways 3",
        {"numbers", "query loss by inner step", "support loss by inner step", "curvature", "safety factor"}
        | {
            "tasks in a row",
            "longer inner steps",
            "sensitivity",
            "gradients through the inner loop",
            "first-order gap",
        }
        | {"comparison"}
        | ASKED,
    ),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=RUNS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, set[str]]:
    words, missing = RUNS[request.param]
    folder = tmp_path_factory.mktemp("runs") / "a run"
    assert main(["train", *words.split(), *TINY.split(), "--out", str(folder)]) == 0
    return folder, missing


def test_all_that_applies_is_drawn(trained: tuple[Path, set[str]]) -> None:
    folder, expected = trained
    run = read(folder)
    blocks = [block for section in SECTIONS for block in section.draw([run])]
    missing = {name: reason for b in blocks for reason, names in b.missing.items() for name in names}
    assert run.notes == ()
    assert set(missing) == expected
    assert all("no inner steps" in missing[name] for name in expected - {"comparison"} - ASKED)


def test_what_reproduces_a_task_reproduces_it(trained: tuple[Path, set[str]]) -> None:
    folder, _ = trained
    run = read(folder)
    text = html.unescape(re.sub(r"<[^>]+>", "", page.render([run]).partition("<script")[0]))
    snippet = text[text.index("import innerloop as il") : text.index("in block)") + len("in block)")]
    names: dict[str, object] = {}
    exec(snippet, names)
    number = int(re.findall(r"'val', (\d+) \+ 1", snippet)[0])
    (_, support), (x, query) = names["support"], names["query"]  # type: ignore[misc]
    assert x.shape[0] == len(query)
    recorded = run.history.series("trivial", split="val").last[number]
    if run.accuracy:
        worst = json.loads((folder / "worst-tasks.json").read_text("utf-8"))["tasks"]
        labels = next(task["query"] for task in worst if task["number"] == number)
        assert [entry["label"] for entry in labels] == query.tolist()
    else:
        trivial = float((support.mean(0) - query).square().mean())
        assert trivial == pytest.approx(recorded, rel=1e-4)


def test_the_command_for_the_same_run_again_trains_it_again(trained: tuple[Path, set[str]]) -> None:
    import shlex

    folder, _ = trained
    words = html.unescape(re.sub(r"<[^>]+>", "", page.render([read(folder)]).partition("<script")[0]))
    command = re.search(
        r"innerloop (train --config .*?-again'?)", words.partition("from its own configuration")[2]
    )
    assert command is not None
    assert main([*shlex.split(command[1]), "--overwrite"]) == 0
    ours, theirs = (read(path).history.series("post", split="val") for path in (folder, f"{folder}-again"))
    assert np.array_equal(ours.stacked(), theirs.stacked())
