"""Inputs that are worse than those trained on: noise, blur, something in front, bright for dark."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from innerloop.core.rng import fold_key, keyed_normal, keyed_uniform
from innerloop.core.types import Episode
from innerloop.measure.perturb.subject import Perturbation, Sizes, Subject, changing, need_images

NOISE = 0.3  # in units of the spread of all inputs
_BLUR = 9  # side of an image over that of the square that is averaged

Corruption = Callable[[Subject, Tensor, Tensor], Tensor]  # inputs of one task [n, ...] and its key


def noise(subject: Subject, x: Tensor, key: Tensor) -> Tensor:
    """Gaussian noise on every number, within the bounds of images."""
    noisy = x + NOISE * subject.spread * keyed_normal(key, tuple(x.shape)).to(x.dtype)
    return noisy if subject.bounds is None else noisy.clamp(*subject.bounds)


def blur(subject: Subject, x: Tensor, key: Tensor) -> Tensor:
    """The mean over a square around each pixel; at the border, over the part of it that there is."""
    side = blurred_side(subject)
    return avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False)


def blurred_side(subject: Subject) -> int:
    """Pixels on a side of that square: odd, and at least three."""
    return max(3, min(subject.spec.input_shape[1:]) // _BLUR // 2 * 2 + 1)


def occlusion(subject: Subject, x: Tensor, key: Tensor) -> Tensor:
    """A rectangle of half the height and width of each image, at a random place, is the mean input."""
    high, wide = x.shape[-2:]
    covered = torch.ones(len(x), high, wide, dtype=torch.bool, device=x.device)
    for axis, length in enumerate((high, wide)):
        half = length // 2
        draws = keyed_uniform(fold_key(key, axis), (len(x),))
        start = (draws * (length - half + 1)).long().clamp(max=length - half)
        at = torch.arange(length, device=x.device)
        inside = (at >= start[:, None]) & (at < start[:, None] + half)  # [n, length]
        covered = covered & (inside[:, :, None] if axis == 0 else inside[:, None, :])
    middle = float(subject.example.support.x.mean())
    return torch.where(covered[:, None], torch.full_like(x, middle), x)


def inversion(subject: Subject, x: Tensor, key: Tensor) -> Tensor:
    """Bright for dark: each number mirrored in the middle of the range that inputs have."""
    low, high = subject.bounds or (float(end) for end in subject.example.support.x.aminmax())
    return low + high - x


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "blur": blur,
    "occlusion": occlusion,
    "inversion": inversion,
}


def _sizes(subject: Subject, *, names: tuple[str, ...]) -> Sizes:
    found: dict[str, Corruption] = {f"noise of {NOISE * subject.spread:.2g} ({NOISE:g} spreads)": noise}
    if subject.is_image:
        side = blurred_side(subject)
        words = {
            "blur": f"mean of {side} x {side} pixels",
            "occlusion": "a quarter covered",
            "inversion": "bright for dark",
        }
        found |= {words[name]: CORRUPTIONS[name] for name in names if name in words}
    return found


def _of_queries(subject: Subject, episode: Episode, key: Tensor, corrupt: Corruption) -> Episode:
    support, query = episode
    return Episode(support, query._replace(x=corrupt(subject, query.x, key)))


def _of_supports(subject: Subject, episode: Episode, key: Tensor, corrupt: Corruption) -> Episode:
    support, query = episode
    return Episode(support._replace(x=corrupt(subject, support.x, key)), query)


# --- the same change of support and query: another task, of a kind that was not trained on ------------------


def turned(subject: Subject, x: Tensor, key: Tensor) -> Tensor:
    """Square images turned to the left by a quarter."""
    return torch.rot90(x, 1, (-2, -1))


def _transforms(subject: Subject) -> Sizes:
    need_images(subject)
    found: dict[str, Corruption] = {"bright for dark": inversion}
    if subject.spec.input_shape[1] == subject.spec.input_shape[2]:
        found = {"turned by 90 degrees": turned} | found
    return found


def _transformed(subject: Subject, episode: Episode, key: Tensor, change: Corruption) -> Episode:
    return Episode(*(batch._replace(x=change(subject, batch.x, key)) for batch in episode))


PERTURBATIONS = (
    Perturbation(
        "query inputs",
        "the inputs of queries are corrupted, the support is clean",
        partial(_sizes, names=("blur", "occlusion", "inversion")),
        changing(_of_queries),
    ),
    Perturbation(
        "support inputs",
        "the inputs of the support are corrupted, queries are clean",
        partial(_sizes, names=("occlusion",)),
        changing(_of_supports),
    ),
    Perturbation(
        "unfamiliar images",
        "all images of a task are turned or inverted alike: classes that were not trained on",
        _transforms,
        changing(_transformed),
    ),
)
