"""Configurations: the same in Python and in YAML; what is unknown, mistyped or out of range is named."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cases import CASES, Case
from innerloop import algorithms, gradients, tasks
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.gradients.base import MetaGradient
from innerloop.models import MLP, Conv4
from innerloop.tasks import Arrays, Linear, Sinusoid
from innerloop.training import paths
from innerloop.training.config import (
    Aggregate,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)
from innerloop.training.experiment import RunConfig, describe
from innerloop.training.fit import train

PATHS: list[Any] = [
    None,
    *paths.known(),
    {"name": "Recompute", "segment": 4},
    gradients.Truncated(last=5, horizon=100),
    gradients.Implicit("neumann", damping=0.1),
    gradients.Evolution(sigma=0.02, antithetic=False),
]
rates = st.floats(1e-8, 10.0)
optimizers = st.builds(
    OptimizerConfig,
    name=st.sampled_from(["Adam", "AdamW", "RMSprop", "SGD"]),
    lr=rates,
    momentum=st.floats(0, 0.99),
    schedule=st.sampled_from(["constant", "linear", "cosine", "step"]),
    warmup=st.integers(0, 100),
    clip_norm=st.none() | rates,
    clip_value=st.none() | rates,
    l1=st.floats(0, 1),
    l2=st.floats(0, 1),
    average=st.none() | st.floats(0, 0.999),
    aggregate=st.sampled_from(get_args(Aggregate)),
)
objectives = st.builds(
    ObjectiveConfig,
    normalise=st.booleans(),
    worst=st.floats(0.01, 1),
    curriculum=st.floats(0, 1),
    joint=st.floats(0, 10),
    joint_until=st.none() | st.floats(0.01, 1),
    first_order_until=st.floats(0, 1),
)
configs = st.builds(
    TrainConfig,
    steps=st.integers(1, 10**6),
    seed=st.integers(0, 2**62),
    gradient=st.sampled_from(PATHS),
    tasks_axis=st.sampled_from(["auto", "vmap", "loop", 1, 7]),
    threads=st.none() | st.integers(1, 64),
    optimizer=optimizers,
    objective=objectives,
    validation=st.builds(
        ValidationConfig, every=st.none() | st.integers(1, 10**4), episodes=st.integers(2, 10**4)
    ),
)


@settings(max_examples=40, deadline=None)
@given(configs)
def test_a_configuration_survives_yaml(config: TrainConfig) -> None:
    text = yaml.safe_dump(config.to_dict())
    assert TrainConfig.from_dict(yaml.safe_load(text)) == config


BASE: dict[str, Any] = {"algorithm": "MAML", "tasks": "Sinusoid"}


@pytest.mark.parametrize(
    ("values", "suggestion"),
    [
        ({"stps": 3}, "did you mean steps?"),
        ({"optimizer": {"shedule": "cosine"}}, "did you mean optimizer.schedule?"),
        ({"validation": {"episode": 3}}, "did you mean validation.episodes?"),
        ({"objective": {"normalize": True}}, "did you mean objective.normalise?"),
        ({"algorithm": {"name": "MAML", "inner_lrr": 0.1}}, "did you mean algorithm.inner_lr?"),
        ({"algorithm": "MALM"}, "did you mean 'MAML'?"),
        ({"tasks": "Sinusoids"}, "did you mean 'Sinusoid'?"),
        ({"tasks": {"name": "Sinusoid", "shot": 3}}, "did you mean tasks.shots?"),
        ({"model": "Conv5"}, "did you mean 'Conv4'?"),
        ({"model": {"name": "MLP", "hiden": [3]}}, "did you mean model.hidden?"),
        ({"algoritm": "MAML"}, "did you mean 'algorithm'?"),
        ({"gradient": "Recomputed"}, "did you mean 'Recompute'?"),
        ({"gradient": {"name": "Recompute", "segmnt": 3}}, "did you mean gradient.segment?"),
        ({"gradient": {"name": "Unrolled", "segment": 3}}, "remove it"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(values: dict[str, Any], suggestion: str) -> None:
    with pytest.raises(ConfigError) as raised:
        RunConfig.from_dict(BASE | values)
    assert suggestion in raised.value.do
    assert len(str(raised.value).splitlines()) <= 5


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"steps": "many"}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": None}, "steps"),
        ({"steps": [3]}, "steps"),
        ({"optimizer": 3}, "optimizer"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr"),
        ({"optimizer": {"lr": True}}, "optimizer.lr"),
        ({"optimizer": {"name": "Adagrad"}}, "optimizer.name"),
        ({"optimizer": {"aggregate": "UPGrd"}}, "optimizer.aggregate"),
        ({"optimizer": {"average": "yes"}}, "optimizer.average"),
        ({"objective": {"normalise": "some"}}, "objective.normalise"),
        ({"objective": {"joint": "half"}}, "objective.joint"),
        ({"objective": "normalise"}, "objective"),
        ({"gradient": 3}, "gradient"),
        ({"gradient": {"segment": 3}}, "gradient"),
        ({"gradient": {"name": "Recompute", "segment": "few"}}, "gradient.segment"),
        ({"gradient": {"name": "Implicit", "solver": "lu"}}, "gradient.solver"),
        ({"algorithm": {"name": "MAML", "inner_steps": "two"}}, "algorithm.inner_steps"),
        ({"algorithm": {"name": "MAML", "batch_norm": "none"}}, "algorithm.batch_norm"),
        ({"model": {"name": "MLP", "hidden": "big"}}, "model.hidden"),
        ({"algorithm": None}, "algorithm"),
        ({"algorithm": {"inner_lr": 0.1}}, "algorithm"),
        ({"tasks": 3}, "tasks"),
        ({"tasks_axis": True}, "tasks_axis"),
        ({"tasks_axis": "all"}, "tasks_axis"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RunConfig.from_dict(BASE | values)


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"tasks_per_step": -1},
        {"seed": -1},
        {"threads": 0},
        {"tasks_axis": 0},
        {"checkpoint_every": 0},
        {"gradient": {"name": "Recompute", "segment": 0}},
        {"gradient": {"name": "Evolution", "sigma": -1.0}},
        {"optimizer": {"lr": 0.0}},
        {"optimizer": {"lr": -1e-3}},
        {"optimizer": {"lr": math.nan}},
        {"optimizer": {"lr": "nan"}},
        {"optimizer": {"lr": math.inf}},
        {"optimizer": {"momentum": 1.0}},
        {"optimizer": {"beta2": 1.0}},
        {"optimizer": {"clip_norm": 0.0}},
        {"optimizer": {"l2": -1.0}},
        {"optimizer": {"decay_every": 0}},
        {"optimizer": {"average": 1.0}},
        {"optimizer": {"average": -0.1}},
        {"objective": {"worst": 0.0}},
        {"objective": {"worst": 1.1}},
        {"objective": {"curriculum": 1.1}},
        {"objective": {"joint": -1.0}},
        {"objective": {"joint_until": 0.0}},
        {"objective": {"first_order_until": "nan"}},
        {"validation": {"every": 0}},
        {"validation": {"episodes": 1}},
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RunConfig.from_dict(BASE | values)


@pytest.mark.parametrize(
    ("component", "values"),
    [
        ("algorithm", {"inner_lr": -0.1}),
        ("algorithm", {"inner_lr": "nan"}),
        ("algorithm", {"inner_steps": -1}),
        ("tasks", {"shots": 0}),
        ("model", {"hidden": [0]}),
    ],
)
def test_components_out_of_range_are_refused_when_built(component: str, values: dict[str, Any]) -> None:
    names = {"algorithm": "MAML", "tasks": "Sinusoid", "model": "MLP"}
    config = {kind: {"name": name} for kind, name in names.items()}
    config[component] |= values
    with pytest.raises(ConfigError, match=next(iter(values)).removesuffix("s")):
        RunConfig.from_dict(config).build()


def test_numbers_may_be_given_as_text() -> None:
    values = {"steps": "5", "optimizer": {"lr": "0.1", "clip_norm": "none"}, "tasks_axis": "3"}
    config = RunConfig.from_dict(BASE | values).train
    assert (config.steps, config.optimizer.lr, config.optimizer.clip_norm) == (5, 0.1, None)
    assert config.tasks_axis == 3


def test_what_is_no_yaml_mapping_is_refused(tmp_path: Path) -> None:
    for text in ("- 1\n- 2", "a: [", "\ufffd: \x00", ""):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError):
            RunConfig.from_yaml(path)
    with pytest.raises(ConfigError, match="check the path"):
        RunConfig.from_yaml(tmp_path / "missing.yaml")


# --- gradient paths --------------------------------------------------------------------------------------


def test_every_gradient_path_has_a_name() -> None:
    """Planted: a class that is abstract, and one that is no gradient, are none."""
    defined = {cls for cls in subclasses(MetaGradient) if cls.__module__.startswith("innerloop.gradients.")}
    concrete = {cls.__name__: cls for cls in defined if ABC not in cls.__bases__}
    assert paths.known() == concrete
    assert {"Sweep", "MetaGradient", "Record"}.isdisjoint(paths.known())


def subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(subclasses, cls.__subclasses__()))


@pytest.mark.parametrize("name", paths.known())
def test_a_path_is_the_same_by_name_by_arguments_and_as_an_object(name: str) -> None:
    path = paths.known()[name]()
    ways = [name, {"name": name}, paths.plain(path), path]
    assert [TrainConfig(gradient=way).gradient for way in ways] == [path] * 4
    assert TrainConfig.from_dict({"gradient": name}).gradient == path


def test_no_path_is_the_learner_s_own() -> None:
    for none in (None, "none", {"name": "null"}, {}):
        assert TrainConfig(gradient=none).gradient is None


class Mine(gradients.FirstOrder):  # another class, of a name that no file can find
    pass


def test_a_path_of_one_s_own_is_used_and_asked_for_when_a_file_cannot_describe_it(tmp_path: Path) -> None:
    config = TrainConfig(steps=1, gradient=Mine(), validation=ValidationConfig(episodes=2))
    learner = algorithms.MAML(MLP(1, 1), loss="mse")
    run = train(learner, Sinusoid.tiny(), config=config, out=tmp_path / "run")
    assert run.config.train.gradient == Mine()
    stored = RunConfig.from_yaml(tmp_path / "run" / "config.yaml")
    assert stored.train.to_dict()["gradient"] == {"name": "Mine", "custom": True}
    with pytest.raises(ContractError, match=r"gradient is Mine.*\n.*TrainConfig\(gradient=\.\.\.\)"):
        train(learner, Sinusoid.tiny(), config=stored.train)


@pytest.mark.parametrize(
    ("learner", "name", "said"),
    [
        (algorithms.ProtoNet(Conv4(None, width=3)), "Displacement", "no initialisation to displace"),
        (algorithms.MAML(Conv4(3, width=3)), "Implicit", "does not depend on meta"),
    ],
)
def test_a_path_that_a_learner_cannot_use_is_refused_before_anything_is_written(
    learner: Any, name: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=said):
        train(learner, Arrays.tiny(), config=TrainConfig(gradient=name), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- objects and their descriptions ----------------------------------------------------------------------


def settings_of(thing: object) -> dict[str, Any]:
    plain = (int, float, str, bool, tuple, type(None))
    return {
        name: value for name, value in vars(thing).items() if isinstance(value, plain) and name != "training"
    }


@pytest.mark.parametrize("case", [c for c in CASES if c.network != "group"], ids=str)
def test_a_described_learner_is_built_again(case: Case, tmp_path: Path) -> None:
    learner, source = case.learner(), Sinusoid(shots=3, queries=4) if case.regression else Arrays.tiny()
    config = describe(learner, source, TrainConfig(steps=7))
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = RunConfig.from_yaml(path)
    assert again.to_dict() == config.to_dict()
    built, tasks_again = again.build(source=None if case.regression else source)
    assert type(built) is type(learner)
    assert settings_of(built) == settings_of(learner)
    assert settings_of(built.module) == settings_of(learner.module)
    if case.regression:
        assert settings_of(tasks_again) == settings_of(source)
    metas = [tree.flatten(x.init(torch.Generator().manual_seed(1))) for x in (learner, built)]
    assert metas[0].keys() == metas[1].keys()
    assert all(torch.equal(metas[0][path], metas[1][path]) for path in metas[0])


def test_what_a_file_cannot_describe_is_asked_for() -> None:
    own = algorithms.MAML(nn.Linear(1, 1), loss="mse")
    config = RunConfig.from_dict(yaml.safe_load(describe(own, Linear(), TrainConfig()).to_yaml()))
    with pytest.raises(ContractError, match=r"il\.load\(path, module=\.\.\.\)"):
        config.build()
    assert config.build(module=own.module)[0].loss == "mse"
    arrays = describe(algorithms.MAML(MLP(784, 3)), Arrays.tiny(), TrainConfig())
    with pytest.raises(ContractError, match=r"Arrays \(x, y\)"):
        RunConfig.from_dict(yaml.safe_load(arrays.to_yaml())).build()


def test_sizes_and_loss_follow_the_tasks_unless_given() -> None:
    learner, source = RunConfig.from_dict(BASE).build()
    assert learner.loss == "mse"
    assert isinstance(learner.module, MLP)
    assert (learner.module.inputs, learner.module.outputs) == (1, 1)
    config = RunConfig.from_dict(
        {"algorithm": "ProtoNet", "tasks": {"name": "Arrays", "external": ["x", "y"]}}
    )
    module = config.build(source=Arrays.tiny())[0].module
    assert isinstance(module, Conv4)
    assert module.ways is None
    assert source.spec.loss == "mse"


def test_images_that_are_too_small_for_four_halvings_have_an_mlp_unless_a_model_is_named() -> None:
    values = {"algorithm": "MAML", "tasks": "RotatedDigits"}
    learner, source = RunConfig.from_dict(values).build()
    assert source.spec.input_shape == (1, 8, 8)
    assert isinstance(learner.module, MLP)
    with pytest.raises(ConfigError, match="size >= 16"):
        RunConfig.from_dict(values | {"model": "Conv4"}).build()


def test_every_component_keeps_its_arguments_under_their_own_names() -> None:
    source = tasks.Sinusoid(shots=3, queries=4, train_shots=9)
    assert dict(describe(algorithms.MAML(MLP(1, 1), loss="mse"), source, TrainConfig()).tasks) == {
        "name": "Sinusoid",
        "shots": 3,
        "queries": 4,
        "outliers": 0.0,
        "train_shots": 9,
        "train_queries": None,
    }


# --- the rate is a pure function -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "linear"}, [1.0, 0.75, 0.5, 0.25]),
        ({"schedule": "linear", "min_lr": 0.2}, [1.0, 0.8, 0.6, 0.4]),
        ({"schedule": "cosine"}, [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ({"schedule": "step", "decay": 0.1, "decay_every": 2}, [1.0, 1.0, 0.1, 0.1]),
        ({"schedule": "constant", "warmup": 2}, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules_are_the_known_ones(schedule: dict[str, Any], expected: list[float]) -> None:
    config = OptimizerConfig(lr=1.0, **schedule)
    assert [config.rate(step, 4) for step in range(4)] == pytest.approx(expected)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 3  # pyright: ignore
