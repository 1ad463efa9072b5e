"""The tasks that a learner does worst on, as pictures, for the report."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.learner import adapt
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.measure.probe import SEED, Probe

_SHOWN = 10  # tasks
_QUERIES = 20  # of each at most


def worst_tasks(probe: Probe, meta: Meta, losses: list[float | None]) -> list[dict[str, Any]]:
    """The probe's tasks of the largest losses: number and loss, and images with predictions where they are.

    Args:
        losses: query loss of each task of `val` after adaptation; None is not finite.
    """
    known = [math.inf if loss is None else loss for loss in losses]
    chosen = sorted(range(len(known)), key=lambda i: -known[i])[:_SHOWN]
    images = _are_images(probe)
    episodes = probe.episodes("val", len(known)) if images else None
    found = []
    for i in chosen:
        told: dict[str, Any] = {"split": "val", "number": i, "seed": SEED, "loss": losses[i]}
        if episodes is not None:
            told |= _drawn(probe.learner, meta, take(episodes, i))
        found.append(told)
    return found


def _are_images(probe: Probe) -> bool:
    spec = probe.tasks.spec
    return spec.metric == "accuracy" and len(spec.input_shape) == 3 and spec.input_shape[0] in (1, 3)


def _drawn(learner: ModuleLearner, meta: Meta, episode: Episode) -> dict[str, Any]:
    device = next((leaf.device for leaf in meta.get("params", {}).values()), episode.support.x.device)
    moved = Episode(*(Batch(batch.x.to(device), batch.y.to(device)) for batch in episode))
    with running_in(training=False, first_order=True, ways=count_ways(moved.support.y)):
        fast = adapt(learner, meta, moved.support, learner.test_inner_steps)
        labels = learner.predict(meta, fast, moved.query.x).argmax(-1).tolist()
    every = max(1, len(labels) // _QUERIES)
    support = [
        {"png": _png(image), "label": int(label)}
        for image, label in zip(episode.support.x, episode.support.y, strict=True)
    ]
    query = [
        {"png": _png(episode.query.x[i]), "label": int(episode.query.y[i]), "predicted": labels[i]}
        for i in range(0, len(labels), every)
    ]
    return {"support": support, "query": query}


def _png(image: Tensor) -> str:
    """An image [channels, height, width] of any range as base64 PNG, stretched to its own range."""
    values = np.nan_to_num(image.detach().float().cpu().numpy())
    low, high = float(values.min()), float(values.max())
    shades = (255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)
    picture = Image.fromarray(shades[0] if len(shades) == 1 else shades.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
