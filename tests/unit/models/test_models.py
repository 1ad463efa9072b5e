"""Models: weights from the generator alone, sizes from the tasks, and no state that is not a parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from innerloop import models
from innerloop.core.errors import ConfigError
from innerloop.core.types import TaskSpec
from innerloop.models import MLP, Conv4
from innerloop.models.base import Model, first_draw, fresh_parameters

SPEC = TaskSpec((1, 28, 28), 5, "cross_entropy", "accuracy", shots=1, queries=15)
BUILDS: dict[str, Any] = {
    "mlp": lambda: MLP(4, 3, hidden=(6,), batch_norm=True, dropout=0.1),
    "conv4-stride": lambda: Conv4(3, size=16, width=4),
    "conv4-max": lambda: Conv4(3, size=16, width=4, pooling="max", norm="none"),
    "conv4-group": lambda: Conv4(None, size=16, width=8, norm="group", dropout=0.1),
}


def drawn(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    found = fresh_parameters(model, torch.Generator().manual_seed(seed))
    assert found is not None
    return found


@pytest.mark.parametrize("name", BUILDS)
def test_the_same_seed_draws_the_same_weights_and_another_seed_others(name: str) -> None:
    first, again, other = drawn(BUILDS[name](), 0), drawn(BUILDS[name](), 0), drawn(BUILDS[name](), 1)
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(not torch.equal(first[n], other[n]) for n in first if first[n].ndim >= 2)


@pytest.mark.parametrize("name", BUILDS)
def test_a_model_leaves_the_global_generator_alone_and_does_not_depend_on_it(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model = BUILDS[name]()
    drawn(model, 3)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(map(torch.equal, model.parameters(), BUILDS[name]().parameters()))


@pytest.mark.parametrize("name", BUILDS)
def test_drawing_does_not_change_the_model(name: str) -> None:
    model = BUILDS[name]()
    before = {n: p.clone() for n, p in model.named_parameters()}
    drawn(model, 9)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_a_touched_model_is_not_fresh() -> None:
    model = Conv4(3, size=16, width=4)
    with torch.no_grad():
        next(iter(model.parameters()))[0] += 1e-3
    assert fresh_parameters(model, torch.Generator()) is None
    assert fresh_parameters(nn.Linear(1, 1), torch.Generator()) is None


def test_weights_are_drawn_as_documented() -> None:
    mlp = MLP(4, 3, hidden=(400,))
    mlp.draw(torch.Generator().manual_seed(0))
    weight = mlp.body[1].weight.detach()  # pyright: ignore
    assert 0.49 < float(weight.abs().max()) <= 0.5  # 1 / sqrt(4)
    conv = Conv4(3, width=16)
    conv.draw(torch.Generator().manual_seed(0))
    kernel, bias = (p.detach() for p in conv.body[1][0].parameters())  # pyright: ignore
    bound = (6 / (16 * 9 + 16 * 9)) ** 0.5
    assert 0.98 * bound < float(kernel.abs().max()) <= bound
    assert not bias.any()
    assert conv.body[1][1].weight.tolist() == [1.0] * 16  # pyright: ignore


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Conv4(5), (2, 5)),
        (Conv4(None), (2, 64)),
        (Conv4(5, pooling="max"), (2, 5)),
        (Conv4(None, pooling="max"), (2, 64)),
        (Conv4(None, pooling="max", size=84, channels=3, width=32), (2, 800)),
        (Conv4(None, pooling="max", halvings=2), (2, 64 * 7 * 7)),
        (Conv4(5, pooling="max", halvings=1, width=4), (2, 5)),
        (Conv4(None, halvings=0, width=4), (2, 4)),
        (Conv4(20, norm="group", width=20, channels=3, size=32), (2, 20)),
        (MLP(784, 5), (2, 5)),
        (MLP(784, None, hidden=(7, 9)), (2, 9)),
        (MLP(784, 5, hidden=()), (2, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_outputs_have_the_documented_shape(model: nn.Module, shape: tuple[int, ...]) -> None:
    channels, size = getattr(model, "channels", 1), getattr(model, "size", 28)
    assert model(torch.zeros(2, channels, size, size)).shape == shape


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Conv4(None, pooling="max", halvings=2, width=8), (8, 7, 7)),
        (Conv4(None, pooling="max", halvings=4, width=8), (8, 1, 1)),
        (Conv4(None, halvings=2, width=8), (8,)),
        (Conv4(5, pooling="max", halvings=2, width=8), (5,)),
        (MLP(784, None, hidden=(7,)), (7,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_an_output_tells_the_shape_of_its_maps(model: Model, shape: tuple[int, ...]) -> None:
    assert model.output_shape == shape
    seen: list[torch.Tensor] = []
    assert isinstance(model.body, nn.Sequential)
    model.body.register_forward_hook(lambda *call: seen.append(call[2]))
    outputs = model(torch.rand(2, 1, 28, 28))
    assert outputs.shape == (2, model.output_size)
    if len(shape) == 3:
        assert torch.equal(outputs.reshape(2, *shape), seen[0])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Conv4(1), "ways"),
        (lambda: Conv4(5, width=0), "width"),
        (lambda: Conv4(5, size=8), "size"),
        (lambda: Conv4(5, halvings=5), "halvings"),
        (lambda: Conv4(5, halvings=-1), "halvings"),
        (lambda: Conv4(5, pooling="mean"), "pooling"),  # pyright: ignore
        (lambda: Conv4(5, norm="layer"), "norm"),  # pyright: ignore
        (lambda: Conv4(5, dropout=1.0), "dropout"),
        (lambda: MLP(0, 1), "inputs"),
        (lambda: MLP(1, 0), "outputs"),
        (lambda: MLP(1, 1, hidden=(0,)), "hidden"),
        (lambda: MLP(1, 1, dropout=float("nan")), "dropout"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(build: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build()


def test_sizes_follow_the_tasks() -> None:
    assert Conv4.sizes_for(SPEC, embeds=False) == {"channels": 1, "size": 28, "ways": 5}
    assert Conv4.sizes_for(SPEC, embeds=True)["ways"] is None
    assert MLP.sizes_for(SPEC, embeds=False) == {"inputs": 784, "outputs": 5}
    with pytest.raises(ConfigError, match="square images"):
        Conv4.sizes_for(TaskSpec((1,), 1, "mse", "mse", shots=1, queries=1), embeds=False)


@pytest.mark.parametrize("name", models.REGISTRY)
def test_every_registered_model_is_drawn_from_a_generator(name: str) -> None:
    model = getattr(models, name)()
    assert isinstance(model, Model)
    made = {n: p.clone() for n, p in model.named_parameters()}
    model.draw(first_draw())
    assert all(torch.equal(made[n], p) for n, p in model.named_parameters()), "not as it was made"


def test_an_mlp_without_bias_has_weights_alone() -> None:
    net = MLP(3, 2, hidden=(4,), bias=False)
    assert [name for name, _ in net.named_parameters()] == ["body.1.weight", "head.weight"]
    assert torch.equal(net(torch.zeros(1, 3)), torch.zeros(1, 2))
