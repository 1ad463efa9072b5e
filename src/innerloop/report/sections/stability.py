"""What learning new families, or adapting to new tasks, has cost the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from innerloop.diagnose.estimate import Estimate
from innerloop.diagnose.finding import NotEvaluated, Severity
from innerloop.diagnose.forgetting import Matrix, summary
from innerloop.diagnose.streams import matrix_of, rows_of_tasks, timeline_of
from innerloop.report import chart
from innerloop.report.chart import FAINT, SERIES, WRONG, Chart
from innerloop.report.curves import Curve, half_width
from innerloop.report.markup import TONES, Raw, badge, number, table, with_interval
from innerloop.report.records import RunRecords
from innerloop.report.section import Section, of_each_run

_MOST_LOST = 2.0  # of the gain, that a bar is drawn for: what is beyond is lost twice over
#: Metrics as a reader finds them, by name in `diagnose.forgetting.summary`.
_WORDS = {
    "average_accuracy": "average score at the end",
    "average_incremental_accuracy": "average score over the families seen, over stages",
    "learning_accuracy": "score of each family right after its own stage",
    "backward_transfer": "backward transfer: last score less that after its own stage",
    "forward_transfer": "forward transfer: score before its own stage less that before training",
    "forgetting_max_last": "forgetting, best score less the last (Chaudhry et al.)",
    "forgetting_first_last": "forgetting, score after its own stage less the last (Avalanche)",
    "intransigence": "intransigence: joint training less this one",
    "anytime_average_accuracy": "anytime average score",
    "minimum_accuracy": "least score of old families, ever",
    "worst_case_accuracy": "worst-case score (De Lange et al.)",
    "windowed_forgetting": "largest fall within a window",
    "windowed_plasticity": "largest rise within a window",
    "stability_gap": "stability gap: the dip within a later stage",
    "recovery_steps": "outer steps until 95 % is regained",
}


def families(run: RunRecords) -> Chart:
    """How each family is done, from the first stage to the last."""
    timeline = timeline_of(run.history)
    traces, columns = [], []
    for j, name in enumerate(timeline.names):
        style, values = SERIES[j % len(SERIES)], [timeline.scores[i, j] for i in range(len(timeline.steps))]
        steps = list(timeline.steps)
        curve = Curve(steps, timeline.scores[:, j].mean(1), np.array([half_width(v) for v in values]))
        traces += chart.band(steps, curve.low, curve.high, style)
        traces.append(chart.line(name, steps, curve.mean, style))
        columns.append(
            [with_interval(m, h) for m, h in zip(curve.mean.tolist(), curve.half.tolist(), strict=True)]
        )
    stages = run.history.setup.get("stages", [])
    marks = [chart.upright(stage["start"], stage["family"]) for stage in stages]
    return Chart(
        "Every family, from the first stage to the last",
        "The line of a family should rise in its own stage, and stay. A line that falls in the stages of "
        "others is forgetting; one that falls right after a switch and comes back is the stability gap.",
        traces,
        chart.axes("outer step", _unit(run), *marks, zero=False),
        ("outer step", *timeline.names),
        list(zip(timeline.steps, *columns, strict=True)),
        wide=True,
        height=380,
    )


def after_stages(run: RunRecords) -> Chart:
    """Scores of all families after each stage."""
    matrix = matrix_of(run.history)
    rows = ["before training", *(f"after stage {i}" for i in range(1, matrix.last + 1))]
    return _grid(
        "Adapting afresh, after each stage (meta-forgetting)",
        "Each row is one moment of training, each column a family. Read a column downwards: it should not "
        "lose what its own stage brought.",
        matrix,
        rows,
        _unit(run),
    )


def tasks_in_a_row(run: RunRecords) -> Chart:
    """Scores of all tasks after adapting to one after another, without going back."""
    matrix = rows_of_tasks(run.history)
    rows = ["before any", *(f"after {name}" for name in matrix.names)]
    return _grid(
        "Adapting on, task after task (adaptation-forgetting)",
        "Here the adapted model itself goes on to the next task. On the diagonal is the task just learned; "
        "below it is what is left of it. Where labels mean something else in each task, nothing can be left.",
        matrix,
        rows,
        _unit(run),
    )


def metrics(run: RunRecords) -> Raw:
    """Every metric of forgetting, with its interval or why it has none."""
    matrix = matrix_of(run.history)
    try:
        timeline = timeline_of(run.history)
    except NotEvaluated:
        timeline = None
    rows: list[list[Any]] = []
    for name, measure in summary(matrix, timeline).items():
        if isinstance(measure, Estimate):
            told = f"{number(measure.value)} ({number(measure.low)} to {number(measure.high)})"
        else:
            told = f"undefined because {measure.reason}"
        rows.append([_WORDS.get(name, name), told])
    return Raw(table(("metric", "value, 95 % over tasks"), rows, caption="What was kept, in numbers"))


def perturbations(run: RunRecords) -> Chart:
    """What each perturbation costs, the worst first."""
    effects = run.stability.get("effects")
    if not effects:
        raise NotEvaluated("it is measured by 'innerloop stability RUN'")
    known = [e for e in effects if e.get("lost") is not None]
    known.sort(key=lambda effect: -effect["lost"])
    labels = [f"{effect['name']}: {effect['size']}" for effect in known]
    errors = [effect.get("lost_ci95") or 0.0 for effect in known]
    harmful = [effect["lost"] > error for effect, error in zip(known, errors, strict=True)]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [chart.text(label) for label in labels],
        "x": [min(effect["lost"], _MOST_LOST) for effect in known],
        "error_x": {"type": "data", "array": errors, "thickness": 1, "color": chart.colour("ink-soft")},
        "marker": {
            "color": [chart.colour(WRONG if bad else FAINT) for bad in harmful],
            "pattern": {"shape": ["/" if bad else "" for bad in harmful]},
        },
        "hovertemplate": "%{y}<br>%{x:.0%} of the gain<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "lost share of the gain over a constant guess"}, "tickformat": ".0%"},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
    }
    rows = [
        (label, _percent(e, "lost"), number(e.get("score")), number(e.get("harm")), e.get("n"))
        for label, e in zip(labels, known, strict=True)
    ]
    return Chart(
        "What perturbations cost",
        "The longest bar is what the model bears least. Hatched bars are harm beyond doubt; at 100 % it is "
        "no better than a constant guess. Lines are 95 % intervals over the same tasks.",
        [trace],
        layout,
        ("perturbation", "lost share of the gain", "score", "worse by", "tasks"),
        rows,
        wide=True,
        height=60 + 24 * len(known),
    )


def unborne(run: RunRecords) -> Raw:
    """What was found of perturbations, with what to do."""
    if not run.stability:
        raise NotEvaluated("it is measured by 'innerloop stability RUN'")
    rows: list[list[Any]] = []
    for finding in run.stability.get("findings", []):
        tone, shape, word = TONES[Severity(finding["severity"])]
        said = Raw(badge(tone, shape, word))
        rows.append([said, f"{finding['id']}: {finding['title']}", finding["advice"], finding["options"]])
    if not rows:
        rows.append([Raw(badge("good", "good", "Passed")), "nothing that was asked costs too much", "", ""])
    return Raw(table(("", "what was found", "what to do", "settings"), rows, caption="What it does not bear"))


def _percent(effect: dict[str, Any], name: str) -> str:
    error = effect.get(f"{name}_ci95")
    return f"{effect[name]:.0%}" + (f" ± {error:.0%}" if error is not None else "")


def _grid(title: str, look_for: str, matrix: Matrix, rows: Sequence[str], unit: str) -> Chart:
    means = matrix.scores.mean(2)
    trace = {
        "type": "heatmap",
        "x": [chart.text(name) for name in matrix.names],
        "y": [chart.text(row) for row in rows],
        "z": means,
        "colorscale": "Cividis",
        "texttemplate": "%{z:.2f}",
        "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 12},
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.3f}<extra></extra>",
    }
    layout = {
        "xaxis": {"type": "category", "side": "bottom"},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
    }
    told = [(row, *(number(value) for value in line)) for row, line in zip(rows, means.tolist(), strict=True)]
    return Chart(title, look_for, [trace], layout, ("", *matrix.names), told)


def _unit(run: RunRecords) -> str:
    return "accuracy" if run.accuracy else "1 − loss / trivial loss"


SECTION = Section(
    "stability",
    "Stability",
    "What has learning cost what was known before?",
    of_each_run(
        ("families over training", families),
        ("families after each stage", after_stages),
        ("tasks in a row", tasks_in_a_row),
        ("metrics of forgetting", metrics),
        ("perturbations", perturbations),
        ("findings of perturbations", unborne),
    ),
)
