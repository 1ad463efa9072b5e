"""Classes read from their source, and the layers of a configuration."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from innerloop import algorithms, gradients, models, tasks
from innerloop.cli import described, recipes, settings
from innerloop.cli.options import Parsed, parse
from innerloop.core.errors import ConfigError
from innerloop.tasks.streaming import StreamTasks
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import RunConfig
from innerloop.training.paths import known

PACKAGES = {"algorithm": algorithms, "model": models, "tasks": tasks, "gradient": gradients}
EVERY = [(kind, name) for kind in PACKAGES for name in described.registry(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_class_read_from_its_source_has_the_arguments_it_has(kind: str, name: str) -> None:
    found = described.component(kind, name)
    assert list(found.arguments) == list(inspect.signature(getattr(PACKAGES[kind], name)).parameters)
    assert found.about


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_argument_is_described(kind: str, name: str) -> None:
    assert [a.name for a in described.component(kind, name).arguments.values() if not a.about] == []


def test_the_gradients_read_from_source_are_those_there_are() -> None:
    assert list(described.registry("gradient")) == sorted(known())
    assert not described._is_below("MetaGradient", "gradients/sweep.py", "Sweep"), (
        "planted: an abstract class"
    )
    assert not described._is_below("MetaGradient", "gradients/base.py", "Record"), "planted: another class"


def test_a_stream_is_tasks_under_another_name() -> None:
    given = gathered("--stream SinusoidFamilies --stream.shots 5")
    assert given["tasks"] == {"name": "SinusoidFamilies", "shots": "5"}
    assert set(described.streams()) == {
        name
        for name in tasks.REGISTRY
        if isinstance(getattr(tasks, name), type) and issubclass(getattr(tasks, name), StreamTasks)
    }


@pytest.mark.parametrize(
    "line", ["--stream Sinusoid", "--stream TaskStreams", "--stream TaskStream --tasks Cart"]
)
def test_what_is_no_stream_is_refused_under_that_name(line: str) -> None:
    with pytest.raises(ConfigError, match="stream"):
        gathered(line)


def test_every_setting_of_the_outer_loop_is_an_option() -> None:
    plain = TrainConfig().to_dict()
    dotted = {
        f"{n}.{k}" if isinstance(v, dict) else n
        for n, v in plain.items()
        for k in (v if isinstance(v, dict) else " ")
    }
    assert set(settings.outer_loop()) == dotted
    switches = {name for name in dotted if settings.takes(name) == "maybe"}
    assert switches == {"objective.normalise", "retain.project"}
    assert all(settings.takes(name) == "value" for name in dotted - switches)


def gathered(line: str) -> dict[str, object]:
    return settings.gather(parse(line.split(), settings.takes))


def test_options_override_the_file_which_overrides_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "folder", lambda: tmp_path)
    recipe = "about: a test\nalgorithm: {name: MAML, inner_lr: 0.1}\ntasks: Sinusoid\nsteps: 1\nseed: 1\n"
    (tmp_path / "r.yaml").write_text(recipe, "utf-8")
    (tmp_path / "f.yaml").write_text("algorithm: {inner_steps: 2}\nsteps: 2\noptimizer: {lr: 1}\n", "utf-8")
    found = gathered(f"--recipe r --config {tmp_path}/f.yaml --steps 3 --optimizer SGD")
    assert found == {
        "algorithm": {"name": "MAML", "inner_lr": 0.1, "inner_steps": 2},
        "tasks": {"name": "Sinusoid"},
        "steps": "3",
        "seed": 1,
        "optimizer": {"lr": 1, "name": "SGD"},
    }


def test_another_component_drops_the_arguments_of_the_one_before() -> None:
    base = {"algorithm": {"name": "MAML", "inner_lr": 0.1}}
    assert settings.merged(base, {"algorithm": {"name": "ProtoNet"}}) == {"algorithm": {"name": "ProtoNet"}}
    kept = settings.merged(base, {"algorithm": {"name": "MAML", "inner_steps": "2"}})
    assert kept == {"algorithm": {"name": "MAML", "inner_lr": 0.1, "inner_steps": "2"}}
    gradient = settings.merged({"gradient": "Recompute"}, {"gradient": {"segment": "4"}})
    assert gradient == {"gradient": {"name": "Recompute", "segment": "4"}}
    assert settings.merged({"gradient": {"name": "Recompute", "segment": 4}}, {"gradient": "Unrolled"}) == {
        "gradient": {"name": "Unrolled"}
    }


@pytest.mark.parametrize("text", ["20,30", "[20,30]", "[20,30,]"])
def test_a_list_is_written_with_commas(text: str) -> None:
    assert gathered(f"--model MLP --model.hidden {text}")["model"] == {"name": "MLP", "hidden": ["20", "30"]}


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("--inner-lr 1", "--algorithm.inner_lr"),
        ("--algorithm.iner_lr 1", "--algorithm.inner_lr"),
        ("--tasks.wayz 1", "--tasks.ways"),
        ("--stepz 1", "--steps"),
        ("--optimiser Adam", "--optimizer"),
        ("--optimizer.lrr 1", "--optimizer.lr"),
        ("--rezume", "--resume"),
        ("--algoritm.inner_lr 1", "--algorithm.inner_lr"),
        ("--model.pool max", "--model.pooling"),
    ],
)
def test_an_unknown_setting_has_a_nearest_name(line: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gathered(line)
    assert caught.value.do == f"did you mean {near}?"


def test_a_setting_like_none_is_sent_to_the_help() -> None:
    with pytest.raises(ConfigError, match="see 'innerloop train --help'"):
        gathered("--tasks.qqqq 1")


def test_a_name_may_be_written_as_in_the_file() -> None:
    assert gathered("--tasks.name Sinusoid --optimizer.name SGD") == gathered(
        "--tasks Sinusoid --optimizer SGD"
    )


def test_tasks_that_need_arrays_are_for_python() -> None:
    with pytest.raises(ConfigError, match=r"il\.tasks\.Arrays"):
        settings.require({"algorithm": {"name": "MAML"}, "tasks": {"name": "Arrays"}})


@pytest.mark.parametrize("name", recipes.places())
def test_a_recipe_is_a_configuration_with_a_line_about_it(name: str) -> None:
    path = recipes.find(name)
    assert 10 < len(recipes.about(path)) < 120
    values = settings.gather(Parsed({"recipe": name}))
    assert RunConfig.from_dict(values).train.steps == yaml.safe_load(path.read_text("utf-8"))["steps"]
