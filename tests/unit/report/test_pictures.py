"""Pictures of runs: drawn from the folder alone, whatever the numbers are."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from innerloop.core.errors import DataError
from innerloop.report import adaptation, style, validation

BASELINES = {"no_adaptation": 0.2, "nearest_neighbour": 0.45, "untrained_centroid": 0.44}


def folder(
    path: Path, rows: list[dict[str, Any]], config: str = "algorithm: {name: MAML}\ntasks: {name: X}\n"
) -> Path:
    (path / "config.yaml").write_text(config, "utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def look(step: int, mean: float | None, metric: str = "accuracy", **more: Any) -> dict[str, Any]:
    ci95 = None if mean is None else 0.02
    return {"kind": "validation", "step": step, "metric": metric, "mean": mean, "ci95": ci95} | more


def loss(step: int, value: float | None) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": value}


RUNS = {
    "accuracy": [look(0, 0.2, baselines=BASELINES), loss(5, 1.0), loss(10, 0.9), look(10, 0.6)],
    "mse": [look(0, 4.0, "mse", baselines={"support_mean": 5.0}), loss(10, 2.0), look(10, 0.3, "mse")],
    "only the first look": [look(0, 0.2, baselines=BASELINES)],
    "diverged": [
        look(0, 4.0, "mse"),
        loss(1, math.inf),
        look(5, None, "mse", baselines={}),
        look(10, 3.0, "mse"),
    ],
    "never finite": [look(0, None, "mse", baselines={"support_mean": 5.0})],
    "perfect": [look(0, 1.0), look(1, 1.0)],
    "zero error": [look(0, 0.0, "mse"), look(1, 0.0, "mse"), loss(1, 0.0)],
    "long": [look(0, 0.2), *(loss(step, 1 / step) for step in range(1, 2000)), look(2000, 0.4)],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_drawn(name: str, tmp_path: Path) -> None:
    picture = validation.draw(folder(tmp_path, RUNS[name]))
    assert picture == tmp_path / "validation.png"
    with Image.open(picture) as opened:
        assert opened.width > 900
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "metrics.jsonl", "validation.png"}


def test_a_run_without_a_look_has_no_picture(tmp_path: Path) -> None:
    assert validation.draw(folder(tmp_path, [loss(1, 1.0)])) is None


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    folder(tmp_path, RUNS["accuracy"])
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "valid')
    assert validation.read_rows(tmp_path) == RUNS["accuracy"]
    assert validation.draw(tmp_path) is not None


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder(tmp_path, RUNS["accuracy"])
    (tmp_path / "validation.png").mkdir()
    with pytest.raises(DataError, match=r"validation\.png"):
        validation.draw(tmp_path)
    assert not list(tmp_path.glob(".validation*"))


def test_the_best_step_is_the_first_of_equals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(validation, "save", lambda figure, target: seen.append(figure))
    validation.draw(folder(tmp_path, [look(0, 0.2), look(5, 0.6), look(10, 0.6)]))
    validation.draw(folder(tmp_path, [look(0, 4.0, "mse"), look(5, 0.5, "mse"), look(10, 0.6, "mse")]))
    assert [figure.axes[0].get_title(loc="right") for figure in seen] == [
        "best: 60.0 % at step 5",
        "best: 0.5 at step 5",
    ]


def test_labels_move_apart_and_keep_their_order() -> None:
    found = style.spread([0.9, 0.44, 0.45, 0.2, 0.46], 0.1)
    order = sorted(range(5), key=found.__getitem__)
    assert order == [3, 1, 2, 4, 0]
    assert all(found[b] - found[a] >= 0.1 - 1e-9 for a, b in itertools.pairwise(order))


def evaluation(means: list[float | None]) -> dict[str, Any]:
    steps = [{"inner_steps": k, "mean": m, "ci95": None if m is None else 0.1} for k, m in enumerate(means)]
    beside = {"no_adaptation": {"mean": 5.0}, "support_mean": {"mean": 4.0}, "odd": {"mean": None}}
    return {"metric": "mse", "split": "test", "adaptation": steps, "baselines": beside}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("means", [[5.0, 0.6], [5.0, 0.1, 0.05, None]])
def test_an_adaptation_curve_is_drawn(means: list[float | None], tmp_path: Path) -> None:
    source = folder(tmp_path, []) / "evaluation-test-s0.json"
    source.write_text(json.dumps(evaluation(means)), "utf-8")
    assert adaptation.draw(source) == tmp_path / "evaluation-test-s0.png"


@pytest.mark.parametrize("means", [[0.5], [None, None]])
def test_without_steps_or_finite_scores_there_is_no_curve(means: list[float | None], tmp_path: Path) -> None:
    source = folder(tmp_path, []) / "evaluation-test-s0.json"
    source.write_text(json.dumps(evaluation(means)), "utf-8")
    assert adaptation.draw(source) is None


def test_drawing_needs_neither_torch_nor_pyplot() -> None:
    program = "import sys, innerloop.report.validation, innerloop.report.adaptation\n"
    program += "print([name in sys.modules for name in ('torch', 'matplotlib.pyplot')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"
