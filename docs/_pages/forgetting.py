"""What the page on forgetting shows: `python docs/_pages/forgetting.py` makes it again, in ten minutes or so.

Commands are run as in `convergence.py`; what they print, and pictures of their records, go to
`_static/forgetting/`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))
from _pages.convergence import WRONG, script, told
from innerloop.diagnose.history import History
from innerloop.diagnose.streams import timeline_of
from innerloop.report.style import INK, LOSS, OURS, clean, new_figure, save

FOLDER = Path(__file__).parents[1] / "_static/forgetting"
_STYLES = ((OURS, "-"), (WRONG, "--"), (LOSS, "-."), (INK, ":"))
_STREAM = (
    "--algorithm MAML --algorithm.inner-steps 3 --stream SinusoidFamilies --stream.kinds sine,opposite "
    "--tasks-per-step 10 --steps 1000 --threads 1 --probe.every 24"
)
#: Command lines by the file that holds what they print; `{remedy}` is the first that was printed before.
TRANSCRIPTS: Mapping[str, tuple[str, ...]] = {
    "naive": (f"innerloop train {_STREAM} --out runs/naive", "innerloop doctor runs/naive"),
    "replay": (
        "innerloop train --config runs/naive/config.yaml {remedy} --out runs/replay",
        "innerloop doctor runs/replay",
    ),
    "recall": (
        "innerloop train --config runs/naive/config.yaml {remedy} --out runs/recall",
        "innerloop doctor runs/recall",
    ),
    "stability": ("innerloop stability runs/replay --episodes 100",),
    "tradeoff": (
        "innerloop tradeoff --config runs/naive/config.yaml --trials 12 --seeds 3 --out runs/tradeoff",
    ),
}


def families(runs: Mapping[str, Path]) -> Figure:
    """The score of every family over training, of runs by their label, one above the other."""
    figure = new_figure(7.2, 2.6 * len(runs))
    panels = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (label, run) in zip(panels, runs.items(), strict=True):
        clean(axes)
        timeline = timeline_of(History.read(run))
        for j, (name, style) in enumerate(zip(timeline.names, _STYLES, strict=False)):
            axes.plot(timeline.steps, timeline.scores[:, j].mean(1), color=style[0], ls=style[1], label=name)
        for start in timeline.starts[1:]:
            axes.axvline(start, color=INK, lw=0.8, ls=":")
        axes.set_ylabel(f"score, {label}", fontsize=9, color=INK)
        axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower right")
    panels[-1].set_xlabel("outer step", fontsize=9, color=INK)
    return figure


def make(folder: Path, only: Iterable[str] = tuple(TRANSCRIPTS)) -> None:
    """Run the commands, and write what they print and the picture into a folder."""
    with told(folder, TRANSCRIPTS, only) as runs:
        drawn = {label: runs / label for label in ("naive", "replay", "recall")}
        if all(run.is_dir() for run in drawn.values()):
            save(families(drawn), folder / "families.png")
        if (runs / "tradeoff").is_dir():
            shutil.copy(runs / "tradeoff" / "tradeoff.png", folder)


if __name__ == "__main__":
    script(__doc__, make, FOLDER, TRANSCRIPTS)
