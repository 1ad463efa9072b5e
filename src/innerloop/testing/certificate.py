"""What the questions brought to light, to print, to write down, and to ask for its truth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["yes", "no", "not asked"]
_MARKS: dict[Outcome, str] = {"yes": "ok", "no": "NO", "not asked": "--"}


@dataclass(frozen=True)
class Answer:
    """What one question brought to light.

    Attributes:
        question: its name.
        about: what it asks, in a sentence.
        outcome: `yes`, `no`, or `not asked`.
        detail: what was seen, or why it was not asked.
        seconds: time taken.
    """

    question: str
    about: str
    outcome: Outcome
    detail: str
    seconds: float


@dataclass(frozen=True)
class Certificate:
    """The answers of one algorithm; true where none is `no`.

    Attributes:
        subject: what was asked, in words.
        answers: one for each question, in the order in which they were asked.
    """

    subject: str
    answers: tuple[Answer, ...]

    @property
    def failed(self) -> list[Answer]:
        """The answers that are `no`."""
        return [answer for answer in self.answers if answer.outcome == "no"]

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        asked = [answer for answer in self.answers if answer.outcome != "not asked"]
        lines = [f"{self.subject}: {len(asked) - len(self.failed)} of {len(asked)} questions answered well"]
        for answer in self.answers:
            lines.append(f"  {_MARKS[answer.outcome]}  {answer.question.replace('_', ' ')}")
            lines += [f"      {answer.detail}"] if answer.detail else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """One JSON object: the subject, whether it passed, and every answer."""
        return {"subject": self.subject, "passed": bool(self), "answers": [asdict(a) for a in self.answers]}
