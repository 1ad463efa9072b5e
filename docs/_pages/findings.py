"""The table of *Why does it not train?*: one row a rule of the doctor, from the rule and its code.

Name, meaning, severity, section of the report and persistence are read off the rule; when it fires and what
mends it is said in `findings.yaml`, with thresholds as fields that are filled from where the rules have them,
so a number that changes there changes here. A rule of which nothing is said has its row all the same, and is
complained of.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from _pages.rst import inline, table
from innerloop.diagnose import quotients, seeds, verdict
from innerloop.diagnose.finding import Severity
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules import RULES, forgetting, inner, leaks, meta_gradient, outer, tasks

HEAD = ("Finding", "Fires where", "What mends it")
_MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (forgetting, inner, leaks, meta_gradient, outer, quotients, seeds, tasks, verdict)
}

#: What is said of a rule: `fires` and `mends`, with thresholds as fields.
Told = Mapping[str, str]


def told() -> dict[str, Told]:
    """What is said of each rule, by its id."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def findings(rules: Sequence[Rule] = RULES) -> str:
    """The whole table, as reStructuredText; at its end what several runs tell, which no rule does."""
    said = told()
    rows = [
        _row(rule.id, f"{rule.about} ({facts(rule)}); section *{rule.plot}*", said.get(rule.id, {}))
        for rule in rules
    ]
    rows.append(_row(seeds.ID, "seeds end clearly apart (warn; of several runs)", said[seeds.ID]))
    return table(rows, HEAD, widths=(27, 43, 30), css="findings")


def complaints(rules: Sequence[Rule] = RULES) -> list[str]:
    """The rules of which nothing is said, and what is said of rules that there are not."""
    known, said = {rule.id for rule in rules} | {seeds.ID}, set(told())
    return [f"finding {id}: not in docs/_pages/findings.yaml" for id in sorted(known - said)] + [
        f"finding {id}: no rule has this id" for id in sorted(said - known)
    ]


def facts(rule: Rule) -> str:
    """How bad it is, and when it is asked."""
    words = [" or ".join(severity.value for severity in severities(rule))]
    looks = "wide looks" if rule.wide else "looks"
    if rule.within is not None:
        words.append(f"at {rule.persist} of the last {rule.within} {looks}")
    elif rule.persist > 1:
        words.append(f"at {rule.persist} {looks} in a row")
    words += [f"after {rule.settles:.0%} of the run"] if rule.settles else []
    return "; ".join(words)


def severities(rule: Rule) -> list[Severity]:
    """The severities that a rule's code names, the worst first."""
    named = set(re.findall(r"Severity\.([A-Z]+)", inspect.getsource(rule.check)))
    return [severity for severity in reversed(Severity) if severity.name in named]


def filled(text: str) -> str:
    """A text with its thresholds.

    >>> filled("above {inner.EDGE:g}")
    'above 2'
    """
    return text.format(**_MODULES)


def _row(id: str, meaning: str, said: Told) -> list[str]:
    texts = [said.get(name, "") for name in ("fires", "mends")]
    return [f"``{id}``\n\n{inline(meaning)}", *(inline(filled(text)) if text else "—" for text in texts)]
