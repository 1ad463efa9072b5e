"""What the benchmarks print."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_console = Console(width=max(120, shutil.get_terminal_size().columns), highlight=False, markup=False)
_WIDE = _console.options.update(width=1000)


def say(text: str) -> None:
    _console.print(text)


def show(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()
) -> None:
    """A table, with notes of what is not in it."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    width = max(_console.width, _console.measure(table, options=_WIDE).maximum)
    Console(width=width, highlight=False, markup=False).print(table)  # a figure that is cut off is none
    for note in notes:
        _console.print(f"  {note}", soft_wrap=True)
