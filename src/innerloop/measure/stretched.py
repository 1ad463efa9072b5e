"""What becomes of adaptation when its steps are longer: the room that is left before it diverges."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import MetaLearner, final
from innerloop.core.losses import loss_value
from innerloop.core.mode import at_stream
from innerloop.core.types import Batch, Episode, Fast, Meta

SCALES = (1.3, 2.0, 3.0)


def stretched_losses(learner: MetaLearner, meta: Meta, episode: Episode, steps: int) -> dict[str, Tensor]:
    """The support loss of a task after inner steps that each go `scale` times as far, by scale.

    For gradient descent it is the loss at `scale` times the inner rate. On a quadratic of largest curvature
    lambda, it rises above that before adaptation where scale * rate * lambda > 2; where the curvature changes
    on the way, as it does in any network, only trying tells.
    """
    found = {}
    for scale in SCALES:
        fast = final(stretched_states(learner, meta, episode.support, steps, scale))
        outputs = learner.predict(meta, fast, episode.support.x)
        found[f"{scale:g}"] = loss_value(learner.loss, outputs, episode.support.y)
    return found


def stretched_states(
    learner: MetaLearner, meta: Meta, support: Batch, steps: int, scale: float
) -> Iterator[Fast]:
    """The states of a task's inner loop where each step goes `scale` times as far; `states` with scale 1."""
    fast = learner.begin(meta, support)
    yield fast
    for k in range(steps):
        with at_stream(k):
            after = learner.step(meta, fast, support, k)
        name = "params" if "params" in fast else None
        fast = (
            after | {name: _longer(fast[name], after[name], scale)} if name else _longer(fast, after, scale)
        )
        yield fast


def _longer(before: Fast, after: Fast, scale: float) -> Fast:
    def leaf(a: Tensor, b: Tensor) -> Tensor:
        return a + scale * (b - a) if a.is_floating_point() and a.shape == b.shape else b

    return tree.map(leaf, before, after)
