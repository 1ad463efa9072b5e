"""`innerloop tradeoff`: which configurations gain on new tasks and keep the old ones, and at what price."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerloop.cli import settings
from innerloop.cli.options import HELP, JSON, Option, Parsed, Takes, help_page, no_positionals, parse
from innerloop.core.errors import ConfigError

if TYPE_CHECKING:
    from innerloop.bench.question import Question

INTERRUPTED = 130
_KNOB = "knob"
_OPTIONS = (
    Option("config", "settings of a training on a stream; single ones may follow as options", "FILE"),
    Option("trials", "configurations to try, beside naive, frozen and joint training", "N", "20"),
    Option("seeds", "trainings of each, from --seed on", "N", "3"),
    Option("confirm", "trainings of each point of the front on fresh seeds; 0 for none", "N", "3"),
    Option(_KNOB, "a setting to search: NAME=LOW..HIGH[:log] or NAME=A,B; may be given again", "NAME=VALUES"),
    Option("space", "a YAML file with such knobs, under 'search'", "FILE"),
    Option("epsilon", "how much worse in one objective counts as equal", "X", "0.05"),
    Option("out", "the folder of the search; the same command goes on with it", "DIR", "runs/tradeoff-..."),
    JSON,
    HELP,
)
_OWN = tuple(option.name for option in _OPTIONS if option.name != "config")
_REFUSED = ("resume", "overwrite", "print_config")


def run(argv: list[str]) -> int:
    words, knobs = _without_knobs(argv)
    parsed = parse(words, _takes)
    if parsed.flag("help"):
        print(help_page("tradeoff --config FILE [options]", _ABOUT, _OPTIONS, more=_MORE))
        return 0
    no_positionals(parsed, "tradeoff")
    question, out = _question(parsed, knobs)
    from innerloop.bench.tradeoff import Search
    from innerloop.training.interrupt import Interrupt

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    tell(f"{len(question.space)} knobs: " + "  ".join(f"{knob.name}={knob}" for knob in question.space))
    try:
        with _quiet(), Interrupt() as interrupt:
            search = Search(question, out, tell, interrupt)
            found = search.run()
    except KeyboardInterrupt:
        tell(f"interrupted; all finished trials are in {out}. To go on:")
        tell(f"  innerloop tradeoff {shlex.join(argv)}")
        return INTERRUPTED
    told = search.to_dict(found)
    if parsed.flag("json"):
        print(json.dumps(told, indent=2))
    else:
        print(text(told, out))
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of single trainings: a trial says in its own line what went wrong."""
    log = logging.getLogger("innerloop")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def text(told: dict[str, Any], out: Path) -> str:
    """What was found, as a table with how to read it and what to do next.

    Args:
        told: what `front.json` holds.
        out: the folder that it is in.
    """
    from innerloop.cli.texts import table

    result, fresh = told["reported"], told["fresh_seeds"]
    seeds = f"fresh seeds {_listed(fresh)}" if fresh else f"seeds {_listed(told['seeds'])}, not confirmed"
    failed = f", {len(told['failed'])} failed" if told["failed"] else ""
    lines = [
        f"{told['algorithm']} on {told['tasks']}: {told['trials']} trials{failed}; {seeds}",
        "",
        table([_row(point) for point in _shown(result, everything=bool(fresh))], head=_HEAD),
        "",
        *_notes(told),
    ]
    for point in result["points"]:
        if point["on_front"] and "settings" in point:
            lines += ["", *_recipe(point, out)]
    return "\n".join(lines)


_HEAD = ("point", "stability S", "plasticity P", "new", "lost", "dip", "cost", "price", "")


def _shown(result: dict[str, Any], *, everything: bool) -> list[dict[str, Any]]:
    """Anchors and the front; of points that were run again, all."""
    return [p for p in result["points"] if everything or p["on_front"] or "settings" not in p]


def _row(point: dict[str, Any]) -> list[str]:
    cost = (
        f"{point['cost']:.2f}" if "cost" in point else {"naive": "1.00", "joint": "1.00"}.get(point["name"])
    )
    notes = [*(["knee"] if point["knee"] else []), *_STANDING.get(point["standing"], [])]
    if not point["on_front"] and point["standing"] != "reference":
        notes = ["beaten by the front"]
    scores = [_number(point[name]) for name in ("gain", "forgetting", "dip")]
    places = [_interval(point[name]) for name in ("stability", "plasticity")]
    return [point["name"], *places, *scores, cost or "-", _number(point["price"]), ", ".join(notes)]


_STANDING = {"optimal": ["for sure"], "possible": ["possibly"], "reference": ["not on a stream"]}


def _notes(told: dict[str, Any]) -> list[str]:
    """How to read the table, and what it leaves out."""
    result, search = told["reported"], told["search"]
    axes = result["axes"]
    lost, room = axes["stability"]["naive_forgetting"], axes["plasticity"]["joint_over_frozen"]
    lines = [
        _axis("S", "1 - forgetting / naive forgetting", "minus forgetting", axes["stability"], lost),
        _axis("P", "(new - frozen) / (joint - frozen)", "the score itself", axes["plasticity"], room),
        "new: score of new families after their stage; lost, dip: fall of old ones at the end, at the worst",
        "cost: passes through tasks' data, naive is 1; price: P for a unit of S, on to the next point below",
        "intervals: 95 % over seeds; for sure: better than each other point in S or in P, beyond the noise",
    ]
    beside = [p["name"] for p in search["points"] if p["standing"] == "possible" and not p["on_front"]]
    beside = [name for name in beside if name.isdigit()]
    if beside:
        lines.append(f"not to be told from the front by so many seeds: trials {', '.join(beside)}")
    for point in search["points"]:
        if point.get("errors"):
            names = ", ".join(point["errors"])
            lines.append(f"unfit: trial {point['name']}, errors of the doctor's: {names}")
    lines += [
        f"failed: trial {one['trial']} ({_settings(one['settings'])}): {one['reason']}"
        for one in told["failed"]
    ]
    if told["running_elsewhere"]:
        lines.append(f"{told['running_elsewhere']} trials go on in other processes; run the command again")
    return lines


def _axis(name: str, share: str, raw: str, axis: dict[str, Any], unit: dict[str, Any]) -> str:
    if axis["undefined"]:
        return f"{name}: {raw}; as a share it is undefined because {axis['undefined']}"
    return f"{name} = {share}; the whole is {_interval(unit)}"


def _recipe(point: dict[str, Any], out: Path) -> list[str]:
    """How to train a point of the front."""
    knee = ", the knee" if point["knee"] else ""
    return [
        f"point {point['name']}{knee}: {_settings(point['settings'])}",
        f"  innerloop train --config {shlex.quote(str(out / 'points' / point['name']))}.yaml --out DIR",
    ]


def _settings(settings: dict[str, Any]) -> str:
    """Settings as options of `innerloop train`."""
    values = {name: str(v).lower() if isinstance(v, bool) else v for name, v in settings.items()}
    return (
        " ".join(f"--{n if '.' in n else n.replace('_', '-')} {v}" for n, v in values.items()) or "as given"
    )


def _interval(found: dict[str, Any]) -> str:
    if found["low"] is None or found["high"] is None:
        return _number(found["value"])
    return f"{_number(found['value'])} [{_number(found['low'])}, {_number(found['high'])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0:.2f}" if abs(value) < 1e4 else f"{value:.1e}"


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _question(parsed: Parsed, knobs: dict[str, Any]) -> tuple[Question, Path]:
    """What is asked, and the folder that it is asked in."""
    given = Parsed({name: v for name, v in parsed.options.items() if name not in _OWN})
    values = settings.gather(given)
    settings.require(values)
    from innerloop.bench.knobs import space_of
    from innerloop.bench.question import Question
    from innerloop.cli.configuration import configured
    from innerloop.training.components import converted

    config = configured(values)
    kinds = {"trials": int, "seeds": int, "confirm": int, "epsilon": float}
    numbers = {
        name: converted(kind, parsed.options[name], f"--{name}")
        for name, kind in kinds.items()
        if name in parsed.options
    }
    space = space_of(config, _from_file(parsed.options.get("space")) | knobs)
    stem = f"tradeoff-{config.algorithm['name']}-{config.tasks['name']}".lower()
    return Question(config, space, **numbers), Path(parsed.options.get("out", f"runs/{stem}"))


def _from_file(path: str | None) -> dict[str, Any]:
    """The knobs of a YAML file: under `search`, or all that it holds."""
    if path is None:
        return {}
    from innerloop.training.experiment import read_yaml

    values = read_yaml(path)
    found = values.get("search", values)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(
            f"{path}: search = {found!r}",
            expected="knobs by name, such as 'retain.replay: 0..0.75'",
            do="write 'setting: low..high' or 'setting: [a, b]' lines",
        )
    return found


def _without_knobs(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words without those of --knob, which may be given several times, and the knobs by name."""
    rest: list[str] = []
    knobs: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name != f"--{_KNOB}":
            rest.append(word)
            continue
        given = value if equals else (words.pop(0) if words else "")
        setting, equals, values = given.partition("=")
        setting = setting.strip().replace("-", "_")
        if not equals or not values:
            raise ConfigError(
                f"--knob {given}".rstrip(),
                expected="--knob NAME=LOW..HIGH[:log] or NAME=A,B",
                do="give a setting and the values to try, as in --knob retain.replay=0..0.75",
            )
        if setting in knobs:
            raise ConfigError(f"--knob {setting} twice", expected="each knob once", do="remove one of them")
        knobs[setting] = values
    return rest, knobs


def _takes(name: str) -> Takes:
    own = {option.name: option for option in _OPTIONS}
    if name in own:
        return "nothing" if own[name].metavar is None else "value"
    if name in _REFUSED:
        raise ConfigError(
            f"--{name.replace('_', '-')} with tradeoff",
            expected="settings of a training",
            do="leave it out; the same command goes on with a search",
        )
    return settings.takes(name, "tradeoff")


_ABOUT = """Searches for configurations that gain on new tasks and keep the old ones, on a stream of tasks.
Each is trained for several seeds beside three anchors: naive training (no remedy), weights that are frozen
after the first stage, and joint training on all families. Prints the front of the two with its knee and the
price of stability, after running it again on fresh seeds. Takes the extra 'tradeoff' (Optuna)."""
_MORE = """

Every setting of 'innerloop train' may be given, too. Without knobs, remedies are searched one at a time,
with the outer rate and the number of inner steps. 'remedy=replay,ewc' is a knob that turns one on."""
