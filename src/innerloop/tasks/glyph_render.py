"""Glyphs as images: drawn from fonts, compared, and jittered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from innerloop.core.rng import choose, key, task_keys, uniform

Masks = dict[int, Image.Image]  # a character's glyph in each face that has it

SIZE = 28  # pixels of an image, each way
EXAMPLES = 20  # images of a class
_CANVAS = 2 * SIZE  # everything is drawn twice as large, then averaged two by two
_BODY = 40.0  # longer side of an unjittered glyph on the canvas
_POINT = 64  # font size of the masks, in pixels: above the canvas, so that nothing is enlarged much

#: Largest jitter each way: radians, a slope, factors of width to height and of size, canvas pixels.
_TURN, _SHEAR, _STRETCH, _SIZE, _SHIFT = 0.26, 0.25, 1.15, 1.3, 5.0
#: Thickness: a soft pen, then one of these levels of darkness becomes the edge (low: thick; high: thin).
_PEN = ImageFilter.GaussianBlur(1.3)
_LEVELS = np.linspace(16.0, 90.0, 14)
#: Dark pixels that an image has at least, or else it is drawn with the thickest pen.
_LEAST_INK = 25
_TABLES = [np.clip((np.arange(256) - edge) * 4.0, 0, 255).astype(np.uint8).tolist() for edge in _LEVELS]


def draw(characters: dict[str, list[int]], files: list[Path]) -> dict[str, Masks]:
    """A mask of each character in each face, cut to its ink, without blanks and missing-glyph boxes."""
    # The basic layout engine is part of every Pillow; the other one depends on the machine.
    fonts = [ImageFont.truetype(str(f), _POINT, layout_engine=ImageFont.Layout.BASIC) for f in files]
    missing = [_ink(font, "\uffff") for font in fonts]
    masks: dict[str, Masks] = {}
    for character, faces in characters.items():
        for face in faces:
            ink = _ink(fonts[face], character)
            box = missing[face]
            if ink is not None and (box is None or ink.tobytes() != box.tobytes()):
                masks.setdefault(character, {})[face] = ink
    return masks


def _ink(font: ImageFont.FreeTypeFont, character: str) -> Image.Image | None:
    """The glyph as an "L" image cut to its ink, or None if it has none."""
    left, top, right, bottom = font.getbbox(character)
    if right <= left or bottom <= top:
        return None
    mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), character, fill=255, font=font)
    box = mask.getbbox()
    return mask.crop(box) if box else None


def upright(mask: Image.Image) -> NDArray[np.uint8]:
    """The glyph as it is, centred with its longer side 20 pixels: uint8 [28, 28]."""
    return _place(mask, np.zeros(7), thickness=len(_TABLES) // 2)


def jittered(character: str, masks: Masks) -> NDArray[np.uint8]:
    """`EXAMPLES` images [EXAMPLES, 28, 28] of a character: faces in turn, under seeded affine maps and pens.

    The draws are a function of the code point alone, so a class does not depend on which others are kept.
    """
    base = key(0, "glyphs", ord(character))
    faces = sorted(masks)
    order = choose(task_keys(base, 1)[0], len(faces), len(faces))
    draws = uniform(task_keys(base, EXAMPLES), 8, -1.0, 1.0)
    levels = ((draws[:, 7] + 1.0) / 2.0 * len(_TABLES)).astype(int)
    images = np.zeros((EXAMPLES, SIZE, SIZE), dtype=np.uint8)
    for i in range(EXAMPLES):
        mask = masks[faces[order[i % len(faces)]]]
        images[i] = _place(mask, draws[i], thickness=int(levels[i]))
        if np.count_nonzero(images[i] > 127) < _LEAST_INK:  # a hairline that a thin pen loses
            images[i] = _place(mask, draws[i], thickness=0)
    return images


def _place(mask: Image.Image, draw: NDArray[np.float64], *, thickness: int) -> NDArray[np.uint8]:
    """A mask on the canvas under the affine map that `draw` in [-1, 1] makes, then penned and halved."""
    turn, shear, stretch, size, right, down = (
        _TURN * draw[0],
        _SHEAR * draw[1],
        _STRETCH ** draw[2],
        _SIZE ** draw[3] if draw[3] < 0 else 1.0,
        _SHIFT * draw[4],
        _SHIFT * draw[5],
    )
    # Pillow maps the canvas back to the mask, so this is the inverse of the map that a reader sees.
    factor = max(mask.size) / (_BODY * size)
    cos, sin = np.cos(turn) * factor, np.sin(turn) * factor
    a, b = (cos + shear * sin) * stretch, (sin - shear * cos) * stretch
    c, d = -sin / stretch, cos / stretch
    x, y = _CANVAS / 2 + right, _CANVAS / 2 + down
    back = (a, b, mask.width / 2 - a * x - b * y, c, d, mask.height / 2 - c * x - d * y)
    canvas = mask.transform((_CANVAS, _CANVAS), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    return np.asarray(canvas.filter(_PEN).point(_TABLES[thickness]).reduce(2))
