"""Which tasks are learned and which are not, with what reproduces the worst of them."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.diagnose.finding import NotEvaluated
from innerloop.report import chart
from innerloop.report.chart import BEFORE, FAINT, OURS, TRIVIAL, WRONG, Chart
from innerloop.report.curves import scalars
from innerloop.report.markup import Raw, copyable, esc, folded, number, table
from innerloop.report.records import WORST_TASKS, RunRecords
from innerloop.report.section import Section, of_each_run

WORST = 10
_PNG = re.compile(r"[A-Za-z0-9+/=]{8,200000}")
_OPEN = 3  # tasks whose pictures are shown unfolded
_MOST_PICTURES = 40  # of the support or the query of one task

Values = NDArray[np.float64]


def distribution(run: RunRecords) -> Chart:
    """How many tasks are better than the trivial predictor, and by how much."""
    history = run.history
    traces, columns = [], {}
    wanted = (
        [("train", "training tasks, last look", BEFORE, -1)] if history.has("post", split="train") else []
    )
    wanted = [
        ("val", "validation tasks, first look", FAINT, 0),
        *wanted,
        ("val", "validation tasks, last look", OURS, -1),
    ]
    for split, label, style, index in wanted:
        ratios = np.sort(_ratios(run, split, index))
        share = (np.arange(len(ratios)) + 1) / len(ratios)
        made = chart.line(label, ratios, share, style, marked=False)
        made["line"]["shape"] = "hv"
        traces.append(made)
        columns[label] = ratios
    level = [0.1, 0.25, 0.5, 0.75, 0.9, 1.0]
    marks = chart.upright(1.0, "1: no better than trivial", top=False)
    layout = chart.axes("loss after adaptation / trivial loss", "share of tasks", marks, percent=True)
    finite = [r[np.isfinite(r)] for r in columns.values()]
    if chart.wants_log(finite, 8):
        ends = [float(edge) for r in finite for edge in (r[:1].sum(), r[-1:].sum())]
        ticks = chart.log_ticks(min(ends), max(ends))
        layout["xaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
        layout["annotations"][0]["x"] = 0.0
    layout["yaxis"] |= {"range": [0, 1.02]}
    lost = float((columns[wanted[-1][1]] >= 1).mean())
    return Chart(
        "How tasks fare against the trivial predictor",
        f"The curve should lie to the left of 1. Now {number(lost, percent=True)} of the validation tasks "
        "do no better than a predictor that ignores its inputs; a long tail to the right means that some "
        "tasks fail.",
        traces,
        layout,
        ("share of tasks", *columns),
        [
            (f"{q:.0%}", *(number(float(r[math.ceil(q * len(r)) - 1])) for r in columns.values()))
            for q in level
        ],
        wide=True,
    )


def worst(run: RunRecords) -> Raw:
    """The ten worst tasks, and how to see them again."""
    if not run.history.has("post", split="val"):
        return _worst_evaluated(run)
    history = run.history
    post, ratios = history.series("post", split="val").last, _ratios(run, "val", -1)
    first = history.series("pre", split="val").last if history.has("pre", split="val") else post * math.nan
    named = history.has("score", split="val") and not run.score_is_loss
    scores = history.series("score", split="val").last if named else None
    order = np.argsort(-np.where(np.isfinite(ratios), ratios, np.inf), kind="stable")[:WORST]
    seed = run.probe_seed
    rows = []
    for i in order.tolist():
        row = [f"val task {i}", str(seed), number(float(post[i])), number(float(ratios[i]))]
        row += [number(float(first[i]))]
        row += [] if scores is None else [number(float(scores[i]), percent=run.accuracy)]
        rows.append(row)
    head = ["task", "seed", "loss", "loss / trivial", "loss before adaptation"]
    head += [] if scores is None else [run.metric]
    made = table(
        head, rows, caption=f"The {len(rows)} worst validation tasks at outer step {history.looks[-1]}"
    )
    return Raw(made + _again(run, "val", seed, int(order[0])))


def pull(run: RunRecords) -> Chart:
    """The share of one task in a meta-gradient."""
    steps, values = scalars(run.history, "leverage")
    limit = run.threshold("OUTLIER_TASKS")
    marks = [chart.level(0.5, "0.5: one task leads", WRONG)] if limit is None else []
    return Chart(
        "Largest share of one task in the meta-gradient",
        "One task should not lead the others: far above 1 over the number of tasks, clip the meta-gradient "
        "or look at the tasks above.",
        [chart.line("leverage", steps, values)],
        chart.axes("outer step", "share", *marks),
        ("outer step", "largest share"),
        [(s, number(v)) for s, v in zip(steps, values.tolist(), strict=True)],
    )


def gradients(run: RunRecords) -> Chart:
    """Norms of the meta-gradients of single tasks: the largest against the usual."""
    found = run.history.series("gradient")
    spread = [float(v.max() / np.median(v)) if np.median(v) > 0 else math.nan for v in found.values]
    limit = run.threshold("OUTLIER_TASKS")
    marks = [] if limit is None else [chart.level(limit, f"{number(limit)}: outliers", WRONG)]
    return Chart(
        "Largest against median norm of the tasks' meta-gradients",
        "A few times the median is usual. Far more is a heavy tail: single tasks that steer a step.",
        [chart.line("largest / median", found.steps, spread, TRIVIAL)],
        chart.fitted_axes("outer step", "ratio", [spread], *marks),
        ("outer step", "largest / median"),
        [(s, number(v)) for s, v in zip(found.steps, spread, strict=True)],
    )


def pictures(run: RunRecords) -> Raw | None:
    """Support and query of the worst tasks, where they are images."""
    shape = run.spec.get("input_shape")
    if not run.accuracy or not isinstance(shape, list) or len(shape) != 3:
        return None
    if not run.worst_tasks:
        raise NotEvaluated(f"no {WORST_TASKS} in the run folder")
    made = [part for task in run.worst_tasks[:WORST] if (part := _task(task))]
    if not made:
        raise NotEvaluated(f"{WORST_TASKS} holds no pictures")
    about = (
        "Support and query of the worst tasks. Framed queries are wrong: 2 ✗ 4 is a 2 that was taken for a 4."
    )
    rest = folded(f"{len(made) - _OPEN} more tasks", "".join(made[_OPEN:])) if len(made) > _OPEN else ""
    return Raw(f'<div class="gallery"><p>{about}</p>{"".join(made[:_OPEN])}{rest}</div>')


def _ratios(run: RunRecords, split: str, index: int) -> Values:
    post = run.history.series("post", split=split).values[index]
    trivial = run.history.series("trivial", split=split).last
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(post), post / trivial[: len(post)], np.inf)


def _worst_evaluated(run: RunRecords) -> Raw:
    """The worst tasks of the largest evaluation, for a run that recorded no probe."""
    records = {name: e for name, e in run.evaluations.items() if e.get("records")}
    if not records:
        raise NotEvaluated("no probe records, and no evaluation with the scores of its tasks")
    name, found = max(records.items(), key=lambda entry: len(entry[1]["records"]))
    percent = found["metric"] == "accuracy"
    bad = 0.0 if percent else math.inf
    last = [(r["task"], bad if r["scores"][-1] is None else float(r["scores"][-1])) for r in found["records"]]
    last.sort(key=lambda entry: entry[1] if percent else -entry[1])
    rows = [
        (f"{found['split']} task {task}", str(found["seed"]), number(score, percent=percent))
        for task, score in last[:WORST]
    ]
    made = table(("task", "seed", found["metric"]), rows, caption=f"The {len(rows)} worst tasks of {name}")
    return Raw(made + _again(run, str(found["split"]), int(found["seed"]), int(last[0][0])))


def _again(run: RunRecords, split: str, seed: int, task: int) -> str:
    """Python that makes a task of the probe again: it is the last of the first `task + 1`."""
    lines = [
        "import innerloop as il",
        "from innerloop.evaluate.protocol import FixedEpisodes",
        f"run = il.load({run.name!r})",
        f"*_, (block, _) = FixedEpisodes({split!r}, {task} + 1, seed={seed}).blocks(run.tasks)",
        "support, query = ((part.x[-1], part.y[-1]) for part in block)",
    ]
    return folded(
        "See a task again in Python (the worst one; put another number in its place)",
        copyable("\n".join(lines)),
    )


def _task(task: dict[str, Any]) -> str:
    name = f"{task.get('split', 'val')} task {task.get('number', '?')}"
    support = [_picture(p, f"support, label {p.get('label')}", "") for p in _pictures(task, "support")]
    query = []
    for p in _pictures(task, "query"):
        right = p.get("label") == p.get("predicted")
        said = (
            f"query, label {p.get('label')}, predicted {p.get('predicted')}: {'right' if right else 'wrong'}"
        )
        query.append(_picture(p, said, "" if right else "wrong"))
    if not any(support) and not any(query):
        return ""
    parts = f'<div class="pictures">{"".join(support)}</div><div class="pictures">{"".join(query)}</div>'
    return f"<figure><figcaption>{esc(name)}: support, then query</figcaption>{parts}</figure>"


def _pictures(task: dict[str, Any], which: str) -> list[dict[str, Any]]:
    found = task.get(which)
    return [p for p in found if isinstance(p, dict)][:_MOST_PICTURES] if isinstance(found, list) else []


def _picture(entry: dict[str, Any], said: str, kind: str) -> str:
    data = entry.get("png")
    if not isinstance(data, str) or not _PNG.fullmatch(data):
        return ""
    shown = str(entry.get("label")) + (f" ✗ {entry.get('predicted')}" if kind else "")
    return (
        f'<span class="picture {kind}"><img src="data:image/png;base64,{data}" alt="{esc(said)}">'
        f'<span aria-hidden="true">{esc(shown)}</span></span>'
    )


SECTION = Section(
    "tasks",
    "Tasks",
    "Which tasks are learned, and which are not?",
    of_each_run(
        ("distribution over tasks", distribution),
        ("the worst tasks", worst),
        ("pictures of the worst tasks", pictures),
        ("leverage", pull),
        ("norms by task", gradients),
    ),
)
