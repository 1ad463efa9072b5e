"""What `check_gradient` asks of a learner: one question a method, and what difference quotients say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.learner import MetaLearner, outer_weights, states
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks, over_tasks, take
from innerloop.gradients.base import MetaGradient, Tasks, learned
from innerloop.gradients.recompute import Recompute
from innerloop.gradients.unrolled import Unrolled

_STEPS = (1e-6, 1e-5, 1e-7, 1e-4)  # of difference quotients, tried in this order
_ROUNDING = 1e-8  # two ways to compute one gradient may differ by this share of its length


@dataclass
class Subject:
    """One learner at one point on some tasks, all in float64, and what is found of it.

    Attributes:
        errors: of each leaf, relative; see `GradientCheck`.
        beside: cosine and relative length of a path that is not exact, beside the exact gradient.
    """

    learner: MetaLearner
    meta: Meta
    episodes: Episode
    path: MetaGradient
    key: int
    tolerance: float
    axis: TasksAxis = "loop"
    errors: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    beside: tuple[float, float] | None = None

    def ask(self, rng: torch.Generator) -> None:
        if not self.losses_repeat():
            return  # and no difference between two of them means anything
        grads = self.as_lifted()
        exact = self.recomputed()
        if self.path.exact:
            self.against_quotients(grads, rng)
        else:
            self.against_exact(grads, exact)

    # --- the objective, without any outer derivative ---------------------------------------------------

    def losses(self, meta: Meta, which: slice = slice(None), axis: TasksAxis = "loop") -> Tensor:
        """The outer objective of each task, by its definition."""
        weights = outer_weights(self.learner)

        def of_task(episode: Episode, task_key: Tensor) -> Tensor:
            with running_in(training=True, first_order=True, key=task_key):
                reached = states(self.learner, meta, episode.support, self.learner.inner_steps)
                return sum(
                    w * self.learner.query_loss(meta, fast, episode.query)[0]
                    for w, fast in zip(weights, reached, strict=True)
                    if w
                ) + torch.zeros(())

        keys = tensor_keys(self.key, num_tasks(self.episodes), self.episodes.support.x.device)
        with torch.no_grad(), running_in(ways=count_ways(self.episodes.support.y)):
            return over_tasks(of_task, take(self.episodes, which), keys[which], axis=axis)

    def moved(self, direction: list[Tensor], distance: float) -> float:
        leaves = tree.leaves(learned(self.meta))
        there = [leaf + distance * d for leaf, d in zip(leaves, direction, strict=True)]
        meta = self.meta | tree.rebuild(learned(self.meta), there)
        return float(self.losses(meta, axis=self.axis).mean())

    def losses_repeat(self) -> bool:
        """Whether losses, which have to be finite, repeat and do not depend on which tasks came before."""
        count = num_tasks(self.episodes)
        first = self.losses(self.meta)
        if not bool(torch.isfinite(first).all()):
            bad = [i for i, loss in enumerate(first) if not bool(torch.isfinite(loss))]
            raise ContractError(
                f"query losses that are not finite after adaptation, of task {', '.join(map(str, bad))}",
                expected="finite losses, which have a gradient",
                do="take fewer or smaller inner steps, or other tasks",
            )
        again = torch.cat([self.losses(self.meta, slice(i, i + 1)) for i in reversed(range(count))]).flip(0)
        repeat = _alike(first, again)
        if not repeat:
            self.problems.append(
                "a task's loss changes from call to call: the learner draws random numbers of its own, or "
                "keeps on itself what belongs in its state (and one task then leaks into another)"
            )
        return repeat

    # --- one path in several ways ----------------------------------------------------------------------

    def estimate(self, path: MetaGradient, axis: TasksAxis, which: slice = slice(None)) -> Any:
        grads, _, record = path.estimate(
            self.learner, self.meta, take(self.episodes, which), key=self.key, axis=axis
        )
        return tree.flatten(learned(grads)), record

    def as_lifted(self) -> dict[str, Tensor]:
        """The path's gradient; it is the same for the loop and `vmap`, and tasks do not see each other."""
        grads, record = self.estimate(self.path, "loop")
        self.finite(record.outcomes)
        count = num_tasks(self.episodes)
        if count > 1:
            _, fewer = self.estimate(self.path, "loop", slice(0, count - 1))
            if not _alike(record.losses[:-1], fewer.losses):
                self.problems.append("a task's loss depends on which other tasks are there: tasks leak")
        try:
            lifted, other = self.estimate(self.path, "vmap")
            self.axis = "vmap"
        except RuntimeError as error:  # torch has no narrower class for what vmap cannot lift
            self.notes.append(f"vmap cannot lift it, tasks run in a loop: {str(error).strip().split('.')[0]}")
        else:
            self.same("vmap and the loop", grads, lifted)
            if not _alike(record.losses, other.losses, _ROUNDING):
                self.problems.append("vmap and the loop give different losses")
        names = tree.flatten(learned(self.meta))
        self.problems += [f"there is no gradient for {name}" for name in names if name not in grads]
        return {name: grads.get(name, torch.zeros_like(leaf)) for name, leaf in names.items()}

    def finite(self, outcomes: list) -> None:
        if all(outcome.ok for outcome in outcomes):
            return
        keys = tensor_keys(self.key, len(outcomes), self.episodes.support.x.device)
        whole = Tasks(self.episodes, keys, "loop")
        grads = tree.flatten(self.path.summed(self.learner, self.meta, whole).grads)
        bad = [name for name, grad in grads.items() if not bool(torch.isfinite(grad).all())]
        which = [str(i) for i, outcome in enumerate(outcomes) if not outcome.ok]
        self.problems.append(
            f"the meta-gradient of task {', '.join(which)} is not finite, at {', '.join(bad)}"
        )

    def recomputed(self) -> dict[str, Tensor]:
        """The exact gradient, whether or not steps are run again on the way back."""
        exact, _ = self.estimate(Unrolled(), self.axis)
        again, _ = self.estimate(Recompute(), self.axis)
        self.same("Unrolled and Recompute", exact, again)
        return exact

    def same(self, pair: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        length = _length(one.values())
        for name in one.keys() & other.keys():
            gap = float((one[name] - other[name]).norm())
            if not gap <= _ROUNDING * length:
                self.problems.append(
                    f"{pair} differ at {name} by {gap / (length or 1.0):.1e} of the gradient"
                )

    def against_exact(self, grads: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
        own, true = _length(grads.values()), _length(exact.values())
        for name, grad in grads.items():
            scale = max(float(exact[name].norm()), 1e-3 * true) or 1.0
            self.errors[name] = float((grad - exact[name]).norm()) / scale
        inner = sum(float((grads[name] * exact[name]).sum()) for name in grads)
        self.beside = inner / (own * true or 1.0), own / (true or 1.0)
        lost = [name for name, grad in grads.items() if exact[name].any() and not grad.any()]
        self.notes += [f"no gradient on this path, though there is one: {', '.join(lost)}"] if lost else []

    # --- difference quotients --------------------------------------------------------------------------

    def against_quotients(self, grads: dict[str, Tensor], rng: torch.Generator) -> None:
        total, loss = _length(grads.values()), abs(float(self.losses(self.meta, axis=self.axis).mean()))
        names, zero = list(grads), []
        for name, grad in grads.items():
            if not grad.numel():
                continue
            # Rounding of the loss, divided by a step, is all that is left of a leaf of no importance.
            scale = max(float(grad.norm()), 1e-3 * total) + 1e-10 * loss / self.tolerance
            self.leaf(name, grads, scale, rng)
            right = self.errors[name] <= self.tolerance
            if right and float(grad.norm()) <= 1e-12 * total and not self.unused(name, grads):
                zero.append(name)
        if zero:
            self.notes.append(
                f"no gradient, and rightly, since the objective does not change with it: {', '.join(zero)}"
            )
        if names and not self.problems:
            self.along_all(grads, total, rng)

    def leaf(self, name: str, grads: dict[str, Tensor], scale: float, rng: torch.Generator) -> None:
        """Along a direction within one leaf, and in one coordinate; along others where kinks disturb."""
        grad, worst = grads[name], []
        for turn in range(6):
            within = _mixed(grad, rng) if turn % 2 == 0 else _coordinate(grad, turn // 2)
            slope = float((grad * within).sum())
            quotient, smooth = self.quotient(_only(name, within, grads), slope, self.tolerance * scale)
            if not smooth:
                continue
            worst.append(abs(slope - quotient) / max(scale, abs(quotient)))
            if worst[-1] > self.tolerance:
                self.problems.append(_sentence(name, grad, slope, quotient, worst[-1]))
            if worst[-1] > self.tolerance or turn % 2 == 1:
                break
        self.errors[name] = max(worst, default=0.0)
        if not worst:
            self.notes.append(f"kinks at {name}: no difference quotient could judge it")

    def along_all(self, grads: dict[str, Tensor], total: float, rng: torch.Generator) -> None:
        """Along a direction of all leaves at once."""
        direction = [torch.randn(g.shape, generator=rng, device="cpu").to(g) for g in grads.values()]
        length = _length(direction) or 1.0
        direction = [d / length for d in direction]
        slope = sum(float((g * d).sum()) for g, d in zip(grads.values(), direction, strict=True))
        quotient, smooth = self.quotient(direction, slope, self.tolerance * total)
        if smooth and abs(slope - quotient) > self.tolerance * max(total, abs(quotient)):
            self.problems.append(f"along all leaves the gradient gives {slope:.9g}, and not {quotient:.9g}")

    def unused(self, name: str, grads: dict[str, Tensor]) -> bool:
        """Whether a leaf without a gradient has no part in the objective at all, however far it moves."""
        far = _only(name, torch.ones_like(grads[name]), grads)
        found = (
            not grads[name].any() and len({self.moved(far, distance) for distance in (0.0, 0.5, -0.5)}) == 1
        )
        if found:
            self.problems.append(f"{name} is not learned: the outer objective does not depend on it")
        return found

    def quotient(self, direction: list[Tensor], slope: float, enough: float) -> tuple[float, bool]:
        """A difference quotient to hold a slope against, and whether it can be trusted.

        The first that agrees will do. If none does, it is that of the two steps which agree best with each
        other; it cannot be trusted if a kink makes them differ, or stands at the very point.
        """
        found: list[float] = []
        for h in _STEPS:
            found.append((self.moved(direction, h) - self.moved(direction, -h)) / (2 * h))
            if abs(found[-1] - slope) <= enough:
                return found[-1], True
        gap, best = min((abs(a - b), (a + b) / 2) for i, a in enumerate(found) for b in found[:i])
        error, here = abs(best - slope), self.moved(direction, 0.0)
        bends = [
            abs(self.moved(direction, h) + self.moved(direction, -h) - 2 * here) / h for h in (1e-5, 1e-6)
        ]
        at_the_point = bends[1] > 0.5 * bends[0] and bends[1] > error / 10
        return best, bool(error > 10 * gap) and not at_the_point


def _only(name: str, within: Tensor, like: dict[str, Tensor]) -> list[Tensor]:
    """A direction in one leaf alone."""
    return [within if other == name else torch.zeros_like(leaf) for other, leaf in like.items()]


def _sentence(name: str, grad: Tensor, slope: float, quotient: float, error: float) -> str:
    if not grad.any():
        return f"no gradient reaches {name}, though the objective depends on it (slope {quotient:.6g})"
    return f"the gradient of {name} is wrong: {slope:.9g}, and not {quotient:.9g} ({error:.1e} of it)"


def _mixed(grad: Tensor, rng: torch.Generator) -> Tensor:
    """A direction of length one between a random one and the gradient's own, which shows errors of scale."""
    drawn = torch.randn(grad.shape, generator=rng).to(grad)
    mixed = drawn / drawn.norm() + grad / (float(grad.norm()) or 1.0)
    return mixed / mixed.norm()


def _coordinate(grad: Tensor, rank: int) -> Tensor:
    """The coordinate of one of the largest entries."""
    order = grad.abs().flatten().argsort(descending=True, stable=True)
    one = torch.zeros_like(grad)
    one.view(-1)[order[min(rank, grad.numel() - 1)]] = 1.0
    return one


def _length(leaves: Any) -> float:
    return float(torch.stack([leaf.norm() for leaf in leaves]).norm())


def _alike(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> bool:
    return bool(torch.allclose(one, other, rtol=tolerance, atol=tolerance * 1e-3))
