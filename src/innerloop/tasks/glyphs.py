"""Glyphs: real characters of many scripts, drawn from installed fonts; the embedded default."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from innerloop.tasks import glyph_fonts, glyph_render, glyph_twins
from innerloop.tasks.cache import content_hash, load_or_build
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.images import read_image
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store

_FORMAT = "3"  # raise it when the same fonts are to give other pixels


@final
class Glyphs(ClassTasks):
    """A class is a character; its examples are 20 drawings, float32 [1, 28, 28] with ink = 1 and paper = 0.

    Characters come from the 16 DejaVu and STIX faces that the matplotlib package carries, so nothing is
    downloaded. An example is the character in one of its faces (each in turn), under a seeded rotation,
    shear, stretch, scale, shift and pen thickness. Splits are by script, from the Unicode name:

    - train: Latin, Cyrillic, digits, punctuation, arrows, mathematics, Braille and every other symbol;
    - val: Armenian and Lao;
    - test: Greek (with Coptic) and Georgian.

    Of 3,393 characters in at least 8 faces, 2,750 can be drawn and have a shape of their own (no marks,
    spaces or modifiers, nor a letter by another name: superscripts, the ohm sign, Latin alpha). Of these,
    855 look like an earlier one (mean cosine of the upright drawings over shared faces at least 0.93, or 0.88
    if they would go to different splits: Greek Alpha and Latin A, but also letters that differ in a small
    accent) and are removed *before* splitting. That leaves 1,895 classes: 1,570 / 77 / 248.
    Raw-pixel nearest neighbour (cosine) on the test scripts scores 44.4 % 5-way 1-shot, 68.4 % 5-way 5-shot.

    The images are drawn once (about 10 s on one core) and cached. With the fonts of matplotlib 3.11.2 and
    Pillow 13.0.0 `sha256` is 658a06aef39b1b24d8d1c7ffaa98d86fa666a7916f6d06d7a32aca3aeec718d8.

    Args:
        ways: classes of a task, >= 2.
        shots, queries: support and query drawings of each class; together at most 20.
        train_ways, train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Attributes:
        sha256: hash of the images, their classes and their order.
        num_twins: characters removed because they look like another.

    Raises:
        ConfigError: a size is out of range.
        DataError: matplotlib or its fonts are missing.
    """

    sha256: str
    num_twins: int

    def __init__(
        self,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )
        built = _load()
        self.sha256, self.num_twins = str(built["digest"]), int(built["num_twins"])
        self._set_store(_store(built))

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """A drawing of one's own, dark on light, as this source has them: uint8 [1, 28, 28], ink 255."""
        return read_image(path, glyph_render.SIZE, grey=True, invert=True)

    @classmethod
    def tiny(cls) -> Self:
        """24 synthetic characters with 8 drawings each, 3-way 1-shot; needs no fonts."""
        source = cls.__new__(cls)
        source._set_sizes(ways=3, shots=1, queries=3, train_ways=None, train_shots=None, train_queries=None)
        source._set_store(stroke_store())
        source.sha256, source.num_twins = content_hash({"images": source._store.examples}), 0
        return source


def drawn() -> ExampleStore:
    """All glyphs, with the splits of `Glyphs`, for sources that split them in another way."""
    return _store(_load())


def _load() -> dict[str, NDArray[Any]]:
    """The drawn glyphs; the cache's key is everything that the pixels depend on."""
    files = glyph_fonts.font_files()
    parts = [_FORMAT, glyph_fonts.fonts_hash(files), PIL.__version__, str(features.version("freetype2"))]
    return load_or_build(
        "glyphs", hashlib.sha256("/".join(parts).encode()).hexdigest(), lambda: _build(files)
    )


def _build(files: list[Path]) -> dict[str, NDArray[Any]]:
    """Draw, remove twins, then jitter what is left: images [classes * 20, 1, 28, 28], points [classes]."""
    masks = glyph_render.draw(glyph_fonts.candidates(files), files)
    masks = {character: faces for character, faces in masks.items() if len(faces) >= glyph_fonts.MIN_FACES}
    characters = list(masks)
    size = glyph_render.SIZE
    drawings = np.zeros((len(files), len(characters), size, size), dtype=np.uint8)
    present = np.zeros((len(files), len(characters)), dtype=np.bool_)
    for index, character in enumerate(characters):
        for face, mask in masks[character].items():
            drawings[face, index] = glyph_render.upright(mask)
            present[face, index] = True
    alike = glyph_twins.similarities(drawings, present)
    kept = glyph_twins.without_twins(alike, [glyph_fonts.split_of(character) for character in characters])
    images = np.concatenate([glyph_render.jittered(characters[i], masks[characters[i]]) for i in kept])[
        :, None
    ]
    points = np.array([ord(characters[i]) for i in kept], dtype=np.int64)
    return {
        "images": images,
        "points": points,
        "num_twins": np.array(len(characters) - len(kept)),
        "digest": np.array(content_hash({"images": images, "points": points})),
    }


def _store(built: dict[str, NDArray[Any]]) -> ExampleStore:
    characters = [chr(point) for point in built["points"]]
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for index, character in enumerate(characters):
        splits[glyph_fonts.split_of(character)].append(index)
    return ExampleStore(
        built["images"],
        np.full(len(characters), glyph_render.EXAMPLES, dtype=np.int64),
        tuple(f"U+{ord(c):04X} {unicodedata.name(c, 'unnamed')}" for c in characters),
        {split: Pool.of(ids) for split, ids in splits.items()},
    )
