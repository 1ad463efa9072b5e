"""Records as they stand in files: cut short, missing, old, or damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from innerloop.core.errors import ContractError
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.history import History, lines
from unit.diagnose.records import CONFIG, Records, curve, healthy, learned


def test_a_folder_says_what_its_lines_say(tmp_path: Path) -> None:
    records = healthy()
    (tmp_path / "config.yaml").write_text(json.dumps(records.config), "utf-8")
    for name, rows in (("probe.jsonl", records.rows), ("metrics.jsonl", records.metrics)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = History.read(tmp_path)
    own = records.history
    assert found.setup == own.setup
    assert found.looks == own.looks
    assert found.wide_looks == own.wide_looks
    np.testing.assert_array_equal(
        found.series("post", split="val").stacked(), own.series("post", split="val").stacked()
    )
    assert found.path == tmp_path


@pytest.mark.parametrize("content", [None, "{", "a: [", "\x00"])
def test_a_folder_without_a_configuration_is_no_run(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content, "utf-8")
    with pytest.raises(ContractError, match=r"config\.yaml"):
        History.read(tmp_path)


def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    whole = [{"step": i, "name": "lr", "values": [0.1]} for i in range(5)]
    text = "".join(json.dumps(row) + "\n" for row in whole)
    for cut in range(1, len(json.dumps(whole[-1])) + 1):
        (tmp_path / "x.jsonl").write_text(text[:-cut], "utf-8")
        assert lines(tmp_path / "x.jsonl") == whole[: 5 if cut == 1 else 4]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert lines(tmp_path / "nothing.jsonl") == []


def test_null_is_not_a_number_and_not_zero() -> None:
    history = History({}, (), [{"step": 3, "name": "post", "split": "val", "values": [1.0, None]}])
    last = history.series("post", split="val").last
    assert last[0] == 1.0
    assert math.isnan(last[1])


def test_a_number_stands_for_a_list_of_one() -> None:
    history = History({}, (), [{"step": 3, "name": "lr", "value": 0.5}])
    assert history.series("lr").last.tolist() == [0.5]


def test_places_do_not_mix() -> None:
    rows = [
        {"step": 1, "name": "post", "split": split, "values": [value]}
        for split, value in (("val", 1.0), ("train", 2.0))
    ]
    rows += [{"step": 1, "name": "stretched", "scale": scale, "values": [scale]} for scale in (1.3, 2.0)]
    history = History({}, (), rows)
    assert history.series("post", split="val").last[0] == 1.0
    assert history.series("post", split="train").last[0] == 2.0
    assert history.series("stretched", scale=2.0).last[0] == 2.0
    assert history.places("stretched", "scale") == [1.3, 2.0]
    assert not history.has("post")


def test_what_was_not_measured_says_why() -> None:
    records = Records(curve(learned())).known(skipped={"curvature": "closed form: no inner steps"})
    with pytest.raises(NotEvaluated, match="closed form"):
        records.history.series("curvature")
    with pytest.raises(NotEvaluated, match="no record of signal"):
        records.history.series("signal")
    with pytest.raises(NotEvaluated, match="no probe records"):
        History(CONFIG, [], []).series("signal")


def test_settings_are_found_by_dotted_name() -> None:
    history = History(CONFIG)
    assert history.setting("optimizer.lr") == 1e-3
    assert history.setting("optimizer.nothing", 7) == 7
    assert history.setting("steps.lr", 7) == 7
    assert History({"start": None}).setting("start", "x") == "x"


def test_the_last_setup_counts() -> None:
    rows = [{"step": 0, "name": "setup", "value": {"every": every}} for every in (None, 25)]
    assert History({}, (), rows).setup == {"every": 25}


@pytest.mark.parametrize("size", [25, 40])
def test_looks_of_different_sizes_are_compared_on_the_tasks_that_all_have(size: int) -> None:
    rows = [
        {"step": i, "name": "post", "split": "val", "values": list(range(n))}
        for i, n in enumerate((40, size))
    ]
    assert History({}, (), rows).series("post", split="val").stacked().shape == (2, size)
