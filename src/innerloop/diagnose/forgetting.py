"""What learning family after family costs the old ones: metrics of a matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from innerloop.core.errors import DataError
from innerloop.diagnose.anytime import (
    WINDOW,
    Timeline,
    anytime_accuracy,
    minimum_accuracy,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from innerloop.diagnose.dips import recovery_steps, stability_gap
from innerloop.diagnose.estimate import (
    Measure,
    Table,
    Undefined,
    Values,
    checked,
    labelled,
    picked,
    weighed,
    whole,
)


@final
@dataclass(frozen=True, eq=False)
class Matrix:
    """Scores of families of tasks before training and after each of its stages.

    The same type serves both questions. *Meta-forgetting*: a row is after a stage of meta-training, and a
    score is that of adapting afresh from the meta-parameters. *Adaptation-forgetting*: a row is after
    adapting to one task more without reset, families are the tasks of the sequence, and tasks are its
    repetitions, which are `together`.

    Attributes:
        scores: [rows, families, tasks], higher is better; row 0 is before training, row i after stage i. NaN
            is "not measured". The array is copied, and the copy cannot be written to.
        learned: for each family, the row after which it was first learned: 1, 2, 3, ... for a plain sequence;
            0 if it was known before the first stage; beyond the last row if its stage is still to come, and
            then nothing but its scores before training is expected.
        names: of families; numbers from 1 if there are none.
        together: task t of every family belongs to one draw, as repetitions of a sequence do, so that the
            spread is that of repetitions. Otherwise tasks of different families are independent.

    Raises:
        DataError: shapes that do not fit, or infinite scores.
    """

    scores: Values
    learned: Sequence[int]
    names: Sequence[str] = ()
    together: bool = False

    def __post_init__(self) -> None:
        scores = checked(self.scores, "scores of a matrix")
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "learned", whole(self.learned, "learned", scores.shape[1]))
        object.__setattr__(self, "names", labelled(self.names, scores.shape[1]))

    @property
    def last(self) -> int:
        """The last row, and so the number of stages."""
        return len(self.scores) - 1

    @property
    def seen(self) -> list[int]:
        """Families that were learned by the last row."""
        return [j for j, row in enumerate(self.learned) if row <= self.last]

    @property
    def old(self) -> list[int]:
        """Families that were learned before the last stage."""
        return [j for j, row in enumerate(self.learned) if row < self.last]

    @property
    def table(self) -> Table:
        """The scores with rows in words."""
        places = ("before training", *(f"after stage {i}" for i in range(1, self.last + 1)))
        return Table(self.scores, self.names, places, self.together)

    @property
    def blank(self) -> Values:
        """Weights of nothing [rows, families]."""
        return np.zeros(self.scores.shape[:2])


def average_accuracy(matrix: Matrix) -> Measure:
    """ACC = mean over j of R[T, j], over families learned by the last row (Lopez-Paz & Ranzato 2017)."""
    if not matrix.seen:
        return Undefined("no family has been learned yet")
    weights = matrix.blank
    weights[matrix.last, matrix.seen] = 1 / len(matrix.seen)
    return weighed(matrix.table, weights)


def average_incremental_accuracy(matrix: Matrix) -> Measure:
    """AIA = mean over stages i of the mean of R[i, j] over families learned by stage i (iCaRL, 2017)."""
    learned = np.array(matrix.learned)
    weights = matrix.blank
    rows = [i for i in range(1, matrix.last + 1) if (learned <= i).any()]
    if not rows:
        return Undefined("no family has been learned yet")
    for i in rows:
        weights[i, learned <= i] = 1 / (learned <= i).sum() / len(rows)
    return weighed(matrix.table, weights)


def learning_accuracy(matrix: Matrix) -> Measure:
    """Mean over j of R[j, j]: each family right after the stage that it was first learned in."""
    fresh = [j for j in matrix.seen if matrix.learned[j] > 0]
    if not fresh:
        return Undefined("no stage has taught a family yet")
    weights = matrix.blank
    for j in fresh:
        weights[matrix.learned[j], j] = 1 / len(fresh)
    return weighed(matrix.table, weights)


def backward_transfer(matrix: Matrix) -> Measure:
    """BWT = mean over j < T of R[T, j] - R[j, j] (Lopez-Paz & Ranzato 2017); negative is forgetting.

    Avalanche's `BWT` is this difference for each experience, and its `StreamBWT` their mean.
    """
    return _first_last(matrix, 1.0)


def forgetting_first_last(matrix: Matrix) -> Measure:
    """Forgetting as Avalanche defines it: mean over j < T of R[j, j] - R[T, j], which is -BWT.

    It is not Chaudhry's: what a family gained after its own stage and lost again is no part of it. Scores
    .90, .95, .80 of one family after stages 1, 2, 3 give 0.10 here and 0.15 there. It is a difference of two
    means, so nothing is picked, and unlike max-last it is zero on average where nothing is forgotten.
    """
    return _first_last(matrix, -1.0)


def forgetting_max_last(matrix: Matrix, *, restricted: bool = True) -> Measure:
    """Forgetting as Chaudhry et al. define it: mean over j < T of (max over l < T of R[l, j]) - R[T, j].

    The largest is that of means over probe tasks. Where nothing is forgotten it is above zero on average, the
    more so the more stages and the fewer tasks there are; its interval allows for that (`picked`), so ask its
    lower end whether anything was forgotten. Mammoth lets l reach T as well, which keeps each term from being
    negative; here a family that is best at the end has forgotten less than nothing. Paper: 1801.10112 (2018).

    Args:
        matrix: the scores.
        restricted: l >= j, from the stage that learned the family on. Otherwise l >= 1 as in the paper, where
            a family may also forget what it could do before its own stage.
    """
    reason = _not_a_sequence(matrix)
    if reason:
        return Undefined(reason)
    need = matrix.blank.astype(bool)
    for j in matrix.old:
        first = matrix.learned[j] if restricted else min(1, matrix.learned[j])
        need[[*range(first, matrix.last), matrix.last], j] = True

    def pick(means: Values) -> Values:
        weights = matrix.blank
        for j in matrix.old:
            weights[np.nanargmax(means[: matrix.last, j]), j] = 1 / len(matrix.old)
            weights[matrix.last, j] = -1 / len(matrix.old)
        return weights

    return picked(matrix.table, need, pick)


def forward_transfer(matrix: Matrix) -> Measure:
    """FWT = mean over j >= 2 of R[j - 1, j] - b[j], b before training (Lopez-Paz & Ranzato 2017).

    Avalanche's `ForwardTransfer` is this difference for each experience, and the stream metric their mean; it
    is silent unless there was an evaluation before training.
    """
    later = [j for j in matrix.seen if matrix.learned[j] >= 2]
    if not later:
        return Undefined("no family was learned after a stage of another: there is nothing to transfer from")
    weights = matrix.blank
    for j in later:
        weights[matrix.learned[j] - 1, j] = 1 / len(later)
        weights[0, j] = -1 / len(later)
    return weighed(matrix.table, weights)


def intransigence(matrix: Matrix, reference: ArrayLike | None) -> Measure:
    """Mean over j of R*[j] - R[j, j]: what a family is learned worse in the stream (Chaudhry et al. 2018).

    Args:
        matrix: the scores.
        reference: R* [families, tasks], scores of the same probe tasks after a joint or independent training.

    Raises:
        DataError: the reference has another shape, or is infinite somewhere.
    """
    if reference is None:
        return Undefined("no reference: it takes the scores of a joint or independent training")
    row = checked([reference], "the reference")
    if row.shape[1:] != matrix.scores.shape[1:]:
        raise DataError(
            f"a reference of shape {list(row.shape[1:])}",
            expected=f"[families, tasks] = {list(matrix.scores.shape[1:])}",
            do="measure the reference on the same probe tasks",
        )
    fresh = [j for j in matrix.seen if matrix.learned[j] > 0]
    if not fresh:
        return Undefined("no stage has taught a family yet")
    table = matrix.table
    both = Table(
        np.concatenate([table.scores, row]), table.names, (*table.places, "in the reference"), table.together
    )
    weights = np.concatenate([matrix.blank, np.zeros((1, len(matrix.learned)))])
    for j in fresh:
        weights[-1, j] = 1 / len(fresh)
        weights[matrix.learned[j], j] = -1 / len(fresh)
    return weighed(both, weights)


def summary(
    matrix: Matrix,
    timeline: Timeline | None = None,
    reference: ArrayLike | None = None,
    *,
    window: int = WINDOW,
) -> dict[str, Measure]:
    """Every metric by name, in a fixed order: those of the matrix, then those of the timeline.

    Higher is better but for forgetting, intransigence, `stability_gap` and `recovery_steps`. All are in units
    of the score but `recovery_steps`, which is in outer steps.

    Args:
        matrix: scores before training and after each stage.
        timeline: scores every few steps; without it, its metrics are undefined and say so.
        reference: scores [families, tasks] of a joint or independent training, for `intransigence`.
        window: outer steps of `windowed_forgetting` and `windowed_plasticity`.

    Raises:
        DataError: the reference has another shape.
        ConfigError: `window` is less than 2.
    """
    found: dict[str, Measure] = {
        "average_accuracy": average_accuracy(matrix),
        "average_incremental_accuracy": average_incremental_accuracy(matrix),
        "learning_accuracy": learning_accuracy(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": forward_transfer(matrix),
        "forgetting_max_last": forgetting_max_last(matrix),
        "forgetting_first_last": forgetting_first_last(matrix),
        "intransigence": intransigence(matrix, reference),
    }
    over_time = {
        "anytime_average_accuracy": anytime_accuracy,
        "minimum_accuracy": minimum_accuracy,
        "worst_case_accuracy": worst_case_accuracy,
        "windowed_forgetting": lambda timeline: windowed_forgetting(timeline, window),
        "windowed_plasticity": lambda timeline: windowed_plasticity(timeline, window),
        "stability_gap": stability_gap,
        "recovery_steps": recovery_steps,
    }
    missing = Undefined("no timeline: it takes scores every few steps, also within stages")
    return found | {name: missing if timeline is None else of(timeline) for name, of in over_time.items()}


def _first_last(matrix: Matrix, sign: float) -> Measure:
    """Mean over old families of their last score minus the first after their stage, times the sign."""
    reason = _not_a_sequence(matrix)
    if reason:
        return Undefined(reason)
    weights = matrix.blank
    for j in matrix.old:
        weights[matrix.last, j] = sign / len(matrix.old)
        weights[matrix.learned[j], j] = -sign / len(matrix.old)
    return weighed(matrix.table, weights)


def _not_a_sequence(matrix: Matrix) -> str:
    """Why families do not follow one another, so that none can be said to be forgotten; empty if they do."""
    idle = [i for i in range(1, matrix.last + 1) if i not in matrix.learned]
    if len(matrix.seen) > 1 and len({matrix.learned[j] for j in matrix.seen}) == 1:
        return "all families are learned in the same stage: none is left for another"
    if idle:
        return (
            f"stage {idle[0]} has no family that is new: families come back, and a score at the end is not "
            "that of a family left alone"
        )
    if not matrix.old:
        return "no family was learned before the last stage"
    return ""
