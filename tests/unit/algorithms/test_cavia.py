"""CAVIA is its definition written out, and its network is sized for the context without being told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Case, as_double, images
from innerloop.algorithms import CAVIA
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.models import MLP, Conv4
from innerloop.tasks import Glyphs, Sinusoid
from innerloop.testing.probing import adapted, close, deviation, estimate, predictions
from innerloop.training.config import TrainConfig, ValidationConfig
from innerloop.training.experiment import RunConfig
from innerloop.training.fit import train

LR, STEPS, SIZE = 0.3, 2, 4


def sinusoids(count: int = 3) -> Episode:
    return as_double(Sinusoid(shots=5, queries=6).sample("train", count, 1))


def mean_gradient(objective: Any, meta: Meta, episodes: Episode) -> Meta:
    """The gradient of a mean over tasks, by one call of autograd."""
    given = tree.map(lambda leaf: leaf.detach().requires_grad_(), meta)
    count = num_tasks(episodes)
    total = torch.stack([objective(given, *take(episodes, i)) for i in range(count)]).mean()
    return tree.rebuild(given, list(torch.autograd.grad(total, tree.leaves(given))))


def test_the_context_is_concatenated_and_alone_adapts() -> None:
    learner = CAVIA(MLP(1 + SIZE, 1, hidden=(7,)), context=SIZE, inner_lr=LR, inner_steps=STEPS, loss="mse")
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))

    def outputs(params: dict[str, Tensor], x: Tensor, context: Tensor) -> Tensor:
        both = torch.cat([x, context.expand(len(x), SIZE)], dim=1)
        hidden = (both @ params["body.1.weight"].T + params["body.1.bias"]).relu()
        return hidden @ params["head.weight"].T + params["head.bias"]

    def objective(meta: Meta, support: Batch, query: Batch) -> Tensor:
        context = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
        for _ in range(STEPS):
            loss = (outputs(meta["params"], support.x, context) - support.y).square().mean()
            context = context - LR * torch.autograd.grad(loss, context, create_graph=True)[0]
        return (outputs(meta["params"], query.x, context) - query.y).square().mean()

    close(estimate(learner, meta, sinusoids())[0], mean_gradient(objective, meta, sinusoids()), 1e-12)
    fast = adapted(learner, meta, take(sinusoids(), 0).support)
    assert {name: value.shape for name, value in fast["params"].items()} == {"context": (SIZE,)}


class Convolutions(nn.Module):
    """Two convolutions, the second normalised or not."""

    def __init__(self, norm: nn.Module | None, *, bias: bool = True) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 3, 3, stride=2)
        self.two = nn.Conv2d(3, 4, 3, bias=bias)
        self.norm = norm
        self.head = nn.Linear(4, 3)

    def maps(self, x: Tensor) -> Tensor:
        maps = self.two(self.one(x).relu())
        return maps if self.norm is None else self.norm(maps)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x).relu().mean((2, 3)))


@pytest.mark.parametrize("norm", [None, "group", "batch"])
def test_film_scales_and_shifts_the_maps_behind_the_normalisation(norm: str | None) -> None:
    torch.manual_seed(0)
    layer = {None: None, "group": nn.GroupNorm(2, 4), "batch": nn.BatchNorm2d(4)}[norm]
    module = Convolutions(layer).double()
    learner = CAVIA(module, context=SIZE, inner_lr=LR, inner_steps=STEPS, batch_norm="transductive")
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))

    def outputs(meta: Meta, x: Tensor, context: Tensor) -> Tensor:
        p = meta["params"]
        hidden = F.conv2d(x, p["one.weight"], p["one.bias"], stride=2).relu()
        maps = F.conv2d(hidden, p["two.weight"], p["two.bias"])
        if norm == "group":
            maps = F.group_norm(maps, 2, p["norm.weight"], p["norm.bias"])
        if norm == "batch":
            var, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
            maps = (maps - mean) / (var + 1e-5).sqrt()
            maps = maps * p["norm.weight"].view(-1, 1, 1) + p["norm.bias"].view(-1, 1, 1)
        both = context @ meta["film"]["head.weight"].T + meta["film"]["head.bias"]
        maps = both[:4].view(-1, 1, 1) * maps + both[4:].view(-1, 1, 1)
        return maps.relu().mean((2, 3)) @ p["head.weight"].T + p["head.bias"]

    def objective(meta: Meta, support: Batch, query: Batch) -> Tensor:
        context = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
        for _ in range(STEPS):
            loss = F.cross_entropy(outputs(meta, support.x, context), support.y)
            context = context - LR * torch.autograd.grad(loss, context, create_graph=True)[0]
        return F.cross_entropy(outputs(meta, query.x, context), query.y)

    episodes = images(2)
    close(estimate(learner, meta, episodes)[0], mean_gradient(objective, meta, episodes), 1e-12)


def test_film_in_front_of_batch_norm_would_be_undone() -> None:
    """Planted: FiLM on the convolution itself."""
    learner = CAVIA(Conv4(3, size=16, width=4), context=SIZE, inner_lr=LR, batch_norm="transductive")
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    episode = take(images(1), 0)
    assert learner._film == "body.2.1"
    assert deviation(predictions(learner, meta, episode, 0), predictions(learner, meta, episode, 1)) > 1e-6
    learner._film = "body.2.0"
    shifted = meta | {"film": {name: leaf.abs() for name, leaf in meta["film"].items()}}
    moved = shifted | {"film": shifted["film"] | {"head.bias": shifted["film"]["head.bias"] + 1.0}}
    # Not quite: the epsilon in BatchNorm sees the scale.
    assert (
        deviation(predictions(learner, shifted, episode, 0), predictions(learner, moved, episode, 0)) < 1e-2
    )


def test_film_follows_the_convolution_that_is_chosen() -> None:
    def place(layer: int, norm: Any = "none") -> str | None:
        return CAVIA(Conv4(3, size=16, width=4, norm=norm), film_layer=layer)._film

    assert [place(layer) for layer in (1, 3, 4, 9)] == [f"body.{i}.0" for i in (0, 2, 3, 3)]
    assert place(2, "group") == "body.1.1"


def test_every_task_begins_with_a_context_of_zeros() -> None:
    case = Case("CAVIA", "mlp")
    learner, meta = case.learner(), case.meta()
    for i in range(2):
        fast = learner.begin(meta, take(case.episodes(), i).support)
        assert not fast["params"]["context"].any()
    with pytest.raises(NotImplementedError, match="no initialisation to displace"):
        learner.displaced(meta, fast)


# --- sizes -----------------------------------------------------------------------------------------------


def built(**algorithm: Any) -> tuple[Any, Any]:
    tasks = algorithm.pop("tasks", {"name": "Sinusoid"})
    model = algorithm.pop("model", {"name": "MLP"})
    config = {"algorithm": {"name": "CAVIA"} | algorithm, "model": model, "tasks": tasks}
    return RunConfig.from_dict(config).build()


@pytest.mark.parametrize(("settings", "inputs"), [({}, 6), ({"context": "3"}, 4)])
def test_a_model_from_a_configuration_is_sized_for_the_context(settings: Any, inputs: int) -> None:
    learner, tasks = built(**settings)
    assert learner.module.inputs == inputs
    losses = estimate(learner, learner.init(torch.Generator()), tasks.sample("train", 2, 0))[1].losses
    assert bool(losses.isfinite().all())


def test_a_size_that_is_given_is_taken() -> None:
    learner, _ = built(model={"name": "MLP", "inputs": 9})
    assert learner.module.inputs == 9


def test_images_are_conditioned_by_film_and_flattened_ones_by_concatenation() -> None:
    glyphs = {"name": "Glyphs"}
    learner, tasks = built(tasks=glyphs, model=None)
    assert isinstance(learner.module, Conv4)
    assert len(learner.parts["film"].params()["head.weight"].T) == 100
    flat, _ = built(tasks=glyphs, model={"name": "MLP"})
    size = torch.tensor(tasks.spec.input_shape).prod()
    assert flat.module.inputs == size + 5
    assert not flat.parts


def test_a_network_that_takes_a_context_is_trained_beside_its_baselines() -> None:
    learner, _ = built(tasks={"name": "Glyphs"}, model={"name": "MLP"})
    config = TrainConfig(steps=1, tasks_per_step=2, validation=ValidationConfig(episodes=2))
    run = train(learner, Glyphs(), config=config)
    assert "untrained_centroid" in run.evaluate(episodes=2).baselines


# --- bad arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context": 0}, "context = 0"),
        ({"conditioning": "fil"}, "did you mean 'film'"),
        ({"conditioning": "film"}, "has no convolution"),
        ({"film_layer": 0}, "film_layer = 0"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CAVIA(MLP(6, 1), loss="mse", **settings)


@pytest.mark.parametrize(
    "module",
    [Convolutions(nn.BatchNorm2d(4, affine=False)), Convolutions(None, bias=False)],
)
def test_a_layer_that_cannot_be_scaled_and_shifted_is_refused(module: nn.Module) -> None:
    with pytest.raises(ContractError, match="without a weight and a bias"):
        CAVIA(module)
