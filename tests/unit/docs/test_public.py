"""What is public is documented, and what is not documented is seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from _pages.public import conventional, everything, facades, undocumented, unfinished

CONCEPTS = Path(__file__).parents[3] / "docs/concepts.md"
KNOWN = {"meta"}


class _Contract(Protocol):
    """What classes of this place offer."""

    def offered(self, rate: float) -> None:
        """Uses `rate`."""
        ...


class _Whole:
    """Has everything.

    Args:
        size: how large.
    """

    def __init__(self, *, size: int) -> None:
        self.size = size

    @property
    def double(self) -> int:
        """Twice the size."""
        return 2 * self.size

    def used(self, meta: object, width: int) -> int:
        """Of some `width`."""
        return width

    def offered(self, rate: float) -> None: ...


class _NoDocstring:
    def __init__(self) -> None: ...


class _NoDocstringOfItsOwn(_Whole):
    pass


class _ArgumentUnsaid:
    """Of some size, which no list of arguments says."""

    def __init__(self, *, size: int) -> None: ...


class _MethodsUnsaid:
    """Has methods."""

    def bare(self) -> None: ...

    @property
    def bare_property(self) -> int:
        return 1

    @classmethod
    def bare_classmethod(cls) -> None: ...

    def unsaid(self, meta: object, rate: float, operated: int) -> None:
        """Uses meta, and how it operates is no matter."""

    def _private(self) -> None: ...


@dataclass
class _Generated:
    size: int


def _function(size: int) -> int:
    """A function."""
    return size


def told(name: str, value: object, **others: object) -> list[str]:
    for kind in (value, *others.values()):
        if isinstance(kind, type):
            kind.__module__ = "innerloop.planted"
    return undocumented({name: value} | others, KNOWN)


def test_everything_public_is_documented() -> None:
    assert undocumented(everything(), conventional(CONCEPTS.read_text("utf-8"))) == []


def test_every_algorithm_is_documented_whole() -> None:
    offered = facades()["innerloop.algorithms"]
    assert len(offered) > 5
    assert unfinished(offered) == []


def test_an_algorithm_without_a_label_is_seen() -> None:
    assert any("no 'Strengths:'" in problem for problem in unfinished({"Whole": _Whole}))


def test_what_is_documented_passes() -> None:
    names = {"innerloop.tasks.Whole": _Whole, "innerloop.tasks.Contract": _Contract}
    for kind in names.values():
        kind.__module__ = "innerloop.planted"
    assert undocumented(names, KNOWN) == []
    assert undocumented({"innerloop.tasks.Whole": _Whole}, KNOWN) == [
        "innerloop.tasks.Whole.offered: no docstring"
    ]


def test_an_undocumented_class_is_seen() -> None:
    assert told("innerloop.Planted", _NoDocstring) == ["innerloop.Planted: no docstring"]
    assert told("innerloop.Planted", _NoDocstringOfItsOwn, **{"innerloop.C": _Contract}) == [
        "innerloop.Planted: no docstring"
    ]


def test_the_signature_that_a_dataclass_writes_is_no_docstring() -> None:
    assert told("innerloop.Planted", _Generated) == [
        "innerloop.Planted: no docstring",
        "innerloop.Planted: argument size is not described",
    ]


def test_an_argument_of_a_component_needs_a_line_of_its_own() -> None:
    complaint = "innerloop.tasks.Planted: argument size is not described"
    assert told("innerloop.tasks.Planted", _ArgumentUnsaid) == [complaint]
    assert told("innerloop.Planted", _ArgumentUnsaid) == []


def test_undocumented_methods_and_their_arguments_are_seen() -> None:
    assert told("innerloop.P", _MethodsUnsaid) == [
        "innerloop.P.bare: no docstring",
        "innerloop.P.bare_property: no docstring",
        "innerloop.P.bare_classmethod: no docstring",
        "innerloop.P.unsaid: argument rate is not described",
        "innerloop.P.unsaid: argument operated is not described",
    ]


def test_an_undocumented_function_and_its_argument_are_seen() -> None:
    assert told("innerloop.planted", _function) == ["innerloop.planted: argument size is not described"]
    assert told("innerloop.planted", lambda: None) == ["innerloop.planted: no docstring"]


def test_names_with_one_meaning_stand_in_a_table() -> None:
    page = "# A\n\n## Names\n\n| name | is |\n|---|---|\n| `a`, `b` | both |\n\n## Other\n\n| `c` | no |\n"
    assert conventional(page) == {"a", "b"}
    assert conventional("# A\n\n| `a` | no |\n") == set()
    assert {"meta", "fast", "support"} <= conventional(CONCEPTS.read_text("utf-8"))
