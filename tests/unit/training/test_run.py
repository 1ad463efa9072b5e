"""A trained run in use: it adapts to new tasks, and what it learned is saved and loaded."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import innerloop as il
from cases import ROWS, Case
from innerloop.core.errors import ConfigError, ContractError, DataError
from innerloop.training.config import OptimizerConfig, ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.run import Run, load_adapted

QUICK = TrainConfig(
    steps=2, tasks_per_step=2, validation=ValidationConfig(episodes=2), probe=ProbeConfig(tasks=4)
)


def run_of(row: str, out: Path | None = None) -> Run:
    """A run of two steps of a table's row: on lines if it takes regression, else on strokes."""
    case = Case(row, "mlp")
    if case.regression:
        width = None if case.kind.embeds else 1
        inputs = 1 + case.kind.more_inputs(ROWS[row])
        module, source = il.models.MLP(inputs, width, hidden=(8,)), il.tasks.Linear(shots=5, queries=5)
    else:
        module, source = il.models.Conv4(None, width=4), il.tasks.Arrays.tiny()
    spec = source.spec
    known = {"loss": spec.loss, "ways": spec.outputs, "classes": (spec.classes or {}).get("train")}
    taken = inspect.signature(case.kind).parameters
    settings = {name: value for name, value in known.items() if name in taken} | ROWS[row]
    return il.train(case.kind(module, **settings), source, config=QUICK, out=out)


def strokes(kind: Any = il.algorithms.MAML, out: Path | None = None, **settings: Any) -> Run:
    source = il.tasks.Arrays.tiny()
    module = il.models.Conv4(None if kind.embeds else 3, width=4)
    return il.train(kind(module, **settings), source, config=QUICK, out=out)


def support_and_query() -> tuple[Tensor, Tensor]:
    episode = il.tasks.Arrays.tiny().sample("test", 1, 0)
    return episode.support.x[0], episode.query.x[0]


@pytest.mark.parametrize("kind", [il.algorithms.MAML, il.algorithms.ProtoNet])
def test_labels_come_back_as_they_were_given(kind: Any) -> None:
    run = strokes(kind)
    x, queries = support_and_query()
    numbers = run.adapt(x, [7, 3, 7]).predict(queries)
    assert isinstance(numbers, Tensor)
    assert set(numbers.tolist()) <= {3, 7}
    words = run.adapt(x.numpy(), ["c", "a", "b"]).predict(queries.numpy())
    assert isinstance(words, list)
    assert set(words) <= {"a", "b", "c"}
    by_tensor = run.adapt(x, torch.tensor([2, 0, 1])).predict(queries)
    assert [{0: "a", 1: "b", 2: "c"}[i] for i in by_tensor.tolist()] == words
    assert run.adapt(x, np.array(["c", "a", "b"])).predict(queries) == words


def test_probabilities_are_of_the_classes_seen() -> None:
    adapted = strokes().adapt(support_and_query()[0], ["dog", "cat", "dog"])
    probabilities = adapted.predict_proba(support_and_query()[1])
    assert adapted.classes == ["cat", "dog"]
    assert probabilities.shape == (len(support_and_query()[1]), 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(probabilities)))


def test_more_steps_fit_the_support_better() -> None:
    run = il.train(
        il.algorithms.MAML(il.models.MLP(784, 3, hidden=(16,)), inner_lr=0.1),
        il.tasks.Arrays.tiny(),
        config=QUICK,
    )
    x, _ = support_and_query()
    losses = [
        float(-run.adapt(x, [0, 1, 2], inner_steps=n).predict_proba(x).diagonal().log().sum())
        for n in (0, 1, 5, 20)
    ]
    assert losses == sorted(losses, reverse=True)


def test_regression_predicts_targets() -> None:
    run = run_of("MAML")
    for x in ([1.0, 2.0, 3.0], torch.ones(4, 1), np.ones(2)):
        adapted = run.adapt(x, x)
        assert adapted.predict([6.0, 7.0]).shape == (2, 1)
        assert adapted.classes is None
    with pytest.raises(ContractError, match="regression"):
        adapted.predict_proba([1.0])


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([[1.0], [2.0]], [1.0]),
        ([[1.0], [float("nan")]], [1.0, 2.0]),
        ([["a"], ["b"]], [1.0, 2.0]),
        ([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0]),
        (3.0, 4.0),
    ],
)
def test_what_is_no_support_set_is_refused(x: Any, y: Any) -> None:
    run = run_of("MAML")
    with pytest.raises(DataError) as raised:
        run.adapt(x, y)
    assert len(str(raised.value).splitlines()) <= 5


def test_more_classes_than_outputs_are_refused() -> None:
    x, _ = support_and_query()
    with pytest.raises(DataError, match="4 classes"):
        strokes().adapt(torch.cat([x, x[:1]]), [0, 1, 2, 3])


def test_an_embedding_takes_any_number_of_classes() -> None:
    x, queries = support_and_query()
    adapted = strokes(il.algorithms.ProtoNet).adapt(torch.cat([x, x]), list("abcdef"))
    assert adapted.predict_proba(queries).shape[1] == 6


@pytest.mark.parametrize("row", ROWS)
def test_a_saved_adapted_model_predicts_the_same(row: str, tmp_path: Path) -> None:
    run = run_of(row)
    if run.tasks.spec.loss == "mse":
        x, y, queries = (
            torch.arange(5.0)[:, None],
            torch.arange(5.0)[:, None] + 1,
            torch.linspace(-3, 3, 4)[:, None],
        )
    else:
        (x, queries), y = support_and_query(), ["b", "c", "a"]
    adapted = run.adapt(x, y)
    run.save_adapted(adapted, tmp_path / "adapted")
    again = load_adapted(tmp_path / "adapted")
    assert torch.equal(again.outputs(queries), adapted.outputs(queries))
    assert again.classes == adapted.classes
    with pytest.raises(ContractError, match="save_adapted"):
        load_adapted(tmp_path)


@pytest.mark.parametrize("policy", ["support", "transductive", "running"])
def test_a_saved_adapted_model_keeps_its_batch_norm(policy: Any, tmp_path: Path) -> None:
    run = strokes(il.algorithms.FOMAML, batch_norm=policy)
    x, queries = support_and_query()
    adapted = run.adapt(x, [0, 1, 2])
    run.save_adapted(adapted, tmp_path / "adapted")
    assert torch.equal(load_adapted(tmp_path / "adapted").outputs(queries), adapted.outputs(queries))


@pytest.mark.parametrize("row", ROWS)
def test_a_loaded_run_is_the_run(row: str, tmp_path: Path) -> None:
    run = run_of(row, tmp_path / "run")
    again = il.load(tmp_path / "run", tasks=None if run.tasks.spec.loss == "mse" else run.tasks)
    assert again.evaluate(episodes=4).to_dict(records=True) == run.evaluate(episodes=4).to_dict(records=True)
    assert again.step == run.step


def test_the_last_checkpoint_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    """With a rate that is far too large the best moment is that before training."""
    learner = il.algorithms.MAML(il.models.MLP(1, 1, hidden=(5,)), loss="mse")
    config = TrainConfig(steps=3, tasks_per_step=2, optimizer=OptimizerConfig(name="Adam", lr=0.3))
    il.train(learner, il.tasks.Linear(), config=config, out=tmp_path / "run")
    best, last = il.load(tmp_path / "run"), il.load(tmp_path / "run", checkpoint="last")
    assert (best.step, last.step) == (0, 3)
    newest = load_file(str(tmp_path / "run/checkpoints/step-3.safetensors"))
    assert torch.equal(last.meta["params"]["head.weight"], newest["meta/params/head.weight"])


def test_a_run_says_what_it_bears() -> None:
    """Inner steps at their edge: longer ones diverge, and each perturbation's cost is at hand."""
    module = il.models.MLP(1, 1, hidden=(8,))
    learner = il.algorithms.MAML(module, inner_lr=0.055, inner_steps=10, loss="mse")
    run = il.train(learner, il.tasks.Linear(shots=8), steps=2, tasks_per_step=4)
    judged = run.stability(episodes=40, only=("inner rate", "inner steps"))
    assert {effect.name for effect in judged.effects.all} == {"inner rate", "inner steps"}
    assert "BRITTLE_INNER_LR" in {finding.id for finding in judged.findings}
    with pytest.raises(ConfigError, match="episodes = 5"):
        run.stability(episodes=5)


def test_evaluation_can_change_steps_policy_and_sizes() -> None:
    run = strokes()
    assert run.evaluate(episodes=3, inner_steps=4).protocol["inner_steps"] == 4
    assert run.evaluate(episodes=3, batch_norm="transductive").protocol["transductive"] is True
    assert run.evaluate(episodes=3, sizes={"shots": 2, "queries": 1}).protocol["shots"] == 2
    assert run.learner.batch_norm == "support"
    with pytest.raises(ConfigError, match="3 ways"):
        run.evaluate(episodes=3, sizes={"ways": 2})
    with pytest.raises(ConfigError, match="running"):
        run.evaluate(episodes=3, batch_norm="running")
    assert strokes(il.algorithms.ProtoNet).evaluate(episodes=3, sizes={"ways": 4}).protocol["ways"] == 4


@pytest.mark.parametrize(
    ("learner", "source", "error"),
    [
        (lambda: il.algorithms.MAML(il.models.MLP(1, 1)), il.tasks.Linear, ConfigError),
        (lambda: il.algorithms.MAML(il.models.MLP(1, 2), loss="mse"), il.tasks.Linear, ContractError),
        (lambda: il.algorithms.MAML(il.models.MLP(2, 1), loss="mse"), il.tasks.Linear, ContractError),
        (lambda: il.algorithms.MAML(il.models.Conv4(4)), il.tasks.Arrays.tiny, ContractError),
        (lambda: il.algorithms.ProtoNet(il.models.MLP(3, 4)), il.tasks.Arrays.tiny, ContractError),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    learner: Any, source: Any, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        il.train(learner(), source(), out=tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_worked_example_line_is_learned_from_five_points() -> None:
    """Meta-trained on random lines, it sees x = 1..5 with y = x + 1 and says y(6) is near 7."""
    learner = il.algorithms.MAML(
        il.models.MLP(1, 1), inner_lr=0.01, inner_steps=5, test_inner_steps=10, loss="mse"
    )
    config = TrainConfig(
        steps=600,
        tasks_per_step=8,
        optimizer=OptimizerConfig(lr=3e-3, schedule="cosine"),
        validation=ValidationConfig(every=500, episodes=20),
    )
    run = il.train(learner, il.tasks.Linear(), config=config)
    x = torch.arange(1.0, 6.0)
    predicted = float(run.adapt(x, x + 1).predict([6.0]))
    assert abs(predicted - 7.0) < 0.7, predicted


@pytest.mark.gpu
def test_training_runs_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    for policy in ("support", "running"):
        out = tmp_path / policy
        learner = il.algorithms.MAML(il.models.Conv4(3, width=4), inner_lr=0.1, batch_norm=policy)
        config = TrainConfig(
            steps=3, tasks_per_step=2, device="cuda", validation=ValidationConfig(episodes=2)
        )
        run = il.train(learner, il.tasks.Arrays.tiny(), config=config, out=out)
        again = il.load(out, tasks=il.tasks.Arrays.tiny())
        assert again.evaluate(episodes=2).scores == run.evaluate(episodes=2).scores
        x, queries = support_and_query()
        adapted = run.adapt(x, ["a", "b", "c"])
        assert set(adapted.predict(queries)) <= {"a", "b", "c"}
        resumed = il.train(
            il.algorithms.MAML(il.models.Conv4(3, width=4), inner_lr=0.1, batch_norm=policy),
            il.tasks.Arrays.tiny(),
            config=config,
            out=out,
            existing="resume",
        )
        assert resumed.evaluate(episodes=2).scores == run.evaluate(episodes=2).scores
