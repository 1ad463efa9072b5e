"""Whether anything passes that must not: between tasks, from support to query, from train to validation."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.randomness import random_states, random_states_kept
from innerloop.measure.unroll import KEY


def state_leak(learner: MetaLearner, meta: Meta, episodes: Episode) -> float:
    """The largest change in the outputs of a task because another came in between; 0.0 without a leak.

    The first task is adapted to and predicted, then the second, then the first again, in training and in
    evaluation. What else may differ counts too: tensors of the learner's modules by their largest change;
    torch's, numpy's and Python's global generators as 1.0, if a number was drawn. A copy of the learner is
    asked, and the generators are put back.

    Args:
        episodes: stacked tasks [T, ...], T >= 2.
    """
    _need_two(episodes)
    learner = copy.deepcopy(learner)
    one, other = take(episodes, 0), take(episodes, 1)
    with random_states_kept():
        modules, drawn = _tensors_of(learner), random_states()
        largest = 0.0
        for training in (True, False):
            first = _outputs(learner, meta, one, one.query.x, training=training)
            _outputs(learner, meta, other, other.query.x, training=training)
            again = _outputs(learner, meta, one, one.query.x, training=training)
            largest = max(largest, _change(first, again))
        kept = _tensors_of(learner)
        changes = [_change(tensor, kept[name]) for name, tensor in modules.items()]
        return max(largest, *changes, 0.0 if drawn == random_states() else 1.0)


def query_leak(episodes: Episode) -> float:
    """The largest share, over tasks, of query examples whose input is also, byte for byte, in the support."""
    shares = []
    for i in range(num_tasks(episodes)):
        support, query = take(episodes, i)
        known = set(_rows(support.x))
        shares.append(_share(row in known for row in _rows(query.x)))
    return max(shares, default=0.0)


def class_leak(train_episodes: Episode, val_episodes: Episode) -> float:
    """The share of validation examples that are also, byte for byte, among those of training.

    An example is its input where labels are classes, which each task numbers anew; else input and target,
    since tasks may share the places that functions are looked at.
    """
    known = {row for batch in train_episodes for row in _examples(batch)}
    return _share(row in known for batch in val_episodes for row in _examples(batch))


def transduction(learner: MetaLearner, meta: Meta, episodes: Episode) -> float:
    """The largest change of a query's outputs beside other queries, relative to the largest output.

    Half of the first task's queries (one, if there is one) are predicted beside queries of the second task in
    the place of the others, in evaluation. Rounding is some 1e-6 in float32.

    Args:
        episodes: stacked tasks [T, ...], T >= 2.
    """
    _need_two(episodes)
    one, other = take(episodes, 0), take(episodes, 1)
    inputs = one.query.x
    kept = max(1, len(inputs) // 2)
    beside = other.query.x[kept:] if len(inputs) > 1 else other.query.x
    usual = _outputs(learner, meta, one, inputs)[:kept]
    changed = _outputs(learner, meta, one, torch.cat([inputs[:kept], beside]))[:kept]
    size = float(usual.abs().max())
    return _change(usual, changed) / (size or 1.0)


def _need_two(episodes: Episode) -> None:
    if num_tasks(episodes) < 2:
        raise NotEvaluated("a single task, and two are needed")


def _outputs(
    learner: MetaLearner, meta: Meta, episode: Episode, inputs: Tensor, *, training: bool = False
) -> Tensor:
    """What a learner predicts for some inputs after adapting to a task."""
    steps = learner.inner_steps if training else getattr(learner, "test_inner_steps", learner.inner_steps)
    task_key = tensor_keys(KEY, 1, inputs.device)[0]
    ways = count_ways(episode.support.y)
    with torch.no_grad(), running_in(training=training, first_order=True, key=task_key, ways=ways):
        fast = adapt(learner, meta, episode.support, steps)
        return learner.predict(meta, fast, inputs).detach().clone()


def _change(before: Tensor, after: Tensor) -> float:
    """The largest difference; not-finite numbers in the same places are no change."""
    if torch.equal(before.nan_to_num(), after.nan_to_num()):
        return 0.0
    gaps = (before.double() - after.double()).abs()
    return float(gaps.nan_to_num(0.0, posinf=torch.finfo(torch.float64).max).max()) or 1.0


def _tensors_of(learner: Any) -> dict[str, Tensor]:
    """Copies of the parameters and buffers of the modules that stand on a learner."""
    return {
        f"{name}.{path}": tensor.clone()
        for name, module in vars(learner).items()
        if isinstance(module, nn.Module)
        for path, tensor in module.state_dict().items()
    }


def _examples(batch: Batch) -> list[bytes]:
    """The examples of stacked batches [T, n, ...]."""
    inputs = _rows(batch.x.flatten(0, 1))
    if not batch.y.is_floating_point():
        return inputs
    return [x + y for x, y in zip(inputs, _rows(batch.y.flatten(0, 1)), strict=True)]


def _rows(batch: Tensor) -> list[bytes]:
    """The bytes of each example."""
    flat = batch.detach().cpu().reshape(len(batch), -1).contiguous().view(torch.uint8)
    return [row.tobytes() for row in flat.numpy()]


def _share(found: Iterable[bool]) -> float:
    all_found = list(found)
    return sum(all_found) / len(all_found) if all_found else 0.0
