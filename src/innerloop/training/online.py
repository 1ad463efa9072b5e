"""A learner in a stream: it adapts to the last examples at every moment, and can be planned with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError, DataError, check_count
from innerloop.core.learner import DATA
from innerloop.core.mode import at_stream, running_in
from innerloop.core.rng import key, keyed_uniform
from innerloop.core.types import Batch, Fast, Meta


class Online:
    """A meta-trained regression learner that follows a stream of examples.

    Every example that is observed is kept among the last `memory`, and the learner is adapted to those: from
    its prior, which is what it was trained for, or from where it was.

    Args:
        learner, meta: a learner and what it has learned, such as `run.learner` and `run.meta`.
        memory: examples adapted to (M), >= 1; as many as the support had in training.
        inner_steps: steps at every moment; None is the learner's `test_inner_steps`.
        carry: whether every moment goes on from the adapted state of the last (online fine-tuning), and not
            from the prior.

    Until something was observed, the prior predicts.

    >>> import innerloop as il
    >>> run = il.train(il.algorithms.LearningToAdapt(il.models.MLP(3, 2)), il.tasks.Cart(), steps=2)
    >>> model, cart = Online(run.learner, run.meta, memory=16), il.tasks.Cart().simulator(1.0, 0.1)
    >>> before, force = cart.reset(), torch.tensor([2.0])
    >>> x, after = il.tasks.Cart.encoded(before, force), cart.step(2.0)
    >>> model.observe(x, il.tasks.Cart.target(before, after))
    >>> model.predict(x[None]).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        learner: ModuleLearner,
        meta: Meta,
        *,
        memory: int = 16,
        inner_steps: int | None = None,
        carry: bool = False,
    ) -> None:
        if learner.loss != "mse" or learner.amortised:
            raise ConfigError(
                f"{type(learner).__name__} with loss {learner.loss!r} in a stream",
                expected="a learner of targets that adapts by inner steps",
                do="use LearningToAdapt, or MAML with loss='mse'",
            )
        if learner.net.has_batch_norm:
            raise ConfigError(
                f"{type(learner.module).__name__} with BatchNorm in a stream",
                expected="a network that can be asked before anything was seen",
                do="use one without BatchNorm",
            )
        steps = learner.test_inner_steps if inner_steps is None else inner_steps
        self.learner, self.meta = learner, meta
        self.inner_steps = check_count("inner_steps", steps, low=0)
        self.memory, self.carry = check_count("memory", memory), carry
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.memory)
        self._fast: Fast | None = None

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Take in one example, x [I, ...] with its target y [F], and adapt to the last ones."""
        if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
            raise DataError(
                "an observation with NaN or infinity", expected="finite numbers", do="leave it out"
            )
        self._seen.append((x.detach(), y.detach()))
        support = Batch(*(torch.stack(part) for part in zip(*self._seen, strict=True)))
        with torch.no_grad(), running_in(first_order=True):
            fast = self.learner.begin(self.meta, support)
            if self.carry and self._fast is not None:
                fast = {name: fast[name] if name == DATA else node for name, node in self._fast.items()}
            for k in range(self.inner_steps):
                with at_stream(k):
                    fast = self.learner.step(self.meta, fast, support, k)
        self._fast = fast

    def predict(self, x: Tensor) -> Tensor:
        """Targets [Q, F] at inputs x [Q, ...], by the model as it is now."""
        with torch.no_grad(), running_in(first_order=True):
            fast = self._fast or self.learner.begin(self.meta, Batch(x[:0], x[:0]))
            return self.learner.predict(self.meta, fast, x)

    @property
    def diverged(self) -> bool:
        """Whether adaptation has left the finite numbers."""
        return self._fast is not None and not tree.is_finite(self._fast)


class System(Protocol):
    """What a planner has to know of a system: how to ask a model about it, and what its answer means."""

    def encoded(self, states: Tensor, actions: Tensor) -> Tensor:
        """A model's inputs [N, I] for states [N, D] and actions [N, A]."""
        ...

    def moved(self, states: Tensor, outputs: Tensor) -> Tensor:
        """The states [N, D] that a model's outputs [N, F] lead to."""
        ...


@dataclass(frozen=True)
class RandomShooting:
    """Model-predictive control: of many random action sequences, the one that the model likes best.

    Args:
        system: how states and actions are told to the model, such as `il.tasks.Cart()`.
        low, high: bounds of each action; candidates are uniform between them.
        horizon: moments looked ahead, >= 1. The official code: 10.
        candidates: sequences tried, >= 1. The official code: 1000.
        seed: with the number of the moment, it decides the candidates: the same ones for every model.

    Reference: Nagabandi et al. 2019, arXiv 1803.11347, and the code that came with it.
    """

    system: System
    low: tuple[float, ...]
    high: tuple[float, ...]
    horizon: int = 10
    candidates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon)
        check_count("candidates", self.candidates)
        pairs = len(self.low) == len(self.high) and all(
            a < b for a, b in zip(self.low, self.high, strict=True)
        )
        if not pairs:
            raise ConfigError(
                f"low = {self.low}, high = {self.high}", expected="low < high for each action", do="set both"
            )

    def plan(
        self,
        predict: Callable[[Tensor], Tensor],
        state: Tensor,
        cost: Callable[[Tensor, Tensor, int], Tensor],
        moment: int,
    ) -> Tensor:
        """The best of the candidates [horizon, A] from a state [D]; take its first action, then plan again.

        Args:
            predict: the model, such as `Online.predict`.
            cost: of the states [N, D] after each action [N, A], and the number of that action in the plan:
                [N]; a plan costs their sum, and one that is not finite is chosen only if none is.
            moment: number of the moment that is planned at.
        """
        drawn = keyed_uniform(
            torch.tensor(key(self.seed, "plan", moment)), (self.horizon, self.candidates, len(self.low))
        ).to(state)
        low, high = state.new_tensor(self.low), state.new_tensor(self.high)
        actions = low + (high - low) * drawn
        states = state.expand(self.candidates, -1)
        total = state.new_zeros(self.candidates)
        for k, taken in enumerate(actions):
            states = self.system.moved(states, predict(self.system.encoded(states, taken)))
            total = total + cost(states, taken, k)
        return actions[:, total.nan_to_num(torch.inf, torch.inf, torch.inf).argmin()]
