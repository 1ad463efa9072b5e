"""LEO: its loss and meta-gradient written out in plain torch, its distributions, and what may be left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from cases import images
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import take
from innerloop.testing.probing import adapted, close, estimate, inner_keys, predictions
from innerloop.training.config import TrainConfig, ValidationConfig

WIDTH, LATENTS, WAYS = 7, 4, 3
QUIET: dict[str, Any] = {
    "kl_weight": 0.0,
    "encoder_weight": 0.0,
    "l2_weight": 0.0,
    "orthogonality_weight": 0.0,
    "dropout": 0.0,
}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, WIDTH), nn.Tanh()).double()


def started(**settings: Any) -> tuple[Any, dict[str, Any]]:
    defaults = {"latents": LATENTS, "latent_steps": 2, "finetuning_steps": 2, "embedding_size": WIDTH}
    learner = il.algorithms.LEO(network(), **defaults | settings)
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    if "rates" in meta:  # rates that matter, and differ from each other
        meta["rates"] = tree.map(lambda r: 0.3 + 0.1 * torch.arange(len(r)).double(), meta["rates"])
    return learner, meta


def gaussian(outputs: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    half = outputs.shape[1] // 2
    return outputs[:, :half], torch.maximum(
        outputs[:, half:].exp() - 1 + offset, torch.tensor(1e-10, dtype=torch.float64)
    )


def code_distribution(meta: dict[str, Any], embedded: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    encoded = embedded @ meta["encoder"]["head.weight"].T
    related = []
    for i in range(len(encoded)):
        rows = torch.stack([torch.cat([encoded[i], encoded[j]]) for j in range(len(encoded))])
        hidden = (rows @ meta["relation"]["body.1.weight"].T).relu()
        hidden = (hidden @ meta["relation"]["body.3.weight"].T).relu()
        related.append((hidden @ meta["relation"]["head.weight"].T).mean(0))
    means = [
        torch.stack([r for r, label in zip(related, y, strict=True) if label == n]).mean(0)
        for n in range(WAYS)
    ]
    return gaussian(torch.stack(means), 0.0)


def weight_distribution(meta: dict[str, Any], codes: Tensor) -> tuple[Tensor, Tensor]:
    return gaussian(codes @ meta["decoder"]["head.weight"].T, (2 / (WIDTH + WAYS)) ** 0.5)


def by_hand(meta: dict[str, Any], episode: Episode, weights: dict[str, float]) -> Tensor:
    """The outer loss of one task, where nothing is drawn; `z'` of the encoder's penalty is a constant."""
    support, query = (torch.tanh(F.linear(b.x.flatten(1), *meta["params"].values())) for b in episode)
    y = episode.support.y
    mean, deviation = code_distribution(meta, support, y)
    codes = mean
    for _ in range(2):
        loss = F.cross_entropy(support @ weight_distribution(meta, codes)[0].T, y)
        [down] = torch.autograd.grad(loss, [codes], create_graph=True)
        codes = codes - meta["rates"]["codes"] * down
    classifier = weight_distribution(meta, codes)[0]
    for _ in range(2):
        [down] = torch.autograd.grad(
            F.cross_entropy(support @ classifier.T, y), [classifier], create_graph=True
        )
        classifier = classifier - meta["rates"]["weights"] * down
    loss = F.cross_entropy(query @ classifier.T, episode.query.y)
    networks = [leaf for part in ("encoder", "relation", "decoder") for leaf in meta[part].values()]
    columns = F.normalize(meta["decoder"]["head.weight"], dim=0)
    penalties = {
        "encoder_weight": F.mse_loss(mean, codes.detach()),
        "l2_weight": sum((leaf**2).sum() for leaf in networks) / 2,
        "orthogonality_weight": F.mse_loss(columns.T @ columns, torch.eye(LATENTS, dtype=torch.float64)),
        "kl_weight": torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, deviation),
            torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean)),
        ).mean(),
    }
    return loss + sum(weight * penalties[name] for name, weight in weights.items())


@pytest.mark.parametrize("name", ["none", "encoder_weight", "l2_weight", "orthogonality_weight"])
def test_the_meta_gradient_is_that_of_its_loss_written_out(name: str) -> None:
    weights = {name: 0.7} if name in QUIET else {}
    learner, meta = started(**QUIET | weights, deterministic=True)
    episodes = images(2)
    grads, record = estimate(learner, meta, episodes)
    inputs = tree.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    losses = torch.stack([by_hand(inputs, take(episodes, i), weights) for i in range(2)])
    close(record.losses, losses.detach(), 1e-12)
    losses.mean().backward()
    expected = tree.map(lambda leaf: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, inputs)
    close(grads, expected, 1e-12)


def test_the_divergence_is_from_a_standard_normal() -> None:
    learner, meta = started(**QUIET | {"kl_weight": 0.7})
    plain, _ = started(**QUIET)
    episodes = images(2)
    with_it, without = (estimate(one, meta, episodes)[1].losses for one in (learner, plain))
    inputs = tree.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    each = [take(episodes, i) for i in range(2)]
    expected = [by_hand(inputs, e, {"kl_weight": 0.7}) - by_hand(inputs, e, {}) for e in each]
    close(with_it - without, torch.stack(expected).detach(), 1e-12)


def in_training(learner: Any, meta: dict[str, Any], support: Batch, key: Tensor, steps: int = 0) -> Any:
    with torch.no_grad(), running_in(training=True, ways=WAYS, key=key, first_order=True):
        return adapt(learner, meta, support, steps)


def test_codes_and_weights_are_drawn_from_their_distributions_in_training() -> None:
    learner, meta = started(**QUIET)
    meta["relation"] = tree.map(lambda leaf: 2.0 * leaf, meta["relation"])  # deviations far from their floor
    support = take(images(1), 0).support
    embedded = network()(support.x).detach()
    mean, deviation = code_distribution(meta, embedded, support.y)
    drawn = [in_training(learner, meta, support, key) for key in inner_keys(800)]
    codes = torch.stack([fast["codes"] for fast in drawn])
    close(codes.mean(0), mean, 0.15 * float(deviation.max()))
    close(codes.std(0), deviation, 0.1 * float(deviation.max()))
    residuals = []
    for fast in drawn:
        centre, spread = weight_distribution(meta, fast["codes"])
        residuals.append((fast["weights"] - centre) / spread)
    close(torch.stack(residuals).mean(0), torch.zeros(WAYS, WIDTH).double(), 0.15)
    close(torch.stack(residuals).std(0), torch.ones(WAYS, WIDTH).double(), 0.1)


def test_every_step_draws_weights_anew_and_evaluation_draws_none() -> None:
    learner, meta = started(**QUIET)
    support, query = take(images(1), 0)
    key, other = inner_keys(2)
    spread = weight_distribution(meta, in_training(learner, meta, support, key, 1)["codes"])
    first, again, elsewhere = (
        in_training(learner, meta, support, k, 1)["weights"] for k in (key, key, other)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, elsewhere)
    begun = in_training(learner, meta, support, key)
    ours = (begun["weights"] - weight_distribution(meta, begun["codes"])[0]) / (
        weight_distribution(meta, begun["codes"])[1]
    )
    assert float((ours - (first - spread[0]) / spread[1]).abs().max()) > 0.1, "the draw of `begin` again"
    still, _ = started(**QUIET, deterministic=True)
    episode = Episode(support, query)
    assert torch.equal(predictions(learner, meta, episode), predictions(still, meta, episode))


def test_dropout_is_of_embeddings_in_training_alone() -> None:
    learner, meta = started(**QUIET | {"dropout": 0.5}, deterministic=True)
    plain, _ = started(**QUIET, deterministic=True)
    episode = take(images(1), 0)
    assert torch.equal(predictions(learner, meta, episode), predictions(plain, meta, episode))
    keys = inner_keys(2)
    dropped = [in_training(learner, meta, episode.support, key)["codes"] for key in keys]
    assert not torch.equal(*dropped)


@pytest.mark.parametrize(("latent", "finetuning"), [(0, 0), (0, 2), (2, 0)])
def test_steps_may_be_left_out(latent: int, finetuning: int) -> None:
    learner, meta = started(latent_steps=latent, finetuning_steps=finetuning)
    assert learner.inner_steps == learner.test_inner_steps == latent + finetuning
    assert set(meta.get("rates", {})) == {
        n for n, steps in (("codes", latent), ("weights", finetuning)) if steps
    }
    support = take(images(1), 0).support
    before, after = (adapted(learner, meta, support, steps) for steps in (0, latent + finetuning))
    assert torch.equal(before["codes"], after["codes"]) == (latent == 0)
    assert torch.equal(before["weights"], after["weights"]) == (latent + finetuning == 0)
    centre, _ = weight_distribution(meta, after["codes"])
    assert torch.allclose(after["weights"], centre, rtol=0, atol=1e-12) == (finetuning == 0)


def test_classes_are_treated_alike() -> None:
    learner, meta = started()
    episode = take(images(1), 0)
    renamed = episode._replace(support=Batch(episode.support.x, (episode.support.y + 1) % WAYS))
    outputs, other = (predictions(learner, meta, e) for e in (episode, renamed))
    close(other, outputs.roll(1, dims=1), 1e-12)


def test_features_without_a_network_are_trained_on_stored_and_loaded(tmp_path: Path) -> None:
    tasks = il.tasks.Features.tiny()
    learner = il.algorithms.LEO(il.models.MLP(144, None, hidden=()), latents=4)
    config = TrainConfig(steps=2, tasks_per_step=2, validation=ValidationConfig(episodes=2))
    run = il.train(learner, tasks, config=config, out=tmp_path / "run")
    again = il.load(tmp_path / "run", tasks=tasks)
    assert again.evaluate(episodes=4).curve == run.evaluate(episodes=4).curve
    x, queries = (b.x[0] for b in tasks.sample("test", 1, 0))
    assert run.adapt(x, ["a", "b", "c"]).predict_proba(queries).shape == (9, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latents": 0},
        {"latent_steps": -1},
        {"finetuning_steps": -1},
        {"latent_lr": 0.0},
        {"finetuning_lr": -1.0},
        {"dropout": 1.0},
        {"kl_weight": -0.1},
        {"encoder_weight": float("nan")},
        {"l2_weight": -1.0},
        {"orthogonality_weight": -1.0},
        {"embedding_size": None},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        started(**wrong)
