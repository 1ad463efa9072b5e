"""What findings of `innerloop stability` propose: a training that has one, and the same with its remedy.

The other rule, `BRITTLE_INNER_LR`, has its pair in `test_cli_stability.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from innerloop.cli.main import main

pytestmark = pytest.mark.slow

SHORT = "--validation.episodes 200 --validation.every 1000 --probe.level off --threads 1 --compile false"
MLP = "--model MLP --tasks-per-step 8 --optimizer.lr 0.003 --steps 300"
MAML = f"--algorithm MAML --tasks Sinusoid {MLP} --model.hidden 40,40"
RIDGE = f"--algorithm RidgeHead --algorithm.init_scale 1 --algorithm.init_lambda 0.01 {MLP}"
IMAGES = "--tasks.queries 8 --model MLP --model.hidden 64 --tasks-per-step 4 --optimizer.lr 0.003"
GLYPHS = f"--algorithm ProtoNet --tasks Glyphs --tasks.ways 3 {IMAGES} --steps 200"
DIGITS = f"--tasks Digits {IMAGES} --steps 300"


class Plant(NamedTuple):
    """A training with a weakness.

    Attributes:
        finding: the rule that finds it.
        train: options of `innerloop train`.
        only: what `innerloop stability` measures.
        options: the remedy that the finding has.
        kept: the least share of the gain over a guess, on undisturbed tasks, that the remedy leaves.
    """

    finding: str
    train: str
    only: str
    options: str
    kept: float


PLANTS = {
    # One long step is right for one step, and the next ones leap over what it found.
    "steps that overshoot": Plant(
        "OVER_ADAPTATION",
        f"{MAML} --algorithm.inner_lr 0.1 --algorithm.inner_steps 1 --tasks.shots 10",
        "inner-steps",
        "--algorithm.inner_lr 0.025",
        kept=1.0,
    ),
    # Three points are fitted ever more closely, by however short steps.
    "points that are fitted too closely": Plant(
        "OVER_ADAPTATION",
        f"{MAML} --algorithm.inner_lr 0.0125 --algorithm.inner_steps 2 --tasks.shots 3",
        "inner-steps,shots",
        "--tasks.shots 6",
        kept=0.9,
    ),
    # 64 points need no regularisation, and 16 features without it make anything of 4.
    "fewer shots than were trained": Plant(
        "SHOT_MISMATCH",
        f"{RIDGE} --model.hidden 40,16 --tasks Sinusoid --tasks.shots 8 --tasks.train_shots 64",
        "shots",
        "--tasks.train_shots 4",
        kept=1.0,
    ),
    # Embeddings of a class are summed: twice as many make a vector that is twice as long.
    "more shots than were trained": Plant(
        "SHOT_MISMATCH",
        f"--algorithm RelationNet {DIGITS} --tasks.ways 5 --tasks.shots 4",
        "shots",
        "--tasks.train_shots 8",
        kept=0.8,
    ),
    "a target that is wrong": Plant(
        "FRAGILE_TO_OUTLIERS",
        f"{MAML} --algorithm.inner_lr 0.02 --algorithm.inner_steps 5 --tasks.shots 10",
        "support-outlier",
        "--tasks.shots 20",
        kept=1.0,
    ),
    # Where one of five costs more than there is, one of ten would still cost half of it.
    "a target that ruins everything": Plant(
        "FRAGILE_TO_OUTLIERS",
        f"{MAML} --algorithm.inner_lr 0.02 --algorithm.inner_steps 5 --tasks.shots 5",
        "support-outlier",
        "--tasks.shots 20",
        kept=1.0,
    ),
    "an image of another class": Plant(
        "FRAGILE_TO_OUTLIERS",
        f"--algorithm ANIL --algorithm.inner_lr 0.5 --algorithm.inner_steps 5 {DIGITS} "
        "--tasks.ways 2 --tasks.shots 2",
        "support-outlier,shots",
        "--tasks.shots 4",
        kept=0.95,
    ),
    "images that can be moved": Plant(
        "ADVERSARIAL",
        f"{GLYPHS} --tasks.shots 2",
        "adversarial-queries,adversarial-supports",
        "--adversary.query 0.031",
        kept=0.95,
    ),
    # Attacks on one example a class halve what is left of it, even after training on them.
    "images that are still moved": Plant(
        "ADVERSARIAL",
        f"{GLYPHS} --tasks.shots 1 --adversary.query 0.031",
        "adversarial-queries,adversarial-supports",
        "--tasks.shots 2",
        kept=1.0,
    ),
}


def trained(run: Path, line: str) -> Path:
    assert main(["train", *line.split(), "--out", str(run)]) == 0
    return run


def again(run: Path, line: str) -> Path:
    """A run of the settings that another one has written down, but for those given."""
    return trained(Path(f"{run}-again"), f"--config {run}/config.yaml {line}")


def measured(run: Path, line: str) -> dict[str, Any]:
    main(["stability", str(run), "--episodes", "100", *line.split()])
    return json.loads(Path(run, "stability.json").read_text("utf-8"))


def finding(id: str, told: dict[str, Any]) -> dict[str, Any] | None:
    return next((found for found in told["findings"] if found["id"] == id), None)


def passed(id: str, told: dict[str, Any]) -> bool:
    """Whether a rule was asked and found nothing; one that could not be asked has not passed."""
    return id in [answer["id"] for answer in told["passed"]]


def gain(told: dict[str, Any]) -> float:
    return told["undisturbed"]["gain"]


@pytest.mark.parametrize("name", PLANTS)
def test_the_settings_of_a_finding_mend_it(name: str, tmp_path: Path) -> None:
    plant = PLANTS[name]
    run = trained(tmp_path / "run", f"{plant.train} {SHORT}")
    before = measured(run, f"--only {plant.only}")
    found = finding(plant.finding, before)
    assert found is not None
    assert found["options"] == plant.options
    after = measured(again(run, found["options"]), f"--only {plant.only}")
    assert passed(plant.finding, after), after["findings"]
    assert gain(after) > plant.kept * gain(before)


@pytest.mark.parametrize("name", PLANTS)
def test_training_once_more_from_another_seed_mends_nothing(name: str, tmp_path: Path) -> None:
    plant = PLANTS[name]
    told = measured(trained(tmp_path / "run", f"{plant.train} {SHORT} --seed 1"), f"--only {plant.only}")
    assert finding(plant.finding, told) is not None


def test_twice_the_inner_steps_would_not_mend_over_adaptation(tmp_path: Path) -> None:
    """A remedy that suggests itself: what was trained with more steps could be taken further."""
    plant = PLANTS["steps that overshoot"]
    run = trained(tmp_path / "run", f"{plant.train} {SHORT}")
    longer = again(run, "--algorithm.inner_steps 2 --algorithm.test_inner_steps 2")
    assert finding(plant.finding, measured(longer, f"--only {plant.only}")) is not None


def test_twice_the_shots_would_not_mend_an_outlier_that_ruins_everything(tmp_path: Path) -> None:
    plant = PLANTS["a target that ruins everything"]
    run = trained(tmp_path / "run", f"{plant.train} {SHORT}")
    more = again(run, "--tasks.shots 10")
    assert finding(plant.finding, measured(more, f"--only {plant.only}")) is not None


def test_a_shorter_rate_would_not_mend_points_that_are_fitted_too_closely(tmp_path: Path) -> None:
    plant = PLANTS["points that are fitted too closely"]
    longer = plant.train.replace("inner_lr 0.0125", "inner_lr 0.025")
    run = trained(tmp_path / "run", f"{longer} {SHORT}")
    assert finding(plant.finding, measured(run, f"--only {plant.only}")) is not None
    shorter = again(run, "--algorithm.inner_lr 0.0125")
    assert finding(plant.finding, measured(shorter, f"--only {plant.only}")) is not None


def test_a_mixture_with_unfamiliar_tasks_mends_what_they_lose(tmp_path: Path) -> None:
    """No setting names them: they are added to the sources of a configuration."""
    line = (
        f"--algorithm MAML --algorithm.inner_lr 0.2 --algorithm.inner_steps 2 {DIGITS} "
        f"--tasks.ways 5 --tasks.shots 2 --seed 1 {SHORT}"
    )
    asked = "--only unfamiliar-tasks --ood Digits --ood.permutation 1"
    run = trained(tmp_path / "run", line)
    before = measured(run, asked)
    found = finding("OOD_COLLAPSE", before)
    assert found is not None
    assert found["options"] == ""
    assert "Mixture" in found["advice"]
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    known = config["tasks"]
    config["tasks"] = {"name": "Mixture", "sources": [known, known | {"permutation": 1}]}
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(config), "utf-8")
    mixed = trained(tmp_path / "mixed", f"--config {tmp_path}/mixture.yaml")
    after = measured(mixed, asked)
    assert passed("OOD_COLLAPSE", after), after["findings"]
    # What it costs on the tasks that were familiar before: both runs are asked about them alone.
    clean = measured(mixed, "--only unfamiliar-tasks --ood Digits --ood.permutation none")
    kept = next(effect["score"] for effect in clean["effects"])
    assert kept - 0.2 > 0.85 * gain(before)


@pytest.mark.parametrize(
    "line",
    [
        f"{MAML.replace('Sinusoid', 'Linear')} --algorithm.inner_lr 0.01 --algorithm.inner_steps 5 "
        "--tasks.shots 10",
        f"{RIDGE} --model.hidden 40,40 --tasks Sinusoid --tasks.shots 20",
        f"--algorithm ProtoNet {DIGITS} --tasks.ways 5 --tasks.shots 5",
    ],
    ids=["MAML", "RidgeHead", "ProtoNet"],
)
def test_a_sound_training_has_no_finding(line: str, tmp_path: Path) -> None:
    """Asked everything; tasks that are called unfamiliar are drawn as those of the training are."""
    source = line.split("--tasks ")[1].split()[0]
    told = measured(trained(tmp_path / "run", f"{line} {SHORT}"), f"--ood {source}")
    assert told["findings"] == []
    assert {"SHOT_MISMATCH", "FRAGILE_TO_OUTLIERS", "OOD_COLLAPSE", "ADVERSARIAL"} <= {
        answer["id"] for answer in told["passed"]
    }
