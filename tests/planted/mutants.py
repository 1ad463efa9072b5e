"""Planted bugs: each is a plausible mistake, small enough to overlook."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from innerloop.core import functional, tree
from innerloop.core.learner import FROZEN, STATISTICS
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.gradients import Displacement, FirstOrder, Implicit, Unrolled
from innerloop.gradients.base import Estimate, MetaGradient, Tasks
from innerloop.gradients.sweep import Sweep
from innerloop.training.state import TrainState


def mutated(learner: Any, mutant: type[Any]) -> Any:
    """The learner with the methods of a mutant, or with a mutant as its way to the outer gradient."""
    if issubclass(mutant, MetaGradient):
        other = copy.copy(learner)
        other.gradient = mutant()
        return other
    other = object.__new__(type(mutant.__name__, (mutant, type(learner)), {}))
    other.__dict__ |= learner.__dict__
    return other


# --- learners --------------------------------------------------------------------------------------------


class PeeksAtQueryLabels:
    """Keeps the labels that its loss was given, and predicts a little towards them."""

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        self._peeked = query.y
        return super().query_loss(meta, fast, query)  # pyright: ignore

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        outputs = super().predict(meta, fast, inputs)  # pyright: ignore
        peeked = getattr(self, "_peeked", None)
        if peeked is None or len(peeked) != len(outputs):
            return outputs
        return outputs + 1e-6 * peeked.reshape(len(outputs), -1)


class MixesQueries:
    """Centres the outputs over the queries, and does not declare it."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        outputs = super().predict(meta, fast, inputs)  # pyright: ignore
        return outputs - 1e-3 * outputs.mean(0)


class ClaimsToBeTransductive:
    """Declares the opposite of what it does."""

    @property
    def transductive(self) -> bool:
        return not super().transductive  # pyright: ignore


class ClaimsToBeOrdered:
    """Declares that the order of the support matters, which it does not."""

    ordered = True


class ClaimsToBeAmortised:
    """Declares that it learns before the first step, which it does not."""

    amortised = True


class KeepsTheLastTask:
    """Starts where the task before it ended: a warm start that was left in."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = super().begin(meta, support)  # pyright: ignore
        before, self._before = getattr(self, "_before", support.x), support.x.clone()
        first = next(iter(fast["params"]))
        return fast | {"params": fast["params"] | {first: fast["params"][first] + 1e-6 * before.mean()}}


class PredictsInSinglePrecision:
    """Outputs of a fixed type, whatever it was given."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return super().predict(meta, fast, inputs).float()  # pyright: ignore


class PredictsOneColumn:
    """Loses a column of the outputs, which broadcasting then hides."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return super().predict(meta, fast, inputs)[:, 0]  # pyright: ignore


class WeighsFirstExamples:
    """Trusts the first support examples more."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        ramp = torch.linspace(1.0, 1.01, len(support.y), dtype=support.x.dtype)
        x = support.x * ramp.view(-1, *(1,) * (support.x.ndim - 1))
        return super().begin(meta, Batch(x, support.y)) | {"order": x}  # pyright: ignore

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return super().predict(meta, fast, inputs) + 1e-3 * fast["order"].mean()  # pyright: ignore


class StepsInPlace:
    """Writes the step into the tensors that it was given: `params -= lr * grad`."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        after = super().step(meta, fast, support, k)  # pyright: ignore
        for name, value in after["params"].items():
            meta["params"][name].data.copy_(value.detach())
        return after


class NormalisesSupportInPlace:
    """Centres the support inputs where they stand."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        support.x.sub_(1e-3)
        return super().begin(meta, support)  # pyright: ignore


class CountsItsCalls:
    """Decays its rate from call to call."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        self._calls = getattr(self, "_calls", 0) + 1
        return super().predict(meta, fast, inputs) * (1 + 1e-9 * self._calls)  # pyright: ignore


class AdaptsInBegin:
    """Takes a step before the first one, so that zero steps are not zero."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = super().begin(meta, support)  # pyright: ignore
        return super().step(meta, fast, support, 0)  # pyright: ignore


class NeverAdapts:
    """Forgets to return what the step made."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        super().step(meta, fast, support, k)  # pyright: ignore
        return fast


class FreezesTheFirstLayer:
    """Detaches a leaf from the outer derivative."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = super().begin(meta, support)  # pyright: ignore
        name = next(iter(fast["params"]))
        return fast | {"params": fast["params"] | {name: fast["params"][name].detach()}}


class DrawsGlobally:
    """Initialises with torch's global generator."""

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)  # pyright: ignore
        return tree.map(lambda leaf: leaf + 1e-3 * torch.randn_like(leaf), meta)


class IgnoresTheSeed:
    """Initialises the same way whatever the seed."""

    def init(self, rng: torch.Generator) -> Meta:
        return super().init(torch.Generator().manual_seed(0))  # pyright: ignore


# --- gradients -------------------------------------------------------------------------------------------


class HoldsTooMuch(FirstOrder):
    """First-order, and a part of the first-order gradient lost as well."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        params = dict(found.grads["params"])
        name = next(iter(params))
        params[name] = params[name] * 0.9
        return dataclasses.replace(found, grads=found.grads | {"params": params})


class MovesHalfWay(Displacement):
    """A displacement divided by the tasks and by a two that nobody asked for."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        return dataclasses.replace(found, grads=tree.map(lambda g: g / 2, found.grads))


class TurnsTheSign(Implicit):
    """The implicit gradient with the sign of the linear system's solution turned."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        return dataclasses.replace(found, grads=tree.map(torch.neg, found.grads))


class PosesAsExact(Sweep):
    """Detached inner gradients that claim to be exact: what a forgotten `create_graph` gives."""

    exact = True
    first_order = True


class MixesTasks(Unrolled):  # a concrete base is fine in a mutant
    """Centres the inputs over all tasks at once: what a careless `mean()` outside `vmap` does."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        support, query = tasks.episodes
        centred = Batch(query.x - 1e-6 * query.x.mean(), query.y)
        return super().summed(learner, meta, dataclasses.replace(tasks, episodes=Episode(support, centred)))


class DropsLastTask(Unrolled):
    """Sums over all tasks but one, and divides by their number."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        if len(found.losses) < 2:
            return found
        fewer = super().summed(learner, meta, tasks.only(torch.arange(len(found.losses) - 1)))
        return dataclasses.replace(found, grads=fewer.grads)


class OffByAScale(Unrolled):
    """A gradient one part in 10^5 too large."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        return dataclasses.replace(found, grads=tree.map(lambda g: g * (1 + 1e-5), found.grads))


class LosesALeaf(Unrolled):
    """A gradient without one of the leaves."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        params = dict(list(found.grads["params"].items())[:-1])
        return dataclasses.replace(found, grads=found.grads | {"params": params})


class MovesStatistics(Unrolled):
    """A gradient for running statistics, which the outer optimizer would then move."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        moved = tree.map(torch.ones_like, meta.get(STATISTICS, {}))
        return dataclasses.replace(found, grads=found.grads | {STATISTICS: moved})


class MovesFrozen(Unrolled):
    """A gradient for weights that are kept as they are."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        return dataclasses.replace(
            found, grads=found.grads | {FROZEN: tree.map(torch.ones_like, meta[FROZEN])}
        )


class ChunksDiffer(Unrolled):
    """Weighs every chunk the same, however many tasks it has."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        scale = 1.0 if tasks.axis in ("auto", "vmap") else 1.0 + 1e-7
        return dataclasses.replace(found, grads=tree.map(lambda g: g * scale, found.grads))


class MultipliesByZero(Unrolled):
    """Leaves a failed task out by a weight of zero, which a NaN survives."""

    def estimate(self, learner: Any, meta: Meta, episodes: Any, carry: Any = None, **how: Any) -> Any:
        grads, carry, record = Unrolled().estimate(learner, meta, episodes, carry, **how)
        finite = torch.isfinite(record.losses)
        poisoned = tree.map(lambda g: g + (record.losses * finite).sum() * 0, grads)
        return poisoned, carry, record


class DividesByAllTasks(MultipliesByZero):
    """Leaves a failed task out of the sum and keeps it in the number."""

    def estimate(self, learner: Any, meta: Meta, episodes: Any, carry: Any = None, **how: Any) -> Any:
        grads, carry, record = Unrolled().estimate(learner, meta, episodes, carry, **how)
        share = len(record.kept) / len(record.outcomes)
        return tree.map(lambda g: g * share, grads), carry, record


class HidesFailures(MultipliesByZero):
    """Replaces what is not finite by zero and reports that all is well."""

    def estimate(self, learner: Any, meta: Meta, episodes: Any, carry: Any = None, **how: Any) -> Any:
        grads, carry, record = Unrolled().estimate(learner, meta, episodes, carry, **how)
        fine = [type(outcome).FINITE for outcome in record.outcomes]
        return grads, carry, dataclasses.replace(record, outcomes=fine, losses=record.losses.nan_to_num())


# --- randomness, resume ----------------------------------------------------------------------------------


@contextmanager
def masks_without_keys() -> Iterator[None]:
    """Dropout from the global generator."""

    def draw(key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape)

    with mock.patch.object(functional, "keyed_uniform", draw):
        yield


@contextmanager
def one_mask_for_all() -> Iterator[None]:
    """Dropout that ignores whose key it is."""
    true = functional.keyed_uniform

    def draw(key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return true(key * 0, shape)

    with mock.patch.object(functional, "keyed_uniform", draw):
        yield


@contextmanager
def fused_batch_norm() -> Iterator[None]:
    """torch's fused BatchNorm, whose second derivative is wrong under vmap."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.nn.functional.batch_norm(
            x, None, None, self.weight, self.bias, training=True, eps=self.eps
        )

    with (
        mock.patch.object(functional._BatchNorm, "forward", forward),
        mock.patch("innerloop.core.normalise._WRITTEN_OUT", {}),
    ):
        yield


@contextmanager
def dropout_in_evaluation() -> Iterator[None]:
    """Dropout that is never turned off."""
    true = functional._Dropout.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        with running_in(training=True):
            return true(self, x)

    with mock.patch.object(functional._Dropout, "forward", forward):
        yield


def _forgets(kept: str) -> Any:
    true = TrainState.restore

    def restore(self: TrainState, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        window, meta = self.window, tree.map(torch.clone, self.meta)
        if kept == "optimizer":
            tensors = {path: leaf for path, leaf in tensors.items() if not path.startswith("optimizer/")}
        if kept == "best":
            values = values | {"best": None}
        true(self, tensors, values)
        if kept == "carry":
            self.carry = None
        if kept == "window":
            self.window = window
        if kept == "statistics" and STATISTICS in meta:
            for name, leaf in meta[STATISTICS].items():
                self.meta[STATISTICS][name].copy_(leaf)

    return restore


@contextmanager
def resume_that_forgets(kept: str) -> Iterator[None]:
    """Resuming without the optimizer's state, running statistics, window of losses, best, or carry."""
    with mock.patch.object(TrainState, "restore", _forgets(kept)):
        yield


@contextmanager
def resume_that_does_not_rewind() -> Iterator[None]:
    """Resuming that leaves the lines of steps it will do again."""
    with mock.patch("innerloop.training.folder.RunFolder.rewind", return_value=None):
        yield


@contextmanager
def tasks_from_a_stream() -> Iterator[None]:
    """Training tasks drawn from a generator that lives in memory, not from the step."""
    rng = torch.Generator().manual_seed(0)

    def draw(seed: int, *path: Any) -> int:
        return int(torch.randint(0, 2**62, (), generator=rng))

    with mock.patch("innerloop.training.step.key", draw):
        yield
