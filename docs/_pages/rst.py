"""Plain text as reStructuredText: the same words, with what the markup would take for its own escaped."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from _pages.docstrings import FIELDS, Block, Docstring, Part, entries, parse_clean

#: Names in backticks -> the full names that they link to.
Links = Mapping[str, str]

_SPAN = re.compile(r"(`[^`]+`)")
_EMPHASIS = re.compile(r"(?<![\w*\\])\*(\w[^*\n]*\w|\w)\*(?![\w*])")
_ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
#: What begins a list item at the start of a line: `W.`, `(a)`, `2)`, `- `.
_LIST = re.compile(r"^(\(?(?:\w|[ivxlcdm]+|\d+|#)[.)]|[-+])(?=\s|$)")
_TITLES = {"Args": "Arguments", "Attributes": "Attributes", "Raises": "Raises"}


def inline(text: str, links: Links | None = None) -> str:
    """A piece of plain text on one line; `code` stays code, and links where it is a public name.

    >>> inline("phi_ * |x| of `MAML`, *not* a_b, +- 1", {"MAML": "innerloop.algorithms.MAML"})
    'phi\\\\_ \\\\* \\\\|x\\\\| of :py:obj:`MAML <innerloop.algorithms.MAML>`, *not* a_b, ± 1'
    """
    parts = _SPAN.split(" ".join(text.split()))
    made = [_code(part, links or {}) if part.startswith("`") else _prose(part) for part in parts]
    return _LIST.sub(r"\\\1", "".join(made))


def _code(span: str, links: Links) -> str:
    name = span.strip("`")
    target = links.get(name.removeprefix("il.").removesuffix("()"))
    return f":py:obj:`{name} <{target}>`" if target else f"``{name}``"


def _prose(text: str) -> str:
    pieces = _EMPHASIS.split(text)
    escaped = [_escaped(piece) for piece in pieces]
    escaped[1::2] = [f"*{piece}*" for piece in escaped[1::2]]
    return _ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", "".join(escaped))


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\\").replace("*", r"\*").replace("|", r"\|").replace("::", r":\:")
    return re.sub(r"(\w)_(?!\w)", r"\1\_", text).replace("+-", "±")


def block(found: Block, links: Links | None = None) -> str:
    """A block of a docstring."""
    if found.kind == "formula":
        return code(found.text, "none", "formula")
    if found.kind == "example":
        return code(found.text, "pycon")
    if found.kind == "list":
        items = re.split(r"\n(?=- )", found.text)
        return "\n".join(f"- {inline(item.removeprefix('- '), links)}" for item in items)
    if found.kind == "prose":
        return docstring(parse_clean(found.text), links)
    return inline(found.text, links)


def code(text: str, language: str, css: str = "") -> str:
    options = f"\n   :class: {css}" if css else ""
    return f".. code-block:: {language}{options}\n\n" + textwrap.indent(text.rstrip(), "   ")


def fields(part: Part, links: Links | None = None) -> str:
    """A list such as `Args:` as a field, one line an entry."""
    lines = [f":{_TITLES[part.label]}:"]
    for names, said in entries(part.blocks[0].text):
        shown = ", ".join(f"**{name}**" for name in names)
        lines.append(f"   - {shown}: {inline(said, links)}")
    return "\n".join(lines)


def labelled(part: Part, links: Links | None = None) -> str:
    """A part with its label in front, in bold."""
    blocks = [block(found, links) for found in part.blocks]
    if part.blocks and part.blocks[0].kind == "text":
        first = part.blocks[0].text
        blocks[0] = f"**{part.label}:** {inline(first, links)}"
    else:
        blocks.insert(0, f"**{part.label}**")
    return "\n\n".join(blocks)


def docstring(found: Docstring, links: Links | None = None, only: Iterable[str] | None = None) -> str:
    """A whole docstring, or the parts of it with some labels."""
    chosen = [part for part in found.parts if only is None or part.label in only]
    return "\n\n".join(text for text in (_part(part, links) for part in chosen) if text)


def _part(part: Part, links: Links | None) -> str:
    if part.label in FIELDS:
        return fields(part, links) if part.blocks else ""
    if part.label in ("Returns", "Yields"):
        return f":{part.label}: " + textwrap.indent(docstring_of(part, links), "   ").lstrip()
    if part.label in ("", "Notes", "Example"):
        return docstring_of(part, links)
    return labelled(part, links)


def docstring_of(part: Part, links: Links | None = None) -> str:
    """The blocks of a part, without its label."""
    return "\n\n".join(block(found, links) for found in part.blocks)


def heading(title: str, underline: str = "=") -> str:
    return f"{title}\n{underline * len(title)}"


def table(
    rows: Iterable[Iterable[str]], head: Sequence[str], widths: Iterable[int] | None = None, css: str = ""
) -> str:
    """A table of reStructuredText cells."""
    lines = [".. list-table::", "   :align: left"]
    lines += ["   :header-rows: 1"] if head else []
    lines += [f"   :widths: {' '.join(map(str, widths))}"] if widths else []
    lines += [f"   :class: {css}"] if css else []
    lines.append("")
    for row in (*([head] if head else []), *rows):
        for index, cell in enumerate(row):
            mark = "   * - " if index == 0 else "     - "
            lines.append(mark + textwrap.indent(cell, " " * 7).lstrip())
    return "\n".join(line.rstrip() for line in lines)
