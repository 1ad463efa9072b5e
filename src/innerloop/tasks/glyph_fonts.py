"""The fonts that the matplotlib package carries, and which characters in them can be classes."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

from innerloop.core.errors import DataError

#: Faces in the order in which they are drawn: regular, bold, italic, bold italic of four families.
FACES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf",
)
#: A character is a class only if so many faces have it.
MIN_FACES = 8

#: Words of a Unicode name that send a character to a split; everything else trains.
SCRIPTS = {"GREEK": "test", "COPTIC": "test", "GEORGIAN": "test", "ARMENIAN": "val", "LAO": "val"}
#: Words that show a Greek letter under another script's name: Latin alpha, Cyrillic psi, the sum sign.
_GREEK_LETTERS = frozenset(
    """
    ALPHA BETA GAMMA DELTA EPSILON ZETA ETA THETA IOTA KAPPA LAMDA LAMBDA MU NU XI KSI OMICRON PI RHO SIGMA
    TAU UPSILON PHI CHI PSI OMEGA SUMMATION PRODUCT COPRODUCT
    """.split()  # noqa: SIM905 (a list of thirty strings hides the words)
)
#: Unicode categories without a shape of their own: marks, modifiers, spaces, controls, private use.
_SHAPELESS = ("M", "Z", "C", "Lm", "Sk")


def font_files() -> list[Path]:
    """The faces, found without importing matplotlib.

    Raises:
        DataError: matplotlib or one of its fonts is missing.
    """
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        raise DataError(
            "no matplotlib, whose fonts Glyphs is drawn from",
            expected="the matplotlib package",
            do="pip install matplotlib",
        )
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    files = [folder / face for face in FACES]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise DataError(
            f"no font {str(missing)!r}",
            expected="the DejaVu and STIX fonts of matplotlib",
            do="reinstall it: pip install --force-reinstall matplotlib",
        )
    return files


def fonts_hash(files: list[Path]) -> str:
    """SHA-256 of the bytes of all faces."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def candidates(files: list[Path]) -> dict[str, list[int]]:
    """Characters that at least `MIN_FACES` faces have, with the indices of these faces, in code point order.

    Left out are characters without a shape of their own, and those that Unicode itself calls a variant of
    others (superscripts, circled digits, the ohm sign, mathematical alphabets), or that are Greek letters by
    another script's name: they would carry a letter of one script into another split.
    """
    from fontTools.ttLib import TTFont  # comes with matplotlib; only the first rendering needs it

    having: dict[int, list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        with TTFont(file, lazy=True) as font:
            for point in font.getBestCmap() or ():
                having[point].append(index)
    return {
        chr(p): faces for p, faces in sorted(having.items()) if len(faces) >= MIN_FACES and _has_shape(chr(p))
    }


def split_of(character: str) -> str:
    """The split of a character, by the script in its Unicode name."""
    words = _words(character)
    return next((split for script, split in SCRIPTS.items() if script in words), "train")


def _words(character: str) -> list[str]:
    return unicodedata.name(character, "").replace("-", " ").split()


def _has_shape(character: str) -> bool:
    if unicodedata.category(character).startswith(_SHAPELESS):
        return False
    decomposition = unicodedata.decomposition(character)
    variant = decomposition.startswith("<") or len(decomposition.split()) == 1
    borrowed = split_of(character) == "train" and not _GREEK_LETTERS.isdisjoint(_words(character))
    return not (variant or borrowed)
