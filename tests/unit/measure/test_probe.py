"""What a probe records, against closed forms on bowls and what evaluation finds on the same tasks."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from cases import Case
from innerloop.algorithms import MAML, ProtoNet
from innerloop.core import tree
from innerloop.core.types import Episode, Meta
from innerloop.evaluate.protocol import BLOCK, FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.measure.probe import SEED, Probe, relative_distance, row
from innerloop.models import MLP, Conv4
from innerloop.tasks import Bowls, Glyphs, Sinusoid

BOWLS = Bowls((0.1, 0.7, 1.9), centre=0.5, spread=2.0)
RATE, STEPS = 0.4, 3


def on_bowls(**settings: Any) -> tuple[Probe, Meta]:
    learner = MAML(MLP(3, 1, hidden=(), bias=False), inner_lr=RATE, inner_steps=STEPS, loss="mse")
    meta = learner.init(torch.Generator().manual_seed(0))
    meta["params"]["head.weight"] = torch.tensor([[1.0, -2.0, 0.3]])
    return Probe(learner, BOWLS, **{"val": 30, "train": 10} | settings), meta


def of(rows: list[dict[str, Any]], name: str, **place: Any) -> np.ndarray:
    found = [r for r in rows if r["name"] == name and all(r.get(k) == v for k, v in place.items())]
    assert len(found) == 1, (name, place, len(found))
    return np.array(found[0]["values"], float)


def centres(probe: Probe, split: Any, count: int) -> torch.Tensor:
    return BOWLS.centres(probe.episodes(split, count))


def theta(meta: Meta) -> torch.Tensor:
    return meta["params"]["head.weight"][0].double()


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-4)


def test_a_look_has_the_losses_of_the_closed_form() -> None:
    probe, meta = on_bowls()
    rows, own = probe.look(meta, 7), centres(probe, "val", 30)
    close(of(rows, "post", split="val"), BOWLS.descent(RATE, STEPS).meta_losses(theta(meta), own))
    close(of(rows, "pre", split="val"), BOWLS.descent(RATE, 0).meta_losses(theta(meta), own))
    np.testing.assert_array_equal(of(rows, "score", split="val"), of(rows, "post", split="val"))
    assert {r["step"] for r in rows} == {7}


def test_a_wide_look_has_training_tasks_and_every_inner_step() -> None:
    probe, meta = on_bowls()
    rows = probe.wide(meta, 7, average=None)
    close(
        of(rows, "post", split="train"),
        BOWLS.descent(RATE, STEPS).meta_losses(theta(meta), centres(probe, "train", 10)),
    )
    for k in range(STEPS + 1):
        expected = BOWLS.descent(RATE, k).meta_losses(theta(meta), centres(probe, "val", 30)[:25])
        for name in ("support", "query"):
            close(of(rows, name, split="val", inner_step=k), expected)
    assert not [r for r in rows if r["name"] in ("averaged", "distance")]


@pytest.mark.parametrize(("split", "count"), [("val", 15), ("train", 5)])
def test_a_wrong_support_is_that_of_the_task_before(split: str, count: int) -> None:
    probe, meta = on_bowls()
    own = centres(probe, split, count)
    descent = BOWLS.descent(RATE, STEPS)
    phi = descent.adapted(theta(meta), own.roll(1, 0))
    close(
        of(probe.wide(meta, 0, average=None), "wrong", split=split),
        BOWLS.descent(RATE, 0).meta_losses(phi, own),
    )


@pytest.mark.parametrize("val", [52, 2 * BLOCK + 2, 8, 4])
def test_no_task_has_its_own_support_for_a_wrong_one(val: int) -> None:
    """Tasks come in blocks; one that stands alone in its block has no other."""
    probe, meta = on_bowls(val=val, train=max(2, val // 2))
    rows = probe.wide(meta, 0, average=None) + probe.look(meta, 0)
    for split in ("val", "train"):
        wrong, post = of(rows, "wrong", split=split), of(rows, "post", split=split)
        assert (np.abs(wrong - post[: len(wrong)]) > 1e-6).all()
        assert len(wrong) >= 2


def test_the_last_look_goes_on_to_five_times_the_steps() -> None:
    probe, meta = on_bowls()
    rows = probe.wide(meta, 9, average=None, last=True)
    steps = {r["inner_step"] for r in rows if r["name"] == "query"}
    assert max(steps) == 5 * STEPS
    expected = BOWLS.descent(RATE, 5 * STEPS).meta_losses(theta(meta), centres(probe, "val", 30)[:25])
    close(of(rows, "query", split="val", inner_step=5 * STEPS), expected)


def test_the_average_is_judged_on_the_same_tasks() -> None:
    probe, meta = on_bowls()
    average = tree.map(lambda leaf: 0.5 * leaf, meta)
    rows = probe.wide(meta, 0, average=average)
    expected = BOWLS.descent(RATE, STEPS).meta_losses(0.5 * theta(meta), centres(probe, "val", 30))
    close(of(rows, "averaged", split="val"), expected)
    assert of(rows, "distance")[0] == pytest.approx(0.5)


def test_a_distance_does_not_depend_on_the_order_of_leaves() -> None:
    """A checkpoint's tree is sorted by name, a learner's is not: leaves of one shape would be mixed up."""
    ours = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([3.0, 4.0])}
    theirs = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 2.0])}
    assert relative_distance(ours, theirs) == 0.0
    assert relative_distance(ours, tree.map(lambda leaf: 1.1 * leaf, theirs)) == pytest.approx(0.1)
    assert relative_distance({"a": torch.zeros(2)}, {"a": torch.ones(2)}) == 0.0


def test_the_trivial_loss_is_that_of_the_support_mean_or_of_a_fair_guess() -> None:
    source = Sinusoid(shots=4, queries=6)
    learner = MAML(MLP(1, 1, hidden=(5,)), inner_lr=0.01, inner_steps=1, loss="mse")
    probe = Probe(learner, source, val=7)
    support, query = probe.episodes("val", 7)
    expected = (support.y.mean(1, keepdim=True) - query.y).square().mean((1, 2))
    np.testing.assert_allclose(probe.trivial("val"), expected.numpy(), rtol=1e-5)
    glyphs = Glyphs(ways=3, shots=1, queries=2)
    probe = Probe(ProtoNet(Conv4(None, width=2)), glyphs, val=3, train=2)
    assert probe.trivial("val") == pytest.approx([math.log(3)] * 3)
    assert len(probe.trivial("train")) == 2


def test_a_look_and_evaluation_agree_on_the_same_tasks() -> None:
    glyphs = Glyphs(ways=3, shots=1, queries=4)
    learner = MAML(Conv4(3, width=2), inner_lr=0.3, inner_steps=1)
    meta = learner.init(torch.Generator().manual_seed(0))
    rows = Probe(learner, glyphs, val=6, train=2).look(meta, 0)
    found = evaluate(learner, meta, glyphs, FixedEpisodes("val", 6, SEED), curve=False)
    np.testing.assert_allclose(of(rows, "score", split="val"), np.asarray(found.scores), rtol=1e-5)


def test_fewer_tasks_are_the_first_of_more() -> None:
    few, meta = on_bowls(val=10)
    many, _ = on_bowls(val=60)
    ours, theirs = few.look(meta, 0), many.look(meta, 0)
    np.testing.assert_allclose(of(ours, "post"), of(theirs, "post")[:10], rtol=1e-5)


@pytest.mark.parametrize("axis", ["vmap", "loop", 7])
def test_how_tasks_are_lifted_changes_nothing(axis: Any) -> None:
    one, meta = on_bowls()
    other, _ = on_bowls(axis=axis)
    for ours, theirs in zip(one.look(meta, 0), other.look(meta, 0), strict=True):
        assert ours["name"] == theirs["name"]
        np.testing.assert_allclose(ours["values"], theirs["values"], rtol=1e-5)


def test_looking_changes_neither_weights_nor_gradients() -> None:
    probe, meta = on_bowls()
    before = tree.map(torch.clone, meta)
    probe.look(meta, 0)
    probe.wide(meta, 0, average=meta, last=True)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(meta), tree.leaves(before), strict=True))
    assert all(leaf.grad is None for leaf in tree.leaves(meta))


def test_what_sees_the_support_first_has_no_loss_before_and_says_why() -> None:
    learner = Case("ConditionalNeuralProcess", "mlp").learner()
    probe = Probe(learner, Sinusoid(shots=4, queries=4), val=4, train=2)
    meta = learner.init(torch.Generator().manual_seed(0))
    assert {r["name"] for r in probe.look(meta, 0)} == {"post", "score"}
    assert "support" in probe.setup()["skipped"]["pre"]


def test_without_inner_steps_there_is_no_inner_loop_to_look_at() -> None:
    learner = ProtoNet(Conv4(None, width=2))
    probe = Probe(learner, Glyphs(ways=3, shots=1, queries=2), val=4, train=2)
    meta = learner.init(torch.Generator().manual_seed(0))
    names = {r["name"] for r in probe.wide(meta, 0, average=None, last=True)}
    assert not names & {"support", "query", "stretched"}
    assert {"post", "wrong"} <= names


def test_a_row_is_what_json_can_hold() -> None:
    told = row(3, "post", [1.23456789, math.nan, math.inf, 0.0], split="val")
    assert told == {"step": 3, "name": "post", "split": "val", "values": [1.234568, None, None, 0.0]}
    json.dumps(told, allow_nan=False)


def test_tasks_are_those_of_seed_zero_whatever_the_run() -> None:
    probe, _ = on_bowls()
    blocks = [block for block, _ in FixedEpisodes("val", 30, 0).blocks(BOWLS)]
    expected = torch.cat([block.query.y for block in blocks])
    found: Episode = probe.episodes("val", 30)
    assert torch.equal(found.query.y, expected)
