"""The page of a run: what stands in it for healthy, broken, old and damaged runs."""

from __future__ import annotations

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from innerloop.core.errors import ConfigError, ContractError, DataError
from innerloop.diagnose.rules import RULES
from innerloop.report import head, page
from innerloop.report.chart import Chart
from innerloop.report.records import RunRecords, read
from innerloop.report.section import Block
from innerloop.report.sections import SECTIONS, comparison
from synthetic_runs import (
    CONVERGED,
    DIVERGED,
    HEALTHY,
    IMAGES,
    MEMORISED,
    STALLED,
    STREAM,
    Kind,
    planted,
    write_run,
)
from synthetic_searches import write_search

KINDS = {
    "healthy": HEALTHY,
    "converged": CONVERGED,
    "stalled": STALLED,
    "diverged": DIVERGED,
    "memorised": MEMORISED,
    "images": IMAGES,
}
#: What is drawn of streams, or where it was asked for.
STREAMS = {"families over training", "families after each stage", "metrics of forgetting"}
ASKED = {"families of tasks", "perturbations", "findings of perturbations", *STREAMS}
VOID = {"meta", "link", "img", "br", "path"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page without the drawing library, which is most of its size and none of its words."""
    monkeypatch.setattr(page, "_plotly", lambda: "")


class Reader(html.parser.HTMLParser):
    """Reads a page strictly: what is open, which headings there are, what is said, and where links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"] or ""] if "href" in found else []
        self.sources += [found["src"] or ""] if "src" in found else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)


def reading(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def said(text: str) -> str:
    return " ".join(" ".join(reading(text).text).split())


def charts(text: str) -> list[dict[str, Any]]:
    return [json.loads(t) for t in re.findall(r'id="data-chart-\d+">(.*?)</script>', text)]


def drawn(*runs: RunRecords) -> dict[str, list[Block]]:
    return {section.id: section.draw(runs) for section in SECTIONS}


def missing(*runs: RunRecords) -> dict[str, str]:
    """What is not drawn, by name: the reason."""
    blocks = [block for found in drawn(*runs).values() for block in found]
    return {name: reason for b in blocks for reason, names in b.missing.items() for name in names}


def titles(*runs: RunRecords) -> list[str]:
    blocks = [block for found in drawn(*runs).values() for block in found]
    return [part.title for block in blocks for part in block.parts if isinstance(part, Chart)]


@pytest.mark.parametrize("name", KINDS)
def test_everything_that_was_recorded_is_drawn(name: str, tmp_path: Path) -> None:
    run = read(write_run(tmp_path, KINDS[name]))
    assert run.notes == ()
    assert set(missing(run)) == {"comparison", *ASKED}
    assert len(titles(run)) >= 20


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", KINDS)
def test_a_page_is_whole_and_in_order(name: str, tmp_path: Path) -> None:
    run = read(write_run(tmp_path, KINDS[name]))
    text = page.render([run])
    found = reading(text)
    assert len(set(found.ids)) == len(found.ids)
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))
    assert {link.removeprefix("#") for link in found.links if link.startswith("#")} <= set(found.ids)
    assert all(link.startswith(("#", "data:")) for link in found.links + found.sources)
    assert len(charts(text)) == text.count('role="img"')
    assert '<html lang="en">' in text
    assert "width=device-width" in text


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", KINDS)
def test_the_verdict_and_the_worst_findings_come_first(name: str, tmp_path: Path) -> None:
    run = read(write_run(tmp_path, KINDS[name]))
    text = page.render([run])
    verdict = run.diagnosis.verdict
    before, _, after = said(text).partition("Has it levelled off")
    assert verdict.state.name in before
    assert verdict.state.value in before
    assert all(finding.id in before and finding.title[1:] in before for finding in run.diagnosis.findings)
    assert all(finding.advice in before for finding in run.diagnosis.findings)
    assert all(answer.id in after for answer in (*run.diagnosis.passed, *run.diagnosis.silent))
    shown = text.partition('id="findings"')[2].partition("<details>")[0]
    assert shown.count('class="finding') == min(3, len(run.diagnosis.findings))


@pytest.mark.usefixtures("small")
def test_a_page_says_what_was_run_and_when(tmp_path: Path) -> None:
    folder = write_run(tmp_path, HEALTHY)
    os.utime(folder / "config.yaml", (1.6e9, 1.6e9))
    words = said(page.render([read(folder)]))
    assert "MAML on Sinusoid, 10-shot" in words
    assert "begun 2020-09-1" in words
    assert "innerloop 0.1.0, python 3.11.7, torch 2.13.0, x86_64" in words
    told = json.loads((folder / "environment.json").read_text("utf-8")) | {"started": "2026-01-02 03:04"}
    (folder / "environment.json").write_text(json.dumps(told), "utf-8")
    assert "begun 2026-01-02 03:04" in said(page.render([read(folder)]))


@pytest.mark.usefixtures("small")
def test_a_remedy_is_a_command_that_can_be_pasted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "it's a run", STALLED)
    run = read(folder)
    mended = next(f for f in run.diagnosis.findings if f.options)
    words = said(page.render([run]))
    quoted = str(folder).replace("'", "'\"'\"'")
    assert f"innerloop train --config '{quoted}/config.yaml' {mended.options} --out '{quoted}-again'" in words


@pytest.mark.usefixtures("small")
def test_an_old_run_without_a_probe_still_gives_a_page(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, HEALTHY, probe=False))
    assert titles(run) == [
        "Validation MSE over training",
        "Training loss",
        "Share of outer steps whose meta-gradient was clipped",
    ]
    reasons = missing(run)
    assert reasons["probe loss"] == "no probe records"
    assert len(reasons) > 12
    assert "no probe records" in said(page.render([run]))


def test_an_evaluation_fills_in_for_a_run_without_a_probe(tmp_path: Path) -> None:
    folder = write_run(tmp_path, HEALTHY, probe=False)
    (folder / "evaluation-test-s0.json").write_text(json.dumps(EVALUATION), "utf-8")
    run = read(folder)
    assert "Test mse after each inner step, 3 tasks" in titles(run)
    html = "".join(str(p) for b in drawn(run)["tasks"] for p in b.parts)
    assert html.index("test task 2") < html.index("test task 1") < html.index("test task 0")
    beside = "".join(str(p) for b in drawn(run)["comparison"] for p in b.parts)
    assert "support mean" in beside
    assert "-4.00 ± 0.20" in beside


EVALUATION = {
    "metric": "mse",
    "mean": 1.0,
    "ci95": 0.1,
    "n": 3,
    "split": "test",
    "seed": 0,
    "adaptation": [{"inner_steps": k, "mean": 5.0 / (k + 1), "ci95": 0.1} for k in range(4)],
    "baselines": {"support_mean": {"mean": 5.0, "ci95": 0.2, "difference": -4.0, "difference_ci95": 0.2}},
    "records": [{"task": i, "scores": [5.0, s]} for i, s in enumerate([0.5, 1.5, None])],
}


# --- what is drawn is what was recorded ------------------------------------------------------------------


def trace(run: RunRecords, title: str, name: str) -> dict[str, Any]:
    blocks = [block for found in drawn(run).values() for block in found]
    for block in blocks:
        for part in block.parts:
            if isinstance(part, Chart) and part.title.startswith(title):
                found = {t.get("name"): t for t in json.loads(part.to_json())["data"]}
                return found[name]
    raise AssertionError(title)


def test_the_loss_curve_is_the_mean_over_tasks(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, HEALTHY))
    post = run.history.series("post", split="val")
    found = trace(run, "Loss on the probe tasks", "after adaptation, 95 % interval")
    assert found["x"] == post.steps
    assert np.allclose(found["y"], post.means, rtol=1e-4)


def test_support_dependence_is_what_was_planted(tmp_path: Path) -> None:
    for planted_at in (0.85, 0.01):
        run = read(write_run(tmp_path / str(planted_at), planted(HEALTHY, dependence=planted_at)))
        found = trace(run, "Support dependence", "validation tasks")
        assert found["y"][-1] == pytest.approx(planted_at, abs=0.02)


def test_a_gap_between_splits_is_what_was_planted(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, planted(HEALTHY, gap=3.0), tasks=400))
    found = trace(run, "Validation loss over training loss", "validation / training, 95 % interval")
    assert found["y"][-1] == pytest.approx(3.0, rel=0.15)


def test_the_safety_factor_is_the_edge_over_the_worst_curvature(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, planted(HEALTHY, curvature=(0.5, 1.6))))
    assert trace(run, "Safety factor", "safety factor")["y"][-1] == pytest.approx(2 / 1.6, rel=1e-3)


@pytest.mark.parametrize("kind", [HEALTHY, DIVERGED])
def test_the_worst_tasks_come_first_and_what_is_not_finite_before_them(kind: Kind, tmp_path: Path) -> None:
    run = read(write_run(tmp_path, kind))
    made = "".join(str(p) for p in drawn(run)["tasks"][0].parts if not isinstance(p, Chart))
    named = [int(number) for number in re.findall(r"val task (\d+)</th>", made)]
    post = run.history.series("post", split="val").last
    ratios = post / run.history.series("trivial", split="val").last[: len(post)]
    worst = np.nan_to_num(ratios, nan=np.inf)
    assert len(named) == 10
    assert sorted(worst[named], reverse=True) == list(worst[named])
    assert worst[named].min() >= np.sort(worst)[-10]


def test_families_that_pull_apart_are_drawn_as_planted(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, planted(HEALTHY, conflict=-0.5)))
    assert set(missing(run)) == {"comparison", *ASKED} - {"families of tasks"}
    assert trace(run, "Cosine of the meta-gradients", "sine, line")["y"] == pytest.approx([-0.5] * 7)


@pytest.mark.parametrize("leak", ["", "state_leak", "query_leak"])
def test_a_check_that_does_not_hold_says_so(leak: str, tmp_path: Path) -> None:
    run = read(write_run(tmp_path, planted(HEALTHY, leak=leak)))
    words = said("".join(str(p) for b in drawn(run)["leaks"] for p in b.parts if not isinstance(p, Chart)))
    assert words.count("Does not hold") == bool(leak)
    assert words.count("Holds") == 4 - bool(leak)
    assert [finding.plot for finding in run.diagnosis.findings] == ["leaks"] * bool(leak)


def test_quotients_are_drawn_by_distance(tmp_path: Path) -> None:
    found = trace(read(write_run(tmp_path)), "Meta-gradient against difference quotients", "direction 2")
    assert found["x"] == [1e-4, 1e-5, 1e-6, 1e-8]
    assert found["y"] == pytest.approx([2e-5, 2e-6, 2e-7, 2e-9])


def test_a_stream_is_drawn_as_planted_and_its_forgetting_is_a_finding(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, STREAM))
    assert set(missing(run)) == {"comparison", *ASKED} - STREAMS
    line = trace(run, "Every family, from the first stage", "sine")
    assert line["x"][-1] == 2400
    assert line["y"][-1] == pytest.approx(0.3, abs=0.05)
    lost = next(f for f in run.diagnosis.findings if f.id == "FORGETTING")
    assert lost.value == pytest.approx((0.6 + 0.3) / 2, abs=1e-6)
    assert lost.plot == "stability"
    words = said(
        "".join(str(p) for b in drawn(run)["stability"] for p in b.parts if not isinstance(p, Chart))
    )
    assert "forgetting, best score less the last (Chaudhry et al.) 0.45" in words
    assert "undefined because no reference" in words


def test_what_perturbations_cost_is_drawn_the_worst_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path, HEALTHY)
    effects = [
        {"name": name, "size": "x 2", "lost": lost, "lost_ci95": 0.1, "score": 1.0, "harm": lost, "n": 20}
        for name, lost in (("inner rate", 0.05), ("labels </script>", 0.7), ("shots", None), ("far off", 1e9))
    ]
    finding = {
        "id": "BRITTLE",
        "severity": "warn",
        "title": "it breaks",
        "advice": "lower it",
        "options": "--x 1",
    }
    told = {"effects": effects, "findings": [finding]}
    (folder / "stability.json").write_text(json.dumps(told), "utf-8")
    run = read(folder)
    chart = next(
        p for b in drawn(run)["stability"] for p in b.parts if isinstance(p, Chart) and "cost" in p.title
    )
    assert [label.partition(":")[0] for label in chart.traces[0]["y"]] == [
        "far off",
        "labels &lt;/script&gt;",
        "inner rate",
    ]
    assert chart.traces[0]["x"] == [2.0, 0.7, 0.05]
    assert chart.traces[0]["marker"]["pattern"]["shape"] == ["/", "/", ""]
    words = said(
        "".join(str(p) for b in drawn(run)["stability"] for p in b.parts if not isinstance(p, Chart))
    )
    assert "BRITTLE: it breaks lower it --x 1" in words


def test_every_rule_points_to_a_section_that_there_is() -> None:
    assert {rule.plot for rule in RULES} <= {section.id for section in SECTIONS}


def test_longer_inner_steps_begin_at_what_was_trained(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, HEALTHY))
    last = run.history.looks[-1]
    found = trace(run, "Support loss with longer inner steps", f"outer step {last}")
    assert found["x"] == [1.0, 1.3, 2.0, 3.0]
    trained = run.history.series("support", split="val", inner_step=5).last[:3].mean()
    assert found["y"][0] == pytest.approx(trained, rel=1e-4)


def test_the_trained_number_of_steps_is_marked_and_passed(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, HEALTHY))
    chart = next(p for b in drawn(run)["inner-loop"] for p in b.parts if isinstance(p, Chart))
    assert chart.layout["shapes"][0]["x0"] == 5
    last = f"outer step {run.history.looks[-1]}"
    assert trace(run, "Query loss", last)["x"][-1] == 25
    assert len([t for t in chart.traces if t.get("name")]) == 4


def test_a_task_that_left_the_numbers_counts_as_capped_in_the_curve(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, DIVERGED))
    found = trace(run, "Loss on the probe tasks", "after adaptation, 95 % interval")
    trivial = run.history.series("trivial", split="val").last.mean()
    assert 3 * trivial < found["y"][-1] < 10 * trivial


def test_what_is_measured_on_fewer_tasks_is_compared_with_the_first_of_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path, HEALTHY)
    rows = [json.loads(line) for line in (folder / "probe.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        if row["step"] > 0 and row["name"] in ("post", "score", "pre") and row["split"] == "val":
            row["values"] = row["values"][:25]
    (folder / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run = read(folder)
    assert set(missing(run)) == {"comparison", *ASKED}
    first = run.history.series("post", split="val").values[0][:25]
    found = trace(run, "Loss on the probe tasks", "after adaptation, 95 % interval")
    assert found["y"][0] == pytest.approx(first.mean(), rel=1e-4)


def test_thresholds_on_charts_are_those_of_the_rules(tmp_path: Path) -> None:
    run = read(write_run(tmp_path, HEALTHY))
    limit = run.threshold("META_OVERFIT")
    assert limit is not None
    chart = next(
        p for p in drawn(run)["memorisation"][0].parts if isinstance(p, Chart) and "over training" in p.title
    )
    assert limit in [shape["y0"] for shape in chart.layout["shapes"]]


# --- several runs ----------------------------------------------------------------------------------------


def test_identical_tasks_are_compared_pair_by_pair(tmp_path: Path) -> None:
    one, other = (read(write_run(tmp_path / str(end), planted(HEALTHY, end=end))) for end in (0.5, 0.4))
    assert comparison.why_not_paired(one, other) == ""
    apart = other.history.series("post", split="val").last - one.history.series("post", split="val").last
    words = said(
        "".join(str(p) for p in drawn(one, other)["comparison"][0].parts if not isinstance(p, Chart))
    )
    assert f"{apart.mean():+.3g} ±" in words
    assert "better" in words


def test_seeds_are_judged_on_the_same_tasks_and_together(tmp_path: Path) -> None:
    runs = [read(write_run(tmp_path / str(seed), CONVERGED, seed=seed)) for seed in range(3)]
    assert comparison.why_not_paired(runs[0], runs[1]) == ""
    assert "All 3 seeds together" in head.together(runs)
    assert head.together(runs[:1]) == ""
    other = read(write_run(tmp_path / "other", STALLED, seed=3))
    assert "SEED_DISAGREEMENT" in head.together([*runs, other])


@pytest.mark.parametrize(
    ("kind", "more", "reason"),
    [
        (HEALTHY, {"probe_seed": 1}, "probe tasks of seed 1 instead of 0"),
        (HEALTHY, {"tasks": 40}, "40 probe tasks instead of 60"),
        (IMAGES, {}, "other tasks"),
        (HEALTHY, {"probe": False}, "no probe records"),
    ],
)
def test_other_tasks_are_not_compared_and_it_says_why(
    kind: Kind, more: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    one, other = read(write_run(tmp_path / "a")), read(write_run(tmp_path / "b", kind, **more))
    assert reason in comparison.why_not_paired(one, other)
    words = said(
        "".join(str(p) for p in drawn(one, other)["comparison"][0].parts if not isinstance(p, Chart))
    )
    assert reason in words
    assert "paired difference, 95 %" not in words


def test_examples_that_differ_under_the_same_name_are_seen(tmp_path: Path) -> None:
    one, folder = read(write_run(tmp_path / "a")), write_run(tmp_path / "b")
    text = (folder / "probe.jsonl").read_text("utf-8").splitlines()
    place = next(i for i, line in enumerate(text) if '"trivial"' in line and '"val"' in line)
    row = json.loads(text[place])
    text[place] = json.dumps(row | {"values": [1.01 * v for v in row["values"]]})
    (folder / "probe.jsonl").write_text("\n".join(text) + "\n", "utf-8")
    assert "examples differ" in comparison.why_not_paired(one, read(folder))


@pytest.mark.usefixtures("small")
def test_several_runs_make_one_page_with_all_of_them(tmp_path: Path) -> None:
    runs = [read(write_run(tmp_path / name, kind)) for name, kind in KINDS.items()]
    found = reading(page.render(runs))
    words = " ".join(found.text)
    assert all(words.count(run.name) > 6 for run in runs)
    assert len(set(found.ids)) == len(found.ids)
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))


# --- what comes from files -------------------------------------------------------------------------------

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.mark.usefixtures("small")
def test_text_from_files_stays_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path, IMAGES)
    config = json.loads((folder / "config.yaml").read_text("utf-8"))
    config["algorithm"]["name"] = config["tasks"]["name"] = HOSTILE
    (folder / "config.yaml").write_text(json.dumps(config), "utf-8")
    (folder / "environment.json").write_text(
        json.dumps({"innerloop": HOSTILE, "command": ["x", HOSTILE]}), "utf-8"
    )
    pictures = {"tasks": [{"split": HOSTILE, "support": [{"png": HOSTILE, "label": HOSTILE}], "query": 3}]}
    (folder / "worst-tasks.json").write_text(json.dumps(pictures), "utf-8")
    probe = (
        (folder / "probe.jsonl")
        .read_text("utf-8")
        .replace("params/layers.0.weight", HOSTILE.replace("/", "\\/"))
    )
    (folder / "probe.jsonl").write_text(probe, "utf-8")
    run = read(folder)
    clean = page.render([read(write_run(tmp_path / "clean", IMAGES))])
    text = page.render([run])
    found = reading(text)
    assert HOSTILE not in text
    assert text.count("<script") == clean.count("<script")
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert "alert(1)" in " ".join(found.text)
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;")[-20:] in json.dumps(charts(text))


DAMAGE = {
    "cut short": '{"step": 3, "na',
    "no record": '{"step": 1}\n',
    "no object": "[1, 2]\n",
    "text for numbers": '{"step": 1, "name": "post", "split": "val", "values": ["x"]}\n',
    "other sizes": '{"step": 9000, "name": "post", "split": "val", "values": [1.0, 2.0]}\n',
    "empty": '{"step": 9000, "name": "post", "split": "val", "values": []}\n',
    "no step": '{"name": "post", "split": "val", "values": [1.0]}\n',
    "setup of another kind": '{"step": 0, "name": "setup", "value": 3}\n',
    "all null": '{"step": 9000, "name": "curvature", "values": [null, null]}\n',
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("file", ["probe.jsonl", "metrics.jsonl"])
def test_damaged_records_make_a_page_that_says_so(name: str, file: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path, HEALTHY)
    with (folder / file).open("a", encoding="utf-8") as stream:
        stream.write(DAMAGE[name])
    assert reading(page.render([read(folder)])).headings


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name", ["spec.json", "environment.json", "engine.json", "worst-tasks.json", "probe.jsonl"]
)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[]", b"{", b"", None])
def test_files_that_are_missing_or_broken_are_told(name: str, content: bytes | None, tmp_path: Path) -> None:
    folder = write_run(tmp_path, IMAGES)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    run = read(folder)
    words = said(page.render([run]))
    if content is not None and name != "probe.jsonl":
        assert name in words
    if content == b"\xff\xfe\x00":
        assert run.notes
        assert "damaged" in words or "cannot be read" in words


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"config\.yaml"):
        read(tmp_path)


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html"):
        page.save("text", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(DataError):
        page.save("text", tmp_path / "nowhere" / "report.html")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match=r"innerloop\[report\]"):
        page._plotly()


def test_a_report_needs_neither_torch_nor_matplotlib(tmp_path: Path) -> None:
    folders = [str(write_run(tmp_path / "run", HEALTHY)), str(write_search(tmp_path / "search"))]
    program = "import sys\nfrom innerloop.report import page\n"
    program += f"page.write({folders!r}, {str(tmp_path / 'r.html')!r})\n"
    program += "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "r.html").stat().st_size > 1_000_000
