"""Rules on streams: is what was learned first still there, and was it there all the while?"""

from __future__ import annotations

from innerloop.diagnose.dips import dips, stability_gap
from innerloop.diagnose.estimate import Estimate, Measure, NotMeasured
from innerloop.diagnose.finding import Finding, NotEvaluated, Passed, Severity
from innerloop.diagnose.forgetting import Matrix, forgetting_max_last, learning_accuracy
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.streams import matrix_of, timeline_of

_LOST = 0.05  # of the score, on average over families; less is no loss that anyone would act on
_MOSTLY = 0.5  # of what training had gained on a family
_REPLAY, _SLOTS, _DISTILL = 0.5, 8, 0.3  # what is proposed
_DIP = 0.1  # of the score, beyond what is lost for good


def forgetting(history: History) -> Finding | Passed:
    matrix = matrix_of(history)
    lost = _known(forgetting_max_last(matrix))
    if lost.value < _LOST or lost.low <= 0.0:
        return Passed(lost.value, _LOST)
    gained = _known(learning_accuracy(matrix)).value - float(matrix.scores[0].mean())
    mostly = lost.value > _MOSTLY * gained
    worst, most = _worst(matrix)
    return Finding(
        Severity.ERROR if mostly else Severity.WARN,
        f"families that were learned first have lost {lost.value:.2f} of their score "
        f"({lost.low:.2f} to {lost.high:.2f})",
        lost.value,
        _LOST,
        "remember tasks of earlier families, or what was predicted on them, beside the new ones",
        (
            f"most of all {worst}: {most:.2f}",
            f"its own stage had brought a family {gained:.2f} on average",
            f"{matrix.last} stages, {lost.n} tasks of each family",
        ),
        _remedy(history),
    )


def stability_gap_rule(history: History) -> Finding | Passed:
    timeline = timeline_of(history)
    gap = _known(stability_gap(timeline))
    lost = forgetting_max_last(matrix_of(history))
    for_good = max(0.0, lost.value) if isinstance(lost, Estimate) else 0.0
    beyond = gap.value - for_good
    if beyond < _DIP or gap.low <= for_good:
        return Passed(beyond, _DIP)
    try:
        deepest = max(dips(timeline), key=lambda dip: dip.before - dip.least)
    except NotMeasured as error:
        raise NotEvaluated(str(error)) from error
    return Finding(
        Severity.WARN,
        f"after a switch old families fall by {gap.value:.2f}, {beyond:.2f} more than is lost in the end",
        beyond,
        _DIP,
        "train on remembered tasks, and let the rate of a new stage rise slowly",
        (
            f"deepest: {deepest.family} from {deepest.before:.2f} to {deepest.least:.2f} "
            f"between steps {deepest.start} and {deepest.end}",
            "a score at the end of a stage does not show it",
        ),
        _remedy(history),
    )


def _remedy(history: History) -> dict[str, float]:
    """The next thing to try: what helps most first, and nothing that is on already."""
    if history.setting("retain.replay", 0.0) < _REPLAY:
        return {"retain.replay": _REPLAY}
    if not history.setting("retain.recall", 0):
        return {"retain.recall": _SLOTS}
    if not history.setting("retain.distill", 0.0):
        return {"retain.distill": _DISTILL}
    return {"optimizer.lr": history.setting("optimizer.lr", 1e-3) / 2}


def _known(measure: Measure) -> Estimate:
    """The estimate, or the reason for which there is none."""
    if isinstance(measure, Estimate):
        return measure
    raise NotEvaluated(measure.reason)


def _worst(matrix: Matrix) -> tuple[str, float]:
    """The old family that lost most since its own stage or later, and how much."""
    means = matrix.scores.mean(2)
    lost = {j: float(means[matrix.learned[j] : -1, j].max() - means[-1, j]) for j in matrix.old}
    worst = max(lost, key=lambda j: lost[j])
    return matrix.names[worst], lost[worst]


RULES = (
    Rule("FORGETTING", forgetting, "stability", "what was learned first is lost to what came later"),
    Rule("STABILITY_GAP", stability_gap_rule, "stability", "what was learned falls right after a switch"),
)
