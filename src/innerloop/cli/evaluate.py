"""`innerloop evaluate`: how good a run is on unseen tasks, and within which interval."""

from __future__ import annotations

import json

from innerloop.cli import judging
from innerloop.cli.options import help_page, one_positional, simple


def run(argv: list[str]) -> int:
    parsed = simple(argv, judging.OPTIONS, "evaluate")
    if parsed.flag("help"):
        print(help_page("evaluate RUN [options]", _ABOUT, judging.OPTIONS))
        return 0
    path = one_positional(parsed, "RUN", "evaluate")
    asked = judging.arguments(parsed)
    from innerloop.training.folder import RunFolder

    folder = RunFolder(path)
    folder.check()
    from innerloop.report import adaptation
    from innerloop.training.run import load

    loaded = load(path)
    judging.announce(path, loaded.step, asked)
    found = loaded.evaluate(**asked)
    summary = found.to_dict()
    print(json.dumps(summary) if parsed.flag("json") else judging.report(summary), flush=True)
    written = {"checkpoint_step": loaded.step} | found.to_dict(records=True)
    records = folder.write(judging.file_name(asked), json.dumps(written) + "\n")
    picture = adaptation.draw(records)
    if not parsed.flag("json"):
        print(f"\nrecords  {records}" + (f"\npicture  {picture}" if picture else ""))
    return 0


_ABOUT = """Judges a run on fixed tasks of unseen classes, after each inner step, beside baselines on the
same tasks. Writes the records of every task to RUN/evaluation-*.json."""
