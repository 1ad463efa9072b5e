"""Distributions over tasks: where episodes come from.

Sources are found by name and imported on first use, so that listing them costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerloop.core.registry import lazy

if TYPE_CHECKING:
    from innerloop.tasks.arrays import Arrays
    from innerloop.tasks.base import TaskSource
    from innerloop.tasks.bowls import Bowls
    from innerloop.tasks.cart import Cart
    from innerloop.tasks.class_incremental_omniglot import ClassIncrementalOmniglot
    from innerloop.tasks.digits import Digits
    from innerloop.tasks.features import Features
    from innerloop.tasks.gaussian_process_curves import GaussianProcessCurves
    from innerloop.tasks.glyph_scripts import GlyphScripts
    from innerloop.tasks.glyphs import Glyphs
    from innerloop.tasks.harmonic import Harmonic
    from innerloop.tasks.image_folder import ImageFolder
    from innerloop.tasks.linear import Linear
    from innerloop.tasks.mixture import Mixture
    from innerloop.tasks.omniglot import Omniglot
    from innerloop.tasks.omniglot_alphabets import OmniglotAlphabets
    from innerloop.tasks.optimize_mlp import OptimizeMLP
    from innerloop.tasks.permuted_digits import PermutedDigits
    from innerloop.tasks.quadratics import Quadratics
    from innerloop.tasks.rotated_digits import RotatedDigits
    from innerloop.tasks.sinusoid import Sinusoid
    from innerloop.tasks.sinusoid_and_line import SinusoidAndLine
    from innerloop.tasks.sinusoid_families import SinusoidFamilies
    from innerloop.tasks.task_stream import TaskStream

#: Name of the class and of the flag -> its file. Adding a source is its file, and its line here.
REGISTRY: dict[str, str] = {
    "Arrays": "arrays",
    "Bowls": "bowls",
    "Cart": "cart",
    "ClassIncrementalOmniglot": "class_incremental_omniglot",
    "Digits": "digits",
    "Features": "features",
    "GaussianProcessCurves": "gaussian_process_curves",
    "GlyphScripts": "glyph_scripts",
    "Glyphs": "glyphs",
    "Harmonic": "harmonic",
    "ImageFolder": "image_folder",
    "Linear": "linear",
    "Mixture": "mixture",
    "Omniglot": "omniglot",
    "OmniglotAlphabets": "omniglot_alphabets",
    "OptimizeMLP": "optimize_mlp",
    "PermutedDigits": "permuted_digits",
    "Quadratics": "quadratics",
    "RotatedDigits": "rotated_digits",
    "Sinusoid": "sinusoid",
    "SinusoidAndLine": "sinusoid_and_line",
    "SinusoidFamilies": "sinusoid_families",
    "TaskStream": "task_stream",
}

__all__ = [
    "REGISTRY",
    "Arrays",
    "Bowls",
    "Cart",
    "ClassIncrementalOmniglot",
    "Digits",
    "Features",
    "GaussianProcessCurves",
    "GlyphScripts",
    "Glyphs",
    "Harmonic",
    "ImageFolder",
    "Linear",
    "Mixture",
    "Omniglot",
    "OmniglotAlphabets",
    "OptimizeMLP",
    "PermutedDigits",
    "Quadratics",
    "RotatedDigits",
    "Sinusoid",
    "SinusoidAndLine",
    "SinusoidFamilies",
    "TaskSource",
    "TaskStream",
]


def __getattr__(name: str) -> Any:
    return lazy(__name__, REGISTRY | {"TaskSource": "base"}, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
