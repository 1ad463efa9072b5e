"""`innerloop plan`: what each gradient path would cost, before anything is trained."""

from __future__ import annotations

import json
import sys

from innerloop.cli import settings
from innerloop.cli.options import HELP, JSON, Takes, help_page, no_positionals, parse, unknown_option

_SHOWN = (*(option for option in settings.FILES if option.name != "out"), JSON, HELP)
_OF_TRAINING = ("resume", "overwrite", "print_config", "out")


def run(argv: list[str]) -> int:
    parsed = parse(argv, takes)
    if parsed.flag("help"):
        print(help_page("plan --config FILE [settings] [--json]", _ABOUT, _SHOWN, more=_MORE))
        return 0
    no_positionals(parsed, "plan")
    as_json = parsed.options.pop("json", False)
    values = settings.gather(parsed)
    settings.require(values)
    from innerloop.cli.configuration import configured
    from innerloop.training.plan import plan

    config = configured(values)
    learner, tasks = config.build()
    print("timing and measuring each gradient path ...", file=sys.stderr, flush=True)
    found = plan(learner, tasks, config=config.train)
    print(json.dumps(found.to_dict(), indent=2) if as_json else found)
    return 0


def takes(name: str) -> Takes:
    """As `innerloop train` takes its options, but for those of a run folder."""
    if name == JSON.name:
        return "nothing"
    if name in _OF_TRAINING:
        raise unknown_option(name, [option.name for option in _SHOWN], "plan")
    return settings.takes(name, "plan")


_ABOUT = (
    "Times and measures each gradient path on real tasks, with few inner steps, and predicts an outer\n"
    "step's seconds and peak memory; says what fits, and what training takes. Nothing is trained or written."
)
_MORE = "\n\nEvery setting of 'innerloop train' may be given too; see 'innerloop train --help'."
