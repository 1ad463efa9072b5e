"""One image from a file: decoded, upright, resized, as the sources read it."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from innerloop.core.errors import DataError

#: What a folder of images is expected to hold; other files in it are left alone.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def read_image(
    path: str | os.PathLike[str], size: int, *, grey: bool = False, invert: bool = False
) -> NDArray[np.uint8]:
    """The image at `path` as uint8 [C, size, size]: C is 1 if `grey`, else 3.

    Photographs are turned upright, transparent parts become white, and the whole picture is resized
    (Lanczos) to a square without cropping.

    Args:
        invert: make ink on paper bright on black, as the character sources have it.

    Raises:
        DataError: the file is missing or does not decode; the message names it.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"image {os.fspath(path)!r}: {error.strerror or error}",
            expected="a readable image file",
            do="check the path and its permissions",
        ) from error
    return decode(raw, os.fspath(path), size, grey=grey, invert=invert)


def decode(raw: bytes, name: str, size: int, *, grey: bool = True, invert: bool = False) -> NDArray[np.uint8]:
    """As `read_image`, from the bytes of a file that errors call `name`."""
    try:
        with warnings.catch_warnings():
            # A picture large enough to be an attack is refused as undecodable, not merely warned about.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw)) as opened:
                picture = _flatten(ImageOps.exif_transpose(opened), grey=grey)
                picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Warning) as error:
        raise DataError(
            f"image {name!r} does not decode ({type(error).__name__})",
            expected=f"an image that Pillow can read ({', '.join(s[1:] for s in SUFFIXES)})",
            do="replace or remove this file",
        ) from error
    values: NDArray[Any] = np.asarray(picture, dtype=np.uint8)
    values = values[None] if grey else values.transpose(2, 0, 1)
    return np.ascontiguousarray(255 - values if invert else values)


def _flatten(picture: Image.Image, *, grey: bool) -> Image.Image:
    """The picture in one or three 8-bit channels, on white where it is transparent."""
    if picture.mode.startswith("I") or picture.mode == "F":
        # Pillow clips 16-bit greys at 255 instead of scaling them.
        deep = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((deep / max(deep.max(), 1.0) * 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        picture = Image.alpha_composite(white, coloured)
    return picture.convert("L" if grey else "RGB")
