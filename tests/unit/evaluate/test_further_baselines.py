"""Baselines that are fitted to each task: what they compute, that they are asked for, what they need."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from innerloop.core.errors import ConfigError
from innerloop.core.learner import STATISTICS
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import take
from innerloop.evaluate import further
from innerloop.evaluate.further import further_baselines
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.training.config import TrainConfig, ValidationConfig

CHOSEN = FixedEpisodes("test", 8, 1)
STROKES = il.tasks.Arrays.tiny()
CLASSES = ["untrained_logistic_regression", "learned_centroid", "learned_logistic_regression"]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(further, "_STEPS", 3)


def drawn(learner: Any, seed: int) -> Meta:
    return learner.init(torch.Generator().manual_seed(seed))


def judged(learner: Any, meta: Meta, untrained: Meta, tasks: Any = STROKES) -> dict[str, list[float]]:
    return further_baselines(learner, meta, untrained, tasks, CHOSEN)


def each(tasks: Any = STROKES) -> list[Episode]:
    return [take(block, i) for block, _ in CHOSEN.blocks(tasks) for i in range(8)]


def accuracy(outputs: Tensor, episode: Episode) -> float:
    return float((outputs.argmax(1) == episode.query.y).float().mean())


def embedding(learner: Any, params: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.func.functional_call(learner.module.eval(), params, (x,)).flatten(1)


def test_logistic_regression_and_centroids_are_those_of_features_before_the_head() -> None:
    from sklearn.linear_model import LogisticRegression

    learner = il.algorithms.ProtoNet(il.models.MLP(784, None, hidden=(20,)))
    meta, untrained = drawn(learner, 1), drawn(learner, 2)
    found = judged(learner, meta, untrained)
    assert sorted(found) == sorted([*CLASSES, "fine_tuning"])
    for index, episode in enumerate(each()):
        for name, params in (("untrained", untrained["params"]), ("learned", meta["params"])):
            support, query = (embedding(learner, params, b.x) for b in episode)
            fitted = LogisticRegression(max_iter=1000).fit(
                F.normalize(support, dim=1).double().numpy(), episode.support.y.numpy()
            )
            right = np.mean(
                fitted.predict(F.normalize(query, dim=1).double().numpy()) == episode.query.y.numpy()
            )
            assert found[f"{name}_logistic_regression"][index] == pytest.approx(right)
        means = torch.stack([support[episode.support.y == n].mean(0) for n in range(3)])
        assert found["learned_centroid"][index] == accuracy(-torch.cdist(query, means), episode)


def test_fine_tuning_is_adam_on_the_support_from_weights_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(further, "_STEPS", 50)
    learner = il.algorithms.MAML(il.models.MLP(784, 3, hidden=(8,)))
    untrained = drawn(learner, 2)
    found = judged(learner, drawn(learner, 1), untrained)["fine_tuning"]
    for index, episode in enumerate(each()[:3]):
        net = il.models.MLP(784, 3, hidden=(8,))
        net.load_state_dict(untrained["params"])
        adam = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(50):
            adam.zero_grad()
            F.cross_entropy(net(episode.support.x), episode.support.y).backward()
            adam.step()
        assert found[index] == accuracy(net(episode.query.x), episode)


@pytest.mark.parametrize(
    "learner",
    [
        il.algorithms.ProtoNet(il.models.Conv4(None, width=4), batch_norm="running"),
        il.algorithms.MetaTransfer(il.models.Conv4(3, width=4), inner_steps=1, batch_norm="running"),
        il.algorithms.ProtoNet(il.models.MLP(784, None, hidden=())),
        il.algorithms.ProtoNet(nn.Sequential(nn.Conv2d(1, 2, 5, stride=5), nn.Tanh())),
    ],
)
def test_any_learner_of_classes_has_them(learner: Any) -> None:
    found = judged(learner, drawn(learner, 1), drawn(learner, 2))
    assert all(len(scores) == 8 for scores in found.values())
    assert all(sum(found[name]) / 8 > 0.4 for name in CLASSES)  # strokes are easy; chance is a third


def test_running_statistics_are_used_where_the_run_has_them() -> None:
    learner = il.algorithms.ProtoNet(il.models.Conv4(None, width=4), batch_norm="running")
    meta = drawn(learner, 1)
    other = meta | {STATISTICS: {n: 100.0 + leaf for n, leaf in meta[STATISTICS].items()}}
    before, after = (judged(learner, m, meta)["learned_centroid"] for m in (meta, other))
    assert before != after


def test_targets_have_fine_tuning_alone() -> None:
    learner = il.algorithms.MAML(il.models.MLP(1, 1), loss="mse")
    tasks = il.tasks.Sinusoid.tiny()
    found = further_baselines(learner, drawn(learner, 1), drawn(learner, 2), tasks, CHOSEN)
    assert list(found) == ["fine_tuning"]
    assert all(np.isfinite(found["fine_tuning"]))


def test_a_run_judges_them_when_asked_on_the_same_tasks() -> None:
    learner = il.algorithms.ProtoNet(il.models.MLP(784, None, hidden=(8,)))
    run = il.train(learner, STROKES, config=TrainConfig(steps=1, validation=ValidationConfig(episodes=2)))
    usual, more = run.evaluate(episodes=5), run.evaluate(episodes=5, baselines="all")
    assert list(more.baselines)[: len(usual.baselines)] == list(usual.baselines)
    assert set(more.baselines) - set(usual.baselines) == {*CLASSES, "fine_tuning"}
    assert (more.curve, more.at) == (usual.curve, usual.at)
    with pytest.raises(ConfigError, match="standard or all"):
        run.evaluate(episodes=5, baselines="some")  # pyright: ignore


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = il.algorithms.ProtoNet(il.models.MLP(784, None, hidden=(8,)))
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ConfigError, match=r"innerloop\[sklearn\]"):
        judged(learner, drawn(learner, 1), drawn(learner, 2))
