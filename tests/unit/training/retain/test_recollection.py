"""What is written to a memory: when, where, what gives way, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import innerloop as il
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.learner import MEMORY
from innerloop.core.likeness import FEATURES, added
from innerloop.diagnose.estimate import Estimate
from innerloop.diagnose.forgetting import summary
from innerloop.diagnose.history import History
from innerloop.diagnose.streams import matrix_of
from innerloop.gradients import Unrolled
from innerloop.tasks import RotatedDigits, Sinusoid
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training
from innerloop.training.retain.config import RetainConfig
from innerloop.training.retain.recollection import Recollection
from innerloop.training.step import Engine, outer_step
from unit.training.resuming import sinusoid_learner, small_config
from unit.training.retain.test_stream_training import stream


def outer_steps(count: int, *, steps: int = 9, slots: int = 2) -> list[dict[str, Any]]:
    """`meta` after each of the first `count` outer steps of a stream of three families."""
    tasks, config = stream(3), small_config(steps=steps, retain=RetainConfig(recall=slots))
    training, found = Training(sinusoid_learner(), tasks, config), []
    for _ in range(count):
        outer_step(training.state, training.learner, tasks, Engine(Unrolled(), "vmap"), config)
        found.append(tree.map(torch.clone, training.state.meta))
    return found


# --- when and what ---------------------------------------------------------------------------------------


def test_a_slot_holds_what_was_learned_until_the_end_of_a_stage() -> None:
    metas = outer_steps(7)
    ends = {0: metas[2], 1: metas[5]}  # after the third step and the sixth
    for slot, then in ends.items():
        kept = tree.map(lambda leaf, slot=slot: leaf[slot], metas[6][MEMORY]["values"])
        assert all(torch.equal(kept["params"][n], then["params"][n]) for n in then["params"])


def test_keys_count_the_tasks_of_their_stage() -> None:
    """Two tasks a step, three steps a stage; the key of today is the first."""
    counts = [meta[MEMORY]["keys"]["count"].tolist() for meta in outer_steps(9)]
    assert counts[:4] == [[2, 0, 0], [4, 0, 0], [6, 0, 0], [2, 6, 0]]
    assert counts[6:] == [[2, 6, 6], [4, 6, 6], [6, 6, 6]]


def test_the_last_stage_takes_no_slot() -> None:
    """It is what is learned today, and with one slot the stage before it keeps that one."""
    metas = outer_steps(9, slots=1)
    assert metas[8][MEMORY]["keys"]["count"].tolist() == [6, 6]
    kept = tree.map(lambda leaf: leaf[0], metas[8][MEMORY]["values"])
    assert torch.equal(kept["params"]["head.weight"], metas[5]["params"]["head.weight"])


def test_weights_are_bitwise_those_of_a_run_without_a_memory() -> None:
    tasks, config = stream(3), small_config(steps=9)
    plain = Training(sinusoid_learner(), tasks, config)
    for _ in range(9):
        outer_step(plain.state, plain.learner, tasks, Engine(Unrolled(), "vmap"), config)
    ours, theirs = outer_steps(9)[-1]["params"], plain.state.meta["params"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --- what gives way --------------------------------------------------------------------------------------


def written(centres: list[float], slots: int) -> list[float]:
    """Where the keys of the slots are, in their order, after stages whose tasks lie at these places."""
    remedy = Recollection()
    memory: dict[str, Any] = {
        "keys": {
            "scale": torch.ones(4),
            "count": torch.zeros(1 + slots),
            "mean": torch.zeros(1 + slots, FEATURES),
            "scatter": torch.zeros(1 + slots, FEATURES, FEATURES),
        },
        "values": {"params": {"w": torch.zeros(slots, 1)}},
    }
    draw = torch.Generator().manual_seed(0)
    for centre in centres:
        added(memory["keys"], 0, centre + torch.randn(300, FEATURES, generator=draw))
        remedy._write(memory, {"params": {"w": torch.tensor([centre])}})
    values = memory["values"]["params"]["w"][:, 0].tolist()
    torch.testing.assert_close(memory["keys"]["mean"][1:].mean(1), torch.tensor(values), rtol=0.0, atol=0.05)
    return [round(value, 2) for value in values]


def test_empty_slots_are_filled_first() -> None:
    assert written([0.0, 5.0], 3) == [0.0, 5.0, 0.0]


def test_of_the_two_most_alike_the_older_gives_way() -> None:
    assert written([0.0, 5.0, 9.0, 5.5], 3) == [0.0, 5.5, 9.0], "a family that came back"
    assert written([0.0, 0.5, 9.0, 5.0], 3) == [5.0, 0.5, 9.0], "two old ones, nearer than any to the new one"
    assert written([0.0, 5.0, 9.0, 5.5, 0.2, 9.1], 3) == [0.2, 5.5, 9.1]


def test_one_slot_is_always_the_latest() -> None:
    assert written([0.0, 5.0, 9.0], 1) == [9.0]


@pytest.mark.parametrize("bug", ["oldest", "newest"])
def test_a_rule_that_looks_at_age_alone_is_told(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: first in, first out would give up the family that is like no other."""
    which = {"oldest": lambda self, keys: self._order[0], "newest": lambda self, keys: self._order[-1]}[bug]
    monkeypatch.setattr(Recollection, "_given_up", which)
    with pytest.raises(AssertionError):
        test_of_the_two_most_alike_the_older_gives_way()


# --- in a run --------------------------------------------------------------------------------------------


def test_it_is_refused_where_no_stage_ends() -> None:
    config = small_config(retain=RetainConfig(recall=2))
    with pytest.raises(ConfigError, match=r"retain.recall = 2 on Sinusoid \(no stages\)"):
        start(sinusoid_learner(), Sinusoid.tiny(), config, None)
    with pytest.raises(ConfigError, match="recall"):
        RetainConfig(recall=-1)


def test_a_run_that_is_loaded_reads_its_memory(tmp_path: Path) -> None:
    config = small_config(retain=RetainConfig(recall=2), optimizer=OptimizerConfig(lr=0.05))
    run = il.train(sinusoid_learner(), stream(), config=config, out=tmp_path / "run")
    again = il.load(tmp_path / "run")
    assert again.meta[MEMORY]["keys"]["count"].any()
    assert again.evaluate(episodes=6).curve == run.evaluate(episodes=6).curve
    task = stream().family(0).sample("test", 1, 0)
    adapted = again.adapt(task.support.x[0], task.support.y[0])
    path = adapted_path(again, adapted, tmp_path)
    assert torch.equal(il.load_adapted(path).predict(task.query.x[0]), adapted.predict(task.query.x[0]))


def adapted_path(run: Any, adapted: Any, folder: Path) -> Path:
    run.save_adapted(adapted, folder / "adapted")
    return folder / "adapted"


def test_a_run_from_the_weights_of_another_has_a_memory_of_its_own(tmp_path: Path) -> None:
    il.train(sinusoid_learner(), Sinusoid.tiny(), config=small_config(), out=tmp_path / "first")
    config = small_config(start=str(tmp_path / "first"), retain=RetainConfig(recall=2))
    run = il.train(sinusoid_learner(), stream(), config=config)
    assert run.meta[MEMORY]["keys"]["count"].any()


def test_an_average_of_iterates_keeps_the_memory_as_it_is(tmp_path: Path) -> None:
    config = small_config(retain=RetainConfig(recall=2), optimizer=OptimizerConfig(lr=0.05, average=0.9))
    training = start(sinusoid_learner(), stream(), config, None)
    for _ in training:
        pass
    assert training.state.average is not None
    ours, theirs = training.state.average, training.state.meta
    assert all(
        torch.equal(a, b) for a, b in zip(tree.leaves(ours[MEMORY]), tree.leaves(theirs[MEMORY]), strict=True)
    )
    assert not torch.equal(ours["params"]["head.weight"], theirs["params"]["head.weight"])


# --- what it is for --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_that_were_turned_are_not_forgotten(tmp_path: Path) -> None:
    """A planted problem: three angles. What is forgotten without a memory is kept with one."""
    lost, ends = {}, {}
    for slots in (0, 4):
        config = TrainConfig(
            steps=450,
            tasks_per_step=8,
            optimizer=OptimizerConfig(lr=2e-3),
            retain=RetainConfig(recall=slots),
            threads=1,
            compile=False,
        )
        learner = il.algorithms.MAML(il.models.MLP(64, 5, hidden=(64,)), inner_lr=0.1, inner_steps=2)
        folder = RunFolder(tmp_path / str(slots))
        for _ in start(learner, RotatedDigits([0.0, 90.0, 180.0]), config, folder):
            pass
        matrix = matrix_of(History.read(folder.path))
        found = summary(matrix, None)["forgetting_max_last"]
        assert isinstance(found, Estimate)
        lost[slots], ends[slots] = found.value, float(matrix.scores[-1, -1].mean())
    assert lost[0] > 0.05
    assert lost[4] < 0.3 * lost[0]
    assert ends[4] > ends[0] - 0.02, "and the last family is learned as well"
