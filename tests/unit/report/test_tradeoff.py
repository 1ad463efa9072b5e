"""The price of stability: as a section, as a page of its own and as a picture, from `front.json` alone."""

from __future__ import annotations

import copy
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from innerloop.core.errors import ContractError, DataError
from innerloop.report import page
from innerloop.report.chart import Chart
from innerloop.report.folders import SearchRecords, gather
from innerloop.report.records import read
from innerloop.report.sections import tradeoff
from innerloop.report.tradeoff import write
from innerloop.report.tradeoff_words import interval, notes, reading, rest, shown, summary
from synthetic_runs import HEALTHY, write_run
from synthetic_searches import front, write_search


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page without the drawing library, which is most of its size and none of its words."""
    monkeypatch.setattr(page, "_plotly", lambda: "")


# --- words -----------------------------------------------------------------------------------------------


def test_the_summary_names_the_knee_and_what_it_keeps():
    assert summary(front()) == (
        "3 trials; what is shown is of 3 seeds, not confirmed on others. The knee of the front is trial 3, "
        "with 75.0 % of naive forgetting avoided and 96.0 % of the gain of joint training on new families."
    )
    assert "is of 2 fresh seeds." in summary(front(fresh_seeds=[3, 4]))
    assert summary(front(trials=1, fresh_seeds=[3])).startswith("1 trial; what is shown is of 1 fresh seed.")


def test_a_share_that_is_undefined_says_why_and_scores_take_its_place():
    found = front(lost=0.0)
    assert "As a share it is undefined because what naive training forgets" in " ".join(reading(found))
    assert "in units of the score" in summary(found) or "no knee" in summary(found)


def test_points_that_the_front_beats_are_shown_only_if_they_were_run_again():
    assert [point["name"] for point in shown(front())] == ["naive", "3", "joint", "frozen"]
    assert "4" in [point["name"] for point in shown(front(fresh_seeds=[3, 4, 5]))]


def test_what_is_not_on_the_front_is_said_with_its_reason():
    failed = [{"trial": 6, "settings": {"retain.ewc": 1e5}, "reason": "step 3 is not finite"}]
    lines = rest(front(failed=failed, running_elsewhere=2))
    assert lines == [
        "unfit: trial 5, errors of the doctor's: INNER_DIVERGENCE",
        "failed: trial 6 (--retain.ewc 100000.0): step 3 is not finite",
        "trials that go on in other processes: 2; run the command again",
    ]


def test_an_unfit_point_is_not_said_to_be_beaten():
    told = {point["name"]: notes(point) for point in front()["reported"]["points"]}
    assert told == {
        "4": "beaten for sure",
        "naive": "possibly",
        "3": "knee, for sure",
        "joint": "a reference: it sees all families at once",
        "frozen": "for sure",
        "5": "unfit, so that it is not compared",
    }


def test_a_single_seed_has_no_interval():
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.50"
    assert interval({"value": 0.5, "low": 0.4, "high": 0.6}) == "0.50 [0.40, 0.60]"


# --- the chart -------------------------------------------------------------------------------------------


def drawn(told: dict[str, Any], name: str = "runs/search") -> tuple[Chart, str]:
    """The chart of the section, and all else that stands in it."""
    (block,) = tradeoff.draw([SearchRecords(name, told)])
    (found,) = (part for part in block.parts if isinstance(part, Chart))
    return found, "".join(str(part) for part in block.parts if not isinstance(part, Chart))


def misplaced(told: dict[str, Any]) -> list[str]:
    """The points whose mark or name is not where `front.json` has them."""
    chart = drawn(told)[0]
    marks = {
        (x, y) for t in chart.traces if t["mode"] == "markers" for x, y in zip(t["x"], t["y"], strict=True)
    }
    names = {(n["x"], n["y"]): n["text"] for n in chart.layout["annotations"]}
    wrong = []
    for point in told["reported"]["points"]:
        place = point["stability"]["value"], point["plasticity"]["value"]
        named = point not in shown(told) or names.get(place, "").startswith(point["name"])
        wrong += [] if place in marks and named else [point["name"]]
    return wrong


@pytest.mark.parametrize("fresh", [None, [3, 4, 5]])
def test_every_point_is_drawn_and_named_where_it_is(fresh: list[int] | None):
    assert misplaced(front(fresh_seeds=fresh)) == []


def test_a_planted_swap_of_the_axes_is_seen(monkeypatch: pytest.MonkeyPatch):
    right = tradeoff.places
    monkeypatch.setattr(tradeoff, "places", lambda points: right(points)[::-1])
    assert misplaced(front()) == ["4", "3", "joint", "5"]  # naive and frozen only change places


def test_prices_stand_half_way_where_there_is_room_for_them():
    told = front()
    line = [point for point in told["reported"]["points"] if point["on_front"]]
    assert [point["name"] for point in line] == ["naive", "3", "frozen"]
    prices = tradeoff.prices(told)
    assert len(prices) == 2
    assert prices[1][0] == pytest.approx((line[1]["stability"]["value"] + line[2]["stability"]["value"]) / 2)
    close = copy.deepcopy(line[1])
    close["stability"]["value"] += 0.01
    told["reported"]["points"].insert(told["reported"]["points"].index(line[1]), close)
    assert len(tradeoff.prices(told)) == 2


# --- pages -----------------------------------------------------------------------------------------------


def section(text: str) -> str:
    return text.partition('<section id="tradeoff"')[2].partition("</section>")[0]


@pytest.mark.usefixtures("small")
def test_a_search_alone_has_a_page_of_its_own(tmp_path: Path):
    (search,) = gather([write_search(tmp_path / "a search")])[1]
    text = page.render([], [search])
    assert "<h1>MAML on SinusoidFamilies</h1>" in text
    assert text.count("<section") == 1
    assert summary(search.told) in html.unescape(section(text))
    assert (
        f'innerloop train <span class="word">--config</span> &#x27;{search.name}/points/3.yaml&#x27;' in text
    )
    assert "points/4.yaml" not in text
    assert "0.75 [" in section(text)
    assert "3 (knee)" in text
    assert "<b>&" not in text


@pytest.mark.usefixtures("small")
def test_beside_a_run_it_is_a_section_with_the_same_words_and_chart(tmp_path: Path):
    folders = [write_search(tmp_path / "search"), write_run(tmp_path / "run", HEALTHY)]
    runs, searches = gather(folders)
    both, alone, without = page.render(runs, searches), page.render([], searches), page.render(runs)
    charts = [re.findall(r'id="data-chart-\d+">(.*?)</script>', text) for text in (both, alone, without)]
    assert charts[0] == charts[2] + charts[1]
    assert re.sub(r"chart-\d+", "", section(both)) == re.sub(r"chart-\d+", "", section(alone))
    assert '<a href="#tradeoff">The price of stability</a>' in both
    assert section(without) == ""
    assert "#tradeoff" not in without
    title = "<h1>MAML on Sinusoid, 10-shot</h1>"
    assert title in both
    assert title in without


@pytest.mark.usefixtures("small")
def test_several_searches_are_named_and_keep_apart(tmp_path: Path):
    folders = [write_search(tmp_path / "a"), write_search(tmp_path / "b", front(tasks="GlyphScripts"))]
    text = page.render(*gather(folders))
    assert "<h1>2 searches: MAML on SinusoidFamilies; MAML on GlyphScripts</h1>" in text
    assert re.findall(r'<h3 class="run">(.*?)</h3>', text) == [str(folder) for folder in folders]
    ids = re.findall(r'\bid="(.*?)"', text)
    assert len(set(ids)) == len(ids)


HOSTILE = "</script><img src=x onerror=alert(2)>"


@pytest.mark.usefixtures("small")
def test_text_from_a_search_stays_text():
    told = front(fresh_seeds=[3, 4, 5], algorithm=HOSTILE, tasks=HOSTILE)
    told["failed"] = [{"trial": HOSTILE, "settings": {HOSTILE: HOSTILE}, "reason": HOSTILE}]
    for point in told["reported"]["points"]:
        if "trial" in point:
            point |= {"name": HOSTILE, "settings": {HOSTILE: HOSTILE}, "errors": [HOSTILE]}
    text = page.render([], [SearchRecords(HOSTILE, told)])
    assert HOSTILE not in text
    assert "<img" not in text
    assert text.count("<script") == page.render([], [SearchRecords("x", front())]).count("<script")
    chart, _ = drawn(told)
    assert "<" not in "".join(note["text"] for note in chart.layout["annotations"])


def test_the_picture_is_drawn_without_plotly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from innerloop.core.errors import ConfigError

    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match="plotly"):
        write(front(), tmp_path)
    assert (tmp_path / "tradeoff.png").stat().st_size > 10_000


# --- what comes from files -------------------------------------------------------------------------------


def test_folders_may_come_in_any_order(tmp_path: Path):
    run, search = write_run(tmp_path / "run"), write_search(tmp_path / "search")
    for paths in ([run, search], [search, run]):
        runs, searches = gather(paths)
        assert [found.name for found in (*runs, *searches)] == [str(run), str(search)]
    assert runs[0].diagnosis.verdict == read(run).diagnosis.verdict


def test_a_folder_that_is_neither_names_both(tmp_path: Path):
    with pytest.raises(ContractError) as raised:
        gather([write_search(tmp_path / "search"), tmp_path])
    for name in (str(tmp_path), "config.yaml", "front.json"):
        assert name in raised.value.got
    for command in ("innerloop train", "innerloop tradeoff"):
        assert command in raised.value.expected


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe\x00", b'{"trials": NaN}', b"[" * 10**5]
)
def test_a_front_that_is_no_json_object_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "front.json").write_bytes(content)
    with pytest.raises(DataError, match=r"front\.json"):
        gather([tmp_path])


def damaged(value: Any) -> Iterator[Any]:
    """A JSON value in which one entry is gone, empty or of another kind; each entry in turn."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, part in list(entries):
        for other in (None, "x", [], {}):
            changed = copy.copy(value)
            changed[key] = other
            yield changed
        if isinstance(value, dict):
            yield {name: kept for name, kept in value.items() if name != key}
        for inner in damaged(part):
            changed = copy.copy(value)
            changed[key] = inner
            yield changed


def refusals() -> int:
    """How many damaged fronts are refused; whatever is raised but a `DataError` passes through."""
    whole, refused = front(), 0
    for told in damaged(whole):
        try:
            drawn(told)[0].to_json()
        except DataError:
            refused += 1
    return refused


def test_a_front_with_any_entry_damaged_is_drawn_or_refused():
    assert refusals() > 50


def test_planted_damage_that_is_not_caught_is_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tradeoff, "DAMAGE", (KeyError, TypeError))
    with pytest.raises((AttributeError, ValueError, IndexError)):
        refusals()
