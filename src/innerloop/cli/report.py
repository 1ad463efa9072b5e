"""`innerloop report`: one page on runs and searches for a trade-off, made from their folders alone."""

from __future__ import annotations

from innerloop.cli.options import HELP, Option, Parsed, Takes, help_page, parse, unknown_option
from innerloop.core.errors import ConfigError, check_range

_OPTIONS = (
    Option("out", "the HTML file to write; -o for short", "FILE", "report.html"),
    Option("epsilon", "relative change of the loss over a window that counts as none", "X", "0.01"),
    HELP,
)


def run(argv: list[str]) -> int:
    parsed = parse(["--out" if word == "-o" else word for word in argv], _takes)
    if parsed.flag("help"):
        print(help_page("report RUN [RUN ...] [-o FILE]", _ABOUT, _OPTIONS))
        return 0
    if not parsed.positionals:
        raise ConfigError(
            "no RUN",
            expected="at least one folder of a run or a search",
            do="innerloop report RUN [RUN ...] [-o FILE]",
        )
    epsilon = _epsilon(parsed)
    from innerloop.report.folders import gather
    from innerloop.report.page import render, save
    from innerloop.report.tradeoff_words import summary

    runs, searches = gather(parsed.positionals, epsilon=epsilon)
    place = save(render(runs, searches), parsed.options.get("out", "report.html"))
    for found in runs:
        print(f"{found.name}: {found.diagnosis.verdict}")
    for found in searches:
        print(f"{found.name}: {found.title}, {summary(found.told)}")
    print(f"report  {place}")
    return 0


def _takes(name: str) -> Takes:
    known = {option.name: option for option in _OPTIONS}
    if name not in known:
        raise unknown_option(name, known, "report")
    return "nothing" if known[name].metavar is None else "value"


def _epsilon(parsed: Parsed) -> float:
    from innerloop.training.components import converted

    value = converted(float, parsed.options.get("epsilon", "0.01"), "--epsilon")
    check_range("--epsilon", value, low=0.0, open_low=True)
    return value


_ABOUT = """Writes one page that needs nothing but itself: the verdict, findings with what mends them, and
charts of convergence, the inner loop, the meta-gradient, tasks, memorisation and stability. Several
runs are compared. RUN may also be the folder of a search by 'innerloop tradeoff': the price of stability
is a section then, and its folder alone gives the page of the search."""
