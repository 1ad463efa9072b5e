"""Baseline and Baseline++: ordinary training of one head, and torch's own optimizer on a task's head."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import images
from innerloop import algorithms
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.learner import DATA
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode, TaskSpec
from innerloop.core.vectorise import take
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.models import MLP, Conv4
from innerloop.tasks import Arrays
from innerloop.testing.probing import adapted, close, estimate, predictions
from innerloop.training.config import OptimizerConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import train
from innerloop.training.plan import plan
from unit.training.resuming import Setup, resumes_bitwise, small_config

KINDS = [algorithms.Baseline, algorithms.BaselinePlusPlus]


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 7), nn.Tanh()).double()


def learner_of(kind: Any, **settings: Any) -> Any:
    return kind(network(), **{"classes": 4, "embedding_size": 7} | settings)


def double(meta: dict[str, Any]) -> dict[str, Any]:
    return {name: {n: leaf.double() for n, leaf in node.items()} for name, node in meta.items()}


def started(kind: Any, **settings: Any) -> tuple[Any, dict[str, Any]]:
    learner = learner_of(kind, **settings)
    return learner, double(learner.init(torch.Generator().manual_seed(0)))


def cosines(embedded: Tensor, weight: Tensor) -> Tensor:
    return F.normalize(embedded, dim=1) @ F.normalize(weight, dim=1).T


def of_head(kind: Any, head: dict[str, Tensor], embedded: Tensor) -> Tensor:
    if kind is algorithms.Baseline:
        return embedded @ head["weight"].T + head["bias"]
    return 2.0 * cosines(embedded, head["weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_ordinary_classification_of_support_and_query_together(kind: Any) -> None:
    learner, meta = started(kind)
    episodes = images(3)
    grads, record = estimate(learner, meta, episodes)
    net, head = network(), {n: v.clone().requires_grad_() for n, v in meta["head"].items()}
    losses = []
    for i in range(3):
        support, query = take(episodes, i)
        logits = of_head(kind, head, net(torch.cat([support.x, query.x])))
        losses.append(F.cross_entropy(logits, torch.cat([support.y, query.y])))
    close(record.losses, torch.stack(losses).detach(), 1e-12)
    torch.stack(losses).mean().backward()
    close(grads["params"], {n: p.grad for n, p in net.named_parameters()}, 1e-12)
    close(grads["head"], {n: v.grad for n, v in head.items()}, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_inner_steps_are_those_of_torch_s_sgd_on_a_new_head(kind: Any) -> None:
    learner, meta = started(kind, test_inner_steps=6, inner_lr=0.3, weight_decay=0.02)
    episode = take(images(1), 0)
    begun = adapted(learner, meta, episode.support, 0)
    head = {n: v.clone().requires_grad_() for n, v in begun["head"].items()}
    sgd = torch.optim.SGD(head.values(), lr=0.3, momentum=0.9, dampening=0.9, weight_decay=0.02)
    embedded, queries = (network()(b.x).detach() for b in episode)
    for _ in range(6):
        sgd.zero_grad()
        F.cross_entropy(of_head(kind, head, embedded), episode.support.y).backward()
        sgd.step()
    close(predictions(learner, meta, episode), of_head(kind, head, queries).detach(), 1e-12)
    assert head["weight"].shape == (3, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_is_frozen_and_the_common_head_is_not_used_at_test(kind: Any) -> None:
    learner, meta = started(kind, test_inner_steps=2)
    episode = take(images(1), 0)
    other = meta | {"head": {n: v + 1.0 for n, v in meta["head"].items()}}
    assert torch.equal(predictions(learner, meta, episode), predictions(learner, other, episode))
    assert set(adapted(learner, meta, episode.support)) == {"head", "velocity", DATA}


def test_minibatches_are_drawn_by_the_key_and_hold_what_is_asked_for() -> None:
    learner, meta = started(algorithms.Baseline, inner_batch=2, inner_lr=1.0, weight_decay=0.0)
    episode = take(images(1), 0)
    begun = adapted(learner, meta, episode.support, 0)
    moves = []
    for key in (1, 1, 2):
        with torch.no_grad(), running_in(key=torch.tensor(key), ways=3):
            moves.append(
                learner.step(meta, begun, episode.support, 0)["head"]["bias"] - begun["head"]["bias"]
            )
    assert torch.equal(moves[0], moves[1])
    assert not torch.equal(moves[0], moves[2])
    embedded = network()(episode.support.x).detach()
    probabilities = of_head(algorithms.Baseline, begun["head"], embedded).softmax(1)
    each = F.one_hot(episode.support.y, 3) - probabilities
    pairs = [(each[i] + each[j]) / 2 for i in range(6) for j in range(i)]
    assert min(float((moves[0] - pair).abs().max()) for pair in pairs) < 1e-12


def test_cosine_scale_follows_the_number_of_classes_unless_given() -> None:
    embedded = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    for classes, given, expected in [(200, None, 2.0), (201, None, 10.0), (3, 7.0, 7.0)]:
        learner = learner_of(algorithms.BaselinePlusPlus, classes=classes, scale=given)
        head = learner.fresh(classes, 7, torch.tensor(5))
        close(learner.logits(head, embedded), expected * cosines(embedded, head["weight"]), 1e-5)


def test_weight_norm_is_a_learned_factor_of_each_class() -> None:
    learner, meta = started(algorithms.BaselinePlusPlus, weight_norm=True)
    embedded = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = 2.0 * F.normalize(embedded, dim=1) @ meta["head"]["weight"].T  # it begins as the plain weight
    close(learner.logits(meta["head"], embedded), expected, 1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 1},
        {"inner_lr": 0.0},
        {"inner_batch": 0},
        {"momentum": 1.0},
        {"dampening": 1.5},
        {"weight_decay": -1.0},
        {"test_inner_steps": -1},
        {"embedding_size": None},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    for kind in KINDS:
        with pytest.raises(ConfigError):
            learner_of(kind, **wrong)
    with pytest.raises(ConfigError):
        learner_of(algorithms.BaselinePlusPlus, scale=0.0)


# --- in a run --------------------------------------------------------------------------------------------


def strokes_learner(classes: int | None = None) -> Any:
    known = Arrays.tiny().spec.classes
    assert known is not None
    return algorithms.Baseline(Conv4(None, width=4), classes=classes or known["train"], test_inner_steps=5)


def test_a_run_trains_on_batches_of_all_classes_and_resumes_bitwise(tmp_path: Any) -> None:
    setup = Setup(strokes_learner, Arrays.tiny)
    resumes_bitwise(setup, tmp_path)

    class Asked(Arrays):  # pyright: ignore
        def pooled(self, num_batches: int, rng: Any) -> Episode:
            asked.append(num_batches)
            return super().pooled(num_batches, rng)

    asked: list[int] = []
    train(strokes_learner(), Asked.tiny(), config=small_config())
    assert asked.count(2) == 6 + 1  # each of the outer steps, and what the engine is chosen on


def test_a_head_for_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ContractError, match="set classes=") as raised:
        train(strokes_learner(classes=3), Arrays.tiny(), steps=1)
    assert "3 outputs in training" in raised.value.got


def test_tasks_that_cannot_be_pooled_are_refused() -> None:
    class FewShotAlone:
        spec = Arrays.tiny().spec
        sample = Arrays.tiny().sample

    with pytest.raises(ContractError, match="pooled"):
        train(strokes_learner(), FewShotAlone(), steps=1)  # pyright: ignore


def test_what_it_costs_is_planned_on_pooled_batches() -> None:
    found = plan(strokes_learner(), Arrays.tiny(), config=TrainConfig(steps=5, tasks_per_step=2))
    assert found.chosen == "Unrolled"


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_features_that_serve_new_classes(kind: Any) -> None:
    source = Arrays.tiny()
    spec: TaskSpec = source.spec
    assert spec.classes is not None
    learner = kind(
        MLP(784, None, hidden=(32,)), classes=spec.classes["train"], inner_lr=0.1, test_inner_steps=50
    )
    config = TrainConfig(
        steps=60,
        tasks_per_step=4,
        optimizer=OptimizerConfig(lr=3e-3),
        validation=ValidationConfig(every=60, episodes=2),
    )
    run = train(learner, source, config=config)
    judged = FixedEpisodes("test", 100)
    before = evaluate(learner, learner.init(torch.Generator().manual_seed(1)), source, judged, curve=False)
    after = evaluate(learner, run.meta, source, judged, curve=False)
    assert after.summary.mean > before.summary.mean + 0.02
    assert after.summary.mean > 0.7


def test_an_evaluation_begins_at_chance() -> None:
    source = Arrays.tiny()
    learner = algorithms.Baseline(MLP(784, None), inner_lr=0.3, test_inner_steps=20)
    meta = learner.init(torch.Generator().manual_seed(0))
    found = evaluate(learner, meta, source, FixedEpisodes("test", 60), untrained=copy.deepcopy(meta))
    unadapted = sum(found.baselines["no_adaptation"]) / 60
    assert abs(unadapted - 1 / 3) < 0.1
    assert found.summary.mean > unadapted + 0.1


def test_batches_share_no_state_with_support_sets() -> None:
    learner, meta = started(algorithms.Baseline)
    support = Batch(*(t[0] for t in images(1).support))
    with running_in(training=True):
        assert learner.begin(meta, support)["head"] is meta["head"]
    with running_in(ways=3):
        assert "labels" not in learner.begin(meta, support)[DATA]
