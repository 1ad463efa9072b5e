"""A gradient from function values alone: evolution strategies, also for unrolls that persist."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.compiled import settings
from innerloop.core.errors import check_count, check_range
from innerloop.core.learner import MetaLearner
from innerloop.core.rng import fold_key, keyed_normal
from innerloop.core.types import Episode, Meta, Tree
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, shaped_like, weighted_sum
from innerloop.gradients.carry import carried, check_horizon, resumed, steps_done
from innerloop.gradients.chain import Chain, as_episodes, as_tree

_NOISE = 1 << 20  # streams of a task's key from here on are perturbations; below are inner steps


@dataclass(frozen=True)
class Evolution(MetaGradient):
    """The gradient of the objective smoothed by a Gaussian, from values at perturbed meta-parameters.

        g = mean over pairs of (L(meta + sigma e) - L(meta - sigma e)) / (2 sigma) e,   e ~ N(0, I)

    Unbiased for the smoothed objective, so for a quadratic one; no backward pass, and no exploding
    gradient over long unrolls. Each task draws perturbations of its own. Its variance grows with the number
    of meta-parameters: for learned rates and small learned optimizers (Salimans et al. 2017,
    arXiv 1703.03864). With a `horizon`, persistent evolution strategies (Vicol et al. 2021,
    arXiv 2112.13835): particles live on over outer steps, and `e` above is the sum of all perturbations
    of their unroll so far, which removes the bias of truncation.

    Work: `2 * pairs` inner loops. Memory: a few states, whatever `inner_steps`. A task's recorded loss is
    the mean over its particles; `record.measures["standard_error"]` is sqrt(E |g - E g|^2) of each
    task's estimate, where `pairs` is at least 2.

    Args:
        sigma: standard deviation of perturbations, > 0.
        pairs: perturbations for each task, >= 1.
        antithetic: whether each is also taken with the opposite sign; otherwise the unperturbed value
            is subtracted.
        horizon: inner steps of a persistent unroll, of which each outer step takes `inner_steps`;
            None begins anew in every outer step.
    """

    sigma: float = 0.01
    pairs: int = 1
    antithetic: bool = True
    horizon: int | None = None
    exact = False

    def __post_init__(self) -> None:
        check_range("sigma", self.sigma, low=0.0, open_low=True)
        check_count("pairs", self.pairs, low=1)
        check_horizon(self.horizon)

    def begin(self, tasks: Tasks) -> Tasks:
        return resumed(tasks, self.horizon)

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        first = steps_done(tasks.carry)

        def particles(meta: Meta, state: Tree, episodes: Tree, keys: Tensor, at: Tree) -> Tree:
            def one_task(episode: Episode, key: Tensor, state: Tree = None) -> Tree:
                return self._particle(learner, meta, first, at, (episode, key, state))

            with torch.no_grad():
                return lift(one_task)(as_episodes(episodes), keys, *((state,) if state else ()))

        graph = ("evolution", 0 if learner.steps_alike else first, self, settings(learner))
        given, number = (as_tree(tasks.episodes), tasks.keys), partial(torch.tensor, device=tasks.keys.device)
        found: list[dict[str, Any]] = []
        for pair in range(self.pairs):
            state = {} if tasks.carry is None else tasks.carry["state"][str(pair)]
            at = {"stream": number(first), "pair": number(pair)}
            found.append(tasks.run(particles, graph, meta, state, *given, at))
        with torch.no_grad():
            estimates = [f["estimate"] for f in found]
            mean = tree.map(lambda *leaves: torch.stack(leaves).mean(0), *estimates)
            losses = torch.stack([f["loss"] for f in found]).mean(0)
            measures = {"standard_error": _standard_error(estimates, mean)} if self.pairs > 1 else {}
            grads = shaped_like(meta, tree.map(lambda leaf: weighted_sum(leaf, tasks.weights), mean))
        states = {str(pair): f["state"] for pair, f in enumerate(found)}
        carry = carried(tasks, first + learner.inner_steps, states, self.horizon)
        return Estimate(grads, losses, found[0]["statistics"], measures, carry)

    def _particle(self, learner: MetaLearner, meta: Meta, first: int, at: Tree, given: tuple) -> Tree:
        """One perturbation of one task: its estimate, and what persists of it."""
        episode, key, state = given
        noise = _noise(fold_key(key, _NOISE + at["pair"]), learned(meta))
        total = noise if state is None else tree.map(torch.add, state["total"], noise)
        results = []
        for index, sign in enumerate((1.0, -1.0 if self.antithetic else 0.0)):
            moved = meta | tree.map(lambda p, e, s=sign: p + s * self.sigma * e, learned(meta), noise)
            fast = None if state is None else state[("one", "other")[index]]
            steps, whole = range(learner.inner_steps), self.horizon is None
            chain = Chain(learner, moved, steps, first, at["stream"], first_order=True, whole=whole)
            results.append(chain.segment(fast, episode, key))
        one, other = results
        slope = (one["share"] - other["share"]) / ((2 if self.antithetic else 1) * self.sigma)
        return {
            "estimate": tree.map(lambda e: slope * e, total),
            "loss": (one["loss"] + other["loss"]) / 2,
            "statistics": one["statistics"],
            "state": {"one": one["fast"], "other": other["fast"], "total": total},
        }

    def passes(self, steps: int) -> float:
        return 6.0 * self.pairs * steps

    def memory(self, steps: int, params: int, activations: int) -> float:
        return float((4 + 2 * self.pairs) * params + 2 * activations)


def _noise(key: Tensor, like: Meta) -> Meta:
    leaves = tree.leaves(like)
    drawn = [
        keyed_normal(fold_key(key, i), tuple(leaf.shape)).to(leaf.dtype) for i, leaf in enumerate(leaves)
    ]
    return tree.rebuild(like, drawn)


def _standard_error(estimates: list[Tree], mean: Tree) -> Tensor:
    squared = [
        ((leaf - centre) ** 2).flatten(1).sum(1)
        for estimate in estimates
        for leaf, centre in zip(tree.leaves(estimate), tree.leaves(mean), strict=True)
    ]
    count = len(estimates)
    return (torch.stack(squared).sum(0) / (count * (count - 1))).sqrt()
