"""The questions that every algorithm has to answer, as functions that raise `AssertionError`.

They take a learner, its meta-parameters and stacked tasks, all in float64, so that the same function is
asked of our algorithms, of a user's, and of planted bugs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import FROZEN, STATISTICS, MetaLearner
from innerloop.core.mode import count_ways, running_in
from innerloop.core.outcome import Outcome
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks, take
from innerloop.gradients.base import learned
from innerloop.testing.probing import (
    KEY,
    adapted,
    close,
    deviation,
    estimate,
    inner_keys,
    mean_query_loss,
    predictions,
)

# --- values ----------------------------------------------------------------------------------------------


def shapes_and_types_are_kept(learner: Any, meta: Meta, episodes: Episode) -> None:
    """One row of outputs for each query and one column for each class or target, in the type of `meta`."""
    episode = take(episodes, 0)
    ways = count_ways(episode.support.y)
    columns = episode.query.y.shape[-1] if ways is None else ways
    for dtype in (torch.float64, torch.float32):
        cast = tree.map(lambda leaf, dtype=dtype: leaf.to(dtype), meta)
        inputs = Episode(*(Batch(b.x.to(dtype), b.y if ways else b.y.to(dtype)) for b in episode))
        outputs = predictions(learner, cast, inputs)
        assert outputs.shape == (len(episode.query.y), columns), f"outputs of shape {tuple(outputs.shape)}"
        assert outputs.dtype == dtype, f"outputs of {outputs.dtype} for meta of {dtype}"


# --- gradients -------------------------------------------------------------------------------------------


def vmap_chunks_and_loop_agree(learner: Any, meta: Meta, episodes: Episode) -> None:
    """However tasks are lifted, losses, gradients and running statistics are the same."""
    grads, record = estimate(learner, meta, episodes, axis="loop")
    for axis in ("vmap", 3):
        other_grads, other = estimate(learner, meta, episodes, axis=axis)
        # Adam divides by a root near 1e-8 where a true gradient is zero: rounding is seen magnified.
        close(grads, other_grads, 2e-9)
        close(record.losses, other.losses, 2e-9)
        close(record.statistics, other.statistics, 2e-9)


def gradient_is_shaped_like_meta(learner: Any, meta: Meta, episodes: Episode) -> None:
    """The gradient has the leaves of `meta`; running statistics and frozen weights get zero."""
    grads, _ = estimate(learner, meta, episodes)
    shapes, expected = ({p: leaf.shape for p, leaf in tree.flatten(t).items()} for t in (grads, meta))
    assert shapes == expected, "not shaped like meta"
    for name in (STATISTICS, FROZEN):
        assert all(not leaf.any() for leaf in tree.leaves(grads.get(name, {}))), f"{name} moved"


def gradient_equals_finite_differences(
    learner: Any, meta: Meta, episodes: Episode, *, axis: TasksAxis = "vmap", coordinates: bool = True
) -> float:
    """Central differences of the mean query loss, along directions and in single `coordinates`.

    Returns:
        The largest deviation, relative to the norm of the gradient.
    """
    grads, _ = estimate(learner, meta, episodes, axis=axis)
    directions = [*_directions(grads, meta), *(_coordinates(grads) if coordinates else [])]
    norm = float(torch.cat([g.flatten() for g in tree.leaves(learned(grads))]).norm())
    worst = 0.0
    for direction in directions:
        found = sum(float((g * d).sum()) for g, d in zip(tree.leaves(learned(grads)), direction, strict=True))
        expected, error = 0.0, 1.0
        for h in (1e-6, 1e-7):  # a kink of the network within a step is no fault of the gradient's
            if error > 1e-6:
                expected = _difference(learner, meta, episodes, direction, h)
                error = abs(found - expected) / max(norm, 1e-3)
        assert error <= 1e-6, (
            f"gradient {found:.9g}, difference quotient {expected:.9g}: {error:.3g} of the norm"
        )
        worst = max(worst, error)
    return worst


def _directions(grads: Meta, meta: Meta) -> list[list[Tensor]]:
    """The gradient's own direction, and two at random, of length one."""
    rng = torch.Generator().manual_seed(0)
    leaves = tree.leaves(learned(meta))
    drawn = [[torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype) for leaf in leaves] for _ in range(2)]
    own = tree.leaves(learned(grads))
    scaled = []
    for direction in (own, *drawn):
        length = torch.cat([d.flatten() for d in direction]).norm()
        scaled.append([d / length if float(length) else d for d in direction])
    return scaled


def _coordinates(grads: Meta) -> list[list[Tensor]]:
    """The coordinate of the largest entry of each leaf."""
    leaves = tree.leaves(learned(grads))
    found = []
    for i, leaf in enumerate(leaves):
        direction = [torch.zeros_like(other) for other in leaves]
        direction[i].view(-1)[int(leaf.abs().argmax())] = 1.0
        found.append(direction)
    return found


def _difference(learner: Any, meta: Meta, episodes: Episode, direction: list[Tensor], h: float) -> float:
    leaves = tree.leaves(learned(meta))

    def at(distance: float) -> float:
        moved = [leaf + distance * d for leaf, d in zip(leaves, direction, strict=True)]
        return mean_query_loss(learner, meta | tree.rebuild(learned(meta), moved), episodes)

    return (at(h) - at(-h)) / (2 * h)


def every_leaf_is_learned(learner: Any, meta: Meta, episodes: Episode) -> None:
    """No learned leaf has a zero gradient, but a bias that BatchNorm subtracts again with the mean."""
    grads, _ = estimate(learner, meta, episodes)
    flat = tree.flatten(learned(grads))
    zero = [path for path, grad in flat.items() if float(grad.abs().max()) < 1e-9]
    zero = [path for path in zero if not _is_subtracted(path, learner, meta, episodes)]
    assert not zero, f"no gradient at {zero}"


def _is_subtracted(path: str, learner: Any, meta: Meta, episodes: Episode) -> bool:
    net = getattr(learner, "net", None)
    if net is None or not net.has_batch_norm or not path.endswith(".bias"):
        return False
    leaves = tree.flatten(learned(meta))
    moved = meta | tree.unflatten(leaves | {path: leaves[path] + 1.0})
    return abs(mean_query_loss(learner, moved, episodes) - mean_query_loss(learner, meta, episodes)) < 1e-9


# --- one task and another --------------------------------------------------------------------------------


def tasks_are_isolated(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Another task changes no other task's loss, not even in the last bit; asked one task after another.

    Under `vmap` all tasks are one call, and nothing that a learner kept from the task before could be seen.
    """
    count = num_tasks(episodes)
    before = estimate(learner, meta, episodes, axis="loop")[1].losses
    for changed in (0, count - 1):
        here = torch.arange(count) == changed
        other = Episode(*(_changed(batch, here) for batch in episodes))
        after = estimate(learner, meta, other, axis="loop")[1].losses
        assert torch.equal(before[~here], after[~here]), "a task's loss depends on another task"
        assert not torch.equal(before[here], after[here]), "the changed task's own loss did not change"


def _changed(batch: Batch, here: Tensor) -> Batch:
    """Other inputs, and labels the other way round, for the tasks that are `here`."""

    def where(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(here.view(-1, *(1,) * (no.ndim - 1)), yes, no)

    return Batch(where(3 - 2 * batch.x, batch.x), where(batch.y.flip(1), batch.y))


def calls_leave_no_trace(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Neither inputs nor `meta` change, and the second call repeats the first bitwise."""
    arguments = {
        "meta": meta,
        **{f"{i}{n}": t for i, b in enumerate(episodes) for n, t in b._asdict().items()},
    }
    before = tree.map(torch.clone, arguments)
    versions = [leaf._version for leaf in tree.leaves(arguments)]
    first = estimate(learner, meta, episodes, axis="loop")
    outputs = predictions(learner, meta, take(episodes, 0))
    second = estimate(learner, meta, episodes, axis="loop")
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(arguments))), "an argument was changed"
    assert versions == [leaf._version for leaf in tree.leaves(arguments)], "an argument was written to"
    assert all(map(torch.equal, tree.leaves(first[0]), tree.leaves(second[0]))), "another gradient"
    assert torch.equal(first[1].losses, second[1].losses), "other losses"
    assert torch.equal(outputs, predictions(learner, meta, take(episodes, 0))), "other predictions"


# --- support and query -----------------------------------------------------------------------------------


def query_labels_do_not_reach_predictions(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Having seen the query labels, a learner predicts what it would have predicted with others."""
    episode = take(episodes, 0)
    ways = count_ways(episodes.support.y)

    def predicted(y: Tensor) -> Tensor:
        fast = adapted(learner, meta, episode.support)
        with torch.no_grad(), running_in(ways=ways, training=True, key=inner_keys(1)[0]):
            learner.query_loss(meta, fast, Batch(episode.query.x, y))
        with torch.no_grad(), running_in(ways=ways):
            return learner.predict(meta, fast, episode.query.x)

    assert torch.equal(predicted(episode.query.y), predicted(episode.query.y.flip(0))), "query labels leak"


def queries_do_not_reach_each_other_unless_declared(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Another last query changes no other prediction in evaluation, unless declared `transductive`."""
    episode = take(episodes, 0)
    x = episode.query.x
    changed = episode._replace(query=Batch(torch.cat([x[:-1], 3 - 2 * x[-1:]]), episode.query.y))
    before, after = (predictions(learner, meta, e) for e in (episode, changed))
    found = deviation(before[:-1], after[:-1])
    if getattr(learner, "transductive", False):
        assert found > 1e-6, "declared transductive, but queries do not matter to each other"
    else:
        assert found <= 1e-10, f"a query moves another's prediction by {found:.3g}"


def support_order_is_irrelevant_unless_declared(learner: Any, meta: Meta, episodes: Episode) -> None:
    """A support set is a set, wherever no minibatches are drawn from it, unless a learner is `ordered`."""
    episode = take(episodes, 0)
    order = torch.randperm(len(episode.support.y), generator=torch.Generator().manual_seed(1))
    shuffled = episode._replace(support=Batch(episode.support.x[order], episode.support.y[order]))
    before, after = (predictions(learner, meta, e) for e in (episode, shuffled))
    found = deviation(before, after) / max(1.0, float(before.abs().max()))
    if getattr(learner, "ordered", False):
        assert found > 1e-9, "declared ordered, but the order of the support does not matter"
    else:
        assert found <= 1e-8, f"the order of the support moves predictions by {found:.3g} of their size"


def labels_are_learned_from(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Support labels matter after the inner loop; before it only to a learner that is `amortised`.

    Zero steps are no adaptation, and every step moves what is predicted.
    """
    episode = take(episodes, 0)
    other = episode._replace(support=Batch(episode.support.x, episode.support.y.flip(0)))
    before = [predictions(learner, meta, e, 0) for e in (episode, other)]
    after = [predictions(learner, meta, e) for e in (episode, other)]
    assert deviation(*after) > 1e-9, "labels do not matter after the inner loop"
    if getattr(learner, "amortised", False):
        assert not torch.equal(*before), "declared amortised, but labels do not matter before the first step"
    else:
        assert torch.equal(*before), "labels matter before the first inner step"
        assert deviation(before[0], after[0]) > 1e-9, "the inner loop does not change predictions"


# --- randomness ------------------------------------------------------------------------------------------


def dropout_is_a_function_of_the_key(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Masks are the same however tasks are lifted, differ from key to key, and are off in evaluation."""
    vmap_chunks_and_loop_agree(learner, meta, episodes)
    losses = estimate(learner, meta, episodes)[1].losses
    assert deviation(losses, estimate(learner, meta, episodes, key=KEY + 1)[1].losses) > 1e-6, "same masks"
    twice = Episode(
        *(Batch(b.x[:1].expand(2, *b.x.shape[1:]), b.y[:1].expand(2, *b.y.shape[1:])) for b in episodes)
    )
    first, second = estimate(learner, meta, twice)[1].losses
    assert abs(float(first - second)) > 1e-6, "two tasks share their masks"
    episode = take(episodes, 0)
    fast, ways, outputs = adapted(learner, meta, episode.support, 0), count_ways(episode.support.y), []
    for task_key in (None, *inner_keys(2)):  # of one state: a learner may draw where a task starts
        with torch.no_grad(), running_in(key=task_key, training=False, ways=ways, first_order=True):
            outputs.append(learner.predict(meta, fast, episode.query.x))
    assert torch.equal(outputs[0], outputs[1]), "dropout is on in evaluation"
    assert torch.equal(outputs[0], outputs[2]), "dropout is on in evaluation"


# --- failure ---------------------------------------------------------------------------------------------


def a_diverging_task_is_left_out(
    learner: Any, meta: Meta, episodes: Episode, *, value: float = float("nan")
) -> None:
    """A task that leaves the finite numbers is reported, and the gradient is that of the others."""
    spoiled = Episode(*(Batch(b.x.clone(), b.y) for b in episodes))
    spoiled.support.x[-1] = value
    others = Episode(*(Batch(b.x[:-1], b.y[:-1]) for b in episodes))
    expected, kept = estimate(learner, meta, others)
    for axis in ("vmap", "loop"):
        grads, record = estimate(learner, meta, spoiled, axis=axis)
        assert [o.ok for o in record.outcomes] == [True] * (num_tasks(episodes) - 1) + [False], "outcomes"
        assert record.outcomes[-1] in (Outcome.NONFINITE_LOSS, Outcome.NONFINITE_GRADIENT)
        assert not record.mostly_failed
        close(grads, expected, 2e-9)
        close(record.losses[:-1], kept.losses, 2e-9)
        close(record.statistics, kept.statistics, 2e-9)
        assert abs(record.loss - kept.loss) <= 2e-9, "the mean loss is not that of the others"


def all_diverging_tasks_are_reported(learner: Any, meta: Meta, episodes: Episode) -> None:
    """Where no task stays finite there is no gradient, and the record says so."""
    spoiled = Episode(*(Batch(torch.full_like(b.x, torch.nan), b.y) for b in episodes))
    grads, record = estimate(learner, meta, spoiled)
    assert record.mostly_failed, "not reported as failed"
    assert record.kept == []
    assert tree.flatten(grads).keys() == tree.flatten(meta).keys()
    assert all(not leaf.any() for leaf in tree.leaves(grads)), "a gradient of no task"


def initial_meta_is_a_function_of_rng(learner: MetaLearner) -> None:
    """The same seed gives the same weights, another seed others; torch's global state is left alone."""
    state = torch.get_rng_state()
    first, again, other = (learner.init(torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state()), "init draws from the global generator"
    assert all(map(torch.equal, tree.leaves(first), tree.leaves(again))), "another meta for the same seed"
    weights = [path for path, leaf in tree.flatten(first).items() if leaf.ndim >= 2 and not _is_fixed(leaf)]
    assert weights
    assert all(not torch.equal(tree.flatten(first)[p], tree.flatten(other)[p]) for p in weights), (
        "seed ignored"
    )


def _is_fixed(leaf: Tensor) -> bool:
    """Whether a leaf begins as no draw does: as one number everywhere, or as an identity matrix."""
    return bool((leaf == leaf.flatten()[0]).all()) or (
        leaf.ndim == 2 and torch.equal(leaf, torch.eye(*leaf.shape, dtype=leaf.dtype, device=leaf.device))
    )
