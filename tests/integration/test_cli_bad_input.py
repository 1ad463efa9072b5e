"""Bad input on the command line: a message of at most five lines, an exit code, and nothing overwritten."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from innerloop.cli.main import main
from innerloop.training.run import load

SINUSOID = "--algorithm MAML --tasks Sinusoid --steps 4 --validation.episodes 2"


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Refused:
    """Runs a command line and checks the form that every refusal has."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, line: str, code: int = 2) -> str:
        self.capsys.readouterr()
        found = Said(main(line.split()), *self.capsys.readouterr())
        last = found.err.splitlines()[-4:]
        assert found.code == code, found
        assert [text.split(":")[0] for text in last] == ["error", "got", "expected", "do"], found.err
        assert "Traceback" not in found.out + found.err
        notes = [
            text for text in found.err.splitlines()[:-4] if not text.startswith(("evaluating", "warning"))
        ]
        assert notes == []
        return "\n".join(last)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "sinusoid"
    assert main(["train", *SINUSOID.split(), "--out", str(path)]) == 0
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a run, to do harm to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "cache"))


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# --- names and values ------------------------------------------------------------------------------------

NAMES = [
    ("trian", "command 'trian'", "'train'"),
    ("list algoritms", "list 'algoritms'", "'algorithms'"),
    ("train --algorithm MALM --tasks Sinusoid", "algorithm 'MALM'", "'MAML'"),
    ("train --algorithm maml --tasks Sinusoid", "algorithm 'maml'", "'MAML'"),
    ("train --algorithm MAML --tasks Sinusiod", "tasks 'Sinusiod'", "'Sinusoid'"),
    ("train --algorithm MAML --tasks Sinusoid --model MPL", "model 'MPL'", "'MLP'"),
    ("train --algorithm MAML --tasks Sinusoid --inner_lr 1", "option --inner-lr", "--algorithm.inner_lr"),
    (
        "train --algorithm MAML --tasks Sinusoid --tasks-per-stp 1",
        "option --tasks-per-stp",
        "--tasks-per-step",
    ),
    (
        "train --algorithm ProtoNet --tasks Sinusoid --algorithm.inner_lr 1",
        "algorithm.inner_lr of ProtoNet",
        "",
    ),
    ("train --algorithm MAML --tasks Sinusoid --gradient Recmpute", "gradient 'Recmpute'", "'Recompute'"),
    (
        "train --algorithm MAML --tasks Sinusoid --gradient.sgment 1",
        "--gradient.sgment",
        "--gradient.segment",
    ),
    ("plan --algorithm MAML --tasks Sinusoid --resume", "option --resume", "--"),
    ("plan --algorithm MAML --tasks Sinusoid --jsn", "option --jsn", "--"),
    ("list gradient", "list 'gradient'", "'gradients'"),
    ("train --recipe glyph-demo", "recipe 'glyph-demo'", "'glyphs-demo'"),
    ("train --algorithm MALM --help", "algorithm 'MALM'", "'MAML'"),
    ("evaluate run --episode 3", "option --episode", "--episodes"),
    ("compare run run --sead 3", "option --sead", "--seed"),
]


@pytest.mark.parametrize(("line", "got", "near"), NAMES)
def test_an_unknown_name_is_answered_with_the_nearest(
    refused: Refused, line: str, got: str, near: str
) -> None:
    text = refused(line)
    assert got in text
    assert near in text.splitlines()[-1]


VALUES = [
    ("--steps many", "steps = 'many'"),
    ("--steps 0", "steps = 0"),
    ("--steps 1.5", "steps = '1.5'"),
    ("--steps", "--steps without a value"),
    ("--steps 1 --steps 2", "--steps twice"),
    ("--seed -1", "seed = -1"),
    ("--tasks-per-step 0", "tasks_per_step = 0"),
    ("--optimizer Adamm", "optimizer.name = 'Adamm'"),
    ("--optimizer.lr -0.1", "optimizer.lr = -0.1"),
    ("--optimizer.lr nan", "optimizer.lr = nan"),
    ("--optimizer.lr inf", "optimizer.lr = inf"),
    ("--optimizer.momentum 1", "optimizer.momentum = 1.0"),
    ("--gradient Unroled", "gradient 'Unroled'"),
    ("--gradient.segment 3", "gradient = {'segment': '3'}"),
    ("--gradient Recompute --gradient.segment 0", "segment = 0"),
    ("--gradient Recompute --gradient.sigma 0", "gradient.sigma of Recompute"),
    ("--memory 0", "memory = 0"),
    ("--memory much", "memory = 'much'"),
    ("--precision float16", "precision = 'float16'"),
    ("--gradient Implicit", "does not depend on meta"),
    ("--device gpu", "device = 'gpu'"),
    ("--tasks-axis vmapp", "'vmapp'"),
    ("--validation.episodes 1", "validation.episodes = 1"),
    ("--algorithm.inner_lr -0.4", "inner_lr = -0.4"),
    ("--algorithm.inner_lr nan", "inner_lr = nan"),
    ("--algorithm.inner_lr fast", "algorithm.inner_lr = 'fast'"),
    ("--algorithm.inner_steps -1", "inner_steps = -1"),
    ("--algorithm.batch_norm off", "algorithm.batch_norm = 'off'"),
    ("--algorithm.loss cross_entropy", "loss 'cross_entropy'"),
    ("--tasks.shots 0", "shots = 0"),
    ("--tasks.ways 2", "tasks.ways of Sinusoid"),
    ("--model.hidden 4,x", "model.hidden = ['4', 'x']"),
    ("--model.hidden 0", "hidden = 0"),
    ("--model.outputs 3", "outputs of shape (15, 3)"),
    ("--model Conv4", "Conv4 on inputs of shape (1,)"),
    ("--resume=yes", "--resume=yes"),
    ("--resume", "--resume without --out"),
    ("--resume --overwrite --out x", "--resume and --overwrite"),
    ("now", "argument 'now'"),
    ("--config nowhere.yaml", "nowhere.yaml: No such file"),
]


@pytest.mark.parametrize(("flags", "got"), VALUES)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(
    refused: Refused, tmp_path: Path, flags: str, got: str
) -> None:
    assert got in refused(f"train --algorithm MAML --tasks Sinusoid {flags}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", ["--tasks.ways 1", "--tasks.shots 0", "--tasks.queries 0", "--tasks.ways two"]
)
def test_sizes_of_tasks_are_refused_before_data_are_read(refused: Refused, flags: str) -> None:
    text = refused(f"train --algorithm MAML --tasks Omniglot --tasks.root /nowhere {flags}")
    assert flags.split()[0].rpartition(".")[2] in text


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("train", "no algorithm"),
        ("train --algorithm MAML", "no tasks"),
        ("train --algorithm MAML --tasks Arrays", "'Arrays'"),
    ],
)
def test_what_is_missing_is_named_with_what_there_is(refused: Refused, line: str, got: str) -> None:
    assert got in refused(line)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("algorithm: MAML\ntasks: Sinusoid\nstpes: 3\n", "setting 'stpes'"),
        ("algorithm: MAML\ntasks: {name: Sinusoid, shot: 3}\n", "tasks.shot of Sinusoid"),
        ("algoritm: MAML\ntasks: Sinusoid\n", "setting 'algoritm'"),
        ("algorithm: [MAML]\ntasks: Sinusoid\n", "algorithm"),
        ("algorithm: MAML\ntasks: Sinusoid\noptimizer: Adam\n", "optimizer"),
        ("- 3\n", "list"),
        ("a: [\n", "not YAML"),
        ("\0", "not YAML"),
    ],
)
def test_a_bad_configuration_file_is_refused(refused: Refused, tmp_path: Path, text: str, got: str) -> None:
    (tmp_path / "c.yaml").write_text(text, "utf-8")
    assert got in refused("train --config c.yaml --out x")
    assert not (tmp_path / "x").exists()


# --- data ------------------------------------------------------------------------------------------------


def images(root: Path, classes: int = 10, examples: int = 3) -> Path:
    for number in range(classes):
        (root / f"class{number}").mkdir(parents=True)
        for example in range(examples):
            pixels = np.full((20, 20, 3), 20 * number + example, dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{number}/{example}.png")
    return root


FOLDER = (
    "train --algorithm ProtoNet --tasks ImageFolder --tasks.ways 2 --tasks.queries 1 --out x --tasks.root"
)


def test_a_missing_or_empty_data_folder_is_named(refused: Refused, tmp_path: Path) -> None:
    assert "'nowhere'" in refused(f"{FOLDER} nowhere")
    (tmp_path / "empty").mkdir()
    assert "'empty'" in refused(f"{FOLDER} empty")
    assert "root" in refused(FOLDER.removesuffix(" --tasks.root"))


def test_too_many_ways_or_examples_are_refused(refused: Refused, tmp_path: Path) -> None:
    images(tmp_path / "d")
    assert "ways" in refused(f"{FOLDER} d --tasks.train_ways 9")
    assert "class" in refused(f"{FOLDER} d --tasks.shots 3")


def test_an_image_that_does_not_decode_is_named(refused: Refused, tmp_path: Path) -> None:
    images(tmp_path / "d")
    (tmp_path / "d/class3/1.png").write_bytes(b"no image")
    assert "class3/1.png" in refused(f"{FOLDER} d")
    assert not (tmp_path / "x").exists()


# --- run folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate {}", "compare {} {}", "adapt {} --support s --query q"])
def test_a_run_folder_that_is_not_one_is_refused(refused: Refused, tmp_path: Path, command: str) -> None:
    (tmp_path / "folder").mkdir()
    assert "folder without config.yaml" in refused(command.format("folder", "folder"))
    assert "no such folder" in refused(command.format("nowhere", "nowhere"))


@pytest.mark.parametrize(
    "line",
    [
        "evaluate",
        "evaluate a b",
        "compare",
        "compare a",
        "adapt",
        "adapt a",
        "adapt a --support b",
        "list",
        "list a b",
    ],
)
def test_missing_or_superfluous_arguments_are_refused(refused: Refused, line: str) -> None:
    refused(line)


@pytest.mark.parametrize(
    ("flags", "got"),
    [
        ("--episodes few", "--episodes = 'few'"),
        ("--episodes 0", "--episodes = 0"),
        ("--seed -1", "--seed = -1"),
        ("--shots 0", "--shots = 0"),
        ("--ways 1", "--ways = 1"),
        ("--ways 3", "ways = 3 for Sinusoid"),
        ("--inner-steps -1", "--inner-steps = -1"),
        ("--split exam", "--split = 'exam'"),
        ("--batch-norm none", "--batch-norm = 'none'"),
    ],
)
def test_an_evaluation_out_of_range_is_refused(refused: Refused, run: Path, flags: str, got: str) -> None:
    before = contents(run)
    assert got in refused(f"evaluate {run} {flags}")
    assert contents(run) == before


def test_an_existing_run_is_never_overwritten(refused: Refused, run: Path) -> None:
    before = contents(run)
    text = refused(f"train {SINUSOID} --out {run}")
    assert "--resume" in text
    assert "--overwrite" in text
    assert contents(run) == before


def test_a_folder_that_is_no_run_is_never_overwritten(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years", "utf-8")
    for flags in ("", "--overwrite", "--resume"):
        assert "not a run folder" in refused(f"train {SINUSOID} --out mine {flags}")
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years"}


@pytest.mark.parametrize(
    ("flags", "got"),
    [
        ("--seed 1", "seed = 1"),
        ("--steps 3", "steps = 3"),
        ("--algorithm FOMAML", "algorithm = 'FOMAML'"),
        ("--algorithm.inner_lr 0.5", "algorithm.inner_lr = 0.5"),
        ("--tasks.shots 3", "tasks.shots = 3"),
        ("--model.hidden 9,9", "model.hidden = (9, 9)"),
        ("--optimizer SGD", "optimizer.name = 'SGD'"),
        ("--optimizer.lr 0.5", "optimizer.lr = 0.5"),
        ("--seeed 1", "option --seeed"),
    ],
)
def test_resume_refuses_another_configuration(refused: Refused, run: Path, flags: str, got: str) -> None:
    before = contents(run)
    assert got in refused(f"train --resume --out {run} {flags}")
    assert contents(run) == before


def test_resume_without_a_run_is_refused(refused: Refused) -> None:
    assert "no such folder" in refused("train --resume --out nowhere")


def test_a_checkpoint_of_another_model_is_refused(refused: Refused, run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("- 40", "- 30"), "utf-8")
    assert "checkpoint" in refused(f"evaluate {run}")


def test_damaged_checkpoints_are_named(refused: Refused, run: Path) -> None:
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert "checkpoint" in refused(f"evaluate {run}")


def test_runs_of_other_tasks_are_not_compared(refused: Refused, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert main(f"train {SINUSOID.replace('Sinusoid', 'Linear')} --out {other}".split()) == 0
    assert "tasks = 'Linear'" in refused(f"compare {run} {other} --episodes 2")


def test_adapt_names_what_is_missing(refused: Refused, run: Path, tmp_path: Path) -> None:
    assert "'nowhere'" in refused(f"adapt {run} --support nowhere --query q")
    support = images(tmp_path / "s", classes=2)
    assert "run on Sinusoid" in refused(f"adapt {run} --support {support} --query {support}")
    assert "--invert maybe" in refused(f"adapt {run} --support {support} --query {support} --invert maybe")
    (tmp_path / "s/class2").mkdir()
    assert "class2' without images" in refused(f"adapt {run} --support {support} --query {support}")


def test_adapt_names_the_image_that_does_not_decode(refused: Refused, tmp_path: Path) -> None:
    images(tmp_path / "d")
    assert main(f"{FOLDER} d --model.width 8 --steps 1 --validation.episodes 2".split()) == 0
    (tmp_path / "q.png").write_bytes(b"no image")
    assert "'q.png'" in refused("adapt x --support d --query q.png")
    assert "'nowhere.png'" in refused("adapt x --support d --query nowhere.png")
    assert "which exists" in refused("adapt x --support d --query d/class0 --save d")


# --- disks and numbers -----------------------------------------------------------------------------------


def test_an_out_that_cannot_be_written_is_named(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    assert "file" in refused(f"train {SINUSOID} --out file/run")
    assert "file" in refused(f"train {SINUSOID} --out file")
    assert (tmp_path / "file").read_text("utf-8") == ""


def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from innerloop.training import folder

    def full(tensors: object, path: str) -> None:
        if "step-4" in path:
            raise OSError(28, "No space left on device")
        written(tensors, path)

    written = folder.save_file
    monkeypatch.setattr(folder, "save_file", full)
    text = refused(f"train {SINUSOID} --checkpoint-every 1 --out x")
    assert "No space left on device" in text
    assert (tmp_path / "x/checkpoints/step-3.safetensors").is_file()
    assert load(tmp_path / "x").step <= 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["list", "algorithms"]) == 2
        monkeypatch.undo()
        assert "No space left on device" in capsys.readouterr().err


DIVERGING = "--algorithm.inner_lr 1e6 --optimizer SGD --optimizer.lr 1e6 --steps 50 --validation.episodes 2"


def test_training_that_turns_non_finite_stops_with_3(refused: Refused, tmp_path: Path) -> None:
    text = refused(f"train --algorithm MAML --tasks Sinusoid {DIVERGING} --out x", code=3)
    assert "step" in text
    assert "tasks 0, 1, 2, 3 of 4" in text
    assert "last good checkpoint: x/checkpoints/step-" in text
    assert (tmp_path / "x/validation.png").is_file()
    rows = [json.loads(line) for line in (tmp_path / "x/metrics.jsonl").read_text("utf-8").splitlines()]
    assert rows
