"""Glyphs by script: characters of one writing system after another."""

from __future__ import annotations

from typing import Self, final

import numpy as np

from innerloop.core.errors import ConfigError, unknown
from innerloop.tasks.class_families import ClassFamily, stroke_families
from innerloop.tasks.glyphs import drawn
from innerloop.tasks.streaming import Schedule, StreamTasks

#: Scripts that the fonts have enough of, by the first word of a character's Unicode name.
SCRIPTS = ("Latin", "Cyrillic", "Greek", "Georgian", "Armenian", "Lao", "Braille")
_DEFAULT = SCRIPTS[:5]


@final
class GlyphScripts(StreamTasks):
    """A family is a script; a class is a character of it, its examples 20 drawings as in `Glyphs`.

    A script is the first word of a character's Unicode name. Train, val and test of a family are different
    characters of the same script: a fifth each are of val and of test, by a fixed draw. Of characters
    that look alike in several scripts (Latin A, Greek Alpha) `Glyphs` keeps the first, in code point order,
    so no shape is in two families, and the later scripts have the letters that are their own: Latin 563,
    Cyrillic 130, Greek 136, Georgian 112, Armenian 51, Lao 26, Braille 180. Within a script letters that
    differ in an accent may be in two splits, if their cosine is below 0.93.

    Args:
        scripts: some of the seven above, in their order, at least two; None is the first five.
        ways: classes of a task, >= 2; Armenian has 10 characters in val and test each, Lao 5.
        shots, queries: support and query drawings of each class; together at most 20.
        schedule: `sequence` gives each an equal share of the outer steps, one after another; `drift` goes
            over from each to the next gradually; `progressive` lets them join one at a time, what is most
            alike first, and stay; `joint` is all at once.
        rounds: how often the whole sequence comes, >= 1.

    Raises:
        ConfigError: an unknown script, one that is named twice, or a size out of range.
        DataError: matplotlib or its fonts are missing.

    >>> GlyphScripts.tiny().sample("test", 4, 0).query.x.shape
    torch.Size([4, 9, 1, 28, 28])
    """

    def __init__(
        self,
        scripts: list[str] | None = None,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        schedule: Schedule = "sequence",
        rounds: int = 1,
    ) -> None:
        self.scripts = list(_DEFAULT if scripts is None else scripts)
        self.ways, self.shots, self.queries = ways, shots, queries
        for script in self.scripts:
            if script not in SCRIPTS:
                raise unknown("script", str(script), SCRIPTS)
        if len(set(self.scripts)) < len(self.scripts):
            raise ConfigError(
                f"scripts = {', '.join(self.scripts)}",
                expected="every script once",
                do="name different scripts; rounds brings all of them again",
            )
        store = drawn()
        first = np.array([name.split()[1].split("-")[0].title() for name in store.names])
        sizes = {"ways": ways, "shots": shots, "queries": queries}
        families = [
            ClassFamily(script, store, [np.flatnonzero(first == script)], **sizes) for script in self.scripts
        ]
        self._set_families(families, self.scripts, schedule, rounds)

    @classmethod
    def tiny(cls) -> Self:
        """Two families of 25 synthetic characters with 8 drawings each, 3-way 1-shot; needs no fonts."""
        source = cls.__new__(cls)
        source.scripts = ["Latin", "Cyrillic"]
        source.ways, source.shots, source.queries = 3, 1, 3
        source._set_families(stroke_families(2), source.scripts, "sequence", 1)
        return source
