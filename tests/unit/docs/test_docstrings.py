"""Docstrings of algorithms have all that pages and tables are made from, and what is missing is seen."""

from __future__ import annotations

import pytest

from _pages.docstrings import Figure, lacking, parse, published, published_problems
from _pages.public import arguments_of, own_docstring
from innerloop import algorithms

WHOLE = """Learns something.

Inner loop: phi_{k+1} = phi_k - inner_lr * grad L_S(phi_k). Outer objective: L_Q(phi_K).
Meta-learned: theta. Adapted: all of it.

Cost per inner step: one pass.

Strengths: it is cheap.
Published: Omniglot 5-way 1-shot 98.7 +- 0.4; FC100 38.0 (the paper, table 1).

Args:
    module: any module.
    inner_lr, inner_steps: step size, > 0, and
        number of steps.

>>> 1 + 1
2

Differences from the paper: none known.

Reference: Somebody 2017, arXiv 1703.03400.
"""
ARGUMENTS = ["module", "inner_lr", "inner_steps"]

#: What is done to a whole docstring, and what has to be said of it.
PLANTS = {
    "no formula": ("Inner loop: phi_{k+1} = phi_k - inner_lr * grad L_S(phi_k). Outer", "Outer", "no update"),
    "no objective": ("Outer objective: L_Q(phi_K).", "", "no 'Outer objective:'"),
    "no meta": ("Meta-learned: theta. ", "", "no 'Meta-learned:'"),
    "nothing adapted": (" Adapted: all of it.", "", "no 'Adapted:'"),
    "no cost": ("Cost per inner step: one pass.", "", "no 'Cost per inner step:'"),
    "no strengths": ("Strengths: it is cheap.\n", "", "no 'Strengths:'"),
    "empty strengths": ("Strengths: it is cheap.\n", "Strengths:\n", "nothing under 'Strengths:'"),
    "nothing published": ("Published:", "Reported:", "no 'Published:'"),
    "no source": (" (the paper, table 1)", "", "Published: Omniglot without a source"),
    "no dataset": ("FC100 38.0", "and 38.0", "Published: figures of 'and', which is no dataset"),
    "no number": ("38.0", "low", "Published: FC100 without a number"),
    "no arguments": ("Args:", "Arguments:", "no 'Args:'"),
    "missing argument": ("    module: any module.\n", "", "argument module is not described"),
    "argument without a word": ("any module.", "", "argument module is not described"),
    "argument that is gone": (
        "    module:",
        "    network: a network.\n    module:",
        "Args describes network",
    ),
    "no example": (">>> 1 + 1\n2\n", "", "no example"),
    "no differences": ("Differences from the paper: none known.", "", "no 'Differences from the paper:'"),
    "no reference": ("Reference: Somebody 2017, arXiv 1703.03400.", "", "no 'Reference:'"),
    "undated reference": ("Somebody 2017, arXiv 1703.03400.", "somebody.", "Reference: no year"),
    "no first line": (WHOLE.split("\n\n")[0], "", "no first line"),
}


@pytest.mark.parametrize("name", algorithms.REGISTRY)
def test_an_algorithm_is_documented_whole(name: str) -> None:
    kind = getattr(algorithms, name)
    assert lacking(own_docstring(kind), arguments_of(kind)) == []


def test_a_whole_docstring_lacks_nothing() -> None:
    assert lacking(WHOLE, ARGUMENTS) == []


@pytest.mark.parametrize(("old", "new", "told"), PLANTS.values(), ids=PLANTS)
def test_what_is_missing_is_seen(old: str, new: str, told: str) -> None:
    assert WHOLE.count(old) == 1
    found = lacking(WHOLE.replace(old, new), ARGUMENTS)
    assert any(problem.startswith(told) for problem in found), found


def test_labels_in_another_order_are_seen() -> None:
    strengths = "Strengths: it is cheap.\n"
    moved = WHOLE.replace(strengths, "").replace("Cost per inner step", strengths + "Cost per inner step")
    assert lacking(moved, ARGUMENTS) == ["'Strengths:' stands before 'Cost per inner step:'"]


def test_no_docstring_lacks_everything() -> None:
    assert {"no first line", "no 'Args:'", "no 'Reference:'"} <= set(lacking(None, []))


def test_figures_that_nobody_verified_are_none() -> None:
    assert published("none verified.") == published_problems("none verified.") == []
    assert published_problems("") == ["neither figures nor 'none verified.'"]
    assert "none without a number" in published_problems("none.")


def test_figures_take_the_next_source() -> None:
    text = (
        "Omniglot 5-way 1-shot 98.3 +- 0.5, 5-way 5-shot 99.2 (A); miniImageNet 48.07; tiered 50 (B), wider."
    )
    assert published(text) == [
        Figure("Omniglot", "5-way 1-shot 98.3 +- 0.5, 5-way 5-shot 99.2", "A"),
        Figure("miniImageNet", "48.07", "B"),
        Figure("tiered", "50", "B; wider"),
    ]


def test_labels_begin_parts_only_where_a_sentence_does() -> None:
    found = parse("One.\n\nThe outer Cost: is no label here. Cost: is one.\n\n    Cost: formula\n")
    assert [(part.label, len(part.blocks)) for part in found.parts] == [("", 2), ("Cost", 2)]
    assert found.said("Cost") == "is one."


def test_text_after_arguments_is_a_note_and_belongs_to_nothing_else() -> None:
    found = parse("One.\n\nArgs:\n    a: b.\n\n    c: d.\n\nAnd more.\n\n>>> 1\n1\n\n>>> 2\n2\n")
    assert found.entries == {"a": "b.", "c": "d."}
    assert [part.label for part in found.parts] == ["", "Args", "Notes", "Example"]
