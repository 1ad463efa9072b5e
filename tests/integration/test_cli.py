"""The command line as a user meets it: train, evaluate, compare, adapt, list."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from innerloop import load, load_adapted
from innerloop.cli import progress
from innerloop.cli.main import main

SINUSOID = "--algorithm MAML --tasks Sinusoid --steps 6 --validation.episodes 4 --validation.every 3"
IMAGES = "--tasks ImageFolder --tasks.grey --tasks.invert --tasks.ways 2 --tasks.queries 2 --model.width 8"
SHORT = "--steps 4 --tasks-per-step 2 --validation.episodes 4 --validation.every 2"

Said = Callable[[str], str]


def draw_character(number: int, example: int, *, paper: int = 255, ink: int = 0) -> Image.Image:
    """A bar at an angle of its own for each character, a little off in each example."""
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    angle = np.pi * number / 10 + 0.05 * np.sin(7 * example + number)
    near = np.abs(x * np.sin(angle) - y * np.cos(angle) + 0.03 * np.cos(5 * example)) < 0.12
    inside = x**2 + y**2 < 0.7
    return Image.fromarray(np.where(near & inside, ink, paper).astype(np.uint8))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a folder of images, a cache of its own, and three short runs."""
    path = tmp_path_factory.mktemp("work")
    before, cache = Path.cwd(), os.environ.get("INNERLOOP_CACHE")
    os.chdir(path)
    os.environ["INNERLOOP_CACHE"] = str(path / "cache")
    for number in range(10):
        folder = path / "images" / f"character{number}"
        folder.mkdir(parents=True)
        for example in range(4):
            draw_character(number, example).save(folder / f"{example}.png")
    runs = {
        "maml": f"--algorithm MAML --algorithm.inner_lr 0.1 --algorithm.inner_steps 2 {IMAGES} {SHORT}",
        "proto": f"--algorithm ProtoNet --algorithm.batch_norm running {IMAGES} {SHORT}",
        "sinusoid": SINUSOID,
    }
    for name, line in runs.items():
        root = ["--tasks.root", "images"] if name != "sinusoid" else []
        assert main(["train", *line.split(), *root, "--out", f"runs/{name}"]) == 0
    yield path
    os.chdir(before)
    os.environ.pop("INNERLOOP_CACHE")
    if cache is not None:
        os.environ["INNERLOOP_CACHE"] = cache


@pytest.fixture
def said(place: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command line that must succeed, and gives what it prints on stdout."""

    def run(line: str) -> str:
        capsys.readouterr()
        assert main(line.split()) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


# --- plan ------------------------------------------------------------------------------------------------


def test_a_plan_names_each_path_and_writes_nothing(said: Said, tmp_path: Path) -> None:
    line = "plan --algorithm MAML --algorithm.inner_steps 5 --tasks Sinusoid --tasks-per-step 2"
    before = sorted(Path.cwd().rglob("*"))
    found = json.loads(said(f"{line} --json"))
    assert {"Unrolled", "Recompute", "FirstOrder"} <= {path["gradient"] for path in found["paths"]}
    assert found["chosen"] == "Unrolled"
    (tmp_path / "c.yaml").write_text("algorithm: MAML\ntasks: Sinusoid\nmemory: 0.000001\n", "utf-8")
    text = said(f"plan --config {tmp_path}/c.yaml --algorithm.inner_steps 5")
    assert re.search(r"Recompute +exact +\S+ +\S+ MB  no", text)
    assert "nothing exact fits" in text
    assert sorted(Path.cwd().rglob("*")) == before
    assert "--config FILE" in said("plan --help")


def test_training_by_a_path_with_arguments_is_resumed(said: Said, tmp_path: Path) -> None:
    line = f"train {SINUSOID} --gradient Truncated --gradient.last 1 --gradient.horizon 4"
    said(f"{line} --out {tmp_path}/a")
    said(f"train --resume --steps 8 --out {tmp_path}/a --gradient.horizon 4")
    stored = yaml.safe_load((tmp_path / "a/config.yaml").read_text("utf-8"))
    chosen = {name: stored["gradient"][name] for name in ("name", "last", "horizon")}
    assert (chosen, stored["steps"]) == ({"name": "Truncated", "last": 1, "horizon": 4}, 8)
    assert "Recompute" in said("list gradients")
    assert "--gradient.solver" in said("train --gradient Implicit --help")


# --- train -----------------------------------------------------------------------------------------------


def test_a_run_folder_holds_the_whole_run(place: Path) -> None:
    names = {path.name for path in (place / "runs/maml").iterdir()}
    wanted = {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "validation.png"}
    assert wanted <= names
    assert (place / "runs/maml/checkpoints/best.safetensors").is_file()


def test_training_tells_baselines_scores_and_where_everything_is(said: Said, tmp_path: Path) -> None:
    lines = said(f"train {SINUSOID} --out {tmp_path}/a").splitlines()
    assert lines[0] == "MAML with MLP on Sinusoid: 6 steps of 4 tasks"
    assert re.match(r"before training: mse .* \+- .*; .*nearest neighbour", lines[2])
    looks = [line for line in lines if "validation mse" in line and line.startswith("step")]
    assert len(looks) == 2
    assert all(re.search(r"loss \d.* tasks/s.* validation mse \S+ \+- \S+", line) for line in looks)
    assert lines[-2:] == [
        f"next        innerloop evaluate {tmp_path}/a",
        f"            innerloop doctor {tmp_path}/a",
    ]
    assert any(line.startswith("verdict     UNRESOLVED") for line in lines)
    said_where = [line for line in lines if line.startswith(("run folder  ", "best  ", "picture  "))]
    named = [Path(re.split(r" {2,}", line)[1].split(" (")[0]) for line in said_where]
    assert len(named) == 3
    assert all(path.exists() for path in named)


def test_on_a_terminal_a_bar_tells_the_same(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "Lines", progress.Bar)
    text = said(f"train {SINUSOID} --out {tmp_path}/a")
    assert re.search(r"before training: mse .* nearest\s+neighbour", text)
    assert re.search(r"step 6/6 .*loss \d", text)


def test_without_out_the_next_free_folder_is_taken(said: Said, place: Path) -> None:
    for number in (1, 2):
        assert f"run folder runs/maml-sinusoid-{number}" in said(
            f"train {SINUSOID} --steps=1".replace("--steps 6 ", "")
        )
        assert (place / f"runs/maml-sinusoid-{number}/config.yaml").is_file()


def test_the_printed_configuration_is_whole_and_makes_the_same_run(said: Said, tmp_path: Path) -> None:
    line = f"train {SINUSOID} --algorithm.inner_lr 0.02 --model.hidden 8,8"
    text = said(f"{line} --print-config --out {tmp_path}/never")
    assert not (tmp_path / "never").exists()
    values = yaml.safe_load(text)
    assert values["algorithm"] == {
        "name": "MAML",
        "inner_lr": 0.02,
        "inner_steps": 1,
        "test_inner_steps": None,
        "inner_rule": "SGD",
        "inner_clip": None,
        "step_weights": None,
        "batch_norm": "support",
    }
    assert (values["model"]["hidden"], values["steps"], values["optimizer"]["lr"]) == ([8, 8], 6, 0.001)
    (tmp_path / "c.yaml").write_text(text, "utf-8")
    said(f"{line} --out {tmp_path}/a")
    said(f"train --config {tmp_path}/c.yaml --out {tmp_path}/b")
    one, other = (load(tmp_path / name) for name in "ab")
    assert one.config == other.config
    assert all((one.meta["params"][n] == p).all() for n, p in other.meta["params"].items())


def test_print_config_needs_no_data(said: Said) -> None:
    text = said(
        "train --algorithm ProtoNet --tasks Omniglot --tasks.root /nowhere --model.width 8 --print-config"
    )
    values = yaml.safe_load(text)
    assert values["model"] == {
        "name": "Conv4",
        "width": 8,
        "pooling": "stride",
        "halvings": 4,
        "norm": "batch",
        "dropout": 0.0,
    }
    assert "follow the tasks: model.channels" in text


def test_resume_with_more_steps_trains_on(said: Said, tmp_path: Path) -> None:
    said(f"train {SINUSOID} --out {tmp_path}/a")
    text = said(f"train --resume --out {tmp_path}/a --steps 8")
    assert f"run folder {tmp_path}/a, from step 6" in text
    assert load(tmp_path / "a").config.train.steps == 8
    rows = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [0, 3, 6, 8]


def test_resume_takes_the_command_that_started_the_run(said: Said, tmp_path: Path) -> None:
    for _ in range(2):  # the first finds nothing to resume, the second nothing left to do
        said(f"train {SINUSOID} --resume --out {tmp_path}/a")
    assert load(tmp_path / "a").config.train.steps == 6


def test_overwrite_starts_again(said: Said, tmp_path: Path) -> None:
    said(f"train {SINUSOID} --out {tmp_path}/a")
    said(f"train {SINUSOID} --seed 1 --out {tmp_path}/a --overwrite")
    assert load(tmp_path / "a").config.train.seed == 1


def test_help_lists_settings_and_those_of_the_components_named(said: Said) -> None:
    page = said("train --help")
    assert re.search(r"--tasks-per-step N +tasks in each \[4\]", page)
    assert re.search(r"--optimizer.lr X +initial rate, > 0 \[0.001\]", page)
    assert "--algorithm.inner_lr" not in page
    page = said("train --algorithm Reptile --tasks Omniglot --model Conv4 --help")
    assert all(f"--{name}" in page for name in ("algorithm.inner_batch", "tasks.protocol", "model.pooling"))


# --- evaluate and compare --------------------------------------------------------------------------------


def test_evaluate_prints_one_json_object(said: Said, place: Path) -> None:
    found = json.loads(said("evaluate runs/maml --episodes 6 --json"))
    assert {"metric", "mean", "ci95", "n", "batch_norm", "baselines"} <= set(found)
    assert (found["metric"], found["n"], found["batch_norm"], found["split"]) == (
        "accuracy",
        6,
        "support",
        "test",
    )
    assert [row["inner_steps"] for row in found["adaptation"]] == [0, 1, 2]
    for baseline in found["baselines"].values():
        assert {"mean", "ci95", "difference", "difference_ci95"} <= set(baseline)


def test_evaluate_prints_a_table_and_keeps_the_records(said: Said, place: Path) -> None:
    text = said(
        "evaluate runs/maml --episodes 6 --seed 1 --shots 2 --inner-steps 3 --batch-norm transductive"
    )
    assert re.search(
        r"accuracy after 3 inner steps: \S+ \+- \S+ %  \(95 % interval, n=6, BatchNorm transductive\)", text
    )
    assert re.search(r"nearest neighbour +\S+ \+- \S+ % +[+-]\S+ \+- \S+ %", text)
    name = "evaluation-test-s1-n6-steps3-bn-transductive-k2"
    written = json.loads((place / f"runs/maml/{name}.json").read_text("utf-8"))
    assert [len(record["scores"]) for record in written["records"]] == [4] * 6
    assert (place / f"runs/maml/{name}.png").is_file()


def test_the_same_seed_gives_the_same_scores(said: Said) -> None:
    line = "evaluate runs/sinusoid --episodes 5 --json"
    assert said(line) == said(line)
    assert said(line) != said(line + " --seed 1")


def test_errors_are_not_percentages(said: Said) -> None:
    text = said("evaluate runs/sinusoid --episodes 6")
    assert re.search(
        r"mse after 1 inner step: \d+\.\d{3} \+- \d+\.\d{3}  \(95 % interval, n=6\)\nmedian \d", text
    )


def test_diverged_tasks_are_counted(said: Said, tmp_path: Path) -> None:
    said(f"train {SINUSOID} --algorithm.inner_lr 1e-9 --out {tmp_path}/a")
    config = tmp_path / "a/config.yaml"
    config.write_text(config.read_text("utf-8").replace("1.0e-09", "1.0e+30"), "utf-8")
    text = said(f"evaluate {tmp_path}/a --episodes 4 --inner-steps 3")
    assert "mse after 3 inner steps: not finite" in text
    assert "4 of 4 tasks diverged" in text


def test_compare_judges_all_runs_on_the_same_tasks(said: Said) -> None:
    found = json.loads(said("compare runs/maml runs/proto runs/maml --episodes 6 --shots 2 --json"))
    assert (found["shots"], found["n"], found["reference"]) == (2, 6, "runs/maml")
    alone = json.loads(said("evaluate runs/proto --episodes 6 --shots 2 --json"))
    first, second, third = found["runs"]
    assert second["mean"] == alone["mean"]
    assert second["difference"] == pytest.approx(second["mean"] - first["mean"], abs=2e-6)
    assert third["difference"] == 0.0
    text = said("compare runs/maml runs/proto --episodes 6")
    assert re.search(r"runs/proto +ProtoNet +running +0 +\S+ \+- \S+ % +[+-]\S+ \+- \S+ %", text)


# --- adapt -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawings(place: Path) -> Path:
    """Two new characters: one support image each, and query images dark on light and light on dark."""
    for name, number in (("flat", 0), ("steep", 5)):
        (place / "new/support" / name).mkdir(parents=True)
        draw_character(number, 9).resize((60, 60)).convert("RGB").save(place / f"new/support/{name}/a.png")
        (place / "new/query").mkdir(exist_ok=True)
        draw_character(number, 10).save(place / f"new/query/{name}.png")
    return place / "new"


def test_adapt_labels_images_with_probabilities(said: Said, drawings: Path) -> None:
    line = f"adapt runs/proto --support {drawings}/support --query {drawings}/query"
    found = json.loads(said(f"{line} --json"))
    assert found["classes"] == ["flat", "steep"]
    assert (found["inner_steps"], found["batch_norm"], found["transductive"]) == (0, "running", False)
    assert [Path(p["file"]).stem for p in found["predictions"]] == ["flat", "steep"]
    for prediction in found["predictions"]:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert prediction["probability"] == max(prediction["probabilities"].values())
    lines = said(line).splitlines()
    assert re.match(r"\S+/flat.png +(flat|steep) +[01]\.\d{3}$", lines[2])


def test_adapt_takes_a_single_image_and_learns_by_its_support(said: Said, drawings: Path) -> None:
    query = drawings / "support/steep/a.png"
    line = f"adapt runs/proto --support {drawings}/support --query {query} --json"
    (prediction,) = json.loads(said(line))["predictions"]
    assert prediction["label"] == "steep"


def test_a_saved_adapted_model_predicts_the_same(said: Said, drawings: Path, tmp_path: Path) -> None:
    line = f"adapt runs/maml --support {drawings}/support --query {drawings}/query --inner-steps 1"
    assert f"adapted model {tmp_path}/kept" in said(f"{line} --save {tmp_path}/kept")
    assert load_adapted(tmp_path / "kept").classes == ["flat", "steep"]


@pytest.mark.parametrize(("source", "turned"), [("invert", True), ("plain", False)])
def test_ink_is_turned_as_in_training(said: Said, place: Path, source: str, turned: bool) -> None:
    from innerloop.cli.adapt import Reader

    run = load("runs/proto")
    own = dict(run.config.tasks) | {"invert": source == "invert"}
    run.config = dataclasses.replace(run.config, tasks=own)
    image = place / "images/character0/0.png"
    assert bool(Reader(run, "auto").all([image]).mean() < 0.5) == turned
    assert bool(Reader(run, "no").all([image]).mean() < 0.5) is False
    assert bool(Reader(run, "yes").all([image]).mean() < 0.5) is True


def test_ink_on_paper_is_known_by_its_border(place: Path, tmp_path: Path) -> None:
    from innerloop.cli.adapt import Reader

    run = load("runs/proto")
    own = {name: value for name, value in run.config.tasks.items() if name != "invert"}
    run.config = dataclasses.replace(run.config, tasks=own)  # a source of characters: ink is 1
    draw_character(0, 0).save(tmp_path / "dark.png")
    draw_character(0, 0, paper=0, ink=255).save(tmp_path / "light.png")
    one, other = Reader(run, "auto").all([tmp_path / "dark.png", tmp_path / "light.png"])
    assert one.mean() < 0.5
    assert (one - other).abs().max() < 0.02


# --- list and the rest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "name"),
    [("algorithms", "MAML"), ("tasks", "Omniglot"), ("models", "Conv4"), ("recipes", "glyphs-demo")],
)
def test_list_names_what_there_is(said: Said, what: str, name: str) -> None:
    assert re.search(rf"^{name} +\w", said(f"list {what}"), re.MULTILINE)
    found = json.loads(said(f"list {what} --json"))
    assert next(entry["about"] for entry in found if entry["name"] == name)


@pytest.mark.parametrize(
    "line", ["list algorithms", "list recipes", "train --algorithm MAML --help", "evaluate --help"]
)
def test_lists_and_help_do_without_torch(line: str) -> None:
    program = f"import sys; from innerloop.cli.main import main; main({line.split()!r})\n"
    program += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("command", ["train", "evaluate", "compare", "adapt", "list"])
def test_every_command_has_a_help_page(said: Said, command: str) -> None:
    assert said(f"{command} --help").startswith(f"usage: innerloop {command}")
    assert said(f"{command} -h") == said(f"{command} --help")


def test_version_and_help(said: Said) -> None:
    assert re.fullmatch(r"innerloop \d+\.\d+\.\d+\n", said("--version"))
    assert said("--help") == said("")
