"""`innerloop tradeoff`: which configurations gain on new tasks and keep the old ones, and at what price."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from innerloop.cli import settings
from innerloop.cli.options import (
    HELP,
    JSON,
    Option,
    Parsed,
    Takes,
    help_page,
    no_positionals,
    parse,
    unknown_option,
)
from innerloop.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from innerloop.bench.question import Question

INTERRUPTED = 130
_WIDTH = 110
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
    pictures = _drawn(told, out)
    if parsed.flag("json"):
        print(json.dumps(told, indent=2))
    else:
        print(text(told, out))
        print("\n" + "\n".join(f"picture  {place}" for place in pictures))
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
    from innerloop.report.tradeoff_words import HEAD, cells, front, options, reading, rest, shown, summary

    lines = [
        *wrap(f"{told['algorithm']} on {told['tasks']}: {summary(told)}", _WIDTH),
        "",
        table([cells(point) for point in shown(told)], head=HEAD),
        "",
        *(
            line
            for said in (*reading(told), *rest(told))
            for line in wrap(said, _WIDTH, subsequent_indent="  ")
        ),
    ]
    for point in front(told):
        knee = ", the knee" if point["knee"] else ""
        file = shlex.quote(str(out / "points" / f"{point['name']}.yaml"))
        lines += ["", f"point {point['name']}{knee}: {options(point['settings'])}"]
        lines += [f"  innerloop train --config {file} --out DIR"]
    return "\n".join(lines)


def _drawn(told: dict[str, Any], out: Path) -> list[Path]:
    """The picture, and the page where plotly is installed."""
    from innerloop.report.tradeoff import write

    try:
        return write(told, out)
    except ConfigError as error:
        print(f"no page: {error.got} ({error.do})", file=sys.stderr)
        return [out / "tradeoff.png"]


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
    try:
        return settings.takes(name, "tradeoff")
    except ConfigError:
        if nearest(name, [*own, *settings.outer_loop()]) in own:
            raise unknown_option(name, own, "tradeoff") from None
        raise


_ABOUT = """Searches for configurations that gain on new tasks and keep the old ones, on a stream of tasks.
Each is trained for several seeds beside three anchors: naive training (no remedy), weights that are frozen
after the first stage, and joint training on all families. Prints the front of the two with its knee and the
price of stability, after running it again on fresh seeds. Takes the extra 'tradeoff' (Optuna)."""
_MORE = """

Every setting of 'innerloop train' may be given, too. Without knobs, remedies are searched one at a time,
with the outer rate and the number of inner steps. 'remedy=replay,ewc' is a knob that turns one on."""
