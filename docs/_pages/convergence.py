"""What the pages on convergence show: `python docs/_pages/convergence.py` makes it again, in a few minutes.

Commands are run as they stand here, in a folder of their own; what they print goes to `_static/convergence/`,
without the lines of progress, beside pictures of their records and of closed forms.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from innerloop.cli.main import main as innerloop
from innerloop.cli.train import INTERRUPTED
from innerloop.diagnose.history import History
from innerloop.diagnose.verdict import judge
from innerloop.report.style import FAINT, INK, LOSS, OURS, clean, new_figure, save
from innerloop.tasks.bowls import Bowls, Descent

FOLDER = Path(__file__).parents[1] / "_static/convergence"
WRONG = "#b4541a"
_PROGRESS = re.compile(r"^step +\d+/\d+ ")
_REMEDY = re.compile(r"^ +(--.+)$", re.MULTILINE)

_SINE = (
    "--algorithm MAML --algorithm.inner_lr {rate} --algorithm.inner_steps 3 --tasks Sinusoid "
    "--tasks-per-step 10 --optimizer.lr 0.002 --optimizer.clip_norm 10 --probe.every 12"
)
_BOWLS = (
    "--algorithm MAML --algorithm.inner_lr 0.8 --algorithm.inner_steps 3 --tasks Bowls "
    "--tasks.curvatures 0.1,0.1,0.1,0.1,1 --tasks.centre 3 --tasks.spread 6 --model MLP --model.hidden '' "
    "--model.bias false --tasks-per-step 16 --optimizer.name SGD --optimizer.lr 0.2 --probe.every 4"
)
_GLYPHS = (
    "--algorithm MAML --algorithm.inner_lr 0.4 --tasks Glyphs --tasks.queries 5 --model Conv4 "
    "--model.width 8 --optimizer.lr 0.003 --probe.every 10"
)
#: Command lines by the file that holds what they print; `{remedy}` is the first that was printed before.
TRANSCRIPTS: Mapping[str, tuple[str, ...]] = {
    "improving": (
        f"innerloop train {_SINE.format(rate=0.01)} --steps 600 --out runs/sine",
        "innerloop doctor runs/sine",
    ),
    "converged": tuple(
        f"innerloop train {_BOWLS} --steps 1000 --stop when-converged --seed {seed} --out runs/bowls-{seed}"
        for seed in range(3)
    ),
    "seeds": ("innerloop doctor runs/bowls-0 runs/bowls-1 runs/bowls-2",),
    "preflight": ("innerloop doctor --preflight " + _SINE.format(rate=0.1),),
    "broken": (
        f"innerloop train {_SINE.format(rate=0.5)} --steps 300 --out runs/broken",
        "innerloop doctor runs/broken",
    ),
    "mended": (
        "innerloop train --config runs/broken/config.yaml {remedy} --out runs/mended",
        "innerloop doctor runs/mended",
    ),
    "curvature": (
        f"innerloop train {_GLYPHS} --steps 100 --out runs/glyphs",
        "innerloop watch runs/glyphs --once",
    ),
}


def transcript(lines: Iterable[str], before: str = "") -> str:
    """What commands print, each after its line; an exit code that is not zero is said.

    Args:
        before: what earlier commands printed, which `{remedy}` is taken from.
    """
    told = []
    remedy = _REMEDY.search(before)
    for template in lines:
        line = template.format(remedy=remedy[1] if remedy else "")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = innerloop(shlex.split(line)[1:])
        if code == INTERRUPTED:
            raise KeyboardInterrupt(line)
        kept = [text for text in printed.getvalue().splitlines() if not _PROGRESS.match(text)]
        told += [f"$ {line}", *kept, *([f"[exit code {code}]"] if code else []), ""]
    return "\n".join(told)


def commands(text: str) -> list[str]:
    """The command lines of a transcript.

    >>> commands("$ innerloop list tasks\\nBowls\\n")
    ['innerloop list tasks']
    """
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


# --- pictures of runs ------------------------------------------------------------------------------------


def looks(run: Path) -> Figure:
    """Losses of fresh tasks beside those of the probe, and the window that the verdict rests on."""
    history = History.read(run)
    figure, (axes,) = _panels(1, width=7.2, height=3.2)
    rows = [row for row in history.metrics if row.get("kind") == "train"]
    steps, losses = zip(*((row["step"], row["loss"]) for row in rows), strict=True)
    axes.plot(steps, losses, color=LOSS, lw=1, label="fresh tasks")
    stop = patience(losses)
    if stop is not None:
        axes.plot(steps[stop], losses[stop], color=WRONG, marker="X", ms=9, ls="none", label="patience stops")
    for name, style, label in (("pre", "--", "probe, before adaptation"), ("post", "-", "probe, after it")):
        found = history.series(name, split="val")
        axes.plot(found.steps, found.means, color=OURS, ls=style, label=label)
    window = judge(history).window
    if window is not None:
        axes.axvspan(*window, color=FAINT, alpha=0.5, lw=0, label="window of the verdict")
    _named(axes, "mean squared error", legend=True)
    return figure


def patience(losses: Sequence[float], looks: int = 3) -> int | None:
    """Where the first loss stands that ends so many looks without a new best; None if there is none.

    >>> patience([3, 2, 2.5, 2.2, 2.1, 1.0])
    4
    """
    best = 0
    for i, loss in enumerate(losses):
        best = i if loss < losses[best] else best
        if i - best == looks:
            return i
    return None


def norms(run: Path) -> Figure:
    """The loss, the raw norm of the meta-gradient, and its debiased square against its noise."""
    history = History.read(run)
    figure, (above, middle, below) = _panels(3, width=7.2, height=6.0)
    post = history.series("post", split="val")
    above.plot(post.steps, post.means, color=OURS)
    _named(above, "probe loss", x="")
    raw, signal, noise = (history.series(name) for name in ("norm", "signal", "noise"))
    _smoothed(middle, raw.steps, raw.means, WRONG)
    bowls, tasks = _bowls(history), len(history.series("gradient").last)
    level = bowls.spread * float((bowls.curvatures * bowls.contraction.square()).norm()) / tasks**0.5
    middle.axhline(level, color=INK, lw=0.8, ls="--", label="at the minimum, in closed form: √(tr S / B)")
    middle.set_ylim(0, None)
    _named(middle, "raw norm |ḡ|", x="", legend=True)
    _smoothed(below, signal.steps, signal.means / noise.means, OURS)
    below.axhline(0.0, color=INK, lw=0.8)
    _named(below, "signal to noise")
    return figure


def _bowls(history: History) -> Descent:
    """The closed forms of the run that a history is of."""
    tasks = {name: value for name, value in history.config["tasks"].items() if name != "name"}
    inner = history.config["algorithm"]
    return Bowls(**tasks).descent(inner["inner_lr"], inner["inner_steps"])


def inner_loops(runs: Mapping[str, Path]) -> Figure:
    """The mean support loss along the inner loop, of runs by their label."""
    figure, (axes,) = _panels(1, width=7.2, height=3.0)
    for (label, run), style in zip(runs.items(), ((OURS, "-", "o"), (WRONG, "--", "s")), strict=True):
        history = History.read(run)
        steps = [k for k in sorted(history.places("support", "inner_step")) if k <= 3]
        means = [history.series("support", split="val", inner_step=k).last.mean() for k in steps]
        axes.plot(steps, means, color=style[0], ls=style[1], marker=style[2], label=label)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _named(axes, "support loss", x="inner step", legend=True)
    return figure


# --- pictures of closed forms ----------------------------------------------------------------------------


def steepness() -> Figure:
    """What an inner loop keeps of a distance, and both meta-gradients of one coordinate, against a h."""
    at = np.linspace(0.01, 2.4, 240)
    figure, (left, right) = _panels(2, width=7.2, height=3.2, side_by_side=True)
    for steps, style in ((1, ":"), (3, "-"), (5, "--")):
        kept = [Bowls((h,)).descent(1.0, steps).sensitivity for h in at]
        left.plot(at, kept, color=OURS, ls=style, label=f"N = {steps}")
    left.axvline(2.0, color=WRONG, lw=1)
    left.set_ylim(0, 3)
    _named(left, "σ_J = |1 − α h|^N", x="α h", legend=True)
    one, zero = torch.ones(1).double(), torch.zeros(1, 1).double()
    for first_order, style, label in ((False, "-", "exact: A h A"), (True, "--", "first order: h A")):
        bowls = [Bowls((h,)).descent(1.0, 1) for h in at]
        slopes = [float(b.meta_gradients(one, zero, first_order=first_order)) for b in bowls]
        right.plot(at, slopes, color=WRONG if first_order else OURS, ls=style, label=label)
    right.axhline(0.0, color=INK, lw=0.8)
    right.set_ylim(-1.5, 1.5)
    _named(right, "meta-gradient, per unit of θ − c", x="α h, with N = 1 and α = 1", legend=True)
    return figure


def stationary() -> Figure:
    """Signal over noise at stationarity, and the mean squared raw norm, in closed form."""
    figure, (left, right) = _panels(2, width=7.2, height=3.2, side_by_side=True)
    product = np.linspace(0.0, 1.5, 150)
    left.plot(product, product / (2 - product), color=OURS)
    left.axhline(1.0, color=WRONG, lw=1, ls="--")
    _named(left, "SNR = β h / (2 − β h)", x="outer rate times curvature, β h")
    bowls = Bowls((0.1, 0.1, 0.1, 0.1, 1.0), centre=0.0, spread=6.0).descent(0.8, 3)
    slope = bowls.curvatures * bowls.contraction.square()
    noise = bowls.spread**2 * float(slope.square().sum())
    away = np.linspace(0.0, 3.0, 100)
    square = away**2 * float(slope[:4].square().sum())
    right.plot(away, np.sqrt(square), color=OURS, label="|∇F|")
    for batch, style in ((16, "--"), (4, ":")):
        label = f"√E|ḡ|², {batch} tasks"
        right.plot(away, np.sqrt(square + noise / batch), color=WRONG, ls=style, label=label)
    _named(right, "norm", x="distance from the minimum, flat coordinates", legend=True)
    return figure


# --- how they look ---------------------------------------------------------------------------------------


def _panels(
    count: int, *, width: float, height: float, side_by_side: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = new_figure(width, height)
    shape = (1, count) if side_by_side else (count, 1)
    panels = list(figure.subplots(*shape, squeeze=False, sharex=not side_by_side).flat)
    for axes in panels:
        clean(axes)
    return figure, panels


def _smoothed(axes: Axes, steps: list[int], values: NDArray[np.float64], colour: str) -> None:
    """Single values as points, and the mean of each five neighbours as a line."""
    axes.plot(steps, values, color=colour, ls="none", marker="o", ms=3, alpha=0.5)
    middle = np.convolve(values, np.full(5, 0.2), mode="valid")
    axes.plot(steps[2 : 2 + len(middle)], middle, color=colour)


def _named(axes: Axes, y: str, *, x: str = "outer step", legend: bool = False) -> None:
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    if legend:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)


@contextlib.contextmanager
def told(folder: Path, transcripts: Mapping[str, Sequence[str]], only: Iterable[str]) -> Iterator[Path]:
    """Run the commands of some transcripts, write what they print into `folder`; the folder of their runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        text = ""
        for name in only:
            text = transcript(transcripts[name], text)
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        yield Path("runs")


def make(folder: Path, only: Iterable[str] = tuple(TRANSCRIPTS)) -> None:
    """Run the commands, and write what they print and the pictures into a folder."""
    with told(folder, TRANSCRIPTS, only) as runs:
        if (runs / "sine").is_dir():
            save(looks(runs / "sine"), folder / "looks.png")
        if (runs / "bowls-0").is_dir():
            save(norms(runs / "bowls-0"), folder / "norms.png")
        if (runs / "sine").is_dir() and (runs / "broken").is_dir():
            healthy = {"inner rate 0.01": runs / "sine", "inner rate 0.5": runs / "broken"}
            save(inner_loops(healthy), folder / "inner-loops.png")
    save(steepness(), folder / "steepness.png")
    save(stationary(), folder / "stationary.png")


def script(about: str | None, make: Callable[..., None], folder: Path, names: Iterable[str]) -> None:
    """The command that makes a page's outputs again: all of them, or some by name."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=folder, help="where the files go")
    parser.add_argument("--only", default=",".join(names), help="some of these, in this order")
    given = parser.parse_args()
    torch.set_num_threads(1)
    make(given.out.resolve(), given.only.split(","))


if __name__ == "__main__":
    script(__doc__, make, FOLDER, TRANSCRIPTS)
