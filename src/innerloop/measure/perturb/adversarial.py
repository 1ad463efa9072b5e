"""Inputs moved by little so that the learner does its worst."""

from __future__ import annotations

from torch import Tensor

from innerloop.core.types import Episode
from innerloop.measure.attack import Attack, attacked_queries, attacked_supports
from innerloop.measure.perturb.subject import Perturbation, Sizes, Subject, changing

IMAGE_EPSILON = 8 / 255  # the usual one for images on [0, 1]
SHARE = 0.1  # of the spread of other inputs
STEPS = 20
TASKS = 50


def _sizes(subject: Subject) -> Sizes:
    if subject.is_image and subject.bounds is not None:
        return {"8/255 in each pixel": IMAGE_EPSILON}
    return {f"{SHARE * subject.spread:.2g} ({SHARE:g} spreads)": SHARE * subject.spread}


def _attack(subject: Subject, epsilon: float) -> Attack:
    return Attack(epsilon, STEPS, bounds=subject.bounds)


def _queries(subject: Subject, episode: Episode, key: Tensor, epsilon: float) -> Episode:
    fast = subject.after(episode)
    attack = _attack(subject, epsilon)
    moved = attacked_queries(subject.learner, subject.meta, fast, episode.query, attack, key)
    return Episode(episode.support, moved)


def _supports(subject: Subject, episode: Episode, key: Tensor, epsilon: float) -> Episode:
    attack = _attack(subject, epsilon)
    return attacked_supports(subject.learner, subject.meta, episode, attack, key, inner_steps=subject.steps)


PERTURBATIONS = (
    Perturbation(
        "adversarial queries",
        f"each query is moved to raise the loss: {STEPS} steps of projected gradient ascent (PGD)",
        _sizes,
        changing(_queries),
        most=TASKS,
    ),
    Perturbation(
        "adversarial supports",
        f"the support is moved to raise the loss on clean queries: {STEPS} steps of PGD through adaptation",
        _sizes,
        changing(_supports),
        most=TASKS,
    ),
)
