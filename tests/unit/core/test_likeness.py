"""Keys of tasks: what they hold, and that they tell families apart that are different."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from innerloop.core import likeness
from innerloop.core.errors import ContractError
from innerloop.core.likeness import FEATURES, added, divergences, embedding, log_likelihoods, no_keys, scales
from innerloop.core.types import Batch
from innerloop.core.vectorise import over_tasks
from innerloop.tasks import RotatedDigits, SinusoidFamilies

CLASSES = SinusoidFamilies(["sine", "opposite"])


def keys_of(*families: Tensor) -> dict[str, Tensor]:
    keys = no_keys(len(families))
    for place, embedded in enumerate(families):
        added(keys, place, embedded)
    return keys


def told_apart(stream: SinusoidFamilies | RotatedDigits, tasks: int, asked: int = 60) -> float:
    """The share of validation tasks that are likeliest under the key of their own family."""
    sources = [stream.family(i) for i in range(len(stream.names))]
    first = sources[0].sample("train", 8, 0).support
    scale = scales(first)
    keys = keys_of(*(embedding(scale, s.sample("train", tasks, 1).support) for s in sources))
    right = 0
    for place, source in enumerate(sources):
        found = embedding(scale, source.sample("val", asked, 2).support)
        right += sum(int(log_likelihoods(keys, one).argmax()) == place for one in found)
    return right / (asked * len(sources))


# --- embeddings ------------------------------------------------------------------------------------------


def test_an_embedding_is_a_mean_over_examples_whatever_their_order() -> None:
    support = CLASSES.sample("train", 3, 0).support
    scale = scales(support)
    turned = Batch(support.x.flip(1), support.y.flip(1))
    torch.testing.assert_close(embedding(scale, support), embedding(scale, turned), rtol=0.0, atol=1e-6)
    halves = [Batch(support.x[:, part], support.y[:, part]) for part in (slice(0, 5), slice(5, 10))]
    mean = sum(embedding(scale, half) for half in halves) / 2
    torch.testing.assert_close(embedding(scale, support), mean, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("stream", [CLASSES, RotatedDigits.tiny()], ids=["targets", "classes"])
def test_stacked_tasks_under_vmap_and_single_ones_have_the_same_embedding(stream: SinusoidFamilies) -> None:
    support = stream.sample("train", 4, 0).support
    scale = scales(support)
    found = embedding(scale, support)
    lifted = over_tasks(lambda one: embedding(scale, one), support, axis="vmap")
    single = torch.stack([embedding(scale, Batch(x, y)) for x, y in zip(*support, strict=True)])
    assert found.shape == (4, FEATURES)
    for other in (lifted, single):
        torch.testing.assert_close(found, other, rtol=0.0, atol=1e-6)


def test_labels_that_are_classes_have_no_part_in_it_and_targets_have() -> None:
    digits = RotatedDigits.tiny().sample("train", 2, 0).support
    relabelled = Batch(digits.x, digits.y.flip(1))
    assert torch.equal(embedding(scales(digits), digits), embedding(scales(digits), relabelled))
    waves = CLASSES.sample("train", 2, 0).support
    assert not torch.allclose(
        embedding(scales(waves), waves), embedding(scales(waves), Batch(waves.x, -waves.y))
    )


def test_inputs_that_are_names_of_things_are_refused() -> None:
    words = Batch(torch.arange(24).reshape(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ContractError, match=r"torch\.int64, to tell by them which tasks are alike"):
        scales(words)


def test_products_of_embeddings_approach_the_kernel_of_their_distance() -> None:
    """E[cos(w a + b) cos(w c + b)] = k(a - c) / 2: a mean of two Gaussians of the distance."""
    x = torch.tensor([[0.0], [0.1], [0.5], [2.0]])
    support = Batch(x[:, None], torch.zeros(4, 1, dtype=torch.int64))
    found = embedding(torch.tensor([0.0, 1.0, 0.0, 0.0]), support)
    products = 2.0 * found @ found.T / FEATURES
    kernel = torch.stack([(-0.5 * (f * (x - x.T)) ** 2).exp() for f in (0.1, 5.0)]).mean(0)
    assert float((products - kernel).abs().max()) < 4.0 * FEATURES**-0.5


# --- keys ------------------------------------------------------------------------------------------------


def test_a_key_that_is_added_to_bit_by_bit_has_the_moments_of_all() -> None:
    drawn = torch.randn(50, FEATURES, generator=torch.Generator().manual_seed(0))
    keys = no_keys(2)
    for part in drawn.split([1, 7, 20, 22]):
        added(keys, 1, part)
    assert keys["count"].tolist() == [0.0, 50.0]
    torch.testing.assert_close(keys["mean"][1], drawn.mean(0), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(keys["scatter"][1], 49.0 * torch.cov(drawn.T), rtol=0.0, atol=1e-3)
    assert not keys["scatter"][0].any()


def normals(keys: dict[str, Tensor]) -> list[MultivariateNormal]:
    """The distributions as they are defined: shrunk by D tasks' worth of the covariance of all."""
    together = keys["scatter"].sum(0) / keys["count"].sum()
    found = []
    for count, mean, scatter in zip(keys["count"], keys["mean"], keys["scatter"], strict=True):
        covariance = ((scatter + FEATURES * together) / (count + FEATURES)).double()
        covariance += 1e-4 * covariance.diagonal().mean() * torch.eye(FEATURES, dtype=torch.float64)
        found.append(MultivariateNormal(mean.double(), covariance))
    return found


def test_likelihoods_and_divergences_are_those_of_normal_distributions() -> None:
    draw = torch.Generator().manual_seed(1)
    bent = torch.randn(3, FEATURES, FEATURES, generator=draw)
    families = [0.3 * k + torch.randn(40, FEATURES, generator=draw) @ bent[k] for k in range(3)]
    keys = {name: leaf.double() for name, leaf in keys_of(*families).items()}
    one = families[1][0].double()
    expected = torch.stack([normal.log_prob(one) for normal in normals(keys)])
    found = log_likelihoods(keys, one)
    torch.testing.assert_close(found - found[0], expected - expected[0], rtol=1e-6, atol=1e-6)
    both = torch.tensor(
        [[float(kl_divergence(p, q) + kl_divergence(q, p)) for q in normals(keys)] for p in normals(keys)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(divergences(keys), both, rtol=1e-6, atol=1e-6)


def test_a_key_of_no_tasks_fits_none_and_where_none_knows_of_any_there_is_no_error() -> None:
    one = torch.zeros(FEATURES)
    keys = keys_of(torch.randn(9, FEATURES, generator=torch.Generator().manual_seed(0)))
    keys = {name: torch.cat([leaf, leaf]) if name != "scale" else leaf for name, leaf in keys.items()}
    keys["count"][1] = 0.0
    assert log_likelihoods(keys, one)[1] == -torch.inf
    assert torch.isfinite(log_likelihoods(keys, one)[0])
    assert torch.equal(log_likelihoods(no_keys(3), one), torch.full((3,), -torch.inf))


# --- what they are for -----------------------------------------------------------------------------------


def test_families_that_are_different_are_told_apart() -> None:
    assert told_apart(RotatedDigits(), 400) > 0.98
    assert told_apart(SinusoidFamilies(["sine", "opposite", "fast"]), 2000) > 0.85


def test_families_that_are_the_same_are_not() -> None:
    assert 0.3 < told_apart(SinusoidFamilies(["sine", "sine"]), 400) < 0.7


def test_without_the_targets_waves_would_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: inputs alone, which are the same in all families."""
    seen = likeness.embedding

    def blind(scale: Tensor, support: Batch) -> Tensor:
        return seen(scale, Batch(support.x, torch.zeros_like(support.y)))

    monkeypatch.setitem(globals(), "embedding", blind)
    assert told_apart(CLASSES, 400) < 0.7
