"""What a search turns: knobs by the dotted names of settings, and the configurations that they lead to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args, get_type_hints

from innerloop import algorithms, models
from innerloop.core.errors import ConfigError, unknown
from innerloop.core.registry import find
from innerloop.training.components import Plain, converted, parameters
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import RunConfig
from innerloop.training.retain.config import RetainConfig

REMEDY = "remedy"
#: Each remedy: the settings that are its own, its strength first; `none` is to turn other knobs alone.
REMEDIES: dict[str, tuple[str, ...]] = {
    "none": (),
    "replay": ("retain.replay", "retain.memory", "retain.balance"),
    "project": ("retain.project", "retain.memory", "retain.balance"),
    "l2": ("retain.l2",),
    "ewc": ("retain.ewc", "retain.ewc_decay", "retain.ewc_tasks"),
    "si": ("retain.si", "retain.si_damping"),
    "distill": ("retain.distill",),
    "recall": ("retain.recall",),
}
_MEMORY = ("retain.memory", "retain.balance")
_STRENGTHS = {
    "replay": "0.125..0.75",
    "project": "true",
    "l2": "1e-2..1e2:log",
    "ewc": "1e-1..1e4:log",
    "si": "1e-2..1e2:log",
    "distill": "1e-1..1e1:log",
    "recall": "2..16:log",
}
_NAME, _REPLAY = "algorithm.name", "retain.replay"
#: Settings that change what is compared, or nothing of the result.
_FIXED = (
    *("seed", "start", "device", "threads", "memory", "compile", "tasks_axis", "precision", "stop"),
    *("log", "log_every", "checkpoint_every", "gradient"),
)
_FIXED_GROUPS = ("probe", "validation")


class Asks(Protocol):
    """What proposes values: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Knob:
    """A setting that is searched.

    Attributes:
        name: of the setting, with dots; or `remedy`, which turns one remedy on and the others off.
        choices: the values there are; empty for a range.
        low, high: the ends of a range.
        log: whether values are sought evenly in their logarithm.
        whole: whether they are whole numbers.
    """

    name: str
    choices: tuple[Plain, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def ask(self, trial: Asks) -> Plain:
        """A value, proposed by the search; numbers have three digits, so that they can be read."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return float(f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.3g}")

    @property
    def extremes(self) -> tuple[Plain, ...]:
        """All choices, or the ends of the range."""
        ends = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return self.choices or ends

    def __str__(self) -> str:
        if self.choices:
            return ",".join(str(choice).lower() if choice is True else str(choice) for choice in self.choices)
        return f"{self.low:g}..{self.high:g}" + (":log" if self.log else "")


def space_of(config: RunConfig, given: Mapping[str, Plain]) -> list[Knob]:
    """The knobs of a search.

    Args:
        config: what is searched around.
        given: for each setting the values to try: `low..high`, `low..high:log`, or a list, as one or as text
            with commas. None given means all remedies, one at a time, with the outer rate and the number of
            inner steps.

    Raises:
        ConfigError: no such setting, or no such values of it.
    """
    wanted = dict(given) or _default(config)
    names = [_listed(wanted[_NAME])] if _NAME in wanted else [[config.algorithm["name"]]]
    types = _settings(config, names[0])
    if REMEDY in wanted:
        for remedy in _listed(wanted[REMEDY]):
            if str(remedy) not in REMEDIES:
                raise unknown(REMEDY, str(remedy), REMEDIES)
            if remedy in _STRENGTHS:
                wanted.setdefault(REMEDIES[str(remedy)][0], _STRENGTHS[str(remedy)])
    for name in wanted:
        if name not in types:
            raise unknown("knob", name, types)
    first, last = (REMEDY, _NAME), _MEMORY  # what others depend on, and what depends on others
    order = sorted(wanted, key=lambda name: (name not in first, name in last))
    space = [_knob(name, wanted[name], types[name]) for name in order]
    for knob in space:
        if not knob.name.startswith(("algorithm.", REMEDY)):  # an algorithm checks its own when it is made
            for value in knob.extremes:
                configured(config, {knob.name: value})
    return space


def ask(trial: Asks, space: Sequence[Knob], config: RunConfig) -> dict[str, Plain]:
    """Settings that the search proposes, by dotted name; only such as have an effect on this trial.

    A share of replayed tasks is rounded to whole tasks of a step.
    """
    asked: dict[str, Plain] = {}
    own: tuple[str, ...] | None = None
    for knob in space:
        if knob.name == REMEDY:
            remedy = knob.ask(trial)
            own = REMEDIES[remedy]
            asked |= {"retain.project": True} if remedy == "project" else {}
            continue
        so_far = configured(config, asked, alone=own is not None)
        if _matters(knob.name, own, so_far):
            value = knob.ask(trial)
            whole = knob.name == _REPLAY and not knob.choices
            asked[knob.name] = _of_tasks(value, knob.low, so_far.train.tasks_per_step) if whole else value
    return asked


def configured(config: RunConfig, asked: Mapping[str, Plain], *, alone: bool = False) -> RunConfig:
    """A configuration with settings changed.

    Args:
        asked: settings by dotted name. Another algorithm keeps the arguments that it takes.
        alone: take the remedies out that the configuration has of its own.
    """
    values = config.to_dict()
    if alone:
        values["retain"] = dataclasses.asdict(RetainConfig())
    if _NAME in asked:
        takes = parameters(_algorithm(str(asked[_NAME])))
        values["algorithm"] = {n: v for n, v in values["algorithm"].items() if n == "name" or n in takes}
    for name, value in asked.items():
        group, _, last = name.rpartition(".")
        place = values
        for part in group.split(".") if group else ():
            place = place.setdefault(part, {})
        place[last] = value
    return RunConfig.from_dict(values)


def without_remedies(config: RunConfig) -> RunConfig:
    """The same training with nothing done against forgetting."""
    return configured(config, {}, alone=True)


def _matters(name: str, own: tuple[str, ...] | None, config: RunConfig) -> bool:
    """Whether a setting has an effect beside those that were asked for so far."""
    if name.startswith("algorithm.") and name != _NAME:
        return name.removeprefix("algorithm.") in parameters(_algorithm(config.algorithm["name"]))
    if own is not None and name.startswith("retain."):
        return name in own and name != "retain.project"
    return name not in _MEMORY or config.train.retain.remembers


def _of_tasks(share: float, low: float, tasks: int) -> float:
    """The nearest share of a step's tasks that is a whole number of them, and not none unless `low` is.

    >>> _of_tasks(0.3, 0.0, 4), _of_tasks(0.1, 0.0, 4), _of_tasks(0.1, 0.05, 4)
    (0.25, 0.0, 0.25)
    """
    return min(max(round(share * tasks), int(low > 0.0)), max(tasks - 1, 0)) / tasks


def _default(config: RunConfig) -> dict[str, Plain]:
    rate = config.train.optimizer.lr
    found: dict[str, Plain] = {REMEDY: list(REMEDIES), "retain.memory": "20..500:log"}
    found["optimizer.lr"] = f"{rate / 3:.2g}..{rate * 3:.2g}:log"
    if "inner_steps" in parameters(_algorithm(config.algorithm["name"])):
        found["algorithm.inner_steps"] = f"1..{max(5, int(config.algorithm.get('inner_steps', 1)))}"
    return found


def _settings(config: RunConfig, names: Sequence[Any]) -> dict[str, Any]:
    """The settings that may be searched, by dotted name, with their types."""
    found: dict[str, Any] = {REMEDY: str, _NAME: str}
    for name in names:
        takes = parameters(_algorithm(str(name)))
        found |= {f"algorithm.{n}": p.annotation for n, p in takes.items() if n not in ("module", "loss")}
    if "name" in config.model:
        model = find("model", models.__name__, models.REGISTRY, config.model["name"])
        found |= {f"model.{n}": p.annotation for n, p in parameters(model).items()}
    for name, kind in get_type_hints(TrainConfig).items():
        if dataclasses.is_dataclass(kind) and name not in _FIXED_GROUPS:
            found |= {f"{name}.{n}": inner for n, inner in get_type_hints(kind).items()}
        elif not dataclasses.is_dataclass(kind) and name not in _FIXED:
            found[name] = kind
    return found


def _knob(name: str, given: Plain, kind: Any) -> Knob:
    if isinstance(given, str) and ".." in given:
        return _range(name, given, kind)
    choices = tuple(converted(kind, value, name) for value in _listed(given))
    plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in choices)
    if not choices or not plain or len(set(choices)) < len(choices):
        raise ConfigError(
            f"knob {name} = {given!r}",
            expected="different values with commas between, or a range low..high",
            do=f"give --knob {name}=A,B or --knob {name}=LOW..HIGH[:log]",
        )
    if name == _NAME:
        for choice in choices:
            _algorithm(str(choice))
    return Knob(name, choices)


def _range(name: str, given: str, kind: Any) -> Knob:
    ends, _, scale = given.partition(":")
    whole = int in (kind, *get_args(kind)) and float not in (kind, *get_args(kind))
    wrong = ConfigError(
        f"knob {name} = {given!r}",
        expected="low..high with low < high" + (", whole numbers" if whole else "") + "; with :log, 0 < low",
        do=f"give --knob {name}=LOW..HIGH or --knob {name}=LOW..HIGH:log",
    )
    low_text, _, high_text = ends.partition("..")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        raise wrong from None
    bounded = low < high and abs(low) + abs(high) < float("inf") and scale in ("", "log")
    if not bounded or (scale and low <= 0.0) or (whole and (low % 1 or high % 1)):
        raise wrong
    return Knob(name, (), low, high, scale == "log", whole)


def _listed(given: Plain) -> list[Plain]:
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _algorithm(name: str) -> Any:
    return find("algorithm", algorithms.__name__, algorithms.REGISTRY, name)
