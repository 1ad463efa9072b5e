"""Rules on stability: which perturbation costs too much, and what mends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from innerloop.diagnose.effects import Effect, Effects
from innerloop.diagnose.finding import (
    Answer,
    Finding,
    NotEvaluated,
    Passed,
    Severity,
    Silent,
    named,
)

#: Shares of the gain over a constant guess, beyond which a loss is a finding.
BRITTLE = 0.5  # at a longer inner step
OVERDONE = 0.1  # after five times as many inner steps
FEWER, MORE = 0.5, 0.05  # with half as many shots; with twice as many, which should do no harm at all
OUTLIER = 0.25  # by one wrong support example
UNFAMILIAR = 0.5
ATTACKED = 0.5
NOTHING_LEFT = 1.0  # as bad as a constant guess

_LITTLE, _LONGER = (
    1.3,
    1.5,
)  # times the inner rate: a large loss is an error at the first, a warning at the second
_TWICE, _FAR = 2, 5  # times the inner steps: likewise, and what is looked at
_MENDED = 0.1  # share that half the inner rate may lose to be a remedy

_ADVERSARIES = {"adversarial queries": "adversary.query", "adversarial supports": "adversary.support"}

Check = Callable[[Effects], Finding | Passed]


class Question(NamedTuple):
    """A rule: the name of its finding, how it is answered, and what the finding means."""

    id: str
    check: Check
    about: str


@dataclass(frozen=True)
class Judgement:
    """The answers of all rules.

    Attributes:
        effects: what they were asked of: what each perturbation costs.
        findings: what is wrong, the worst first.
        passed, silent: the rules that found nothing, and those that could not be asked.
    """

    effects: Effects
    findings: tuple[Finding, ...]
    passed: tuple[Passed, ...]
    silent: tuple[Silent, ...]

    def exit_code(self, fail_on: str = "warn") -> int:
        """2 for an error, 1 for a warning unless only errors are to `fail_on`, 0 otherwise."""
        found = {finding.severity for finding in self.findings}
        if Severity.ERROR in found:
            return 2
        return int(Severity.WARN in found and fail_on == "warn")

    def to_dict(self) -> dict[str, Any]:
        """The answers as JSON has them."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "passed": [answer.to_dict() for answer in self.passed],
            "not_evaluated": [answer.to_dict() for answer in self.silent],
        }


def judge_stability(effects: Effects) -> Judgement:
    """Ask every rule."""
    answers = [_asked(question, effects) for question in QUESTIONS]
    findings = [a for a in answers if isinstance(a, Finding)]
    return Judgement(
        effects,
        tuple(sorted(findings, key=lambda finding: -finding.severity.rank)),
        tuple(a for a in answers if isinstance(a, Passed)),
        tuple(a for a in answers if isinstance(a, Silent)),
    )


def _asked(question: Question, effects: Effects) -> Answer:
    try:
        answer: Answer = question.check(effects)
    except NotEvaluated as error:
        answer = Silent(str(error))
    return named(answer, question.id, "stability", effects.setup.get("step"))


def brittle_inner_lr(effects: Effects) -> Finding | Passed:
    rates = _by_amount(effects, "inner rate", (_LITTLE, _LONGER))
    little, longer = (_lost(rates[scale]) for scale in (_LITTLE, _LONGER))
    if not _beyond(rates[_LONGER], BRITTLE):
        return Passed(longer, BRITTLE)
    severe = _beyond(rates[_LITTLE], BRITTLE)
    why = [f"{_told(rates[scale])} at {scale:g} times the inner rate" for scale in (_LITTLE, _LONGER)]
    factor = effects.setup.get("safety_factor")
    if factor is not None:
        why.append(f"2 / (alpha lambda_max) is {factor:.2g}: on a quadratic, so many times the rate diverges")
    half = rates.get(0.5)
    rate = effects.setting("algorithm.inner_lr")
    mended = half is not None and _lost(half) < _MENDED
    return Finding(
        Severity.ERROR if severe else Severity.WARN,
        f"an inner rate {_LITTLE if severe else _LONGER:g} times as large loses "
        f"{_percent(little if severe else longer)} of its gain over a guess",
        little if severe else longer,
        BRITTLE,
        "train with half the inner rate: "
        + (
            f"it loses {_percent(_lost(half))} even now"
            if half is not None and mended
            else "steps are too long"
        )
        if rate is not None
        else "let shorter inner steps be learned: more outer steps, or a bound on the inner gradient",
        tuple(why),
        {"algorithm.inner_lr": _round(rate / 2)} if rate is not None else {},
    )


def over_adaptation(effects: Effects) -> Finding | Passed:
    steps = _by_amount(effects, "inner steps", (_TWICE, _FAR))
    twice, far = steps[_TWICE], steps[_FAR]
    if not _beyond(far, OVERDONE):
        return Passed(_lost(far), OVERDONE)
    usual = effects.setup["test_inner_steps"]
    # More inner steps in training are no remedy: they are as long, and five times as many are still further.
    # Much is lost by steps that overshoot, and shorter ones mend it. What is lost slowly, by fitting a few
    # examples ever more closely, shorter ones lose too, only later: that takes more examples.
    rate = effects.setting("algorithm.inner_lr")
    if _beyond(far, BRITTLE):
        remedy = {} if rate is None else {"algorithm.inner_lr": _round(rate / 4)}
        how = "train with a quarter of the inner rate" if remedy else "let shorter inner steps be learned"
    else:
        remedy = _more_shots(effects)
        how = "use more shots, if there are more"
    return Finding(
        Severity.ERROR if _beyond(twice, BRITTLE) else Severity.WARN,
        f"{_FAR * usual} inner steps instead of {usual} lose {_percent(_lost(far))} of its gain over a guess",
        _lost(far),
        OVERDONE,
        f"stop where training stopped; to be able to go on, {how}",
        tuple(f"{_told(e)} after {e.amount * usual:.0f} steps" for e in steps.values() if e.amount),
        remedy,
    )


def shot_mismatch(effects: Effects) -> Finding | Passed:
    found = effects.of("shots")
    shots = effects.setup["shots"]
    fewer = [e for e in found if e.row["shots"] < shots]
    more = [e for e in found if e.row["shots"] > shots]
    for effect in more:
        if _beyond(effect, MORE):
            return _mismatch(effects, effect, MORE, "more examples make it worse", Severity.WARN)
    for effect in fewer:
        if _beyond(effect, FEWER):
            nothing = effect.lost is not None and effect.lost.low > NOTHING_LEFT
            what = (
                "it is worse than a constant guess"
                if nothing
                else "it depends on as many examples as it knows"
            )
            return _mismatch(effects, effect, FEWER, what, Severity.ERROR if nothing else Severity.WARN)
    worst = max([*fewer, *more], key=_lost)
    return Passed(_lost(worst), FEWER if worst in fewer else MORE)


def _mismatch(effects: Effects, effect: Effect, threshold: float, what: str, severity: Severity) -> Finding:
    shots = effect.row["shots"]
    return Finding(
        severity,
        f"with {shots} shots, {what}: {_percent(_lost(effect))} of its gain over a guess is lost",
        _lost(effect),
        threshold,
        "train with the number of shots that there will be, which may cost some of the score with others",
        (f"score {effect.score:.3g} with {shots} shots, {effect.reference:.3g} with those of the test",),
        {"tasks.train_shots": shots} if effects.has_setting("tasks", "train_shots") else {},
    )


def fragile_to_outliers(effects: Effects) -> Finding | Passed:
    found = effects.of("support outlier")
    ways = effects.setup.get("ways")
    if ways and effects.setup["support"] < 2 * ways:
        raise NotEvaluated("one example a class: no other one could outvote it")
    worst = max(found, key=_lost)
    if not _beyond(worst, OUTLIER):
        return Passed(_lost(worst), OUTLIER)
    why = [f"{worst.size}: {_told(worst)}"]
    why += [f"{e.size}: {_told(e)}" for e in effects.all if e.name == "support labels"][:2]
    return Finding(
        Severity.ERROR if worst.lost is not None and worst.lost.low > NOTHING_LEFT else Severity.WARN,
        f"one wrong example of {effects.setup['support']} costs {_percent(_lost(worst))} of its gain",
        _lost(worst),
        OUTLIER,
        "use more shots, if there are more; else look for the wrong example before adapting",
        tuple(why),
        # Classes may have few examples: of more than twice as many it is not known whether they are there.
        _more_shots(effects, 2 if ways else _outvoting(_lost(worst))),
    )


def _outvoting(lost: float) -> int:
    """By how much to multiply the shots: one of n moves a fit by 1 / n, and its square counts."""
    return 2 ** max(1, math.ceil(math.log(lost / OUTLIER, 4)))


def _more_shots(effects: Effects, times: int = 2) -> dict[str, Any]:
    """The setting of so many times the shots; none where tasks with twice as many were tried in vain."""
    shots = effects.setup["shots"]
    tried = [e.row["shots"] for e in effects.all if e.name == "shots"]
    if not effects.has_setting("tasks", "shots") or (tried and 2 * shots not in tried):
        return {}
    return {"tasks.shots": times * shots}


def ood_collapse(effects: Effects) -> Finding | Passed:
    return _worst_of(
        effects,
        ("unfamiliar tasks", "unfamiliar images"),
        UNFAMILIAR,
        "on unfamiliar tasks ({size}), {lost} of its gain over a guess is lost",
        "train on a Mixture that has such tasks too; do not use it on them as it is",
    )


def adversarial(effects: Effects) -> Finding | Passed:
    answer = _worst_of(
        effects,
        tuple(_ADVERSARIES),
        ATTACKED,
        "{name} moved by {size} lose {lost} of its gain over a guess",
        "train on attacked tasks (adversarial querying), at some cost of the score on clean ones",
        # What makes a learner robust costs clean score, so it is a choice and no fault to do without.
        severe=Severity.WARN,
    )
    if isinstance(answer, Passed):
        return answer
    remedy = {}
    for effect in effects.of(*_ADVERSARIES):
        setting, radius = _ADVERSARIES[effect.name], effect.amount
        if radius and _beyond(effect, ATTACKED) and (effects.setting(setting) or 0.0) < _round(radius):
            remedy[setting] = _round(radius)
    if remedy:
        return replace(answer, remedy=remedy)
    advice = "it is trained on attacks of this size already: use more shots, if there are more"
    return replace(answer, advice=advice, remedy=_more_shots(effects))


def _worst_of(
    effects: Effects,
    names: tuple[str, ...],
    threshold: float,
    title: str,
    advice: str,
    *,
    severe: Severity = Severity.ERROR,
) -> Finding | Passed:
    found = effects.of(*names)
    worst = max(found, key=_lost)
    if not _beyond(worst, threshold):
        return Passed(_lost(worst), threshold)
    others = [e for e in found if e is not worst]
    nothing = worst.lost is not None and worst.lost.low > NOTHING_LEFT
    return Finding(
        severe if nothing else Severity.WARN,
        title.format(name=worst.name, size=worst.size, lost=_percent(_lost(worst))),
        _lost(worst),
        threshold,
        advice,
        tuple(f"{e.name}, {e.size}: {_told(e)}" for e in [worst, *others][:3]),
    )


def _by_amount(effects: Effects, name: str, needed: tuple[float, ...]) -> dict[float | None, Effect]:
    """The effects of a perturbation by their size.

    Raises:
        NotEvaluated: one that is needed was not measured.
    """
    found = {effect.amount: effect for effect in effects.of(name)}
    for amount in needed:
        if amount not in found:
            raise NotEvaluated(f"not measured at {amount:g} times the {name}")
    return found


def _lost(effect: Effect) -> float:
    """The share that is lost of its gain over a guess.

    Raises:
        NotEvaluated: nothing is gained.
    """
    if effect.lost is None:
        raise NotEvaluated("it is not clearly better than a constant guess: there is nothing to lose")
    return effect.lost.value


def _beyond(effect: Effect, threshold: float) -> bool:
    """Whether a loss is larger than a threshold, and surely one."""
    return effect.lost is not None and effect.lost.value > threshold and effect.lost.clearly_positive


def _told(effect: Effect) -> str:
    lost, half = _lost(effect), effect.lost.half_width if effect.lost else 0.0
    return (
        f"{_percent(lost)} +- {100 * half:.0f} % lost"
        if lost > 0
        else f"nothing lost ({_percent(-lost)} gained)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _round(value: float) -> float:
    return float(f"{value:.2g}")


QUESTIONS = (
    Question("BRITTLE_INNER_LR", brittle_inner_lr, "slightly longer inner steps ruin adaptation"),
    Question("OVER_ADAPTATION", over_adaptation, "more inner steps than were trained make it worse"),
    Question("SHOT_MISMATCH", shot_mismatch, "it needs the number of shots that it was trained with"),
    Question("FRAGILE_TO_OUTLIERS", fragile_to_outliers, "one wrong support example does great harm"),
    Question("OOD_COLLAPSE", ood_collapse, "little is left of it on unfamiliar tasks"),
    Question("ADVERSARIAL", adversarial, "inputs moved by next to nothing mislead it"),
)
