"""Other tasks: of other numbers of shots or ways, or of another source; no pairs of the usual ones."""

from __future__ import annotations

from typing import Any

from innerloop.core.errors import InnerloopError
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.perturb.subject import Perturbation, Sizes, Subject


def _shots(subject: Subject) -> Sizes:
    shots = subject.shots
    return _resized(subject, "shots", [k for k in (shots // 2, 2 * shots) if k > 0])


def _ways(subject: Subject) -> Sizes:
    ways = subject.ways
    if not subject.learner.any_ways:
        raise NotEvaluated(f"a model with {subject.spec.outputs} outputs")
    return _resized(subject, "ways", [k for k in dict.fromkeys((max(2, ways // 2), 2 * ways)) if k != ways])


def _resized(subject: Subject, name: str, wanted: list[int]) -> Sizes:
    """Sources of the sizes that there are examples for; what is not possible says why, if nothing is."""
    found: dict[str, Any] = {}
    reasons = []
    for size in wanted:
        try:
            source = subject.tasks.resized(**{name: size})
            task = source.sample(subject.split, 1, 0)  # some sources find out only then
        except InnerloopError as error:
            reasons.append(error.got)
            continue
        if task.support.y.shape == subject.example.support.y[:1].shape:
            reasons.append(f"tasks of split {subject.split} keep their number of {name}")
        else:
            found[f"{size} {name}"] = source
    if not found:
        raise NotEvaluated("; ".join(reasons))
    return found


def _others(subject: Subject) -> Sizes:
    if not subject.others:
        raise NotEvaluated("no other source of tasks was named (--ood NAME)")
    return subject.others


PERTURBATIONS = (
    Perturbation("shots", "tasks with half and twice as many support examples", _shots, None),
    Perturbation("ways", "tasks with half and twice as many classes", _ways, None),
    Perturbation("unfamiliar tasks", "tasks from another source", _others, None),
)
