"""Inputs moved within a small box, so that a learner does its worst on them: projected gradient ascent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus
from torch.overrides import TorchFunctionMode

from innerloop.core.errors import ConfigError, ContractError, check_count, check_range
from innerloop.core.functional import inner_gradient_and_loss
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.losses import loss_value
from innerloop.core.mode import running_in
from innerloop.core.rng import keyed_uniform
from innerloop.core.types import Batch, Episode, Fast, Meta


@dataclass(frozen=True)
class Attack:
    """How far inputs may be moved, and how the worst place there is looked for.

    Args:
        epsilon: radius of the ball around each input in the largest change of an entry (L-infinity), >= 0, in
            the units of the inputs; 0 leaves them as they are.
        steps: steps of ascent, >= 1.
        step_size: length of each, in the same units, > 0; None is 2.5 epsilon / steps, which reaches the
            border from anywhere in the ball.
        bounds: least and largest value that an input may have, such as (0, 1) of an image; None is any.
            An entry of the clean input that is beyond them stays allowed.

    Reference: Madry et al. 2018, *Towards deep learning models resistant to adversarial attacks*, arXiv
    1706.06083.
    """

    epsilon: float
    steps: int = 20
    step_size: float | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_range("epsilon", self.epsilon, low=0.0)
        check_count("steps", self.steps, low=1)
        if self.step_size is not None:
            check_range("step_size", self.step_size, low=0.0, open_low=True)
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ConfigError(
                f"bounds = {self.bounds}",
                expected="the least value, then a larger one",
                do="give both, or None",
            )

    @property
    def stride(self) -> float:
        """The length of a step."""
        return 2.5 * self.epsilon / self.steps if self.step_size is None else self.step_size


def attacked_queries(
    learner: MetaLearner, meta: Meta, fast: Fast, query: Batch, attack: Attack, key: Tensor
) -> Batch:
    """The queries of one task, moved to raise their loss in a state that was adapted to clean support.

    Derivatives are taken through `predict` alone. Of classes, it is the mean log-odds against the right one
    that rises, log((1 - p) / p): for each query it grows with the cross-entropy, and its derivative does not
    vanish where the learner is sure. The mode is the caller's: of training or not, with `ways`. Works under
    `vmap` and without; the result is a constant to whatever is differentiated later.

    Args:
        fast: the adapted state.
        query: x [Q, ...], of floating point; y as it is.
        key: int64 scalar tensor, from which the start in the ball is drawn; not the key of the mode, which
            says what dropout draws.

    Returns:
        The queries [Q, ...] where on the way their mean was largest, each within `epsilon` of its clean one,
        with labels unchanged; the clean queries themselves, if no place on the way was worse.
    """

    def loss(x: Tensor) -> Tensor:
        outputs = learner.predict(meta, fast, x)
        if learner.loss == "mse":
            return loss_value("mse", outputs, query.y)
        return _odds(outputs, query.y).mean()

    return Batch(_ascended(loss, query.x, attack, key), query.y)


def attacked_supports(
    learner: MetaLearner,
    meta: Meta,
    episode: Episode,
    attack: Attack,
    key: Tensor,
    *,
    inner_steps: int | None = None,
) -> Episode:
    """One task whose support inputs are moved to raise the mean loss on its clean queries after adaptation.

    Derivatives are exact: they pass through the inner loop, also where the learner's own meta-gradient is of
    first order. Where none passes from support inputs to predictions, the support is moved to a random place
    if that is worse. As `attacked_queries` otherwise.

    Args:
        episode: one task, support.x [S, ...] and query.x [Q, ...].
        inner_steps: steps of the inner loop; None is the learner's number in training.
    """
    support, query = episode
    steps = learner.inner_steps if inner_steps is None else inner_steps

    def loss(x: Tensor) -> Tensor:
        with running_in(first_order=False), _OneHot():
            fast = adapt(learner, meta, Batch(x, support.y), steps)
        outputs = learner.predict(meta, fast, query.x)
        if learner.loss == "mse":
            return loss_value("mse", outputs, query.y)
        # The cross-entropy, without cancellation where it is small.
        return softplus(_odds(outputs, query.y)).mean()

    return Episode(Batch(_ascended(loss, support.x, attack, key), support.y), query)


def bounds_of(inputs: Tensor) -> tuple[float, float] | None:
    """The bounds (0, 1) for images [T, S, channels, height, width] that keep them; None for other inputs.

    Images that were normalised are others.
    """
    images = inputs.ndim == 5 and inputs.is_floating_point()
    return (0.0, 1.0) if images and bool(inputs.min() >= 0) and bool(inputs.max() <= 1) else None


def _ascended(loss: Callable[[Tensor], Tensor], x: Tensor, attack: Attack, key: Tensor) -> Tensor:
    """The worst place on the way from a uniform one, by signs of the derivative; `x` where none is worse."""
    if not x.is_floating_point():
        raise ContractError(
            f"inputs of type {x.dtype} to be attacked",
            expected="inputs of floating point, that can be moved a little",
            do="attack a learner of such inputs",
        )
    clean = x.detach()
    if attack.epsilon == 0:
        return clean
    low, high = clean - attack.epsilon, clean + attack.epsilon
    if attack.bounds is not None:
        low = torch.minimum(low.clamp_min(attack.bounds[0]), clean)
        high = torch.maximum(high.clamp_max(attack.bounds[1]), clean)
    drawn = keyed_uniform(key, tuple(clean.shape)).to(clean.dtype)
    moved = (clean + attack.epsilon * (2.0 * drawn - 1.0)).clamp(low, high)
    worst, largest = clean, _value(loss, clean)
    for _ in range(attack.steps):
        gradient, value = _derivative(loss, moved)
        worst, largest = _larger(value, moved, largest, worst)
        # A loss that is not finite has no direction: that step is not taken.
        moved = (moved + attack.stride * torch.nan_to_num(gradient.sign(), nan=0.0)).clamp(low, high)
    return _larger(_value(loss, moved), moved, largest, worst)[0]


def _derivative(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative of a loss by `x`, zero where there is none, and the loss itself; constants both."""

    def of(given: dict[str, Tensor]) -> Tensor:
        return loss(given["x"]) + 0.0 * given["x"].sum()  # also a loss that is the same for every x

    with running_in(first_order=True):  # no second derivative follows, so fused operators will do
        found, value = inner_gradient_and_loss(of, {"x": x})
    return found["x"], value


def _value(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad(), running_in(first_order=True):
        return loss(x)


def _larger(value: Tensor, x: Tensor, largest: Tensor, worst: Tensor) -> tuple[Tensor, Tensor]:
    """Of two places, the one of the larger loss, with that loss; the second one where the first has none."""
    return torch.where(value > largest, x, worst), torch.where(value > largest, value, largest)


def _odds(outputs: Tensor, labels: Tensor) -> Tensor:
    """The log-odds against the right class [Q], of outputs [Q, ways]."""
    right = labels[:, None]
    others = outputs.scatter(-1, right, -torch.inf).logsumexp(-1)
    return others - outputs.gather(-1, right)[:, 0]


class _OneHot(TorchFunctionMode):
    """While active, `one_hot` is a comparison: torch's own reads values where a derivative is lifted."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return (_compared if func is one_hot else func)(*args, **(kwargs or {}))


def _compared(labels: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        return one_hot(labels)
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).to(labels.dtype)
