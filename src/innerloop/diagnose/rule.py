"""What a rule is: a question to the records of a run, under the name that its finding will bear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from innerloop.diagnose.finding import Answer, Finding, NotEvaluated, Passed, Silent, named
from innerloop.diagnose.history import History

Check = Callable[[History], Finding | Passed]


@dataclass(frozen=True)
class Rule:
    """A question to the records of a run.

    Attributes:
        id: the name of its finding.
        check: answers it, from the records alone; raises `NotEvaluated` where they lack what it needs.
        plot: the section of the report that shows it.
        about: what the finding means, in a sentence.
        persist: how many looks must find it: what one look sees may be the noise of one.
        within: of how many looks, counted from the last; None is as many as must find it, so all of them.
        settles: the share of the run before which it is not asked: much is wrong with a run that begins.
        wide: its records are those of wide looks.
    """

    id: str
    check: Check
    plot: str
    about: str
    persist: int = 1
    within: int | None = None
    settles: float = 0.0
    wide: bool = False

    def ask(self, history: History) -> Answer:
        """The answer for the records as they stand."""
        step, steps = history.step, history.setting("steps", 0)
        if self.settles and steps and step < self.settles * steps:
            return Silent(f"asked after {self.settles:.0%} of the run", self.id)
        try:
            now = self.check(history)
        except NotEvaluated as error:
            return Silent(str(error), self.id)
        if self.persist == 1 and self.within is None:
            return named(now, self.id, self.plot, step)
        found = self._recent(history, now)
        if found is None:
            return named(Passed(now.value, now.threshold), self.id, self.plot, step)
        return named(found[1], self.id, self.plot, found[0])

    def _recent(self, history: History, now: Finding | Passed) -> tuple[int, Finding] | None:
        """The latest finding and its step, if enough of the last looks found it."""
        looks = history.wide_looks if self.wide else history.looks
        hits = [(history.step, now)] if isinstance(now, Finding) else []
        for look in reversed(looks[-(self.within or self.persist) : -1]):
            try:
                answer = self.check(history.until(look))
            except NotEvaluated:
                continue
            if isinstance(answer, Finding):
                hits.append((look, answer))
        # A run that has just begun is judged by what looks there are, if it need not be all of them.
        needed = self.persist if self.within is None else min(self.persist, max(1, len(looks)))
        return hits[0] if len(hits) >= needed else None
