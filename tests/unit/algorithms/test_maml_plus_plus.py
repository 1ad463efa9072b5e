"""MAMLPlusPlus is its definition written out, and knows how far training is, compiled and resumed too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Case, as_double, images
from innerloop.algorithms import MAML, MAMLPlusPlus
from innerloop.core import compiled, tree
from innerloop.core.compiled import compiler_of
from innerloop.core.errors import ConfigError
from innerloop.core.learner import outer_weights
from innerloop.core.mode import mode, running_in
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Evolution, FirstOrder, MetaGradient, Recompute, Truncated, Unrolled
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import adapted, close, deviation, estimate, predictions
from unit.training.resuming import Setup, resumes_bitwise, small_config

LR, STEPS = 0.1, 3


def sinusoids(count: int = 2) -> Episode:
    return as_double(Sinusoid(shots=5, queries=6).sample("train", count, 1))


def plain(kind: type[MAMLPlusPlus] = MAMLPlusPlus, **settings: Any) -> tuple[MAMLPlusPlus, Meta]:
    """A small learner on vectors, and its meta-parameters in float64."""
    given = {"inner_lr": LR, "inner_steps": STEPS, "loss": "mse"} | settings
    learner = kind(MLP(1, 1, hidden=(6,)), **given)
    return learner, tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))


# --- the objective ---------------------------------------------------------------------------------------


def weights(progress: float, **settings: Any) -> list[float]:
    with running_in(progress=progress):
        return [float(weight) for weight in outer_weights(plain(**settings)[0])]


def test_weights_begin_alike_and_fall_to_their_floor() -> None:
    k = STEPS
    assert weights(0.0) == pytest.approx([0.0] + [1 / k] * k)
    assert weights(0.05) == pytest.approx([0.0, 0.5 / k, 0.5 / k, 1 - 1.0 / k])
    floor = [0.0, 0.03 / k, 0.03 / k, 1 - 0.06 / k]
    assert weights(0.0999) == pytest.approx(floor)
    assert weights(1.0) == weights(0.5) == pytest.approx(floor)
    assert weights(0.05, anneal_until=0.5) == pytest.approx([0.0, 0.9 / k, 0.9 / k, 1 - 1.8 / k])
    assert weights(0.0, anneal_until=0.0) == pytest.approx(floor)
    assert weights(0.0, inner_steps=1) == [0.0, 1.0]
    assert weights(0.0, inner_steps=0) == [1.0]


@pytest.mark.parametrize("progress", [0.0, 0.05, 1.0])
def test_without_normalisations_and_with_one_rate_it_is_maml_under_these_weights(progress: float) -> None:
    learner, meta = plain(inner_lr=0.125)
    given = tuple(weights(progress)[1:])
    maml = MAML(MLP(1, 1, hidden=(6,)), inner_lr=0.125, inner_steps=STEPS, loss="mse", step_weights=given)
    expected, other = estimate(maml, {"params": meta["params"]}, sinusoids())
    with running_in(progress=progress):
        grads, record = estimate(learner, meta, sinusoids())
    close(grads["params"], expected["params"], 1e-12)
    close(record.losses, other.losses, 1e-12)


# --- the inner loop --------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps, self.norm = nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.maps(x)).tanh().mean((2, 3)))


def by_hand(phi: dict[str, Tensor], scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    maps = F.conv2d(x, phi["maps.weight"], phi["maps.bias"], stride=4)
    var, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
    maps = (maps - mean) / (var + 1e-5).sqrt() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    return maps.tanh().mean((2, 3)) @ phi["head.weight"].T + phi["head.bias"]


def test_every_step_has_its_rates_its_normalisation_and_its_share() -> None:
    learner = MAMLPlusPlus(Small(), inner_lr=LR, inner_steps=STEPS, batch_norm="transductive")
    rng = torch.Generator().manual_seed(1)
    meta = tree.map(
        lambda leaf: leaf.double() + 0.05 * torch.randn(leaf.shape, generator=rng, dtype=torch.float64),
        learner.init(torch.Generator()),
    )
    given = tree.map(lambda leaf: leaf.detach().requires_grad_(), meta)
    scales, shifts = given["norms"]["norm.weight"], given["norms"]["norm.bias"]
    shares = [0.5 / STEPS, 0.5 / STEPS, 1 - 1.0 / STEPS]
    total = torch.zeros((), dtype=torch.float64)
    episodes = images(2)
    for i in range(2):
        support, query = take(episodes, i)
        phi = dict(given["params"])
        assert set(phi) == {"maps.weight", "maps.bias", "head.weight", "head.bias"}
        for k in range(STEPS):
            loss = F.cross_entropy(by_hand(phi, scales[k], shifts[k], support.x), support.y)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {n: p - given["rates"][n][k] * g for (n, p), g in zip(phi.items(), grads, strict=True)}
            judged = F.cross_entropy(by_hand(phi, scales[k], shifts[k], query.x), query.y)
            total = total + shares[k] * judged / 2
    expected = tree.rebuild(given, list(torch.autograd.grad(total, tree.leaves(given))))
    for path in (Unrolled(), Recompute(), Recompute(segment=2)):
        with running_in(progress=0.05):
            close(estimate(learner, meta, episodes, gradient=path)[0], expected, 1e-12)


def test_steps_beyond_the_training_ones_take_the_last_ones_numbers() -> None:
    learner = MAMLPlusPlus(Small(), inner_lr=LR, inner_steps=2, test_inner_steps=4)
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator()))
    norm = {name: leaf + torch.tensor([[0.0], [0.5]]).double() for name, leaf in meta["norms"].items()}
    meta |= {"norms": norm}
    episode = take(images(1), 0)
    for steps, place in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1)]:
        fast = adapted(learner, meta, episode.support, steps)
        close(fast["norms"], {name: leaf[place] for name, leaf in norm.items()}, 0.0)
    assert deviation(predictions(learner, meta, episode, 4), predictions(learner, meta, episode, 3)) > 1e-6
    longer = {name: torch.stack([*leaf, leaf[1], leaf[1]]) for name, leaf in norm.items()}
    rates = {name: leaf[[0, 1, 1, 1]] for name, leaf in meta["rates"].items()}
    other = MAMLPlusPlus(Small(), inner_lr=LR, inner_steps=4)
    given = meta | {"norms": longer, "rates": rates}
    close(predictions(other, given, episode, 4), predictions(learner, meta, episode, 4), 0.0)


@pytest.mark.parametrize("network", ["group", "batch"])
def test_normalisations_do_not_adapt(network: str) -> None:
    learner = Case("MAMLPlusPlus", network).learner()
    assert isinstance(learner, MAMLPlusPlus)
    norms = {f"body.{i}.1.{kind}" for i in range(4) for kind in ("weight", "bias")}
    assert set(learner.net.names) - learner.adapts() == norms
    assert set(learner.init(torch.Generator())["norms"]) == norms


# --- how far training is ---------------------------------------------------------------------------------


class _Watching(MAMLPlusPlus):  # a concrete base is fine in a test
    """Writes down how far training is whenever a task begins in it."""

    seen: list[float]

    def begin(self, meta: Any, support: Any) -> Any:
        if mode().training:
            self.seen.append(float(mode().progress))
        else:
            assert mode().progress == 1.0
        return super().begin(meta, support)


def test_training_says_how_far_it_is(tmp_path: Path) -> None:
    learner, _ = plain(_Watching)
    assert isinstance(learner, _Watching)
    learner.seen = []
    training = Setup(lambda: learner).start(tmp_path / "run")
    learner.seen.clear()
    for _ in training:
        pass
    told = set(learner.seen) - {1.0}  # measuring a meta-step is no part of training
    assert sorted(told) == pytest.approx([i / 6 for i in range(6)])


class _Counts(MAMLPlusPlus):
    """Planted: how far training is, by counting one's own calls."""

    calls = 0

    def objective_weights(self) -> Any:
        self.calls += 1
        with running_in(progress=min(1.0, self.calls / 40)):
            return super().objective_weights()


def annealing(kind: type[MAMLPlusPlus]) -> Setup:
    return Setup(lambda: plain(kind, anneal_until=1.0)[0], config=small_config(compile=False))


def test_a_resumed_run_is_annealed_from_where_it_stopped(tmp_path: Path) -> None:
    resumes_bitwise(annealing(MAMLPlusPlus), tmp_path / "good")
    with pytest.raises(AssertionError):
        resumes_bitwise(annealing(_Counts), tmp_path / "bad")


# --- compiled --------------------------------------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs are traced and run as they are: what a back end makes of them is not asked here."""
    made: list[Any] = []

    def keep(graph: Any, **how: Any) -> Any:
        made.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", keep)
    return made


MORE: list[MetaGradient] = [Recompute(), FirstOrder(), Truncated(last=1), Evolution(pairs=2)]


@pytest.mark.parametrize(
    "path", [Unrolled(), *(pytest.param(path, marks=pytest.mark.slow) for path in MORE)], ids=str
)
def test_one_graph_serves_from_the_first_outer_step_to_the_last(
    path: MetaGradient, graphs: list[Any]
) -> None:
    learner, meta = plain(inner_steps=2)
    numbers = []
    for progress in (0.0, 0.08, 1.0):
        with running_in(progress=progress):
            expected, _, record = path.estimate(learner, meta, sinusoids())
            found, _, other = path.estimate(learner, meta, sinusoids(), compile=True)
        close(found, expected, 1e-12)
        close(other.losses, record.losses, 1e-12)
        numbers.append(len(graphs))
    assert compiler_of(learner).failure is None
    assert numbers[0] == numbers[-1] > 0


def test_a_graph_that_holds_the_progress_constant_is_seen(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the progress is no input of the graph."""
    monkeypatch.setattr(compiled, "running_in", lambda progress: running_in())
    learner, meta = plain(inner_steps=2)
    grads = []
    for progress in (0.0, 0.08):
        with running_in(progress=progress):
            grads.append(Unrolled().estimate(learner, meta, sinusoids(), compile=True)[0])
    with running_in(progress=0.08):
        expected, _, _ = Unrolled().estimate(learner, meta, sinusoids())
    assert compiler_of(learner).failure is None
    close(grads[1], grads[0], 0.0)
    assert deviation(grads[1], expected) > 1e-3


# --- bad arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_of_training_lies_between_0_and_1(value: float) -> None:
    with pytest.raises(ConfigError, match="anneal_until"):
        plain(anneal_until=value)


def test_without_inner_steps_it_is_joint_training() -> None:
    learner, meta = plain(inner_steps=0)
    expected, _ = estimate(
        MAML(MLP(1, 1, hidden=(6,)), inner_steps=0, loss="mse"), {"params": meta["params"]}, sinusoids()
    )
    close(estimate(learner, meta, sinusoids())[0]["params"], expected["params"], 1e-12)
    support: Batch = take(sinusoids(), 0).support
    assert adapted(learner, meta, support, 0)["params"].keys() == meta["params"].keys()
