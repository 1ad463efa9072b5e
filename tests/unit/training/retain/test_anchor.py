"""The pull towards an anchor is the gradient of half the squared distance to it."""

from __future__ import annotations

import torch

from innerloop.core import tree
from innerloop.training.retain.anchor import Anchor, added
from unit.training.retain.moments import at, flat, force, moment, same_after_a_checkpoint, zeros

HERE, THEN, WEIGHT = at(0.5, 2.0, -1.0), at(1.0, -2.0, 0.3), 0.7


def anchored() -> Anchor:
    anchor = Anchor(WEIGHT)
    anchor.stage_ended(moment(THEN))
    return anchor


def test_it_is_the_gradient_of_half_the_squared_distance() -> None:
    theta = flat(HERE).requires_grad_()
    (expected,) = torch.autograd.grad(0.5 * WEIGHT * (theta - flat(THEN)).square().sum(), theta)
    torch.testing.assert_close(force(anchored(), HERE), expected, rtol=0, atol=1e-12)


def test_there_is_none_before_the_first_anchor_and_none_at_it() -> None:
    assert not force(Anchor(WEIGHT), HERE).any()
    assert not force(anchored(), THEN).any()


def test_it_is_added_to_what_is_there() -> None:
    grads = at(1.0, 2.0, 3.0)
    found = flat(anchored().changed(grads, moment(HERE)))
    torch.testing.assert_close(found, flat(grads) + force(anchored(), HERE), rtol=0, atol=1e-15)


def test_the_last_stage_is_the_anchor() -> None:
    anchor = anchored()
    anchor.stage_ended(moment(HERE))
    assert not force(anchor, HERE).any()


def test_an_earlier_run_is_the_first_anchor() -> None:
    anchor = Anchor(WEIGHT)
    anchor.anchored(THEN)
    assert torch.equal(force(anchor, HERE), force(anchored(), HERE))


def test_an_anchor_stays_where_it_was_when_training_goes_on() -> None:
    moving = at(1.0, -2.0, 0.3)
    anchor = Anchor(WEIGHT)
    anchor.stage_ended(moment(moving))
    moving["params"]["head.weight"].add_(5.0)
    assert torch.equal(force(anchor, HERE), force(anchored(), HERE))


def test_running_statistics_and_frozen_weights_are_not_pulled() -> None:
    more = {"statistics": {"mean": torch.ones(2)}, "frozen": {"body": torch.ones(2)}}
    anchor = Anchor(WEIGHT)
    anchor.anchored(THEN | tree.zeros_like(more))
    found = anchor.changed(zeros() | tree.zeros_like(more), moment(HERE | more))
    assert torch.equal(flat(found), torch.cat([force(anchored(), HERE), torch.zeros(4)]))
    assert not any("statistics" in path or "frozen" in path for path in anchor.tensors())


def test_it_is_the_same_after_a_checkpoint() -> None:
    found = same_after_a_checkpoint(anchored(), Anchor(WEIGHT))
    assert torch.equal(force(found, HERE), force(anchored(), HERE))
    same_after_a_checkpoint(Anchor(WEIGHT), Anchor(WEIGHT))


def test_a_module_without_parameters_is_no_obstacle_after_a_checkpoint() -> None:
    """A path in a checkpoint is a path to a leaf: a branch without leaves is in none."""
    here = {"params": {}, "scale": torch.tensor([2.0], dtype=torch.float64)}
    anchor = Anchor(WEIGHT)
    anchor.anchored(tree.zeros_like(here))
    found = same_after_a_checkpoint(anchor, Anchor(WEIGHT))
    assert force(found, here).tolist() == [2.0 * WEIGHT]


def test_what_is_added_goes_by_name_whatever_the_order() -> None:
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    assert added({"a": one, "b": two}, {"b": one, "a": two}) == {"a": one + two, "b": two + one}
