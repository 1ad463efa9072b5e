"""What a search for a trade-off is to find out: the training, the knobs, and how thoroughly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from innerloop.bench.knobs import Knob
from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.files import write_whole
from innerloop.diagnose.front import EPSILON
from innerloop.tasks.streaming import StreamTasks
from innerloop.training.experiment import RunConfig, build_tasks, read_yaml
from innerloop.training.folder import told_as_data_error

FILE = "tradeoff.yaml"


@final
@dataclass(frozen=True)
class Question:
    """What is searched, and how thoroughly.

    Attributes:
        config: a training on a stream whose families come once each, one after another.
        space: the knobs.
        trials: configurations to try, beside the anchors.
        seeds: trainings of each, with the seed of `config` and the next ones.
        confirm: trainings of each point of the front with seeds after those, which alone are reported; 0 for
            none.
        epsilon: how much worse in one objective still counts as equal, in units of the axes.

    Raises:
        ConfigError: no such stream, or a number out of range.
    """

    config: RunConfig
    space: Sequence[Knob]
    trials: int = 20
    seeds: int = 3
    confirm: int = 3
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        for name, low in {"trials": 0, "seeds": 1, "confirm": 0}.items():
            check_count(name, getattr(self, name), low=low)
        check_range("epsilon", self.epsilon, low=0.0)
        train = self.config.train
        if train.probe.level == "off" or train.stop != "never":
            raise ConfigError(
                f"probe.level = {train.probe.level!r}, stop = {train.stop!r}",
                expected="trainings that are watched, and go through all stages",
                do="leave probe.level at standard, and stop at never",
            )
        stream = build_tasks(self.config.tasks)
        if not isinstance(stream, StreamTasks) or stream.schedule == "joint" or stream.rounds > 1:
            raise ConfigError(
                f"tasks {self.config.tasks['name']}",
                expected="a stream whose families come once each, one after another",
                do="give --tasks SinusoidFamilies or another stream, with schedule sequence and rounds 1",
            )

    @property
    def stages(self) -> int:
        """How many stages the stream has."""
        return len(build_tasks(self.config.tasks).stages)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def on(self) -> list[int]:
        """The seeds of the search."""
        return [self.config.train.seed + i for i in range(self.seeds)]

    @property
    def fresh(self) -> list[int]:
        """The seeds that points of the front are run again with."""
        return [self.config.train.seed + self.seeds + i for i in range(self.confirm)]

    def to_dict(self) -> dict[str, Any]:
        """What the trials in a folder belong to: more of them may be asked for, and nothing else."""
        space = {knob.name: str(knob) for knob in self.space}
        return {"seeds": self.seeds, "space": space, "config": self.config.to_dict()}

    def settle(self, out: Path) -> None:
        """Write the question into its folder, or see that the trials there belong to the same one.

        Raises:
            ConfigError: they belong to another one, or the folder holds something else.
            DataError: it cannot be written.
        """
        file, ours = out / FILE, yaml.safe_load(yaml.safe_dump(self.to_dict()))
        if file.is_file():
            theirs = read_yaml(file)
            apart = [name for name in ours if theirs.get(name) != ours[name]]
            if apart:
                raise ConfigError(
                    f"{out} holds trials with {_first_difference(theirs, ours)}",
                    expected="the same configuration, knobs and seeds; trials and confirm may change",
                    do="choose another --out, or give the same command as before",
                )
            return
        with told_as_data_error(out):
            if out.exists() and (not out.is_dir() or any(out.glob("[!.]*"))):
                raise ConfigError(
                    f"{out} exists and holds no search",
                    expected="a new or empty folder",
                    do="choose another --out",
                )
            out.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(ours, sort_keys=False)
            write_whole(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _first_difference(theirs: Any, ours: Any, name: str = "") -> str:
    """Where two mappings differ first: `steps = 10, not 20`."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys([*ours, *theirs]):
            if theirs.get(key) != ours.get(key):
                return _first_difference(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
    return f"{name.removeprefix('config.')} = {theirs!r}, not {ours!r}"
