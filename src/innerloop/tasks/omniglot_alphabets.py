"""Omniglot's alphabets one after another; or Lake's background set and then the evaluation set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Self, final, get_args

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, unknown
from innerloop.tasks.class_families import ClassFamily, stroke_families
from innerloop.tasks.omniglot_files import PARTS, load_characters
from innerloop.tasks.store import ExampleStore
from innerloop.tasks.streaming import Schedule, StreamTasks

Protocol = Literal["alphabets", "lake"]
_LARGEST = ("Tifinagh", "Japanese_(hiragana)", "Gujarati", "Japanese_(katakana)", "Bengali", "Grantha")


@final
class OmniglotAlphabets(StreamTasks):
    """A family is an alphabet, or a few; a class is a character, its examples 20 drawings as in `Omniglot`.

    Train, val and test of a family are different characters of the same alphabet: a fifth each, at
    least one, are of val and of test, by a fixed draw. So what is judged is how new characters of an
    alphabet are learned, while training sees other characters of it.

    Args:
        root: folder with the two zips or folders of Omniglot, as for `Omniglot`; None is the cache folder.
        alphabets: names of folders of Omniglot, in their order, such as `Greek`; several joined by `+` are
            one family. At least two families. None is the six largest of the background set, from the
            largest: Tifinagh (55), Japanese_(hiragana) (52), Gujarati (48), Japanese_(katakana) (47),
            Bengali (46), Grantha (43).
        protocol: `alphabets`, or `lake` for two families: the 30 alphabets of the background set, then the 20
            of the evaluation set.
        ways: classes of a task, >= 2; the smallest of the default families has 9 characters in val and test.
        shots, queries: support and query drawings of each class; together at most 20.
        schedule: `sequence` gives each an equal share of the outer steps, one after another; `drift` goes
            over from each to the next gradually; `progressive` lets them join one at a time, what is most
            alike first, and stay; `joint` is all at once.
        rounds: how often the whole sequence comes, >= 1.

    Raises:
        ConfigError: an unknown alphabet, one in two families, alphabets with `lake`, or a size out of range.
        DataError: files are missing (and cannot be downloaded), truncated, incomplete, or not images.

    >>> OmniglotAlphabets.tiny().sample("test", 4, 0).query.x.shape
    torch.Size([4, 9, 1, 28, 28])

    Reference: Lake, Salakhutdinov, Tenenbaum, *Human-level concept learning through probabilistic program
    induction*, Science 2015; the streams of alphabets are ours.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        alphabets: list[str] | None = None,
        protocol: Protocol = "alphabets",
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        schedule: Schedule = "sequence",
        rounds: int = 1,
    ) -> None:
        self.root: str | None = None if root is None else os.fspath(root)
        self.alphabets = None if alphabets is None else list(alphabets)
        self.protocol, self.ways, self.shots, self.queries = protocol, ways, shots, queries
        if protocol not in get_args(Protocol):
            raise unknown("protocol", str(protocol), get_args(Protocol))
        if protocol == "lake" and alphabets is not None:
            raise ConfigError(
                f"alphabets = {', '.join(self.alphabets or [])} with protocol = 'lake'",
                expected="no alphabets: the background and the evaluation set are the families",
                do="leave alphabets out, or set protocol to alphabets",
            )
        characters = load_characters(self.root)
        store = ExampleStore(characters.images, characters.counts, characters.names, {})
        named = _LARGEST if self.alphabets is None else self.alphabets
        chosen = _of_sets(store) if protocol == "lake" else _of_alphabets(store, named)
        sizes = {"ways": ways, "shots": shots, "queries": queries}
        families = [ClassFamily(name, store, groups, **sizes) for name, groups in chosen.items()]
        self._set_families(families, list(chosen), schedule, rounds)

    @classmethod
    def tiny(cls) -> Self:
        """Two families of 25 synthetic characters with 8 drawings each, 3-way 1-shot; needs no files."""
        source = cls.__new__(cls)
        source.root, source.alphabets, source.protocol = None, None, "alphabets"
        source.ways, source.shots, source.queries = 3, 1, 3
        source._set_families(stroke_families(2), ["strokes 1", "strokes 2"], "sequence", 1)
        return source


_Ids = NDArray[np.int64]


def _by_alphabet(store: ExampleStore) -> dict[tuple[str, str], _Ids]:
    """Ids of the characters of each (part, alphabet), in the order of the files."""
    found: dict[tuple[str, str], list[int]] = {}
    for index, name in enumerate(store.names):
        part, alphabet, _ = name.split("/")
        found.setdefault((part, alphabet), []).append(index)
    return {place: np.array(ids, dtype=np.int64) for place, ids in found.items()}


def _of_sets(store: ExampleStore) -> Mapping[str, list[_Ids]]:
    alphabets = _by_alphabet(store)
    return {
        set_.removeprefix("images_"): [ids for (part, _), ids in alphabets.items() if part == set_]
        for set_ in PARTS
    }


def _of_alphabets(store: ExampleStore, families: Sequence[str]) -> Mapping[str, list[_Ids]]:
    known = {alphabet: ids for (_, alphabet), ids in _by_alphabet(store).items()}
    members = {family: [name.strip() for name in family.split("+")] for family in families}
    named = [name for names in members.values() for name in names]
    for name in named:
        if name not in known:
            raise unknown("alphabet", name, known)
    if len(set(named)) < len(named) or len(members) < len(families):
        raise ConfigError(
            f"alphabets = {', '.join(families)}",
            expected="every alphabet in one family, once",
            do="name different alphabets; rounds brings all of them again",
        )
    return {family: [known[name] for name in names] for family, names in members.items()}
