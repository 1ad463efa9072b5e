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
        persist: how many looks in a row must find it: what one look sees may be the noise of one.
        settles: the share of the run before which it is not asked: much is wrong with a run that begins.
        wide: its records are those of wide looks.
    """

    id: str
    check: Check
    plot: str
    about: str
    persist: int = 1
    settles: float = 0.0
    wide: bool = False

    def ask(self, history: History) -> Answer:
        """The answer for the records as they stand."""
        step, steps = history.step, history.setting("steps", 0)
        if self.settles and steps and step < self.settles * steps:
            return Silent(f"asked after {self.settles:.0%} of the run", self.id)
        try:
            found = self.check(history)
            if isinstance(found, Finding) and not self._persists(history):
                found = Passed(found.value, found.threshold)
        except NotEvaluated as error:
            return Silent(str(error), self.id)
        return named(found, self.id, self.plot, step)

    def _persists(self, history: History) -> bool:
        """Whether the looks before the last one found it too."""
        if self.persist == 1:
            return True
        looks = history.wide_looks if self.wide else history.looks
        if self.persist > len(looks):
            return False
        try:
            before = (self.check(history.until(look)) for look in looks[-self.persist : -1])
            return all(isinstance(answer, Finding) for answer in before)
        except NotEvaluated:
            return False
