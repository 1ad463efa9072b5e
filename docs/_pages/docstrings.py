"""Docstrings taken apart: labelled paragraphs, formulas, arguments, examples. And what one of them lacks.

Docstrings of this package are plain text. A paragraph that begins with a label (`Cost: ...`) is a part
of its own; an indented paragraph is a formula; `Args:` and its like are written as Google does.
Nothing here needs the generator, so that tests ask the same questions as the build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "list", "formula", "example", "fields", "prose"]

OUTER = ("Outer objective", "Outer gradient", "Outer direction")
COST = ("Cost per inner step", "Cost")
LABELS = (
    "Inner loop",
    *OUTER,
    "Meta-learned",
    "Adapted",
    *COST,
    "Strengths",
    "Published",
    "Differences from the paper",
    "Reference",
)
#: What stands under a heading of its own, each line indented: entries by name, or prose.
FIELDS, PROSE = ("Args", "Attributes", "Raises"), ("Returns", "Yields", "Example", "Examples")
NOTES, EXAMPLE = "Notes", "Example"
#: The parts of an algorithm's docstring, in order; of those in one row, any.
TEMPLATE = (
    OUTER,
    ("Meta-learned",),
    ("Adapted",),
    COST,
    ("Strengths",),
    ("Published",),
    ("Args",),
    (EXAMPLE,),
    ("Differences from the paper",),
    ("Reference",),
)

_LABEL = re.compile(rf"(?:^|(?<=[.:;)]\s))({'|'.join(LABELS)}):(?=\s|$)", re.MULTILINE)
_HEADING = re.compile(rf"^({'|'.join((*FIELDS, *PROSE))}):$")
NONE_PUBLISHED = "none verified."


@dataclass(frozen=True)
class Block:
    """A paragraph or its like, without the indentation it had."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Part:
    """What stands under one label; the first part of a docstring has none."""

    label: str
    blocks: tuple[Block, ...]

    @property
    def text(self) -> str:
        """Its first paragraph, on one line."""
        return " ".join(self.blocks[0].text.split()) if self.blocks else ""


@dataclass(frozen=True)
class Docstring:
    """A docstring's parts in their order."""

    parts: tuple[Part, ...]

    @property
    def summary(self) -> str:
        return self.parts[0].text

    def part(self, *labels: str) -> Part | None:
        return next((part for part in self.parts if part.label in labels), None)

    def said(self, *labels: str) -> str:
        """The first paragraph under any of these labels; empty where there is none."""
        found = self.part(*labels)
        return found.text if found else ""

    @property
    def entries(self) -> dict[str, str]:
        """What `Args:` and `Attributes:` say, by name."""
        blocks = [b for p in self.parts if p.label in ("Args", "Attributes") for b in p.blocks]
        return {name: said for block in blocks for names, said in entries(block.text) for name in names}


def parse(text: str | None) -> Docstring:
    """Take a docstring apart.

    >>> parsed = parse("One.\\n\\nCost: little. Adapted: all.\\n\\nArgs:\\n    a, b: both.\\n\\n>>> 1\\n1")
    >>> [part.label for part in parsed.parts]
    ['', 'Cost', 'Adapted', 'Args', 'Example']
    >>> parsed.said("Cost"), parsed.entries
    ('little.', {'a': 'both.', 'b': 'both.'})
    """
    return parse_clean(inspect.cleandoc(text or ""))


def parse_clean(text: str) -> Docstring:
    """Take a docstring apart that was rid of its indentation; doing so twice would take that of formulas."""
    parts: list[tuple[str, list[Block]]] = [("", [])]
    for label, block in _blocks(text):
        if label is not None:
            parts.append((label, [block] if block.text else []))
        elif block.kind == "example" and parts[-1][0] not in ("", EXAMPLE):
            parts.append((EXAMPLE, [block]))
        elif block.kind != "example" and parts[-1][0] in (*FIELDS, EXAMPLE):
            parts.append((NOTES, [block]))
        else:
            parts[-1][1].append(block)
    return Docstring(tuple(Part(label, tuple(blocks)) for label, blocks in parts))


def entries(text: str) -> list[tuple[list[str], str]]:
    """The entries of a Google-style list: names, and what is said of them on one line.

    >>> entries("a, b: of\\n    both.\\nc: of one.")
    [(['a', 'b'], 'of both.'), (['c'], 'of one.')]
    """
    found = []
    for entry in re.split(r"\n(?=\S)", text):
        names, _, said = entry.partition(":")
        found.append(([name.strip(" *") for name in names.split(",")], " ".join(said.split())))
    return found


def _blocks(text: str) -> Iterator[tuple[str | None, Block]]:
    """The blocks of a clean docstring, each with the label that it begins, if any."""
    lines = text.split("\n")
    while lines:
        if not lines[0].strip():
            lines.pop(0)
            continue
        heading = _HEADING.match(lines[0])
        if heading:
            lines.pop(0)
            body = _taken(lines, lambda line: not line.strip() or line.startswith(" "))
            kind: Kind = "fields" if heading[1] in FIELDS else "prose"
            label = EXAMPLE if heading[1] == "Examples" else heading[1]
            yield label, Block(kind, inspect.cleandoc("\n" + "\n".join(body)))
            continue
        body = _taken(lines, lambda line: bool(line.strip()) and not _HEADING.match(line))
        paragraph = "\n".join(body)
        if paragraph.startswith(">>>"):
            yield None, Block("example", paragraph)
        elif paragraph.startswith(" "):
            yield None, Block("formula", inspect.cleandoc("\n" + paragraph))
        elif paragraph.startswith("- "):
            yield None, Block("list", paragraph)
        else:
            yield from _labelled(paragraph)


def _taken(lines: list[str], belongs: Callable[[str], bool]) -> list[str]:
    """The lines up to the first that does not belong, removed from `lines`."""
    count = next((i for i, line in enumerate(lines) if not belongs(line)), len(lines))
    taken, lines[:] = lines[:count], lines[count:]
    return taken


def _labelled(paragraph: str) -> Iterator[tuple[str | None, Block]]:
    """The pieces of a paragraph: what stands before the first label, then one for each."""
    head, *rest = _LABEL.split(paragraph)
    if head.strip():
        yield None, Block("text", head.strip())
    for label, said in zip(rest[::2], rest[1::2], strict=True):
        yield label, Block("text", inspect.cleandoc(said).strip())


# --- what an algorithm's docstring lacks ------------------------------------------------------------------


def lacking(text: str | None, arguments: Sequence[str]) -> list[str]:
    """What the docstring of an algorithm lacks: a label, its place, a formula, an argument.

    Args:
        text: the docstring of the class.
        arguments: names of the constructor's arguments.
    """
    found = parse(text)
    wrong = [] if found.summary else ["no first line"]
    first = next((i for i, part in enumerate(found.parts) if part.label in OUTER), len(found.parts))
    before = found.parts[:first]
    formulas = any(block.kind == "formula" for part in before for block in part.blocks)
    if not formulas and found.part("Inner loop") is None:
        wrong.append("no update: an indented formula, or 'Inner loop: ...'")
    last, place = "the update", -1
    for labels in TEMPLATE:
        at = next((i for i, part in enumerate(found.parts) if part.label in labels), None)
        if at is None:
            wrong.append(f"no '{labels[0]}:'" if labels != (EXAMPLE,) else "no example (>>>)")
            continue
        if not found.parts[at].text:
            wrong.append(f"nothing under '{found.parts[at].label}:'")
        if at < place:
            wrong.append(f"'{found.parts[at].label}:' stands before {last}")
        last, place = f"'{found.parts[at].label}:'", max(at, place)
    said = {} if found.part("Args") is None else dict(_arguments(found))
    wrong += [f"argument {name} is not described" for name in arguments if not said.get(name)]
    wrong += [f"Args describes {name}, which is no argument" for name in said if name not in arguments]
    if found.part("Published") is not None:
        wrong += [f"Published: {problem}" for problem in published_problems(found.said("Published"))]
    reference = found.said("Reference")
    if reference and not re.search(r"\b(19|20)\d\d\b", reference):
        wrong.append("Reference: no year")
    return wrong


def _arguments(found: Docstring) -> Iterator[tuple[str, str]]:
    blocks = [block for part in found.parts if part.label == "Args" for block in part.blocks]
    for block in blocks:
        yield from ((name, said) for names, said in entries(block.text) for name in names)


# --- published figures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """Published figures on one dataset, and who reports them."""

    dataset: str
    figures: str
    source: str


def published(text: str) -> list[Figure]:
    """The figures of a `Published:` paragraph; they take the next source in brackets, and a remark after it.

    >>> published("Omniglot 5-way 1-shot 98.7; sinusoid MSE 0.67 (the paper). FC100 38.0 (B), wide.")
    ... # doctest: +NORMALIZE_WHITESPACE
    [Figure(dataset='Omniglot', figures='5-way 1-shot 98.7', source='the paper'),
     Figure(dataset='sinusoid', figures='MSE 0.67', source='the paper'),
     Figure(dataset='FC100', figures='38.0', source='B; wide')]
    """
    if text == NONE_PUBLISHED:
        return []
    found: list[Figure] = []
    waiting: list[tuple[str, str]] = []
    for piece, source in re.findall(r"([^()]+)(?:\(([^()]*)\))?", text):
        for clause in filter(None, (clause.strip(" .,:") for clause in piece.split(";"))):
            if found and not waiting and not re.search(r"\b\d", clause):
                remark = f"{clause} ({source})" if source else clause
                found[-1] = replace(found[-1], source=f"{found[-1].source}; {remark}")
                continue
            dataset, _, figures = clause.partition(" ")
            waiting.append((dataset, figures.strip(" :")))
        if source:
            found += [Figure(*figure, source) for figure in waiting]
            waiting = []
    return found + [Figure(*figure, "") for figure in waiting]


def published_problems(text: str) -> list[str]:
    """What is wrong with a `Published:` paragraph: figures without a number or without a source."""
    if text == NONE_PUBLISHED:
        return []
    figures = published(text)
    wrong = [] if figures else [f"neither figures nor '{NONE_PUBLISHED}'"]
    wrong += [f"{figure.dataset} without a source in brackets" for figure in figures if not figure.source]
    unnamed = [f.dataset for f in figures if not re.search(r"[A-Z]|^sinusoid$", f.dataset)]
    wrong += [f"figures of {name!r}, which is no dataset" for name in unnamed]
    return wrong + [f"{f.dataset} without a number" for f in figures if not re.search(r"\b\d", f.figures)]
