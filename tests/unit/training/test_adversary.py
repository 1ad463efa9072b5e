"""Training on attacked tasks: only what is asked moves, as the meta-gradient sees it, and it makes robust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from cases import Case
from innerloop.algorithms import Baseline, ProtoNet
from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.rng import key, tensor_keys
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.core.vectorise import Lifting, TasksAxis, over_tasks
from innerloop.measure.attack import Attack, attacked_queries, attacked_supports
from innerloop.models import Conv4
from innerloop.tasks import Omniglot, Sinusoid
from innerloop.testing.probing import close, deviation
from innerloop.training import adversary
from innerloop.training.adversary import AdversaryConfig, attacked
from innerloop.training.config import ObjectiveConfig, TrainConfig
from innerloop.training.fit import train
from innerloop.training.objective import adapted_losses
from innerloop.training.state import new_state
from innerloop.training.step import Engine, gradient_of
from unit.training.resuming import Setup, resumes_bitwise, sinusoid_learner, small_config

PLACE = key(3, "inner", 0)
IMAGES = Case("ProtoNet", "batch", "support")


def moved(
    case: Case = IMAGES,
    axis: TasksAxis = "vmap",
    episodes: Episode | None = None,
    place: int = PLACE,
    **settings: Any,
) -> tuple[Episode, Episode]:
    """The tasks, and what they are trained on."""
    clean = shaded(case.episodes()) if episodes is None else episodes
    config = AdversaryConfig(**{"steps": 3} | settings)
    return clean, attacked(case.learner(), case.meta(), clean, config, place=place, axis=axis)


def shaded(episodes: Episode) -> Episode:
    """Images in [0, 1]; other inputs as they are."""
    images = episodes.query.x.ndim == 5
    return Episode(*(Batch(b.x.clamp(0.0, 1.0) if images else b.x, b.y) for b in episodes))


def losses(case: Case, episodes: Episode) -> Tensor:
    return adapted_losses(case.learner(), case.meta(), episodes, key=PLACE, axis="vmap")


# --- what moves, and how far -----------------------------------------------------------------------------


def test_without_a_radius_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversary, "over_tasks", None)
    clean, same = moved(steps=3, clean=0.5)
    assert same is clean


@pytest.mark.parametrize(("part", "other"), [("query", "support"), ("support", "query")])
def test_only_what_is_asked_moves_and_stays_in_its_ball(part: str, other: str) -> None:
    clean, found = moved(**{part: 0.1})
    assert torch.equal(getattr(found, other).x, getattr(clean, other).x)
    gone = (getattr(found, part).x - getattr(clean, part).x).abs()
    assert 0.09 < float(gone.max()) <= 0.1 + 1e-12
    assert float(getattr(found, part).x.min()) >= 0.0
    assert float(getattr(found, part).x.max()) <= 1.0
    for ours, theirs in zip(found, clean, strict=True):
        assert torch.equal(ours.y, theirs.y)


@pytest.mark.parametrize("settings", [{"query": 0.2}, {"support": 0.2}, {"query": 0.1, "support": 0.1}])
@pytest.mark.parametrize("name", ["ProtoNet-batch", "MAML-mlp", "ANIL-mlp"])
def test_attacked_tasks_are_harder_and_none_is_easier(name: str, settings: dict[str, float]) -> None:
    case = Case(*name.split("-"))
    clean, found = (losses(case, episodes) for episodes in moved(case, **settings))
    assert bool((found >= clean - 1e-12).all())
    assert int((found > clean).sum()) >= 3


def test_queries_are_attacked_in_the_state_of_the_attacked_support() -> None:
    _, both = moved(query=0.1, support=0.1)
    _, support = moved(support=0.1)
    assert torch.equal(both.support.x, support.support.x)
    _, again = moved(query=0.1, episodes=support)
    assert torch.equal(both.query.x, again.query.x)


def test_an_attack_sees_the_dropout_masks_of_the_meta_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input is moved by the loss that an attack sees: it is the one that the objective sees."""

    def by_the_loss(learner: Any, meta: Meta, fast: Fast, query: Batch, *_: Any) -> Batch:
        return Batch(query.x + learner.query_loss(meta, fast, query)[0], query.y)

    monkeypatch.setattr(adversary, "attacked_queries", by_the_loss)
    case = Case("MAML", "mlp", dropout=0.4)
    clean, found = moved(case, query=0.1)
    seen = (found.query.x - clean.query.x)[:, 0, 0]
    torch.testing.assert_close(seen, losses(case, clean), rtol=0, atol=1e-9)
    other = adapted_losses(case.learner(), case.meta(), clean, key=PLACE + 1, axis="vmap")
    assert not torch.allclose(seen, other, atol=1e-6)


def test_the_clean_share_is_left_as_it_is() -> None:
    clean, found = moved(query=0.1, clean=0.5)
    _, all_moved = moved(query=0.1)
    same = (found.query.x == clean.query.x).flatten(2).all(-1)
    assert 0.2 < float(same.double().mean()) < 0.8
    assert torch.equal(found.query.x[~same], all_moved.query.x[~same])
    clean, found = moved(support=0.1, clean=0.5)
    whole = (found.support.x == clean.support.x).flatten(1).all(-1)
    assert 0 < int(whole.sum()) < 4
    assert bool((found.support.x != clean.support.x).flatten(2).any(-1)[~whole].all())


# --- the same however it is computed ---------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["loop", 1, 3, Lifting(2, threads=2)], ids=str)
def test_every_way_of_lifting_tasks_attacks_alike(axis: TasksAxis) -> None:
    case = Case("ANIL", "mlp")
    _, together = moved(case, query=0.1, support=0.1, clean=0.2)
    _, apart = moved(case, axis, query=0.1, support=0.1, clean=0.2)
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-9)


def test_steps_draw_other_starts_and_the_same_step_the_same() -> None:
    first = moved(query=0.1)[1].query.x
    assert torch.equal(first, moved(query=0.1)[1].query.x)
    assert not torch.equal(first, moved(query=0.1, place=PLACE + 1)[1].query.x)


def gradient(config: TrainConfig, episodes: Episode) -> Meta:
    state = new_state(IMAGES.meta(), config)
    return gradient_of(state, IMAGES.learner(), episodes, Engine(IMAGES.learner().gradient, "vmap"), config)[
        0
    ]


def the_gradient_is_that_of_the_attacked_tasks() -> None:
    usual = small_config(steps=10, objective=ObjectiveConfig(worst=0.5))
    harder = small_config(
        steps=10,
        objective=ObjectiveConfig(worst=0.5),
        adversary=AdversaryConfig(query=0.1, support=0.05, steps=3),
    )
    clean, found = moved(query=0.1, support=0.05)
    assert deviation(gradient(harder, clean), gradient(usual, clean)) > 1e-6
    close(gradient(harder, clean), gradient(usual, found), 1e-12)


def test_the_gradient_and_the_choice_of_tasks_are_those_of_the_attacked_ones() -> None:
    the_gradient_is_that_of_the_attacked_tasks()


def test_an_attack_that_is_not_trained_on_turns_that_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("innerloop.training.step.attacked", lambda *given, **_: given[2])
    with pytest.raises(AssertionError):
        the_gradient_is_that_of_the_attacked_tasks()


SETTINGS: dict[str, dict[str, Any]] = {
    "query": {"query": 0.2},
    "support": {"support": 0.2},
    "both, some clean": {"query": 0.2, "support": 0.1, "clean": 0.3, "steps": 2, "step_size": 0.1},
}


_ALL = "both, some clean"
_OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS if name != _ALL]


@pytest.mark.parametrize("name", [_ALL, *_OTHERS])
def test_a_run_resumes_bitwise(name: str, tmp_path: Path) -> None:
    resumes_bitwise(Setup(config=small_config(adversary=AdversaryConfig(**SETTINGS[name]))), tmp_path)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_changes_what_is_learned(name: str) -> None:
    config = small_config(adversary=AdversaryConfig(**SETTINGS[name]))
    usual = train(sinusoid_learner(), Sinusoid.tiny(), config=small_config()).meta
    changed = train(sinusoid_learner(), Sinusoid.tiny(), config=config).meta
    assert deviation(usual, changed) > 1e-9


# --- what has no meaning ---------------------------------------------------------------------------------

UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"query": -0.1}, r"adversary\.query"),
    ({"support": float("inf")}, r"adversary\.support"),
    ({"steps": 0}, r"adversary\.steps"),
    ({"step_size": 0.0}, r"adversary\.step_size"),
    ({"clean": 1.0}, r"adversary\.clean"),
]


@pytest.mark.parametrize(("settings", "named"), UNFIT)
def test_what_is_out_of_range_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AdversaryConfig(**settings)
    with pytest.raises(ConfigError, match=named):
        TrainConfig.from_dict({"adversary": settings})


def test_the_settings_survive_yaml() -> None:
    config = TrainConfig(
        adversary=AdversaryConfig(query=0.1, support=0.2, steps=3, step_size=0.05, clean=0.5)
    )
    assert TrainConfig.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_a_learner_without_training_tasks_has_no_support_to_attack() -> None:
    case = Case("Baseline", "mlp")
    with pytest.raises(ConfigError, match=r"adversary\.support = 0\.1 with Baseline"):
        moved(case, support=0.1)
    clean, found = moved(case, query=0.1)
    assert not torch.equal(clean.query.x, found.query.x)


def test_a_run_is_refused_before_it_begins(tmp_path: Path) -> None:
    tasks = Omniglot.tiny()
    learner = Baseline(Conv4(None, width=4), classes=tasks.spec.classes["train"])  # pyright: ignore
    with pytest.raises(ConfigError, match=r"adversary\.support"):
        train(
            learner, tasks, config=small_config(adversary=AdversaryConfig(support=0.1)), out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_inputs_of_whole_numbers_are_refused() -> None:
    learner = ProtoNet(nn.Sequential(nn.Embedding(9, 4), nn.Flatten()))
    words = torch.arange(54).reshape(2, 9, 3) % 9
    batch = Batch(words, torch.arange(3).repeat(2, 3))
    for settings in ({"query": 0.1}, {"support": 0.1}):
        config = AdversaryConfig(**settings)
        with pytest.raises(ContractError, match="int64"):
            attacked(learner, learner.init(torch.Generator()), Episode(batch, batch), config, place=0)


# --- what it is for --------------------------------------------------------------------------------------


def robust_accuracy(learner: ModuleLearner, meta: Meta, tasks: Any, part: str, radius: float) -> float:
    """The share of right answers on test tasks whose queries, or support, are attacked."""
    how = Attack(radius, 20, bounds=(0.0, 1.0))

    def one_task(episode: Episode, drawn: Tensor) -> Tensor:
        with running_in(training=False, first_order=True):
            if part == "support":
                episode = attacked_supports(learner, meta, episode, how, drawn)
            fast = adapt(learner, meta, episode.support, learner.test_inner_steps)
            query = episode.query
            if part == "query":
                query = attacked_queries(learner, meta, fast, query, how, drawn)
            return (learner.predict(meta, fast, query.x).argmax(-1) == query.y).double().mean()

    episodes = tasks.sample("test", 40, 0)
    with torch.no_grad(), running_in(ways=3):
        drawn = tensor_keys(2, 40, torch.device("cpu"))
        return float(over_tasks(one_task, episodes, drawn, axis="vmap").mean())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["query", "support"])
def test_training_on_attacked_tasks_makes_a_learner_robust(part: str) -> None:
    tasks, learner, found = Omniglot.tiny(), ProtoNet(Conv4(None, width=8, pooling="stride")), {}
    for radius in (0.0, 0.1):
        config = TrainConfig(steps=100, tasks_per_step=4, adversary=AdversaryConfig(**{part: radius}))
        meta = train(learner, tasks, config=config).meta
        found[radius] = robust_accuracy(learner, meta, tasks, part, 0.1)
    assert found[0.1] > found[0.0] + 0.2
