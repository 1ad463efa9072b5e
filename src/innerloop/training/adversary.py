"""Training on attacked tasks: inputs are moved, before the meta-gradient, to where the learner does worst."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import fold_key, key, keyed_uniform, tensor_keys
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks, over_tasks
from innerloop.measure.attack import Attack, attacked_queries, attacked_supports, bounds_of


@dataclass(frozen=True)
class AdversaryConfig:
    """Training on attacked inputs, so that small changes of an input change no answer; by default none is.

    Adversarial querying (Goldblum et al. 2020, arXiv:1910.00982) attacks queries alone, in the state that was
    adapted to clean support, and costs about steps passes over them; adversarial support training attacks
    support inputs through the inner loop, to raise the loss on the queries, and costs about steps
    meta-gradients. With both, queries are attacked in the state that was adapted to attacked support.
    Images in [0, 1] stay there.

    Differences from the papers: Goldblum et al. take a radius of 8/255 and steps of 2/255, in colour images.
    ADML (Yin et al. 2018, arXiv:1806.03316) attacks support by the loss on the support set itself, and adapts
    to clean and to attacked support in turn.

    Args:
        query: radius of the attack on queries in the largest change of an entry, >= 0, in units of the
            inputs; 0 is none.
        support: the same of the attack on support inputs.
        steps: steps of projected gradient ascent, >= 1, from a random place in the ball.
        step_size: length of each, > 0; None is 2.5 radius / steps.
        clean: the chance, in [0, 1), of a query, and of a task's support set, to be left as it is: the share
            of the clean loss in what is minimised.
    """

    query: float = 0.0
    support: float = 0.0
    steps: int = 7
    step_size: float | None = None
    clean: float = 0.0

    def __post_init__(self) -> None:
        for name in ("query", "support"):
            check_range(f"adversary.{name}", getattr(self, name), low=0.0)
        check_count("adversary.steps", self.steps, low=1)
        if self.step_size is not None:
            check_range("adversary.step_size", self.step_size, low=0.0, open_low=True)
        check_range("adversary.clean", self.clean, low=0.0, high=1.0 - 1e-9)

    @property
    def attacks(self) -> bool:
        """Whether any input is moved."""
        return self.query > 0.0 or self.support > 0.0


def attacked(
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    config: AdversaryConfig,
    *,
    place: int,
    axis: TasksAxis = "auto",
) -> Episode:
    """The tasks of an outer step as they are trained on: those given, or attacked ones.

    Args:
        episodes: stacked tasks, each leaf [T, ...].
        place: the key of randomness inside inner steps, as the meta-gradient has it, so that an attack sees
            the dropout masks and minibatches that the meta-gradient will see. What the attack draws for
            itself is of keys derived from it, one a task.
        axis: how tasks are lifted. Ways differ by rounding, and where a derivative is zero but for rounding,
            in which way an entry of an input goes.

    Raises:
        ConfigError: support is to be attacked for a learner that is not trained on few-shot tasks.
        ContractError: inputs are whole numbers.
    """
    if not config.attacks:
        return episodes
    if config.support and getattr(learner, "pooled", False):
        raise ConfigError(
            f"adversary.support = {config.support:g} with {type(learner).__name__}",
            expected="a learner that is trained on tasks with a support set",
            do="set adversary.query instead, which attacks half of each batch",
        )
    both = [bounds_of(batch.x) for batch in episodes]
    bounds = None if None in both else both[0]
    of_query, of_support = (
        Attack(radius, config.steps, config.step_size, bounds) for radius in (config.query, config.support)
    )

    def one_task(episode: Episode, own: Tensor, drawn: Tensor) -> Episode:
        support, query = episode
        with running_in(training=True, first_order=True, key=own):
            if config.support:
                moved, _ = attacked_supports(learner, meta, episode, of_support, fold_key(drawn, 0))
                support = _partly(moved, support, keyed_uniform(fold_key(drawn, 1), (1,)) < config.clean)
            if config.query:
                fast = adapt(learner, meta, support, learner.inner_steps)
                moved = attacked_queries(learner, meta, fast, query, of_query, fold_key(drawn, 2))
                chances = keyed_uniform(fold_key(drawn, 3), (len(query.y),))
                query = _partly(moved, query, chances < config.clean)
        return Episode(support, query)

    count, device = num_tasks(episodes), episodes.query.x.device
    keys = (tensor_keys(start, count, device) for start in (place, key(place, "attack")))
    with torch.no_grad(), running_in(ways=count_ways(episodes.support.y)):
        return over_tasks(one_task, episodes, *keys, axis=axis, owner=config)


def _partly(moved: Batch, clean: Batch, kept: Tensor) -> Batch:
    """The moved inputs, but for those kept: a mask over rows [S], or one for all of them [1]."""
    mask = kept.view(-1, *(1,) * (clean.x.ndim - 1))
    return Batch(torch.where(mask, clean.x, moved.x), clean.y)
