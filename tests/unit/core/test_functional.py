"""A module as a function of one task: BatchNorm by its policy, dropout by its key, weights as they came."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import as_double, images
from innerloop.algorithms import FOMAML, MAML
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.functional import POLICIES, FunctionalModule, inner_gradient
from innerloop.core.learner import at_stream
from innerloop.core.mode import mode, running_in
from innerloop.core.normalise import TwiceDifferentiable, batch_norm, instance_norm, layer_norm
from innerloop.core.rng import keyed_uniform
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close, estimate
from innerloop.testing.questions import gradient_equals_finite_differences, vmap_chunks_and_loop_agree


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=4), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)
    )
    norm = net[1]
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values += torch.rand(3)  # pyright: ignore
    return net.double()


def by_hand(net: nn.Module, x: Tensor, source: Tensor) -> Tensor:
    """Outputs for x when BatchNorm takes the mean and the biased variance of `source`'s feature maps."""
    conv, norm, *rest = net.children()
    maps, from_maps = conv(x), conv(source)
    mean = from_maps.mean((0, 2, 3))
    var = ((from_maps - mean[:, None, None]) ** 2).mean((0, 2, 3))
    hat = (maps - mean[:, None, None]) / torch.sqrt(var + norm.eps)[:, None, None]  # pyright: ignore
    scaled = hat * norm.weight[:, None, None] + norm.bias[:, None, None]  # pyright: ignore
    return nn.Sequential(*rest)(scaled).detach()


def test_support_policy_normalises_queries_by_support_statistics() -> None:
    net, episode = plain_network(), take(images(1), 0)
    made = FunctionalModule(net, "support")
    assert made.needs_support
    found = made(made.params(), episode.query.x, support_x=episode.support.x).detach()
    close(found, by_hand(net, episode.query.x, episode.support.x), 1e-12)
    close(
        made(made.params(), episode.support.x).detach(),
        by_hand(net, episode.support.x, episode.support.x),
        1e-12,
    )


def test_transductive_policy_normalises_queries_by_their_own_statistics() -> None:
    net, episode = plain_network(), take(images(1), 0)
    made = FunctionalModule(net, "transductive")
    assert not made.needs_support
    found = made(made.params(), episode.query.x).detach()
    close(found, by_hand(net, episode.query.x, episode.query.x), 1e-12)
    close(found, copy.deepcopy(net).train()(episode.query.x).detach(), 1e-12)


def test_running_policy_is_torch_train_mode_in_training_and_its_eval_mode_after() -> None:
    net, episode = plain_network(), take(images(1), 0)
    made = FunctionalModule(net, "running")
    with running_in(training=True):
        found = made(made.params(), episode.query.x, statistics=made.statistics()).detach()
    close(found, copy.deepcopy(net).train()(episode.query.x).detach(), 1e-12)
    evaluated = made(made.params(), episode.query.x, statistics=made.statistics()).detach()
    close(evaluated, copy.deepcopy(net).eval()(episode.query.x).detach(), 1e-12)


def test_gathered_statistics_are_those_of_the_batch_as_torch_keeps_them() -> None:
    net, episode = plain_network(), take(images(1), 0)
    made = FunctionalModule(net, "running")
    with running_in(training=True), made.gathering() as gathered:
        made(made.params(), episode.query.x, statistics=made.statistics())
    trained = copy.deepcopy(net).train()
    norm: Any = trained[1]
    norm.momentum = 1.0
    trained(episode.query.x)
    close(
        {n: t.detach() for n, t in gathered.items()},
        {"1.running_mean": norm.running_mean, "1.running_var": norm.running_var},
        1e-12,
    )


@pytest.mark.parametrize("policy", ["support", "transductive"])
def test_only_the_running_policy_gathers(policy: Any) -> None:
    made = FunctionalModule(plain_network(), policy)
    with running_in(training=True), made.gathering() as gathered:
        made(made.params(), images(1).query.x[0])
    assert gathered == {}
    assert made.statistics() == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_plain_module_with_batch_norm_is_a_base_learner_under_every_policy(policy: Any) -> None:
    net = plain_network()
    before = copy.deepcopy(net.state_dict())
    learner = MAML(net, inner_lr=0.1, batch_norm=policy)
    meta = learner.init(torch.Generator())
    vmap_chunks_and_loop_agree(learner, meta, images(4))
    gradient_equals_finite_differences(learner, meta, images(2))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items()), (
        "module was changed"
    )
    assert net.training


def test_batch_norm_without_affine_or_running_statistics_is_supported() -> None:
    net = nn.Sequential(
        nn.Linear(1, 4), nn.BatchNorm1d(4, affine=False, track_running_stats=False), nn.Linear(4, 1)
    )
    episodes = as_double(Sinusoid(shots=4, queries=3).sample("train", 3, 0))
    for policy in POLICIES:
        learner = MAML(net.double(), inner_lr=0.1, loss="mse", batch_norm=policy)
        vmap_chunks_and_loop_agree(learner, learner.init(torch.Generator()), episodes)


# --- second derivatives of fused operators ---------------------------------------------------------------


NORMS: dict[str, nn.Module] = {
    "layer": nn.LayerNorm(8),
    "layer-2d": nn.LayerNorm((8, 8), bias=False),
    "layer-plain": nn.LayerNorm(8, elementwise_affine=False),
    "instance": nn.InstanceNorm2d(2, affine=True),
    "instance-plain": nn.InstanceNorm2d(2),
    "group": nn.GroupNorm(1, 2),
}


def normalising(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    parts = nn.Conv2d(1, 2, 2, stride=2), copy.deepcopy(norm), nn.Softplus(), nn.Flatten(), nn.Linear(128, 3)
    return nn.Sequential(*parts).double()


@pytest.mark.parametrize("kind", [MAML, FOMAML])
@pytest.mark.parametrize("name", NORMS)
def test_normalisations_agree_under_vmap_and_in_a_loop(name: str, kind: Any) -> None:
    learner = kind(normalising(NORMS[name]), inner_lr=0.5, inner_steps=2)
    vmap_chunks_and_loop_agree(learner, learner.init(torch.Generator()), images(3))


@pytest.mark.parametrize("name", ["layer", "instance"])
def test_normalisations_are_differentiated_exactly(name: str) -> None:
    learner = MAML(normalising(NORMS[name]), inner_lr=0.5, inner_steps=2)
    gradient_equals_finite_differences(learner, learner.init(torch.Generator()), images(2))


def test_written_out_normalisations_equal_the_fused_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, 4, generator=rng, dtype=torch.float64)
    w, b = torch.randn(2, 3, generator=rng, dtype=torch.float64)
    w2, b2 = torch.randn(2, 4, 4, generator=rng, dtype=torch.float64)
    close(layer_norm(x, (4, 4), w2, b2, 0.1), F.layer_norm(x, (4, 4), w2, b2, 0.1), 1e-12)
    close(layer_norm(x, [4], bias=b2[0]), F.layer_norm(x, [4], bias=b2[0]), 1e-12)
    close(instance_norm(x, weight=w, bias=b), F.instance_norm(x, weight=w, bias=b), 1e-12)
    close(
        batch_norm(x, None, None, w, b, training=True),
        F.batch_norm(x, None, None, w, b, training=True),
        1e-12,
    )
    for fn, own in ((F.instance_norm, instance_norm), (F.batch_norm, batch_norm)):
        kept = {"running_mean": b, "running_var": w.abs()}
        frozen = {"use_input_stats": False} if fn is F.instance_norm else {"training": False}
        close(own(x, **kept, **frozen), fn(x, **kept, **frozen), 1e-12)
    with TwiceDifferentiable():
        close(F.layer_norm(x, (4, 4)), layer_norm(x, (4, 4)), 0.0)


# --- weights ---------------------------------------------------------------------------------------------


def test_init_returns_a_module_s_own_parameters() -> None:
    net = plain_network()
    for seed in (0, 1):
        params = MAML(net).init(torch.Generator().manual_seed(seed))["params"]
        assert list(params) == [name for name, _ in net.named_parameters()]
        assert all(torch.equal(params[name], p) for name, p in net.named_parameters())
        assert all(params[name].data_ptr() != p.data_ptr() for name, p in net.named_parameters())


def test_running_statistics_start_as_the_module_s_own() -> None:
    net = plain_network()
    statistics = MAML(net, batch_norm="running").init(torch.Generator())["statistics"]
    buffers = dict(net.named_buffers())
    assert {n: t.tolist() for n, t in statistics.items()} == {n: buffers[n].tolist() for n in statistics}
    assert set(statistics) == {"1.running_mean", "1.running_var"}


def test_a_model_that_was_trained_keeps_its_weights() -> None:
    model = MLP(1, 1)
    with torch.no_grad():
        model.head.bias += 1.0  # pyright: ignore
    params = MAML(model, loss="mse").init(torch.Generator().manual_seed(5))["params"]
    assert all(torch.equal(params[name], p) for name, p in model.named_parameters())


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

    learner = MAML(Tied().double(), inner_lr=0.1, loss="mse")
    meta = learner.init(torch.Generator())
    assert set(meta["params"]) == {"a.weight", "a.bias", "b.bias"}
    gradient_equals_finite_differences(
        learner, meta, as_double(Sinusoid(shots=4, queries=3).sample("train", 2, 0))
    )


# --- dropout ---------------------------------------------------------------------------------------------


def dropped(net: nn.Module, x: Tensor, key: int = 5, *, training: bool = True) -> Tensor:
    made = FunctionalModule(net, "support")
    with running_in(training=training, key=torch.tensor(key)):
        return made(made.params(), x)


class Scaled(nn.Module):
    """One parameter, so that a module of dropout layers is a learner's module."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.scale, self.layers = nn.Parameter(torch.ones(())), nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.scale * x


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    outputs = dropped(Scaled(nn.Dropout(0.3)), torch.ones(200, 100))
    assert abs(float((outputs == 0).float().mean()) - 0.3) < 0.01
    assert torch.allclose(outputs[outputs > 0], torch.tensor(1 / 0.7))


def test_dropout2d_drops_whole_channels() -> None:
    outputs = dropped(Scaled(nn.Dropout2d(0.5)), torch.ones(50, 40, 3, 3))
    per_channel = outputs.flatten(2)
    assert bool((per_channel == per_channel[..., :1]).all())
    assert abs(float((outputs == 0).float().mean()) - 0.5) < 0.05


def test_two_dropout_layers_draw_two_masks() -> None:
    outputs = dropped(Scaled(nn.Dropout(0.5), nn.Dropout(0.5)), torch.ones(100, 100))
    assert abs(float((outputs == 0).float().mean()) - 0.75) < 0.02


def test_a_dropout_layer_used_under_two_names_is_dropout_under_both() -> None:
    shared = nn.Dropout(0.5)
    net = Scaled(shared, shared)
    assert abs(float((dropped(net, torch.ones(100, 100)) == 0).float().mean()) - 0.75) < 0.02
    assert torch.equal(dropped(net, torch.ones(3, 3), training=False), torch.ones(3, 3))


def test_a_batch_norm_layer_used_under_two_names_follows_the_policy_under_both() -> None:
    shared = nn.BatchNorm1d(2)
    made = FunctionalModule(Scaled(shared, nn.Linear(2, 2), shared), "transductive")
    outputs = made(made.params(), torch.randn(9, 2, generator=torch.Generator().manual_seed(0)))
    assert float(outputs.mean(0).abs().max()) < 1e-5


def test_dropout_is_off_without_a_key() -> None:
    made = FunctionalModule(Scaled(nn.Dropout(0.5)), "support")
    with running_in(training=True, key=None):
        assert torch.equal(made(made.params(), torch.ones(4, 4)), torch.ones(4, 4))


def test_a_query_mask_is_not_the_mask_of_an_inner_step() -> None:
    """Keys of layers and keys of steps do not meet: layer 1 of the query pass is not step 1."""
    with running_in(training=True, key=torch.tensor(5)):
        draws = []
        for k in range(4):
            with at_stream(k):
                draws.append(keyed_uniform(mode().key, (100,)) >= 0.5)  # pyright: ignore
        made = FunctionalModule(Scaled(nn.Dropout(0.5)), "support")
        mask = made(made.params(), torch.ones(1, 100))[0] > 0
    assert not any(torch.equal(mask, draw) for draw in draws)


# --- contract --------------------------------------------------------------------------------------------


def test_what_is_no_base_learner_is_refused() -> None:
    not_a_module: Any = lambda x: x  # noqa: E731
    with pytest.raises(ConfigError, match=r"a torch\.nn\.Module"):
        MAML(not_a_module)
    with pytest.raises(ContractError, match="something to learn"):
        MAML(nn.ReLU())
    bad: Any = "none"
    with pytest.raises(ConfigError, match="support, transductive, running"):
        MAML(nn.Linear(1, 1), batch_norm=bad)
    with pytest.raises(ConfigError, match="cross_entropy or mse"):
        MAML(nn.Linear(1, 1), loss=bad)


def test_inner_gradient_is_constant_to_the_outer_one_in_first_order_mode() -> None:
    w = torch.tensor(2.0, requires_grad=True)
    for first_order, expected in ((False, 6.0), (True, None)):
        with running_in(first_order=first_order):
            grads = inner_gradient(lambda p: p["w"] ** 3, {"w": w})
        outer = torch.autograd.grad(grads["w"] / 2, w) if grads["w"].requires_grad else None
        assert (None if outer is None else float(outer[0])) == expected


def test_features_are_what_the_head_is_given() -> None:
    net = plain_network()
    made = FunctionalModule(net, "transductive")
    x = images(1).query.x[0]
    close(made.features(made.params(), x).detach(), copy.deepcopy(net[:-1]).train()(x).detach(), 1e-12)
    assert made.head_names() == {"4.weight", "4.bias"}


def test_a_call_does_not_change_the_functional_module() -> None:
    made = FunctionalModule(plain_network(), "running")
    before = {n: t.clone() for n, t in made._module.state_dict().items()}
    x = images(1).query.x[0]
    with running_in(training=True), made.gathering():
        made(made.params(), x)
    made(made.params(), x)
    assert all(torch.equal(before[n], t) for n, t in made._module.state_dict().items())


def test_functional_equals_the_module_itself() -> None:
    model = MLP(1, 1)
    made, x = (
        FunctionalModule(model, "support"),
        torch.randn(4, 1, generator=torch.Generator().manual_seed(0)),
    )
    doubled = tree.map(lambda p: 2 * p, made.params())
    assert torch.equal(made(doubled, x), functional_call(model, doubled, (x,)))
    assert not estimate(MAML(model, loss="mse"), {"params": doubled}, Sinusoid().sample("train", 1, 0))[
        1
    ].mostly_failed


def test_an_inner_loss_may_hold_what_it_is_differentiated_by_as_a_constant() -> None:
    """Before the first step, a task's parameters are the meta-parameters themselves, the same tensors."""
    theta = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)

    def loss(params: dict[str, Tensor]) -> Tensor:
        return (params["w"] * theta).sum()

    for first_order in (False, True):
        with running_in(first_order=first_order):
            found = inner_gradient(loss, {"w": theta})["w"]
        assert torch.equal(found, theta), "planted: without a view of its own it would be twice that"
    found = inner_gradient(loss, {"w": theta})["w"]
    assert torch.equal(torch.autograd.grad(found.sum(), theta)[0], torch.ones_like(theta))
    planted = torch.autograd.grad(loss({"w": theta}), theta)[0]
    assert torch.equal(planted, 2 * theta)
