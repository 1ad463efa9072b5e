"""The average of the iterates: its closed form, what is judged and kept, and what a stop does to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from innerloop import algorithms
from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.learner import STATISTICS
from innerloop.core.types import Meta
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.models import Conv4
from innerloop.tasks import Arrays
from innerloop.testing.probing import close
from innerloop.training.averaging import average_in
from innerloop.training.config import OptimizerConfig
from innerloop.training.fit import train
from innerloop.training.loop import Training
from innerloop.training.run import load
from innerloop.training.state import TrainState
from unit.training.resuming import Setup, resumes_bitwise, run_to, sinusoid_learner, small_config

Averager = Callable[[Meta, Meta, float, int], None]


def running() -> ModuleLearner:
    return algorithms.ProtoNet(Conv4(None, width=3), batch_norm="running")


def is_the_weighted_mean_of_the_iterates(average: Averager) -> None:
    rng = torch.Generator().manual_seed(0)
    iterates = [{"w": torch.randn(3, generator=rng, dtype=torch.float64)} for _ in range(7)]
    found = {"w": torch.full((3,), 9.0, dtype=torch.float64)}  # before any step, and without a part in it
    for count, iterate in enumerate(iterates, 1):
        average(found, iterate, 0.8, count)
        weights = torch.tensor([0.8 ** (count - i) for i in range(1, count + 1)], dtype=torch.float64)
        rows = torch.stack([w["w"] for w in iterates[:count]])
        close(found, {"w": (weights / weights.sum()) @ rows}, 1e-12)


def test_the_average_is_the_weighted_mean_of_the_iterates() -> None:
    is_the_weighted_mean_of_the_iterates(average_in)


def _biased(average: Meta, meta: Meta, decay: float, count: int) -> None:
    average["w"].lerp_(meta["w"], 1 - decay)


def _late(average: Meta, meta: Meta, decay: float, count: int) -> None:
    average_in(average, meta, decay, count + 1)


@pytest.mark.parametrize("planted", [_biased, _late])
def test_planted_an_average_with_a_bias_is_seen(planted: Averager) -> None:
    with pytest.raises(AssertionError):
        is_the_weighted_mean_of_the_iterates(planted)


def test_a_decay_of_zero_is_the_last_iterate() -> None:
    plain = train(sinusoid_learner(), Setup().tasks(), config=small_config())
    zero = train(sinusoid_learner(), Setup().tasks(), config=Setup.optimized(average=0.0).config)
    close(zero.meta, plain.meta, 0.0)


def averaged(
    learner: Callable[[], ModuleLearner], tasks: object, decay: float
) -> tuple[Training, list[Meta]]:
    config = small_config(optimizer=OptimizerConfig(lr=0.05, average=decay))
    training = Training(learner(), tasks, config)  # pyright: ignore[reportArgumentType]
    iterates = []
    for _ in training:
        iterates.append(tree.map(lambda leaf: leaf.detach().clone(), training.state.meta))
    return training, iterates


def test_a_run_averages_what_it_went_through_running_statistics_too_and_trains_as_without() -> None:
    training, iterates = averaged(running, Arrays.tiny(), 0.7)
    weights = torch.tensor([0.7 ** (6 - i) for i in range(1, 7)])
    expected = tree.map(
        lambda *w: torch.tensordot(weights / weights.sum(), torch.stack(w), dims=1), *iterates
    )
    close(training.state.judged, expected, 1e-5)
    assert STATISTICS in training.state.judged
    plain = Training(running(), Arrays.tiny(), small_config(optimizer=OptimizerConfig(lr=0.05)))
    for _ in plain:
        pass
    close(plain.state.meta, training.state.meta, 0.0)
    assert plain.state.judged is plain.state.meta


def test_the_average_is_what_is_judged_and_kept_as_best(tmp_path: Path) -> None:
    setup = Setup.optimized(lr=0.05, average=0.9)
    training = run_to(setup.start(tmp_path / "run"), 6)
    state, learner = training.state, setup.learner()
    episodes = FixedEpisodes("val", 3, 3)
    ours, last = (
        evaluate(learner, meta, setup.tasks(), episodes, curve=False).summary.mean
        for meta in (state.judged, state.meta)
    )
    folder = training.folder
    assert folder is not None
    rows = [row for row in folder.metrics() if row["kind"] == "validation"]
    assert rows[-1]["mean"] == pytest.approx(ours, rel=1e-5)
    assert abs(ours - last) > 1e-3 * abs(last), "the last iterate would pass for the average"
    assert state.best == (ours, 6)
    close(load(tmp_path / "run").meta, state.judged, 0.0)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_run_with_an_average_resumes_bitwise(stop: int, tmp_path: Path) -> None:
    resumes_bitwise(Setup.optimized(average=0.9), tmp_path, (stop,))


def test_statistics_in_an_average_resume_bitwise(tmp_path: Path) -> None:
    config = small_config(optimizer=OptimizerConfig(average=0.5))
    resumes_bitwise(Setup(running, Arrays.tiny, config), tmp_path, killed=True)


def test_planted_an_average_that_is_not_written_down_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = TrainState.restore

    def forgetful(self: TrainState, tensors: dict, values: dict) -> None:
        now = {f"average/{path}": leaf for path, leaf in tree.flatten(self.average or {}).items()}
        restore(self, tensors | now, values)

    monkeypatch.setattr(TrainState, "restore", forgetful)
    with pytest.raises(AssertionError, match="tensors differ"):
        resumes_bitwise(Setup.optimized(average=0.9), tmp_path)


def test_a_run_that_began_without_an_average_cannot_go_on_with_one(tmp_path: Path) -> None:
    run_to(Setup.optimized().start(tmp_path / "run"), 3)
    with pytest.raises(ContractError, match="checkpoint"):
        Setup.optimized(average=0.9).start(tmp_path / "run", "resume")
