"""A run that begins with another's weights: what is taken, what is told, and that it is taken once."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import innerloop as il
from innerloop.cli.main import main
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.learner import FROZEN, STATISTICS
from innerloop.core.rng import generator
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.state import stored_meta
from innerloop.training.transfer import started
from unit.training.resuming import Setup, finish, resumes_bitwise, run_to, same_outcome, small_config

CLASSES = (il.tasks.Arrays.tiny().spec.classes or {})["train"]


def pretrained(**settings: Any) -> Any:
    return il.algorithms.Baseline(
        il.models.Conv4(None, width=4), classes=CLASSES, test_inner_steps=2, **settings
    )


def transferred(**settings: Any) -> Any:
    return il.algorithms.MetaTransfer(
        il.models.Conv4(3, width=4), inner_steps=2, batch_norm="running", **settings
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Baseline whose weights are no draw's."""
    out = tmp_path_factory.mktemp("source") / "run"
    il.train(pretrained(), il.tasks.Arrays.tiny(), config=small_config(seed=9), out=out)
    return out


def best(path: Path) -> dict[str, Tensor]:
    return stored_meta(RunFolder(path).load_checkpoint("best")[0])


def test_weights_of_the_same_name_and_shape_are_taken_wherever_they_stand(source: Path) -> None:
    learner, theirs = transferred(), best(source)
    own = learner.init(generator(3, "init"))
    meta = started(learner, str(source), 3)
    assert tree.flatten(meta).keys() == tree.flatten(own).keys()
    body = meta["params"] | meta[FROZEN]
    for name in (name.removeprefix("params/") for name in theirs if name.startswith("params/")):
        assert torch.equal(body.pop(name), theirs[f"params/{name}"]), name
    assert sorted(body) == ["head.bias", "head.weight"]
    assert all(torch.equal(leaf, own["params"][name]) for name, leaf in body.items())
    assert all(torch.equal(meta[STATISTICS][n], theirs[f"{STATISTICS}/{n}"]) for n in own[STATISTICS])
    assert all(map(torch.equal, tree.leaves(meta["scales"]), tree.leaves(own["scales"])))


def test_it_says_how_many_were_taken_and_which_were_not(source: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="innerloop"):
        started(transferred(), str(source), 0)
    [said] = [record.getMessage() for record in caplog.records]
    assert "24 of 26 weights" in said  # 16 of the body, 8 statistics; a head of 2
    assert "head.weight (not there), head.bias (not there)" in said
    wider = il.algorithms.ProtoNet(il.models.Conv4(None, width=4, norm="none"))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="innerloop"):
        started(wider, str(source), 0)
    assert "8 of 8 weights" in caplog.text


def test_a_start_of_which_nothing_fits_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    learner = il.algorithms.ProtoNet(il.models.Conv4(None, width=6, norm="none"))
    with pytest.raises(ContractError, match="none of 8 weights fits") as raised:
        il.train(
            learner,
            il.tasks.Arrays.tiny(),
            config=small_config(start=str(source)),
            out=tmp_path / "run",
        )
    assert "(4, 1, 3, 3) there, not (6, 1, 3, 3)" in raised.value.got
    assert not (tmp_path / "run").exists()
    with pytest.raises(ContractError, match="run folder"):
        started(learner, str(tmp_path / "nowhere"), 0)


def test_training_begins_there_and_writes_down_where(source: Path, tmp_path: Path) -> None:
    training = start(
        pretrained(), il.tasks.Arrays.tiny(), small_config(start=str(source)), RunFolder(tmp_path / "run")
    )
    theirs = best(source)
    for path, leaf in tree.flatten(training.state.meta).items():
        assert torch.equal(leaf, theirs[path]) == (not path.startswith("head/")), path
    assert f"start: {source}" in (tmp_path / "run" / "config.yaml").read_text()
    assert not torch.equal(tree.leaves(training.untrained)[0], tree.leaves(training.state.meta)[0])


def test_a_resumed_run_is_bitwise_the_same_and_reads_its_start_no_more(source: Path, tmp_path: Path) -> None:
    copied = tmp_path / "source"
    shutil.copytree(source, copied)
    setup = Setup(transferred, il.tasks.Arrays.tiny, small_config(start=str(copied)))
    resumes_bitwise(setup, tmp_path / "kept")
    whole = finish(setup.start(tmp_path / "whole"))
    run_to(setup.start(tmp_path / "parts"), 3)
    shutil.rmtree(copied)
    same_outcome(whole, finish(setup.start(tmp_path / "parts", "resume")))


def test_a_run_that_was_cut_before_its_first_checkpoint_begins_there_again(
    source: Path, tmp_path: Path
) -> None:
    setup = Setup(transferred, il.tasks.Arrays.tiny, small_config(start=str(source)))
    whole = finish(setup.start(tmp_path / "whole"))
    setup.start(tmp_path / "cut")
    assert not RunFolder(tmp_path / "cut").checkpoints()
    same_outcome(whole, finish(setup.start(tmp_path / "cut", "resume")))


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig("SGD", lr=0.1, momentum=0.9, l2=0.1, l1=0.1),
        OptimizerConfig("AdamW", lr=0.1, weight_decay=0.5),
    ],
)
def test_frozen_weights_are_never_moved_and_all_others_are(optimizer: OptimizerConfig) -> None:
    config = small_config(optimizer=optimizer)
    training = start(transferred(), il.tasks.Arrays.tiny(), config, None)
    before = tree.map(torch.clone, training.state.meta)
    for _ in training:
        pass
    for path, leaf in tree.flatten(training.state.meta).items():
        moved = not torch.equal(leaf, tree.flatten(before)[path])
        assert moved == (not path.startswith(f"{FROZEN}/")), path


@pytest.mark.slow
def test_start_is_an_option_of_the_command_and_a_setting(source: Path, tmp_path: Path, capsys: Any) -> None:
    line = ["train", "--algorithm", "Baseline", "--tasks", "Glyphs", "--model", "MLP", "--steps", "1"]
    assert main([*line, "--out", str(tmp_path / "run"), "--start", str(source)]) == 2
    assert "none of" in capsys.readouterr().err
    assert main(["train", "--help"]) == 0
    assert "--start" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="start"):
        TrainConfig.from_dict({"start": 3})
