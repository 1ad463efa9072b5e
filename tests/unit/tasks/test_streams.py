"""Streams of tasks: which family is trained on when, and what a stream is as a source."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from innerloop import tasks
from innerloop.core.errors import ConfigError
from innerloop.tasks import Linear, Sinusoid, SinusoidFamilies, TaskStream
from innerloop.tasks.streaming import Stage, StreamTasks
from unit.tasks.streams import equal, rebuilt

STREAMS = sorted(
    name for name in tasks.REGISTRY if StreamTasks in getattr(tasks, name).__mro__ and name != "TaskStream"
)
THREE = ["Sinusoid", "Linear", "SinusoidAndLine"]
SCHEDULES = ("sequence", "drift", "progressive", "joint")


def test_the_ready_made_streams_are_all_asked() -> None:
    assert {"SinusoidFamilies", "OmniglotAlphabets", "GlyphScripts", "RotatedDigits"} < set(STREAMS)


# --- in time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sources", "rounds"), [(THREE, 1), (THREE, 3), (THREE[:2], 11)])
@pytest.mark.parametrize("steps", [6, 7, 22, 600, 999])
def test_in_a_sequence_each_family_has_its_share_of_the_steps(
    sources: list[str], rounds: int, steps: int
) -> None:
    """And the step at an edge is of the next family, where k / 22 * 22 falls short of k as well."""
    stream = TaskStream(sources, rounds=rounds)
    order = list(range(len(sources))) * rounds
    for step in range(steps):
        weights = stream.weights_at(step / steps)
        assert weights == [float(f == order[step * len(order) // steps]) for f in range(len(sources))]


def test_the_last_moment_is_of_the_last_family() -> None:
    assert TaskStream(THREE).weights_at(1.0) == [0.0, 0.0, 1.0]
    assert TaskStream(THREE, schedule="drift").weights_at(1.0) == [0.0, 0.0, 1.0]


def test_a_drift_goes_over_from_each_family_to_the_next_in_a_straight_line() -> None:
    stream = TaskStream(THREE, schedule="drift")
    assert [stream.weights_at(p) for p in (0.0, 0.25, 0.5, 0.625, 1.0)] == [
        [1.0, 0.0, 0.0],
        [0.5, 0.5, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.75, 0.25],
        [0.0, 0.0, 1.0],
    ]


def test_a_drift_with_rounds_comes_back_to_the_first() -> None:
    stream = TaskStream(["Sinusoid", "Linear"], schedule="drift", rounds=2)
    assert [stream.weights_at(i / 3)[0] for i in range(4)] == pytest.approx([1.0, 0.0, 1.0, 0.0])


def test_jointly_all_families_come_equally_often_and_there_are_no_stages() -> None:
    stream = TaskStream(THREE, schedule="joint", rounds=5)
    assert stream.stages == []
    assert all(stream.weights_at(p) == [1 / 3] * 3 for p in (0.0, 0.4, 1.0))


WAVES = ["sine", "fast", "opposite", "sine"]


def test_progressively_families_join_and_stay_and_the_most_alike_come_first() -> None:
    stream = SinusoidFamilies(WAVES, schedule="progressive")
    order = [stream.names[stage.family] for stage in stream.stages]
    assert order[:2] == ["sine 1", "sine 2"], "the same once more is the nearest"
    assert sorted(order) == sorted(stream.names)
    for turn in range(4):
        weights = dict(zip(stream.names, stream.weights_at((turn + 0.5) / 4), strict=True))
        assert {name for name, weight in weights.items() if weight} == set(order[: turn + 1])
        assert set(weights.values()) - {0.0} == {1.0 / (turn + 1)}


def test_an_order_by_likeness_does_not_depend_on_the_order_that_was_given() -> None:
    """But for the first family, which is where it begins."""
    given = SinusoidFamilies(["sine", "square", "small", "opposite"], schedule="progressive")
    other = SinusoidFamilies(["sine", "opposite", "small", "square"], schedule="progressive")
    orders = [[stream.names[stage.family] for stage in stream.stages] for stream in (given, other)]
    assert orders[0] == orders[1]
    assert orders[0].index("square") < orders[0].index("opposite"), "it agrees with the sine"


def test_families_that_stay_come_in_one_round() -> None:
    with pytest.raises(ConfigError, match="rounds = 2 with schedule = 'progressive'"):
        SinusoidFamilies(WAVES, schedule="progressive", rounds=2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rounds", [1, 3])
def test_weights_are_shares_at_every_moment(schedule: Any, rounds: int) -> None:
    rounds = 1 if schedule == "progressive" else rounds
    stream = TaskStream(THREE, schedule=schedule, rounds=rounds)
    for progress in np.linspace(0, 1, 101):
        weights = stream.weights_at(float(progress))
        assert sum(weights) == pytest.approx(1.0)
        assert min(weights) >= 0.0


def prevailing_is_heaviest(stream: TaskStream, stages: list[Stage]) -> bool:
    middles = [(stage.family, (stage.start + stage.end) / 2) for stage in stages]
    inner = [(s.family, p) for s in stages for p in (s.start + 1e-6, s.end - 1e-6)]
    return all(np.argmax(stream.weights_at(p)) == family for family, p in middles + inner)


@pytest.mark.parametrize("schedule", ["sequence", "drift"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_the_family_of_a_stage_is_the_heaviest_from_its_start_to_its_end(schedule: Any, rounds: int) -> None:
    """Planted: stages of the other schedule are not those."""
    stream = TaskStream(THREE, schedule=schedule, rounds=rounds)
    stages = stream.stages
    assert [stage.family for stage in stages] == list(range(3)) * rounds
    assert (stages[0].start, stages[-1].end) == (0.0, 1.0)
    assert all(one.end == other.start for one, other in itertools.pairwise(stages))
    assert prevailing_is_heaviest(stream, stages)
    other = TaskStream(THREE, schedule="drift" if schedule == "sequence" else "sequence", rounds=rounds)
    assert not prevailing_is_heaviest(stream, other.stages)


def test_what_is_trained_on_is_of_the_family_whose_turn_it_is() -> None:
    stream = TaskStream(THREE)
    for progress, family in ((0.0, 0), (0.34, 1), (0.9, 2)):
        assert set(stream.at(progress).families("train", 50, 3)) == {family}
    drifting = TaskStream(THREE, schedule="drift")
    drawn = np.bincount(drifting.at(0.125).families("train", 4000, 0), minlength=3) / 4000
    assert np.abs(drawn - [0.75, 0.25, 0.0]).max() < 0.02


def test_tasks_are_a_function_of_the_moment_and_the_key_alone() -> None:
    stream, again = TaskStream(THREE, schedule="drift"), TaskStream(THREE, schedule="drift")
    stream.at(0.9).sample("train", 5, 8)
    assert equal(stream.at(0.3).sample("train", 5, 7), again.at(0.3).sample("train", 5, 7))
    assert not equal(stream.at(0.3).sample("train", 5, 7), stream.at(0.8).sample("train", 5, 7))


# --- as a source -----------------------------------------------------------------------------------------


def test_as_a_source_it_is_all_families_whatever_the_schedule() -> None:
    drawn = [TaskStream(THREE, schedule=schedule).sample("val", 6, 1) for schedule in SCHEDULES]  # pyright: ignore
    assert equal(drawn[0], drawn[1])
    assert equal(drawn[0], drawn[2])
    counts = np.bincount(TaskStream(THREE).families("val", 3000, 1), minlength=3) / 3000
    assert np.abs(counts - 1 / 3).max() < 0.03


def test_a_family_is_its_source() -> None:
    stream = TaskStream([Sinusoid(shots=3), Linear(shots=3)])
    assert equal(stream.family(1).sample("test", 4, 2), Linear(shots=3).sample("test", 4, 2))


@pytest.mark.parametrize(
    ("sources", "names", "told"),
    [
        (["Sinusoid", {"name": "Linear"}], None, ("Sinusoid", "Linear")),
        ([Sinusoid(), "Sinusoid", "Linear"], None, ("Sinusoid 1", "Sinusoid 2", "Linear")),
        (["Sinusoid", "Linear"], ["a", "b"], ("a", "b")),
    ],
)
def test_families_are_called_after_their_sources_unless_they_have_names(
    sources: Any, names: Any, told: tuple[str, ...]
) -> None:
    assert TaskStream(sources, names).names == told


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_that_do_not_fit_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="for 2 families"):
        TaskStream(["Sinusoid", "Linear"], names)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"schedule": "sequense"}, "did you mean 'sequence'"),
        ({"rounds": 0}, "rounds = 0"),
        ({"rounds": 1.5}, "rounds = 1.5"),
        ({"sources": ["Sinusoid"]}, "two sources or more"),
        ({"sources": ["Sinusoid", "Linaer"]}, "did you mean 'Linear'"),
        ({"sources": ["Sinusoid", {"name": "Linear", "shots": 9}]}, "shots = 5 and Linear with 9"),
    ],
)
def test_what_is_no_stream_is_refused(settings: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {"sources": ["Sinusoid", "Linear"]} | settings
    with pytest.raises(ConfigError, match=told):
        TaskStream(**given)


@pytest.mark.parametrize("name", ["TaskStream", *STREAMS])
def test_resizing_changes_every_family_at_test_and_none_in_training(name: str) -> None:
    stream = getattr(tasks, name).tiny()
    other = stream.resized(shots=2, queries=1)
    assert other.names == stream.names
    assert (other.schedule, other.rounds, other.stages) == (stream.schedule, stream.rounds, stream.stages)
    for number in range(len(stream.names)):
        assert other.family(number).spec.shots == other.spec.shots == 2
        assert equal(other.family(number).sample("train", 2, 0), stream.family(number).sample("train", 2, 0))


def test_resizing_keeps_names_and_schedule() -> None:
    stream = TaskStream(["Sinusoid", "Linear"], ["a", "b"], schedule="drift", rounds=3)
    other = stream.resized(shots=2)
    assert (other.names, other.schedule, other.rounds) == (("a", "b"), "drift", 3)
    assert other.weights_at(0.1) == stream.weights_at(0.1)


@pytest.mark.parametrize("name", ["TaskStream", *STREAMS])
def test_families_of_a_stand_in_are_not_the_same_tasks(name: str) -> None:
    stream = getattr(tasks, name).tiny()
    drawn = [stream.family(i).sample("test", 3, 0) for i in range(len(stream.names))]
    assert not any(equal(one, other) for one, other in itertools.combinations(drawn, 2))


MADE = {
    "TaskStream": lambda: TaskStream(
        [{"name": "Sinusoid", "outliers": 0.1}, "Linear"], schedule="drift", rounds=2
    ),
    "SinusoidFamilies": lambda: tasks.SinusoidFamilies(["small", "fast", "small"], shots=3, rounds=2),
    "RotatedDigits": lambda: tasks.RotatedDigits([10.0, 200.0], ways=3, schedule="joint"),
    "PermutedDigits": lambda: tasks.PermutedDigits(2, seed=5, shots=2),
}


@pytest.mark.parametrize("name", MADE)
def test_it_is_written_down_and_made_again(name: str) -> None:
    stream = MADE[name]()
    again = rebuilt(stream)
    assert type(again) is type(stream)
    assert (again.names, again.schedule, again.rounds) == (stream.names, stream.schedule, stream.rounds)
    assert equal(again.at(0.2).sample("train", 5, 1), stream.at(0.2).sample("train", 5, 1))
