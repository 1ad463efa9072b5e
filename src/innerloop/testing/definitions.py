"""What a gradient that is not the true one is by its own definition, computed another way.

A path that is declared inexact is not thereby free: each has a definition that can be checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from innerloop.core import tree
from innerloop.core.learner import adapt, outer_weights, states
from innerloop.core.mode import at_stream, count_ways, running_in
from innerloop.core.types import Episode, Fast, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.gradients import Asynchronous, Displacement, FirstOrder, Implicit, Unrolled
from innerloop.gradients.base import learned
from innerloop.gradients.chain import held, inputs_of, moving
from innerloop.gradients.sweep import Sweep
from innerloop.testing.probing import close, estimate, inner_keys

_STEP = 1e-6
_DENSE = 2000  # numbers in a state up to which a linear system is solved directly


def why_undefined(learner: Any, meta: Meta) -> str | None:
    """Why the definition of a learner's gradient cannot be computed here; None where it can."""
    path = learner.gradient
    if not isinstance(path, (Displacement, Implicit, Sweep)):
        return "its gradient draws at random"
    count = sum(leaf.numel() for leaf in tree.leaves(learned(meta)))
    if isinstance(path, Implicit) and count > _DENSE:
        return f"{count} numbers are too many to solve for directly: ask with fewer than {_DENSE}"
    return None


def gradient_equals_its_definition(learner: Any, meta: Meta, episodes: Episode) -> None:
    """A gradient that is declared inexact is what its path says it is: nothing more is lost.

    Along the gradient and along each leaf's largest entry, for a path that holds something constant: the
    difference quotient of the objective while that is held at its values. For `Implicit`: the solution
    of the linear system, solved directly. For `Displacement`: the distance moved. For `Asynchronous`: the
    distance that its two updates move, from the gradient along the same path.
    """
    path = learner.gradient
    if isinstance(path, Displacement):
        close(learned(estimate(learner, meta, episodes)[0]), _displacement(learner, meta, episodes), 1e-9)
    elif isinstance(path, Asynchronous):
        close(
            learned(estimate(learner, meta, episodes)[0]), _one_after_another(learner, meta, episodes), 1e-9
        )
    elif isinstance(path, Implicit):
        _is_implicit(learner, meta, episodes, path)
    else:
        _is_swept(learner, meta, episodes, path)


def _each(learner: Any, episodes: Episode, fn: Callable[[Episode, Tensor], Any]) -> list[Any]:
    """`fn(episode, key)` of each task, in the mode that training runs in."""
    found = []
    for i, key in enumerate(inner_keys(num_tasks(episodes))):
        with running_in(training=True, key=key, ways=count_ways(episodes.support.y)):
            found.append(fn(take(episodes, i), key))
    return found


def _displacement(learner: Any, meta: Meta, episodes: Episode) -> Meta:
    def moved(episode: Episode, key: Tensor) -> Meta:
        with torch.no_grad(), running_in(first_order=True):
            fast = adapt(learner, meta, episode.support, learner.inner_steps)
        after = learned(learner.displaced(meta, fast))
        return tree.map(lambda old, new: old - new, learned(meta), after)

    moves = _each(learner, episodes, moved)
    return tree.map(lambda *leaves: torch.stack(leaves).mean(0), *moves)


def _one_after_another(learner: Any, meta: Meta, episodes: Episode) -> Meta:
    """`meta` less what it is after an update of the rates, and then one of the weights by the new rates."""
    path = learner.gradient
    plain = FirstOrder() if path.first_order else Unrolled()
    grads, _ = estimate(learner, meta, episodes, gradient=plain)
    rates = {name: a - path.rate_lr * grads["rates"][name] for name, a in meta["rates"].items()}
    params = {
        name: p - rates[name].clamp(min=0) * grads["params"][name] for name, p in meta["params"].items()
    }
    return tree.map(lambda before, after: before - after, learned(meta), {"params": params, "rates": rates})


# --- something held constant -----------------------------------------------------------------------------


class _Tape:
    """Inner gradients, written down in one run and repeated in the next."""

    def __init__(self) -> None:
        self.grads: list[dict[str, Tensor]] = []
        self.place: int | None = None

    def __call__(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if self.place is None:
            self.grads.append({name: grad.detach() for name, grad in compute().items()})
            return self.grads[-1]
        self.place += 1
        return self.grads[self.place - 1]


def _is_swept(learner: Any, meta: Meta, episodes: Episode, path: Sweep) -> None:
    steps = learner.inner_steps
    first = 0 if path.last is None else max(0, steps - path.last)
    weights = outer_weights(learner)
    tapes = [_Tape() for _ in range(num_tasks(episodes))]
    kept: list[Fast] = []

    def objective(meta: Meta, episode: Episode, index: int) -> Tensor:
        tape = tapes[index]
        tape.place = None if len(kept) <= index else 0
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad(), running_in(tape=tape if path.first_order else None):
            if len(kept) <= index:  # the run whose values are held
                for k, fast in enumerate(states(learner, meta, episode.support, steps)):
                    if k == first:
                        kept.append(tree.map(torch.clone, fast))
                        tape.grads.clear()
                return total
            fast = learner.begin(meta, episode.support) if first == 0 else kept[index]
            if weights[0] and first == 0:
                total = total + weights[0] * learner.query_loss(meta, fast, episode.query)[0]
            for k in range(first, steps):
                with at_stream(k):
                    fast = learner.step(meta, fast, episode.support, k)
                if weights[k + 1]:
                    total = total + weights[k + 1] * learner.query_loss(meta, fast, episode.query)[0]
            if not steps:
                total = total + learner.query_loss(meta, fast, episode.query)[0]
        return total

    def mean(meta: Meta) -> float:
        indices = iter(range(len(tapes)))
        found = _each(learner, episodes, lambda episode, key: objective(meta, episode, next(indices)))
        return float(torch.stack(found).mean())

    mean(meta)
    grads = tree.leaves(learned(estimate(learner, meta, episodes)[0]))
    leaves = tree.leaves(learned(meta))
    norm = float(torch.cat([g.flatten() for g in grads]).norm())
    directions = [[g / norm for g in grads]] + [_largest(grads, i) for i in range(len(grads))]
    for direction in directions:
        there = [
            [leaf + sign * _STEP * d for leaf, d in zip(leaves, direction, strict=True)] for sign in (1, -1)
        ]
        up, down = (mean(meta | tree.rebuild(learned(meta), moved)) for moved in there)
        expected = (up - down) / (2 * _STEP)
        found = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True))
        error = abs(found - expected) / max(norm, 1e-3)
        assert error <= 1e-6, f"gradient {found:.9g}, by definition {expected:.9g}: {error:.3g} of the norm"


def _largest(grads: list[Tensor], index: int) -> list[Tensor]:
    direction = [torch.zeros_like(g) for g in grads]
    direction[index].view(-1)[int(grads[index].abs().argmax())] = 1.0
    return direction


# --- the implicit gradient -------------------------------------------------------------------------------


def _is_implicit(learner: Any, meta: Meta, episodes: Episode, path: Implicit) -> None:
    """Direct solution of (I - J^T + damping) w = dL_Q/dfast, and dL_Q/dmeta + w^T dstep/dmeta."""

    def of_task(episode: Episode, key: Tensor) -> list[Tensor]:
        steps = learner.inner_steps
        with running_in(whole=False):
            with torch.no_grad(), running_in(first_order=True):
                reached = adapt(learner, meta, episode.support, steps)
            whole, leaves = inputs_of(meta)
            end = held(reached, requires_grad=True)
            point = moving(end)
            loss = _judged(learner, whole, end, episode)
            direct = torch.autograd.grad(loss, [*leaves, *point], allow_unused=True, materialize_grads=True)
            v = torch.cat([g.flatten() for g in direct[len(leaves) :]])

            def stepped(flat: Tensor, meta: Meta) -> Tensor:
                with at_stream(steps - 1):
                    after = learner.step(meta, _with(end, flat), episode.support, steps - 1)
                return torch.cat([leaf.flatten() for leaf in moving(after)])

            flat = torch.cat([leaf.detach().flatten() for leaf in point])
            turning = jacobian(lambda x: stepped(x, meta), flat)
            system = torch.eye(len(v), dtype=v.dtype) * (1 + path.damping) - turning.T
            w = torch.linalg.solve(system, v)
            through = torch.autograd.grad(
                stepped(flat, whole) @ w, leaves, allow_unused=True, materialize_grads=True
            )
        return [a + b for a, b in zip(direct, through, strict=False)]

    each = _each(learner, episodes, of_task)
    expected = [torch.stack(leaves).mean(0) for leaves in zip(*each, strict=True)]
    sizes = sum(leaf.numel() for leaf in tree.leaves(learned(meta)))
    solved = dataclasses.replace(path, iterations=max(path.iterations, 4 * sizes), tolerance=1e-13)
    found = tree.leaves(learned(estimate(learner, meta, episodes, gradient=solved)[0]))
    scale = float(torch.cat([leaf.flatten() for leaf in expected]).norm())
    for ours, theirs in zip(found, expected, strict=True):
        error = float((ours - theirs).abs().max()) / max(scale, 1e-3)
        assert error <= 1e-6, f"the implicit gradient is off by {error:.3g} of its norm"


def _judged(learner: Any, meta: Meta, fast: Fast, episode: Episode) -> Tensor:
    with running_in(first_order=True):
        return learner.query_loss(meta, fast, episode.query)[0]


def _with(fast: Fast, flat: Tensor) -> Fast:
    """The state whose moving leaves are these numbers."""
    sizes = [leaf.numel() for leaf in moving(fast)]
    values = iter(flat.split(sizes))
    names = {id(leaf) for leaf in moving(fast)}
    return tree.map(lambda leaf: next(values).view_as(leaf) if id(leaf) in names else leaf, fast)
