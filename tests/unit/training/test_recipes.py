"""Every recipe is a configuration that builds, and says in one line what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from innerloop import tasks
from innerloop.training.experiment import RunConfig

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert {"glyphs-demo", "sinusoid-maml", "omniglot-5way-1shot-maml"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_a_learner(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    about = values.pop("about")
    assert "\n" not in about
    config = RunConfig.from_dict(values)
    stand_in = getattr(tasks, config.tasks["name"]).tiny()
    assert config.build_learner(stand_in.spec).loss == stand_in.spec.loss
