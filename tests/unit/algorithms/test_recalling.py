"""A learner with a memory begins from the value that fits, and is otherwise the learner that it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from innerloop import algorithms
from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.recalling import recalling, remembered
from innerloop.core import tree
from innerloop.core.learner import MEMORY, without_memory
from innerloop.core.likeness import added, embedding, scales
from innerloop.core.rng import generator
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import take
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.gradients.base import learned
from innerloop.models import MLP
from innerloop.tasks import SinusoidFamilies
from innerloop.testing.probing import adapted, close, estimate, predictions
from innerloop.testing.samples import algorithm_class, smallest

FAST = ["MAML", "ANIL", "ProtoNet"]
NAMES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in algorithms.REGISTRY]


def with_memory(name: str, slots: int = 2) -> tuple[ModuleLearner, ModuleLearner, Meta, Episode]:
    """A learner without and with a memory, a `meta` whose slots hold other values, and four tasks.

    The key of slot k belongs to task k, that of today to the last one.
    """
    plain, tasks = smallest(algorithm_class(name), algorithm_class(name).small)
    learner = recalling(plain, slots)
    meta = learner.init(generator(0, "init"))
    episodes = tasks.sample("test", 4, 0)
    memory = meta[MEMORY]
    for slot in range(slots):
        other = remembered(plain.init(generator(1 + slot, "init")))
        tree.map(lambda kept, new, slot=slot: kept[slot].copy_(new), memory["values"], other)
    keys = memory["keys"]
    keys["scale"].copy_(scales(episodes.support))
    found = embedding(keys["scale"], episodes.support)
    draw = torch.Generator().manual_seed(0)
    for place, task in enumerate([3, *range(slots)]):
        added(keys, place, found[task] + 0.01 * torch.randn(30, found.shape[1], generator=draw))
    return plain, learner, meta, episodes


def value(meta: Meta, slot: int) -> Meta:
    """What the learner would be made of, were it to begin from a slot."""
    return without_memory(meta) | tree.map(lambda leaf: leaf[slot], meta[MEMORY]["values"])


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_bitwise_those_of_the_value_whose_key_fits(name: str) -> None:
    plain, learner, meta, episodes = with_memory(name)
    for task, begun in enumerate([value(meta, 0), value(meta, 1)]):
        episode = take(episodes, task)
        assert torch.equal(predictions(learner, meta, episode), predictions(plain, begun, episode))
    last = take(episodes, 3)
    assert torch.equal(predictions(learner, meta, last), predictions(plain, without_memory(meta), last))


@pytest.mark.parametrize("name", NAMES)
def test_in_training_nothing_is_read_and_the_gradient_is_bitwise_the_same(name: str) -> None:
    plain, learner, meta, episodes = with_memory(name)
    if plain.pooled:
        pytest.skip("trained on other tasks than it is judged on")
    ours, _ = estimate(learner, meta, episodes)
    theirs, _ = estimate(plain, without_memory(meta), episodes)
    close(learned(ours), learned(theirs), 0.0)
    assert not any(leaf.any() for leaf in tree.leaves(ours.get(MEMORY, {})))


@pytest.mark.parametrize("name", FAST)
def test_an_evaluation_under_vmap_and_in_a_loop_reads_alike(name: str) -> None:
    plain, learner, meta, _ = with_memory(name)
    _, tasks = smallest(algorithm_class(name), algorithm_class(name).small)
    chosen = FixedEpisodes("test", 12, 0)
    loop, vmap = (evaluate(learner, meta, tasks, chosen, tasks_axis=axis).curve for axis in ("loop", "vmap"))
    torch.testing.assert_close(torch.tensor(loop), torch.tensor(vmap), rtol=0.0, atol=1e-6)
    today = evaluate(plain, without_memory(meta), tasks, chosen, tasks_axis="loop").curve
    assert loop != today, "some tasks are begun from a slot"


@pytest.mark.parametrize("name", FAST)
def test_an_evaluation_from_a_slot_is_that_of_its_value(name: str) -> None:
    """Whichever way outputs are asked for: a head's features are those of the slot, too."""
    plain, learner, meta, _ = with_memory(name)
    _, tasks = smallest(algorithm_class(name), algorithm_class(name).small)
    meta[MEMORY]["keys"]["count"][[0, 2]] = 0.0  # so that every task begins from the first slot
    chosen = FixedEpisodes("test", 12, 0)
    ours = evaluate(learner, meta, tasks, chosen, tasks_axis="loop").curve
    assert ours == evaluate(plain, value(meta, 0), tasks, chosen, tasks_axis="loop").curve


def test_features_of_today_under_a_head_of_the_past_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a learner's own `predict_each` asked with today's `meta`."""
    kind = algorithm_class("ANIL")
    _, learner, _, _ = with_memory("ANIL")
    monkeypatch.setattr(type(learner), "predict_each", kind.predict_each)
    with pytest.raises(AssertionError):
        test_an_evaluation_from_a_slot_is_that_of_its_value("ANIL")


def test_a_learner_keeps_what_it_is_and_is_wrapped_once() -> None:
    plain, learner, _, _ = with_memory("MAML")
    assert isinstance(learner, type(plain))
    assert (type(learner).__name__, type(learner).__module__) == ("MAML", type(plain).__module__)
    assert recalling(learner, 5) is learner
    assert vars(learner).keys() == vars(plain).keys()
    assert MEMORY not in plain.init(generator(0, "init")), "the other one is left as it was"
    assert type(copy.deepcopy(learner)) is type(learner)


def test_an_empty_memory_is_as_none() -> None:
    plain, learner, meta, episodes = with_memory("MAML")
    fresh = learner.init(generator(0, "init"))
    one = take(episodes, 0)
    assert torch.equal(
        predictions(learner, fresh, one), predictions(plain, plain.init(generator(0, "init")), one)
    )
    assert not torch.equal(predictions(learner, meta, one), predictions(learner, fresh, one))


def test_a_key_that_is_not_finite_fits_no_task() -> None:
    plain, learner, meta, episodes = with_memory("MAML")
    meta[MEMORY]["keys"]["scatter"][1] = torch.nan
    one = take(episodes, 0)
    found = predictions(learner, meta, one)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, predictions(plain, value(meta, 0), one))


def test_without_support_there_is_nothing_to_read_by() -> None:
    plain, learner, meta, episodes = with_memory("CAVIA")
    empty = take(episodes, 0).support
    empty = type(empty)(empty.x[:0], empty.y[:0])
    close(learner.begin(meta, empty), plain.begin(without_memory(meta), empty), 0.0)


def test_what_goes_on_from_an_adapted_state_has_no_memory() -> None:
    _, learner, meta, episodes = with_memory("MAML")
    fast = adapted(learner, meta, take(episodes, 0).support)
    on = learner.displaced(meta, fast)
    assert MEMORY not in on
    close(on["params"], fast["params"], 0.0)


def test_the_probe_of_a_family_sees_what_was_kept_of_it() -> None:
    """On real tasks: keys of two contradicting families; each is judged from its own value."""
    stream = SinusoidFamilies(["sine", "opposite"])
    learner: Any = recalling(
        algorithms.MAML(MLP(1, 1, hidden=(8,)), inner_lr=0.01, inner_steps=1, loss="mse"), 1
    )
    meta = learner.init(generator(0, "init"))
    keys, supports = meta[MEMORY]["keys"], [stream.family(i).sample("train", 1500, 1).support for i in (0, 1)]
    keys["scale"].copy_(scales(supports[0]))
    for place in (0, 1):
        added(keys, 1 - place, embedding(keys["scale"], supports[place]))
    chosen = [stream.family(i).sample("val", 40, 2) for i in (0, 1)]
    read = [
        sum(
            "recalled" in (data := adapted(learner, meta, take(part, i).support)["data"])
            and not data["recalled"]["params"]["head.weight"].any()
            for i in range(40)
        )
        / 40
        for part in chosen
    ]
    assert read[0] > 0.8, "the slot (all zeros) is of the first family"
    assert read[1] < 0.2
