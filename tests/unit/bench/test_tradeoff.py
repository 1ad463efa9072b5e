"""A search on trainings that are made up, so that what it should find, keep and lose is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from innerloop.bench import tradeoff, trial
from innerloop.bench.knobs import ask, configured, space_of, without_remedies
from innerloop.bench.question import Question
from innerloop.bench.study import FILE, Study
from innerloop.bench.tradeoff import Search
from innerloop.core.errors import ConfigError, NonFiniteError
from innerloop.training.experiment import RunConfig
from innerloop.training.interrupt import Interrupt

pytest.importorskip("optuna")

VALUES: dict[str, Any] = {
    "algorithm": {"name": "MAML", "inner_lr": 0.01, "inner_steps": 2},
    "model": {"name": "MLP", "hidden": [8]},
    "tasks": {"name": "SinusoidFamilies", "kinds": ["sine", "opposite"]},
    "steps": 8,
    "tasks_per_step": 1000,
    "validation": {"every": 8, "episodes": 2},
    "probe": {"every": 8, "tasks": 4},
    "threads": 1,
}
CONFIG = RunConfig.from_dict(VALUES)
REPLAY = {"retain.replay": "0.01..0.75"}


class Trainings:
    """What `trained` is in these tests: the more replay, the less forgetting and the less gain."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise, self.asked = noise, []
        self.fail = lambda config: False
        self.cut_at: int | None = None

    def __call__(self, config: RunConfig, seed: int, place: Path, interrupt: Interrupt) -> dict[str, Any]:
        self.asked.append((place.parent.name, seed))
        if self.cut_at is not None and len(self.asked) > self.cut_at:
            raise KeyboardInterrupt
        if self.fail(config):
            raise NonFiniteError("step 3: tasks 0, 1 of 2 are not finite", expected="", do="")
        replay, joint = config.train.retain.replay, config.tasks.get("schedule") == "joint"
        rng = np.random.default_rng([seed, round(1000 * replay), joint])
        gain, lost = 0.6 - 0.3 * replay**2, 0.4 * (1.0 - replay)
        gain, lost = (float(v + self.noise * rng.normal()) for v in (gain, lost))
        row = {"gain": gain, "forgetting": None if joint else lost, "untouched": None if joint else 0.1}
        row |= {"learned": 0.7, "kept": 0.65 if joint else 0.7 - lost, "dip": None, "gain_error": 0.01}
        row |= {"forgetting_error": None if joint else 0.01, "untouched_error": None if joint else 0.01}
        return row | {"seed": seed, "seconds": 1.0, "cost": 48, "errors": []}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(tradeoff, "trained", made)
    return made


def question(trials: int = 3, **given: Any) -> Question:
    given = {"seeds": 2, "confirm": 0} | given
    return Question(CONFIG, space_of(CONFIG, REPLAY), trials=trials, **given)


def search(out: Path, asked: Question) -> Search:
    return Search(asked, out, lambda line: None, Interrupt())


def front_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "front.json").read_text())


# --- knobs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retain.repaly": "0..0.5"}, "did you mean 'retain.replay'"),
        ({"tasks.shots": "1..5"}, "knob 'tasks.shots'"),
        ({"seed": "1..5"}, "knob 'seed'"),
        ({"retain.replay": "0.5..0.1"}, "low < high"),
        ({"retain.replay": "0..1.5"}, "retain.replay = 1.5"),
        ({"retain.ewc": "0..10:log"}, "with :log, 0 < low"),
        ({"retain.memory": "1.5..20"}, "whole numbers"),
        ({"retain.replay": "a..b"}, "low < high"),
        ({"algorithm.name": "MAML,ProtoNte"}, "did you mean 'ProtoNet'"),
        ({"remedy": "ewcc"}, "did you mean 'ewc'"),
        ({"retain.balance": "reservoir,fairly"}, "retain.balance = 'fairly'"),
        ({"retain.replay": []}, "different values"),
        ({"optimizer.lr": "0.1,0.1"}, "different values"),
    ],
)
def test_a_knob_that_makes_no_sense_is_refused_in_words(given: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        space_of(CONFIG, given)


class Highest:
    """Proposes the last of everything, and notes what it was asked for."""

    def __init__(self, **chosen: Any) -> None:
        self.chosen, self.asked = chosen, []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.append(name)
        return high

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked.append(name)
        return high

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(name)
        return self.chosen.get(name, choices[-1])


def test_by_default_one_remedy_is_turned_at_a_time_with_its_own_settings():
    space = space_of(CONFIG, {})
    for remedy, own in {
        "replay": ["retain.memory", "retain.replay"],
        "ewc": ["retain.ewc"],
        "none": [],
    }.items():
        asked = ask(Highest(remedy=remedy), space, CONFIG)
        assert sorted(name for name in asked if name.startswith("retain.")) == own
        retain = configured(CONFIG, asked, alone=True).train.retain
        assert retain.remembers == (remedy == "replay")
    projecting = ask(Highest(remedy="project"), space, CONFIG)
    assert configured(CONFIG, projecting, alone=True).train.retain.project


def test_settings_without_effect_are_not_asked_for():
    given = {"retain.memory": "10..20", "algorithm.name": "MAML,ProtoNet", "algorithm.inner_steps": "1..3"}
    assert sorted(ask(Highest(**{"algorithm.name": "MAML"}), space_of(CONFIG, given), CONFIG)) == [
        "algorithm.inner_steps",
        "algorithm.name",
    ]
    proto = ask(Highest(), space_of(CONFIG, given), CONFIG)
    assert proto == {"algorithm.name": "ProtoNet"}
    assert "inner_lr" not in configured(CONFIG, proto).algorithm
    assert "retain.memory" in ask(Highest(), space_of(CONFIG, given | REPLAY), CONFIG)


class Proposes(Highest):
    """Proposes one number for every range."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.number


@pytest.mark.parametrize(("proposed", "asked"), [(0.03, 0.0), (0.1, 0.125), (0.4, 0.375), (0.99, 0.875)])
def test_a_share_of_replay_is_one_of_whole_tasks(proposed: float, asked: float):
    eight = configured(CONFIG, {"tasks_per_step": 8})
    space = space_of(eight, {"retain.replay": "0..0.99"})
    assert ask(Proposes(proposed), space, eight) == {"retain.replay": asked}
    at_least_one = space_of(eight, {"retain.replay": "0.01..0.99"})
    assert ask(Proposes(0.02), at_least_one, eight) == {"retain.replay": 0.125}


def test_the_naive_configuration_has_no_remedy_and_is_else_the_same():
    kept = configured(CONFIG, {"retain.l2": 3.0, "optimizer.lr": 0.5})
    assert without_remedies(kept).train.retain == CONFIG.train.retain
    assert without_remedies(kept).train.optimizer.lr == 0.5


# --- the question ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "over",
    [
        {"tasks": {"name": "Sinusoid"}},
        {"tasks": {"name": "SinusoidFamilies", "rounds": 2}},
        {"tasks": {"name": "SinusoidFamilies", "schedule": "joint"}},
        {"probe": {"level": "off"}},
        {"stop": "when-converged"},
    ],
)
def test_only_watched_streams_whose_families_come_once_are_searched(over: dict[str, Any]):
    config = RunConfig.from_dict(VALUES | over)
    with pytest.raises(ConfigError):
        Question(config, [])


def test_a_folder_is_of_one_question_in_which_trials_may_grow(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(1)).run()
    with pytest.raises(ConfigError, match="seeds = 2, not 3"):
        search(tmp_path, question(1, seeds=3))
    other = Question(configured(CONFIG, {"steps": 9}), space_of(CONFIG, REPLAY), seeds=2)
    with pytest.raises(ConfigError, match="steps = 8, not 9"):
        search(tmp_path, other)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no search"):
        search(tmp_path / "else", question())


# --- the search ------------------------------------------------------------------------------------------


def test_anchors_come_first_and_are_read_off_at_their_corners(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(3)).run()
    assert [place for place, _ in trainings.asked] == ["0", "0", "2", "2", "3", "3", "4", "4", "5", "5"]
    points = {point["name"]: point for point in front_of(tmp_path)["reported"]["points"]}
    assert (points["naive"]["stability"]["value"], points["frozen"]["stability"]["value"]) == (0.0, 1.0)
    assert (points["frozen"]["plasticity"]["value"], points["joint"]["plasticity"]["value"]) == (0.0, 1.0)
    for name in ("3", "4", "5"):
        replay = points[name]["settings"]["retain.replay"]
        assert points[name]["stability"]["value"] == pytest.approx(replay)
        assert points[name]["plasticity"]["value"] == pytest.approx(1.0 - 0.6 * replay**2)


def test_the_same_command_goes_on_where_it_was_and_trains_nothing_twice(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(2)).run()
    before = list(trainings.asked)
    search(tmp_path, question(2)).run()
    assert trainings.asked == before
    search(tmp_path, question(4)).run()
    assert [place for place, _ in trainings.asked[len(before) :]] == ["5", "5", "6", "6"]
    assert (
        len({json.dumps(p["settings"]) for p in front_of(tmp_path)["reported"]["points"] if "trial" in p})
        == 4
    )


def test_a_search_in_two_goes_proposes_what_one_in_one_go_does(tmp_path: Path, trainings: Trainings):
    for trials in (2, 4):
        search(tmp_path / "two", question(trials)).run()
    search(tmp_path / "one", question(4)).run()
    assert front_of(tmp_path / "two") == front_of(tmp_path / "one")


def test_a_trial_that_fails_is_kept_with_its_reason_and_the_worst_of_the_anchors(
    tmp_path: Path, trainings: Trainings
):
    trainings.fail = lambda config: config.train.retain.replay > 0.0
    found = search(tmp_path, question(3)).run()
    assert [one["trial"] for one in found.failed] == [3, 4, 5]
    assert "not finite" in found.failed[0]["reason"]
    assert "retain.replay" in found.failed[0]["settings"]
    worst = [one["values"] for one in Study(tmp_path, 0).finished if "failed" in one]
    assert worst == [pytest.approx([0.1, 0.6, 48.0])] * 3
    assert {point["name"] for point in front_of(tmp_path)["reported"]["points"]} == {
        "naive",
        "frozen",
        "joint",
    }


def test_settings_are_tried_once_and_a_space_without_others_ends_the_search(
    tmp_path: Path, trainings: Trainings
):
    asked = Question(CONFIG, space_of(CONFIG, {"retain.replay": "0.25,0.5"}), trials=5, seeds=1, confirm=0)
    search(tmp_path, asked).run()
    points = [point for point in front_of(tmp_path)["reported"]["points"] if "trial" in point]
    assert [point["settings"]["retain.replay"] for point in points] == [0.25, 0.5]
    assert len(trainings.asked) == 2 + 2


def test_an_anchor_that_fails_ends_the_search_and_is_tried_again(tmp_path: Path, trainings: Trainings):
    trainings.fail = lambda config: True
    with pytest.raises(NonFiniteError):
        search(tmp_path, question(1)).run()
    trainings.fail = lambda config: False
    search(tmp_path, question(1)).run()
    assert "naive" in front_of(tmp_path)["reported"]["front"]


def test_errors_of_the_doctor_keep_a_point_off_the_front(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
):
    def bad(config: RunConfig, *rest: Any) -> dict[str, Any]:
        return trainings(config, *rest) | {
            "errors": ["INNER_DIVERGENCE"] * (config.train.retain.replay > 0.0)
        }

    monkeypatch.setattr(tradeoff, "trained", bad)
    search(tmp_path, question(2)).run()
    told = front_of(tmp_path)["reported"]
    assert told["front"] == ["naive", "frozen"]
    assert [point["standing"] for point in told["points"] if "trial" in point] == ["unfit", "unfit"]


def test_an_interrupt_loses_the_trial_in_progress_and_nothing_else(tmp_path: Path, trainings: Trainings):
    trainings.cut_at = 7  # in the middle of trial 4
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, question(3)).run()
    assert [one["trial"] for one in Study(tmp_path, 0).finished] == [0, 1, 2, 3]
    trainings.cut_at = None
    found = search(tmp_path, question(3)).run()
    assert {p.name for p in found.search.points} == {"naive", "frozen", "joint", "3", "5", "6"}


def test_trials_of_a_process_that_is_no_more_are_given_up(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(1)).run()
    gone = Study(tmp_path, 0).ask()
    gone.set_user_attr("role", "search")
    ours = gone.user_attrs["owner"]
    gone.set_user_attr("owner", ours | {"began": ours["began"] - 1.0})  # another one had that number before
    found = search(tmp_path, question(2)).run()
    assert found.others == 0
    assert {p.name for p in found.search.points} >= {"3", "5"}


def test_a_trial_of_another_process_is_left_alone_and_counted(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(1)).run()
    theirs = Study(tmp_path, 0)
    going = theirs.ask()
    going.set_user_attr("role", "search")
    going.set_user_attr("owner", {"host": "another-machine", "process": 1, "began": 0.0})
    found = search(tmp_path, question(2, confirm=2)).run()
    assert (found.others, found.confirmed) == (1, None)
    assert front_of(tmp_path)["running_elsewhere"] == 1
    theirs.finish(going, (0.5, 0.9, 48.0), {"settings": {}, "failed": "for the test"}, errors=1)
    assert search(tmp_path, question(2, confirm=2)).run().confirmed is not None


def test_an_anchor_of_another_process_is_waited_for_and_taken_over_if_that_ends(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
):
    asked = question(1)
    ours, theirs = search(tmp_path, asked), Study(tmp_path, 0)
    going = theirs.ask()
    going.set_user_attr("role", "naive")
    owner = going.user_attrs["owner"]

    def ends(seconds: float) -> None:
        going.set_user_attr("owner", owner | {"began": owner["began"] - 1.0})

    monkeypatch.setattr(tradeoff.time, "sleep", ends)
    found = ours.run()
    assert {point.name for point in found.search.points} == {"naive", "frozen", "joint", "2"}


def test_what_is_stored_is_lines_of_json(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(2)).run()
    lines = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".jsonl", ".yaml"}


# --- the front -------------------------------------------------------------------------------------------


def test_points_of_the_front_are_configurations_that_train_reads(tmp_path: Path, trainings: Trainings):
    search(tmp_path, question(3)).run()
    told = front_of(tmp_path)["reported"]
    for point in told["points"]:
        if point["on_front"] and "trial" in point:
            config = RunConfig.from_yaml(tmp_path / "points" / f"{point['name']}.yaml")
            assert config.train.retain.replay == point["settings"]["retain.replay"]
            config.build()


def test_the_front_is_run_again_on_seeds_that_had_no_part_in_choosing_it(
    tmp_path: Path, trainings: Trainings
):
    found = search(tmp_path, question(2, confirm=3)).run()
    again = [(place, seed) for place, seed in trainings.asked if seed >= 2]
    assert {seed for _, seed in again} == {2, 3, 4}
    assert {place for place, _ in again} >= {"naive", "joint"}
    assert found.reported is found.confirmed
    assert front_of(tmp_path)["fresh_seeds"] == [2, 3, 4]


def test_a_point_that_fails_on_fresh_seeds_is_told_with_its_reason(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
):
    def fails(config: RunConfig, seed: int, place: Path, interrupt: Interrupt) -> dict[str, Any]:
        trainings.fail = lambda config: seed >= 2 and config.train.retain.replay > 0.0
        return trainings(config, seed, place, interrupt)

    monkeypatch.setattr(tradeoff, "trained", fails)
    found = search(tmp_path, question(2, confirm=1)).run()
    assert sorted(one["trial"] for one in found.failed) == [3, 4]
    assert all(one["reason"].startswith("on fresh seeds 2: step 3") for one in found.failed)
    assert front_of(tmp_path)["reported"]["front"] == ["naive", "frozen"]


def test_fresh_seeds_take_back_what_luck_gave(tmp_path: Path, trainings: Trainings):
    trainings.noise = 0.1
    found = search(tmp_path, question(12, confirm=3)).run()
    assert found.confirmed is not None
    lucky = {p.name: p.stability.value + p.plasticity.value for p in found.search.front if p.candidate}
    sober = {p.name: p.stability.value + p.plasticity.value for p in found.confirmed.points if p.candidate}
    assert np.mean([lucky[name] - sober[name] for name in lucky]) > 0.05


def test_a_report_of_the_lucky_seeds_is_noticed(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Question, "fresh", property(lambda self: self.on))
    with pytest.raises(AssertionError):
        test_fresh_seeds_take_back_what_luck_gave(tmp_path, trainings)


# --- cost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "retain",
    [{}, {"replay": 0.5}, {"distill": 1.0}, {"project": True}, {"ewc": 1.0, "ewc_tasks": 3}, {"l2": 1.0}],
    ids=lambda retain: "+".join(retain) or "naive",
)
def test_passes_are_as_many_as_are_made(
    retain: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from innerloop.core.vectorise import num_tasks
    from innerloop.training import step
    from innerloop.training.fit import train

    counted = []
    inner = step.estimated

    def counting(engine: Any, learner: Any, meta: Any, episodes: Any, *rest: Any, **more: Any) -> Any:
        counted.append(num_tasks(episodes))
        return inner(engine, learner, meta, episodes, *rest, **more)

    monkeypatch.setattr(step, "estimated", counting)
    config = RunConfig.from_dict(VALUES | {"tasks_per_step": 2, "retain": retain, "probe": {"level": "off"}})
    learner, tasks = config.build()
    train(learner, tasks, config=config.train)
    assert trial.passes(config.train, learner.inner_steps, 2) == sum(counted) * (learner.inner_steps + 1)
