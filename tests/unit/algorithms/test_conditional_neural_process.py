"""The conditional neural process by hand, what it reads in training, and the error bars that it gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.algorithms import MAML, ConditionalNeuralProcess
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, TaskSpec
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.questions import close, inner_keys
from innerloop.training.adapted import Adapted
from innerloop.training.experiment import RunConfig


def made(**how: Any) -> ConditionalNeuralProcess:
    sizes = {"representation": 5, "encoder": (7,), "decoder": (6,)}
    return ConditionalNeuralProcess(MLP(1, None, hidden=(4,)), **sizes | how)


def drawn(learner: ConditionalNeuralProcess, seed: int = 0) -> dict[str, Any]:
    meta = learner.init(torch.Generator().manual_seed(seed))
    return {part: {name: leaf.double() for name, leaf in node.items()} for part, node in meta.items()}


def episode(shots: int = 5) -> Any:
    return [Batch(b.x.double(), b.y.double()) for b in take(Sinusoid(shots, 6).sample("train", 1, 0), 0)]


def layers(params: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = F.linear(x, params["body.1.weight"], params["body.1.bias"]).relu()
    return F.linear(hidden, params["head.weight"], params["head.bias"]) if "head.weight" in params else hidden


def by_hand(meta: dict[str, Any], support: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.zeros(5, dtype=torch.float64)
    for one, target in zip(*support, strict=True):
        total = total + layers(meta["encoder"], torch.cat([layers(meta["params"], one), target]))
    found = []
    for one in x:
        whole = torch.cat([layers(meta["params"], one), total / len(support.y)])
        found.append(layers(meta["decoder"], whole))
    mean, raw = torch.stack(found).unbind(1)
    return mean[:, None], (0.1 + 0.9 * (1 + raw.exp()).log())[:, None]


def test_it_predicts_from_the_mean_of_the_encodings() -> None:
    learner, (support, query) = made(), episode()
    meta = drawn(learner)
    mean, sd = learner.distribution(meta, learner.begin(meta, support), query.x)
    expected = by_hand(meta, support, query.x)
    close({"mean": mean, "sd": sd}, {"mean": expected[0], "sd": expected[1]}, 1e-12)
    close({"mean": learner.predict(meta, learner.begin(meta, support), query.x)}, {"mean": mean}, 0.0)


def test_its_loss_is_the_negative_log_likelihood_of_support_and_query() -> None:
    learner, (support, query) = made(), episode()
    meta = drawn(learner)
    loss, _ = learner.query_loss(meta, learner.begin(meta, support), query)
    mean, sd = by_hand(meta, support, torch.cat([support.x, query.x]))
    densities = (
        torch.exp(-(((torch.cat([support.y, query.y]) - mean) / sd) ** 2) / 2) / sd / math.sqrt(2 * math.pi)
    )
    assert abs(float(loss + densities.log().mean())) < 1e-12


def read(learner: ConditionalNeuralProcess, key: Tensor | None) -> Tensor:
    nothing = Batch(torch.zeros(4, 1), torch.zeros(4, 1))
    with running_in(training=True, key=key):
        return learner.begin({}, nothing)["data"]["weights"]


def test_in_training_a_random_number_of_random_points_is_read() -> None:
    learner = made()
    weights = torch.stack([read(learner, key) for key in inner_keys(400)])
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    counts = torch.bincount(weights.sum(1).long(), minlength=5).tolist()
    assert counts[0] == 0, "one point at least"
    assert all(70 < count < 130 for count in counts[1:]), "each number as often"  # 100 +- 3.5 deviations
    assert (weights.mean(0) - 2.5 / 4).abs().max() < 0.09, "each point as often"


@pytest.mark.parametrize("why", ["no key", "not asked for", "not training"])
def test_otherwise_all_points_are_read(why: str) -> None:
    learner = made(random_context=why != "not asked for")
    if why == "not training":
        support, _ = episode(4)
        assert learner.begin(drawn(learner), support)["data"]["weights"].all()
        return
    keys = [None] if why == "no key" else list(inner_keys(20))
    assert all(read(learner, key).all() for key in keys)


def test_a_point_that_is_not_read_reaches_no_prediction() -> None:
    learner, (support, query) = made(), episode(5)
    meta = drawn(learner)
    fast = learner.begin(meta, support)
    fast["data"]["weights"] = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]).double()
    kept = [0, 2, 3]
    fewer = learner.begin(meta, Batch(support.x[kept], support.y[kept]))
    found, expected = (learner.distribution(meta, state, query.x) for state in (fast, fewer))
    close(dict(enumerate(found)), dict(enumerate(expected)), 1e-14)  # pyright: ignore[reportArgumentType]


def test_several_targets_have_error_bars_of_their_own() -> None:
    learner = made(targets=2)
    meta, support = drawn(learner), episode()[0]
    fast = learner.begin(meta, Batch(support.x, support.y.repeat(1, 2)))
    mean, sd = learner.distribution(meta, fast, support.x)
    assert mean.shape == sd.shape == (5, 2)
    assert float((sd[:, 0] - sd[:, 1]).abs().min()) > 0


def test_targets_are_filled_in_from_the_tasks() -> None:
    values = {
        "algorithm": {"name": "ConditionalNeuralProcess"},
        "model": {"name": "MLP"},
        "tasks": {"name": "GaussianProcessCurves"},
    }
    spec = TaskSpec((3,), 2, "mse", "mse", shots=5, queries=5)
    learner: Any = RunConfig.from_dict(values).build_learner(spec)
    assert (learner.targets, learner.module.inputs, learner.loss) == (2, 3, "mse")


def test_an_adapted_model_gives_a_mean_and_an_error_bar() -> None:
    learner, x = made(), [0.5, 1.5, -2.0]
    model = Adapted.of(learner, learner.init(torch.Generator().manual_seed(0)), [0.0, 1.0], [0.3, -0.2], None)
    mean, sd = model.distribution(x)
    assert torch.equal(model.predict(x), mean)
    assert mean.shape == sd.shape == (3, 1)
    assert float(sd.min()) > 0.1


def test_an_adapted_model_without_error_bars_says_so() -> None:
    learner = MAML(MLP(1, 1), loss="mse")
    model = Adapted.of(learner, learner.init(torch.Generator()), [0.0], [1.0], None)
    with pytest.raises(ContractError) as raised:
        model.distribution([0.0])
    assert str(raised.value).startswith("got: MAML, which predicts no distribution\nexpected: a learner with")
    assert raised.value.do == "use predict"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"targets": 0}, "targets >= 1"),
        ({"representation": 0}, "representation >= 1"),
        ({"encoder": (0,)}, "hidden"),
        ({"min_sd": 1.0}, "min_sd"),
        ({"min_sd": -0.1}, "min_sd >= 0"),
    ],
)
def test_a_bad_setting_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**how)


def test_a_module_of_ones_own_has_to_say_its_width() -> None:
    with pytest.raises(ConfigError, match="embedding_size"):
        ConditionalNeuralProcess(torch.nn.Tanh())
    assert ConditionalNeuralProcess(torch.nn.Tanh(), embedding_size=1).embedding_size == 1
