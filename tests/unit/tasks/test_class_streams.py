"""Alphabets and scripts one after another: whose characters they are, and that no split shares one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from innerloop.core.errors import ConfigError
from innerloop.core.types import SPLITS
from innerloop.tasks import Glyphs, GlyphScripts, Omniglot, OmniglotAlphabets
from innerloop.tasks.class_families import ClassFamily
from innerloop.tasks.streaming import StreamTasks
from innerloop.tasks.synthetic import stroke_store
from unit.tasks.streams import equal, rebuilt


def characters(stream: StreamTasks, number: int) -> dict[str, list[str]]:
    """Names of the characters of each split of a family."""
    store: Any = stream.family(number)._store  # type: ignore[attr-defined]
    return {split: [store.names[i] for i in store.pools[split].ids] for split in SPLITS}


def disjoint(stream: StreamTasks) -> bool:
    named = [name for i in range(len(stream.names)) for own in characters(stream, i).values() for name in own]
    return len(set(named)) == len(named)


@pytest.fixture(scope="module")
def alphabets(omniglot: Omniglot, omniglot_root: Path) -> OmniglotAlphabets:
    return OmniglotAlphabets(omniglot_root)


@pytest.fixture(scope="module")
def scripts(glyphs: Glyphs) -> GlyphScripts:
    return GlyphScripts()


def test_the_default_is_the_six_largest_alphabets_of_the_background_set(
    alphabets: OmniglotAlphabets, omniglot: Omniglot
) -> None:
    sizes = Counter(n.split("/")[1] for n in omniglot._store.names if n.startswith("images_background/"))
    found = {name: sum(map(len, characters(alphabets, i).values())) for i, name in enumerate(alphabets.names)}
    assert list(found.values()) == [55, 52, 48, 47, 46, 43] == sorted(sizes.values(), reverse=True)[:6]
    assert all(found[name] == sizes[name] for name in found)
    assert all(f"{name} ({count})" in (OmniglotAlphabets.__doc__ or "") for name, count in found.items())


def test_a_family_has_the_characters_of_its_alphabet_and_splits_share_none(
    alphabets: OmniglotAlphabets,
) -> None:
    for number, name in enumerate(alphabets.names):
        own = characters(alphabets, number)
        assert {n.split("/")[1] for split in own.values() for n in split} == {name}
        assert len(own["val"]) == len(own["test"]) >= 9
    assert disjoint(alphabets)


def test_drawings_are_those_of_omniglot(alphabets: OmniglotAlphabets, omniglot: Omniglot) -> None:
    drawn = alphabets.at(0.0).sample("train", 2, 0).support.x
    rows = {row.tobytes() for row in omniglot._store.examples}
    assert all((image * 255).round().byte().numpy().tobytes() in rows for image in drawn.flatten(0, 1))


def test_several_alphabets_are_one_family_if_joined(omniglot: Omniglot, omniglot_root: Path) -> None:
    stream = OmniglotAlphabets(omniglot_root, alphabets=["Greek + Hebrew", "Atlantean"])
    assert stream.names == ("Greek + Hebrew", "Atlantean")
    held = characters(stream, 0)
    assert all({n.split("/")[1] for n in held[split]} == {"Greek", "Hebrew"} for split in SPLITS)
    assert sum(map(len, held.values())) == 24 + 22
    again = rebuilt(stream)
    assert equal(again.at(0.6).sample("train", 3, 1), stream.at(0.6).sample("train", 3, 1))


def test_lake_is_the_background_set_and_then_the_evaluation_set(
    omniglot: Omniglot, omniglot_root: Path
) -> None:
    stream = OmniglotAlphabets(omniglot_root, protocol="lake")
    assert stream.names == ("background", "evaluation")
    for number, (part, count, alphabets) in enumerate(
        [("images_background", 964, 30), ("images_evaluation", 659, 20)]
    ):
        own = characters(stream, number)
        assert sum(map(len, own.values())) == count
        for split in SPLITS:
            assert {name.split("/")[0] for name in own[split]} == {part}
            assert len({name.split("/")[1] for name in own[split]}) == alphabets
    assert disjoint(stream)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"alphabets": ["Greek", "Hebreww"]}, "did you mean 'Hebrew'"),
        ({"alphabets": ["Greek", "Greek"]}, "every alphabet in one family"),
        ({"alphabets": ["Greek", "Hebrew+Greek"]}, "every alphabet in one family"),
        ({"alphabets": ["Greek"]}, "two sources or more"),
        ({"alphabets": []}, "two sources or more"),
        ({"alphabets": ["Greek", "Hebrew"], "protocol": "lake"}, "leave alphabets out"),
        ({"protocol": "laek"}, "did you mean 'lake'"),
        ({"ways": 10}, r"9 classes in split '.*' of family Japanese_\(katakana\)"),
        ({"ways": 1}, "ways = 1"),
    ],
)
def test_what_is_no_stream_of_alphabets_is_refused(
    settings: dict[str, Any], told: str, omniglot: Omniglot, omniglot_root: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        OmniglotAlphabets(omniglot_root, **settings)


@pytest.mark.slow
def test_scripts_have_as_many_characters_as_stated_and_no_split_shares_one(glyphs: Glyphs) -> None:
    stated = {"Latin": 563, "Cyrillic": 130, "Greek": 136, "Georgian": 112, "Armenian": 51}
    stated |= {"Lao": 26, "Braille": 180}
    stream = GlyphScripts(list(stated))
    for number, (script, count) in enumerate(stated.items()):
        own = characters(stream, number)
        assert {name.split()[1].split("-")[0] for n in own.values() for name in n} == {script.upper()}
        assert sum(map(len, own.values())) == count
        assert f"{script} {count}" in " ".join((GlyphScripts.__doc__ or "").split())
    assert disjoint(stream)


@pytest.mark.slow
def test_a_shape_that_several_scripts_share_is_in_the_first_of_them_only(scripts: GlyphScripts) -> None:
    held = [[n.split(" ", 1)[1] for own in characters(scripts, i).values() for n in own] for i in range(3)]
    latin, cyrillic, greek = held
    assert "LATIN CAPITAL LETTER A" in latin
    assert "CYRILLIC CAPITAL LETTER A" not in cyrillic
    assert "GREEK CAPITAL LETTER ALPHA" not in greek
    assert "GREEK CAPITAL LETTER OMEGA" in greek


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scripts": ["Latin", "Grek"]}, "did you mean 'Greek'"),
        ({"scripts": ["Latin", "Latin"]}, "every script once"),
        ({"scripts": ["Latin", "Lao"], "ways": 6}, "5 classes in split '.*' of family Lao"),
    ],
)
@pytest.mark.slow
def test_what_is_no_stream_of_scripts_is_refused(settings: dict[str, Any], told: str, glyphs: Glyphs) -> None:
    with pytest.raises(ConfigError, match=told):
        GlyphScripts(**settings)


@pytest.mark.slow
def test_scripts_are_written_down_and_made_again(glyphs: Glyphs) -> None:
    stream = GlyphScripts(["Greek", "Lao"], schedule="drift", shots=2)
    again = rebuilt(stream)
    assert equal(again.at(0.5).sample("train", 4, 1), stream.at(0.5).sample("train", 4, 1))


def test_every_group_of_a_family_is_in_every_split() -> None:
    groups = [np.arange(10), np.arange(10, 15)]
    family = ClassFamily("two", stroke_store(num_classes=20), groups, ways=2, shots=1, queries=2)
    assert {s: len(p) for s, p in family._store.pools.items()} == {"train": 9, "val": 3, "test": 3}
    for pool in family._store.pools.values():
        assert {bool(i < 10) for i in pool.ids} == {True, False}
        assert pool.ids.max() < 15
    assert torch.equal(
        ClassFamily.tiny().sample("test", 2, 0).query.x, ClassFamily.tiny().sample("test", 2, 0).query.x
    )
