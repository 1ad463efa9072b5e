"""Learned optimizers beside their equations in plain torch, their starts, and as optimizers of torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import innerloop as il
from cases import as_double
from conformance import exactness
from innerloop.algorithms import LearnedOptimizer
from innerloop.algorithms.optimizer_networks import LSTMNetwork, MLPNetwork, OptimizerNetwork
from innerloop.algorithms.preprocess import log_and_sign
from innerloop.algorithms.trained_optimizer import TrainedOptimizer
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.learner import states
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Evolution, Truncated
from innerloop.models import MLP
from innerloop.tasks import Quadratics, Sinusoid
from innerloop.testing.probing import close, deviation, estimate, inner_keys
from innerloop.training.config import TrainConfig, ValidationConfig
from unit.training.resuming import Setup, resumes_bitwise, small_config

ARCHITECTURES = ("lstm", "mlp")
KEY = inner_keys(1)[0]


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def learner_and_meta(**how: Any) -> tuple[LearnedOptimizer, Meta]:
    settings = {"hidden": 4, "inner_steps": 3, "init_scale": 0.5, "loss": "mse"} | how
    learner = LearnedOptimizer(settings.pop("module", network()), **settings)
    return learner, tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))


def quadratics(num: int = 3) -> Episode:
    return as_double(Quadratics(4).sample("train", num, 0))


def on_quadratics(**how: Any) -> tuple[LearnedOptimizer, Meta]:
    return learner_and_meta(module=MLP(4, 1, hidden=(), bias=False), **how)


# --- the networks ----------------------------------------------------------------------------------------


def test_the_lstm_network_is_torchs_own_lstm_with_a_linear_output() -> None:
    torch.manual_seed(0)
    network = LSTMNetwork(hidden=5, layers=2, preprocess=None, output_scale=0.3)
    weights = tree.map(Tensor.double, network.init(torch.Generator().manual_seed(0)))
    theirs, last = nn.LSTM(1, 5, num_layers=2).double(), weights["output"]
    with torch.no_grad():
        for i in range(2):
            both = weights[f"layer{i}"]["weight"]
            inputs = both.shape[1] - 5
            getattr(theirs, f"weight_ih_l{i}").copy_(both[:, :inputs])
            getattr(theirs, f"weight_hh_l{i}").copy_(both[:, inputs:])
            getattr(theirs, f"bias_ih_l{i}").copy_(weights[f"layer{i}"]["bias"])
            getattr(theirs, f"bias_hh_l{i}").zero_()
    params = {"a": torch.zeros(2, 3).double(), "b": torch.zeros(4).double()}
    sequence = [{name: torch.randn_like(p) for name, p in params.items()} for _ in range(4)]
    rows = torch.stack([torch.cat([g.flatten() for g in grads.values()]) for grads in sequence])
    expected = theirs(rows[..., None])[0] @ last["weight"].T + last["bias"]
    state = network.start(weights, params)
    for k, grads in enumerate(sequence):
        updates, state = network.step(weights, grads, state, params)
        found = torch.cat([update.flatten() for update in updates.values()])
        torch.testing.assert_close(found, 0.3 * expected[k, :, 0], rtol=0, atol=1e-12)
        assert {name: update.shape for name, update in updates.items()} == {"a": (2, 3), "b": (4,)}


def test_preprocessing_is_what_the_first_layer_is_given() -> None:
    network = LSTMNetwork(hidden=3, layers=0, preprocess=5.0, output_scale=1.0)
    weights = {"output": {"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([0.5])}}
    grads = {"a": torch.tensor([0.1, -1e-9, 7.0])}
    updates, _ = network.step(weights, grads, network.start(weights, grads), grads)
    torch.testing.assert_close(updates["a"], log_and_sign(grads["a"], 5.0) @ torch.tensor([2.0, 3.0]) + 0.5)


def features_by_hand(gradients: list[Tensor], param: Tensor) -> Tensor:
    """The 19 features of `mlp` of one tensor after some gradients, number by number."""
    found = []
    for j in range(len(param)):
        averages = []
        for decay in (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999):
            average = 0.0
            for grad in gradients:
                average = decay * average + (1 - decay) * float(grad[j])
            averages.append(average)
        found.append([float(gradients[-1][j]), float(param[j]), *averages])
    moving = torch.tensor(found, dtype=torch.float64)
    moving = moving / (moving.square().mean(0) + 1e-8).sqrt()
    times = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5]
    clock = torch.tensor([math.tanh(len(gradients) / time - 1) for time in times], dtype=torch.float64)
    return torch.cat([moving, clock.expand(len(param), 11)], 1)


def test_the_mlp_network_sees_averages_of_gradients_and_the_time() -> None:
    torch.manual_seed(0)
    network = MLPNetwork(hidden=6, layers=2, output_scale=0.01)
    weights = tree.map(Tensor.double, network.init(torch.Generator().manual_seed(0)))
    weights["layer2"]["bias"][1] = 300.0  # so that the second output is seen
    params = {"a": torch.randn(3).double(), "b": 100 * torch.randn(2).double()}
    sequence = [{name: torch.randn_like(p) for name, p in params.items()} for _ in range(3)]
    state = network.start(weights, params)
    for grads in sequence:
        updates, state = network.step(weights, grads, state, params)
    for name, param in params.items():
        x = features_by_hand([grads[name] for grads in sequence], param)
        for i in range(3):
            x = x @ weights[f"layer{i}"]["weight"].T + weights[f"layer{i}"]["bias"]
            x = x.relu() if i < 2 else x
        torch.testing.assert_close(
            updates[name], 0.01 * x[:, 0] * (x[:, 1] / 1000).exp(), rtol=1e-12, atol=1e-14
        )


# --- the inner loop and the outer objective --------------------------------------------------------------


def by_hand(learner: LearnedOptimizer, meta: Meta, episode: Episode, start: dict[str, Tensor]) -> Tensor:
    """The published objective: the sum of losses after each step, gradients of the optimizee cut."""
    params, rule = start, learner.network.start(meta["optimizer"], start)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(learner.inner_steps):
        at = {name: p.detach().requires_grad_() for name, p in params.items()}
        fit = F.mse_loss(functional_call(learner.module, at, (episode.support.x,)), episode.support.y)
        grads = dict(zip(at, torch.autograd.grad(fit, list(at.values())), strict=True))
        updates, rule = learner.network.step(meta["optimizer"], grads, rule, params)
        params = {name: p + updates[name] for name, p in params.items()}
        loss = F.mse_loss(functional_call(learner.module, params, (episode.query.x,)), episode.query.y)
        total = total + (loss.log() if learner.log_loss else loss)
    return total


def started(learner: LearnedOptimizer, meta: Meta, key: Tensor | None) -> dict[str, Tensor]:
    with running_in(key=key):
        return learner.start(meta)


@pytest.mark.parametrize("log_loss", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_meta_gradient_is_that_of_the_summed_losses_with_gradients_cut(
    architecture: str, log_loss: bool
) -> None:
    learner, meta = learner_and_meta(architecture=architecture, log_loss=log_loss)
    drawn = as_double(Sinusoid(shots=5, queries=6).sample("train", 2, 1))
    found, _ = estimate(learner, meta, drawn)
    given = tree.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    total = [
        by_hand(learner, given, take(drawn, i), started(learner, meta, key))
        for i, key in enumerate(inner_keys(2))
    ]
    expected = torch.autograd.grad(torch.stack(total).mean(), tree.leaves(given))
    close(found, tree.rebuild(given, list(expected)), 1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_unroll_goes_on_over_outer_steps(architecture: str) -> None:
    learner, meta = on_quadratics(architecture=architecture, inner_steps=2)
    path = Truncated(last=None, horizon=6, first_order=True)
    exactness.an_unroll_goes_on(learner, meta, quadratics(), gradient=path)


def test_an_unroll_ends_at_its_horizon() -> None:
    learner, meta = on_quadratics(inner_steps=20)
    losses, carry = [], None
    for _ in range(6):
        _, carry, record = learner.gradient.estimate(learner, meta, quadratics(), carry)
        losses.append(record.losses)
    assert [int(s) for s in carry["steps"]] == [20] * 3, "the sixth outer step is the first of a new unroll"
    torch.testing.assert_close(losses[5], losses[0], rtol=0, atol=1e-12)
    assert all(deviation(losses[k], losses[0]) > 1e-6 for k in range(1, 5))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_persistent_evolution_strategies_estimate_its_gradient_too(architecture: str) -> None:
    learner, meta = on_quadratics(architecture=architecture, inner_steps=2)
    path = Evolution(horizon=4, sigma=0.01)
    carry, found = None, []
    for _ in range(3):
        grads, carry, record = path.estimate(learner, meta, quadratics(), carry, key=7)
        found.append((grads, record.losses))
    assert all(bool(leaf.any()) for grads, _ in found for leaf in tree.leaves(grads))
    assert deviation(found[0][1], found[1][1]) > 1e-6, "the second outer step goes on with the unroll"
    close(found[0][0], found[2][0], 1e-12)  # and the third begins a new one, under the same key


# --- where a task starts ---------------------------------------------------------------------------------


def test_a_start_is_drawn_from_the_tasks_key() -> None:
    learner, meta = learner_and_meta(module=MLP(50, 20, hidden=(30,)), init_scale=0.01)
    one, other = (started(learner, meta, key) for key in inner_keys(2))
    close(one, started(learner, meta, inner_keys(2)[0]), 0.0)
    assert all(not torch.equal(one[name], other[name]) for name in one)
    values = torch.cat([leaf.flatten() for leaf in one.values()])
    assert abs(float(values.mean())) < 1e-3
    assert float(values.std()) == pytest.approx(0.01, rel=0.05)
    assert values.dtype == torch.float64, "in the precision of the optimizer"


def test_without_a_key_the_start_is_always_the_same() -> None:
    learner, meta = learner_and_meta()
    close(started(learner, meta, None), started(learner, meta, None), 0.0)
    assert deviation(started(learner, meta, None), started(learner, meta, KEY)) > 0.01


def test_a_start_may_have_the_mean_and_spread_of_the_modules_own() -> None:
    module = nn.Sequential(nn.Linear(60, 50), nn.LayerNorm(50)).requires_grad_(False)
    learner, meta = learner_and_meta(module=module, init_scale=None)
    start = started(learner, meta, KEY)
    assert float(start["0.weight"].std()) == pytest.approx(float(module[0].weight.std()), rel=0.1)  # pyright: ignore
    assert torch.equal(start["1.weight"], torch.ones(50).double()), "norms have scale one, and no spread"
    assert not start["1.bias"].any()


def test_meta_holds_the_optimizer_alone() -> None:
    learner, meta = learner_and_meta()
    assert set(meta) == {"optimizer"}
    with pytest.raises(NotImplementedError, match="no initialisation"):
        learner.displaced(meta, {})


# --- as an optimizer of torch ----------------------------------------------------------------------------


def training(
    optimizer: torch.optim.Optimizer, module: nn.Module, batch: Batch, steps: int
) -> list[dict[str, Tensor]]:
    """The module's parameters after each step."""
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(module(batch.x), batch.y).backward()
        optimizer.step()
        seen.append({name: p.detach().clone() for name, p in module.named_parameters()})
    return seen


def at_start(learner: LearnedOptimizer, meta: Meta) -> nn.Module:
    module = network()
    module.load_state_dict(started(learner, meta, None))
    return module


def follows_the_inner_loop(architecture: str, kind: type[TrainedOptimizer]) -> None:
    learner, meta = learner_and_meta(architecture=architecture)
    support = take(as_double(Sinusoid(shots=5).sample("train", 1, 1)), 0).support
    with running_in(first_order=True):
        expected = [fast["params"] for fast in states(learner, meta, support, 5)][1:]
    module = at_start(learner, meta)
    optimizer = kind(module.parameters(), learner.network, meta["optimizer"])
    for ours, theirs in zip(training(optimizer, module, support, 5), expected, strict=True):
        close(ours, theirs, 0.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_its_steps_are_those_of_the_inner_loop_bitwise(architecture: str) -> None:
    follows_the_inner_loop(architecture, TrainedOptimizer)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_optimizer_that_forgets_is_seen(architecture: str) -> None:
    class Forgetful(TrainedOptimizer):
        def step(self, closure: Any = None) -> Any:
            self.state.clear()
            return super().step(closure)

    with pytest.raises(AssertionError, match="differ by"):
        follows_the_inner_loop(architecture, Forgetful)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_resumes_bitwise(architecture: str, tmp_path: Path) -> None:
    learner, meta = learner_and_meta(architecture=architecture)
    support = take(as_double(Sinusoid(shots=5).sample("train", 1, 1)), 0).support
    whole = at_start(learner, meta)
    expected = training(learner.optimizer(meta, whole.parameters()), whole, support, 6)[-1]
    module = at_start(learner, meta)
    optimizer = learner.optimizer(meta, module.parameters())
    training(optimizer, module, support, 3)
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved")
    saved = torch.load(tmp_path / "saved")
    again = network()
    again.load_state_dict(saved["model"])
    resumed = learner.optimizer(meta, again.parameters())
    resumed.load_state_dict(saved["optimizer"])
    close(training(resumed, again, support, 3)[-1], expected, 0.0)


def test_groups_have_factors_of_their_own_and_parameters_may_be_added() -> None:
    learner, meta = learner_and_meta()
    one, other, third = (torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True) for _ in range(3))
    optimizer = learner.optimizer(meta, [{"params": [one]}, {"params": [other], "lr": 0.25}])
    for p in (one, other):
        p.grad = torch.tensor([1.0, -2.0, 0.1]).double()
    optimizer.step()
    moved = one.detach() - 2.0
    torch.testing.assert_close(other.detach() - 2.0, 0.25 * moved)
    optimizer.add_param_group({"params": [third]})
    third.grad, one.grad, other.grad = one.grad, None, None
    optimizer.step()
    torch.testing.assert_close(third.detach() - 2.0, moved)
    torch.testing.assert_close(one.detach() - 2.0, moved, msg="moved without a gradient")
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.125, 0.5]


def test_a_closure_is_called_and_its_loss_returned() -> None:
    learner, meta = learner_and_meta()
    p = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = learner.optimizer(meta, [p])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0
    assert not torch.equal(p, torch.ones(2).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parameters_of_any_shape_and_precision_are_moved(dtype: torch.dtype) -> None:
    learner = LearnedOptimizer(MLP(1, 1), hidden=4, loss="mse")
    meta = learner.init(torch.Generator().manual_seed(0))
    shapes = [(), (3,), (2, 1, 3, 3)]
    params = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    optimizer = learner.optimizer(meta, params)
    for _ in range(2):
        sum((p - 1).square().sum() for p in params).backward()  # pyright: ignore
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert all(bool((p != 0).all()) and p.dtype == dtype for p in params)


def test_sparse_gradients_are_refused() -> None:
    learner, meta = learner_and_meta()
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ContractError, match="sparse=False"):
        learner.optimizer(meta, embedding.parameters()).step()


# --- as a learner ----------------------------------------------------------------------------------------


def test_a_trained_optimizer_is_saved_and_loaded_with_its_run(tmp_path: Path) -> None:
    learner = LearnedOptimizer(MLP(3, 1, hidden=(), bias=False), hidden=4, test_inner_steps=3, loss="mse")
    config = TrainConfig(validation=ValidationConfig(every=2, episodes=3))
    run = il.train(learner, Quadratics.tiny(), steps=4, out=tmp_path / "run", config=config)
    loaded: Any = il.load(tmp_path / "run")
    support = take(Sinusoid(shots=5).sample("train", 1, 1), 0).support
    reached = []
    for of in (run, loaded):
        module = MLP(1, 1, hidden=(5,))
        optimizer = of.learner.optimizer(of.meta, module.parameters())
        reached.append(training(optimizer, module, support, 3)[-1])
    close(*reached, 0.0)
    model = loaded.adapt(*take(Quadratics.tiny().sample("test", 1, 0), 0).support)
    assert model.predict(torch.eye(3)).shape == (3, 1)


def test_a_run_resumes_bitwise_within_an_unroll(tmp_path: Path) -> None:
    def learner() -> LearnedOptimizer:
        module = MLP(3, 1, hidden=(), bias=False)
        return LearnedOptimizer(module, hidden=4, inner_steps=2, test_inner_steps=3, loss="mse")

    path = Truncated(last=None, horizon=8, first_order=True)
    resumes_bitwise(Setup(learner, Quadratics.tiny, small_config(gradient=path)), tmp_path)


def test_baselines_of_classes_are_judged_although_meta_holds_no_weights() -> None:
    tasks = il.tasks.Arrays.tiny()
    learner = LearnedOptimizer(MLP(784, 3, hidden=(4,)), hidden=4, inner_steps=2, test_inner_steps=2)
    run = il.train(learner, tasks, steps=1, config=TrainConfig(validation=ValidationConfig(episodes=2)))
    assert set(run.evaluate(episodes=2).baselines) >= {"no_adaptation", "untrained_centroid"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"architecture": "lst"}, "did you mean 'lstm'"),
        ({"hidden": 0}, "hidden >= 1"),
        ({"layers": -1}, "layers >= 0"),
        ({"preprocess": 0.0}, "preprocess > 0"),
        ({"output_scale": 0.0}, "output_scale > 0"),
        ({"init_scale": -1.0}, "init_scale >= 0"),
        ({"inner_steps": 0}, "inner_steps >= 1"),
        ({"inner_batch": 0}, "inner_batch >= 1"),
    ],
)
def test_bad_settings_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LearnedOptimizer(MLP(1, 1), loss="mse", **how)


# --- the published check ---------------------------------------------------------------------------------


def test_on_a_parabola_a_linear_optimizer_learns_to_reach_the_minimum() -> None:
    """f = x^2 from x = 1: one linear map that begins at zero, Adam at 1e-2, 500 epochs at most."""
    learner = LearnedOptimizer(
        nn.Linear(1, 1, bias=False), layers=0, preprocess=None, output_scale=1.0, inner_steps=5, loss="mse"
    )
    learner.start = lambda meta: {"weight": torch.ones(1, 1)}  # pyright: ignore[reportAttributeAccessIssue]
    meta = tree.zeros_like(learner.init(torch.Generator()))
    one = Batch(torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
    optimizer = torch.optim.Adam(tree.leaves(meta), 1e-2)
    cost, epochs = 1.0, 0
    while cost >= 1e-5 and epochs < 500:
        path = Truncated(last=None, first_order=True)
        grads, _, record = path.estimate(learner, meta, Episode(one, one), axis="loop")
        for leaf, grad in zip(tree.leaves(meta), tree.leaves(grads), strict=True):
            leaf.grad = grad
        optimizer.step()
        cost, epochs = record.loss, epochs + 1
    assert cost < 1e-5, f"{cost} after {epochs} epochs"


def test_networks_share_one_interface() -> None:
    kinds = {type(learner_and_meta(architecture=name)[0].network) for name in ARCHITECTURES}
    assert kinds == {LSTMNetwork, MLPNetwork}
    assert all(issubclass(kind, OptimizerNetwork) for kind in kinds)
