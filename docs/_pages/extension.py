"""The generator's side: asks what is missing, writes the pages, reads docstrings as plain text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from _pages import findings, public, write
from _pages.docstrings import parse_clean
from _pages.rst import docstring

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _prepare)
    app.connect("autodoc-process-docstring", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def complaints(names: Path) -> list[str]:
    """All that is missing; `names` is the page whose table says what arguments mean everywhere."""
    known = public.conventional(names.read_text(encoding="utf-8"))
    algorithms = public.facade(f"{public.PACKAGE}.algorithms")
    documented = public.undocumented(public.everything(), known) + public.unfinished(algorithms)
    return documented + findings.complaints()


def _prepare(app: Sphinx) -> None:
    from sphinx.util.logging import getLogger

    for complaint in complaints(Path(app.srcdir) / "concepts.md"):
        getLogger(__name__).warning("undocumented: %s", complaint, type="undocumented")
    write.write(Path(app.srcdir) / "reference")


def _read(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into markup; of an algorithm, whose page says the rest, its arguments alone."""
    links = write.link_targets(public.facades())
    own_page = what == "class" and name.rpartition(".")[0] == f"{public.PACKAGE}.algorithms"
    only = ("Args",) if own_page else None
    lines[:] = [*docstring(parse_clean("\n".join(lines)), links, only).split("\n"), ""]
