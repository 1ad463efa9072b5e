"""Charts as data: valid JSON whatever the numbers, axes that show what is there, curves in a terminal."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from innerloop.report import chart, markup, terminal
from innerloop.report.curves import checkpoints, running_ratio


def made(traces: list[chart.Trace], layout: dict | None = None) -> chart.Chart:
    return chart.Chart("t", "l", traces, layout or chart.axes("x", "y"))


def test_numbers_that_json_has_not_become_null() -> None:
    values = [1.0, math.nan, math.inf, -math.inf]
    found = json.loads(made([chart.line("a", np.arange(4), np.array(values))]).to_json())
    assert found["data"][0]["y"] == [1.0, None, None, None]
    assert found["data"][0]["x"] == [0, 1, 2, 3]


def test_nothing_in_a_chart_ends_its_script() -> None:
    hostile = {"title": {"text": "</script><!--&"}}
    text = made([chart.line("</script><!--", [0], [1])], hostile).to_json()
    assert json.loads(text)["layout"]["title"] == hostile["title"]
    assert not set("<>&") & set(text)
    assert "/script" in json.loads(text)["data"][0]["name"]


def test_few_values_far_off_do_not_flatten_the_others() -> None:
    layout, traces = chart.axes("x", "y"), [chart.line("a", range(10), [*range(9), 1e60])]
    assert chart.cut(layout, traces) == 1
    assert layout["yaxis"]["range"][1] < 100
    assert max(v for v in traces[0]["y"] if v == v) <= 8
    for usual in ([*range(10)], [0.0] * 10, [math.nan] * 3):
        before = chart.axes("x", "y")
        assert chart.cut(before, [chart.line("a", range(len(usual)), usual)]) == 0
        assert "range" not in before["yaxis"]


def test_a_level_on_a_logarithmic_axis_keeps_its_label() -> None:
    layout = chart.fitted_axes("x", "y", [[1.0, 100.0]], chart.level(100.0, "edge"))
    assert layout["yaxis"]["type"] == "log"
    assert layout["yaxis"]["ticktext"][:3] == ["1", "2", "5"]
    assert layout["annotations"][0]["y"] == pytest.approx(2.0)
    assert layout["shapes"][0]["y0"] == 100.0


def test_an_axis_begins_at_zero_where_values_come_near_it() -> None:
    assert chart.fitted_axes("x", "y", [[1.0, 5.0]])["yaxis"]["rangemode"] == "tozero"
    assert "rangemode" not in chart.fitted_axes("x", "y", [[4.0, 5.0]])["yaxis"]
    assert "type" not in chart.fitted_axes("x", "y", [[math.nan]])["yaxis"]


def test_an_axis_is_logarithmic_only_where_that_shows_more() -> None:
    assert chart.wants_log([[1.0, 100.0]])
    assert not chart.wants_log([[1.0, 5.0]])
    assert not chart.wants_log([[0.0, 100.0]])
    assert not chart.wants_log([])


def test_colours_of_a_heat_map_do_not_exaggerate() -> None:
    traces, _ = chart.heat_map([1, 2], ["a"], np.array([[1.0, 1.1]]), "u", x_title="x")
    assert traces[0]["zmax"] - traces[0]["zmin"] >= 3
    traces, _ = chart.heat_map([1, 2], ["a"], np.array([[0.0, math.nan]]), "u", x_title="x")
    assert np.isnan(traces[0]["z"]).all()


def test_a_long_table_keeps_its_ends() -> None:
    rows = [(i,) for i in range(1000)]
    kept, left_out = chart.thinned(rows)
    assert (kept[0], kept[-1], len(kept) + left_out) == ((0,), (999,), 1000)
    assert chart.thinned(rows[:10]) == (rows[:10], 0)


def test_labels_are_text() -> None:
    assert "&lt;b&gt;" in chart.line("<b>", [0], [1])["name"]
    assert "<i>" not in markup.table(("<i>",), [("<i>", markup.Raw("<b>x</b>"))])
    assert "<b>x</b>" in markup.table(("h",), [(markup.Raw("<b>x</b>"),)])


def test_checkpoints_are_four_or_as_many_as_there_are() -> None:
    assert checkpoints(range(0, 310, 10)) == [0, 100, 200, 300]
    assert checkpoints([5]) == [5]
    assert checkpoints([]) == []
    assert checkpoints([0, 9]) == [0, 9]


def test_a_running_ratio_is_one_of_means() -> None:
    found = running_ratio(np.array([1.0, 3.0]), np.array([1e-9, 2.0]), 5)
    assert found[-1] == pytest.approx(2.0, rel=1e-6)
    assert np.isnan(running_ratio(np.array([1.0]), np.array([0.0]))).all()


# --- in a terminal ---------------------------------------------------------------------------------------


def test_a_sparkline_follows_its_values() -> None:
    found = terminal.sparkline(np.arange(8.0))
    assert list(found) == sorted(found)
    assert len(set(found)) == 8
    assert len(terminal.sparkline(np.arange(1000.0), 40)) == 40
    assert terminal.sparkline([math.nan, math.nan]) == "××"
    assert terminal.sparkline([]) == ""


def test_a_spike_does_not_hide_the_rest_of_a_sparkline() -> None:
    assert len(set(terminal.sparkline([1.0, 2.0, 4.0, 1e9]))) >= 2
    assert terminal.sparkline([1.0, 10.0, 100.0]) == "▁▅█"


def test_a_braille_curve_falls_from_left_to_right() -> None:
    lines = terminal.braille(np.arange(50), np.linspace(3.0, 1.0, 50), width=20, height=4)
    assert len(lines) == 5
    body = [line[-20:] for line in lines[:4]]
    tops = [next(i for i, row in enumerate(body) if ord(row[k]) > 0x2800) for k in range(20)]
    assert tops == sorted(tops)
    assert (tops[0], tops[-1]) == (0, 3)
    assert lines[0].startswith("3 ")
    assert lines[3].startswith("1 ")
    assert lines[4].split() == ["0", "49"]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [math.nan, 1.0, math.inf], [0.0, 1e9, 1.0]])
def test_any_values_are_drawn_within_the_frame(values: list[float]) -> None:
    lines = terminal.braille(range(len(values)), values, width=10, height=3)
    assert len(lines) == 4
    assert len({len(line) for line in lines[:3]}) == 1


def test_without_finite_values_there_is_no_curve() -> None:
    assert terminal.braille([0, 1], [math.nan, math.inf]) == []
