"""`innerloop stability`: what a run's adaptation can bear, and what breaks it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from innerloop.cli.doctor import FAIL_ON, finding_text
from innerloop.cli.options import HELP, JSON, Option, Parsed, Takes, help_page, parse, unknown_option
from innerloop.cli.texts import score, table
from innerloop.core.errors import ConfigError

if TYPE_CHECKING:
    from innerloop.diagnose.effects import Effect, Effects
    from innerloop.diagnose.stability import Judgement
    from innerloop.training.run import Run

_OPTIONS = (
    Option("split", "train, val or test", "NAME", "test"),
    Option("episodes", "number of fixed tasks", "N", "200"),
    Option("seed", "which tasks: the same seed gives the same ones to every run", "N", "0"),
    Option("only", "these by name alone, such as inner-rate,shots,seed; in the file too", "NAMES", "all"),
    Option("ood", "another source of tasks, that it was not trained on; --ood.NAME VALUE sets it up", "NAME"),
    Option("fail_on", "warn or error: what exits with another code than 0", "NAME", "warn"),
    Option("html", "also write the report of these runs", "FILE"),
    JSON,
    HELP,
)
_BAR = 12  # characters of the bar of a loss of everything
_GROUP = "ood."


def run(argv: list[str]) -> int:
    parsed = parse(argv, _takes)
    if parsed.flag("help"):
        print(help_page("stability RUN [RUN ...] [options]", _ABOUT, _OPTIONS))
        return 0
    fail_on = parsed.options.get("fail_on", "warn")
    if fail_on not in FAIL_ON:
        raise ConfigError(f"--fail-on {fail_on}", expected="warn or error", do="choose one")
    if not parsed.positionals:
        raise ConfigError(
            "no run folder",
            expected="one or more",
            do="innerloop stability RUN; see 'innerloop stability --help'",
        )
    from innerloop.diagnose.effects import FILE, Effects
    from innerloop.diagnose.stability import judge_stability
    from innerloop.training.folder import RunFolder

    folder = RunFolder(parsed.positionals[0])
    records = _measured(parsed)
    effects = Effects(records)
    judged = judge_stability(effects)
    summary = {"run": parsed.positionals[0]} | to_dict(effects, judged)
    whole = summary | {"effects": [e.to_dict(records=True) for e in effects.all], "records": records}
    written = folder.write(FILE, json.dumps(whole) + "\n")
    if parsed.flag("json"):
        print(json.dumps(summary, indent=2))
    else:
        print(text(parsed.positionals[0], effects, judged))
        print(f"\nrecords  {written}")
    if "html" in parsed.options:
        from innerloop.report.page import write

        print(f"report   {write(parsed.positionals, parsed.options['html'])}", file=sys.stderr)
    return judged.exit_code(fail_on)


def _measured(parsed: Parsed) -> dict[str, Any]:
    """The records of the first run, beside the others."""
    from innerloop.evaluate.protocol import FixedEpisodes
    from innerloop.training.run import load
    from innerloop.training.stability import stability, unfamiliar_tasks

    chosen = FixedEpisodes(**_chosen(parsed))
    words = parsed.options.get("only", "").replace("-", " ").replace("_", " ").split(",")
    only = [name.strip() for name in words if name.strip()]
    runs: list[Run] = [load(path) for path in parsed.positionals]
    ood = dict([unfamiliar_tasks(runs[0], settings)] if (settings := _ood(parsed)) else [])
    where = f"{parsed.positionals[0]} (step {runs[0].step})"
    _say(f"{where} on {chosen.episodes} {chosen.split} tasks, as they are and disturbed ...")
    return stability(
        runs[0], chosen, others=runs[1:], unfamiliar=ood, only=only, tell=lambda name: _say(f"  {name}")
    )


def _chosen(parsed: Parsed) -> dict[str, Any]:
    """The arguments of `FixedEpisodes`, converted."""
    from typing import Literal

    from innerloop.training.components import converted

    types: dict[str, Any] = {"split": Literal["train", "val", "test"], "episodes": int, "seed": int}
    given = {"split": "test", "episodes": 200, "seed": 0} | {
        name: parsed.options[name] for name in types if name in parsed.options
    }
    return {name: converted(types[name], value, f"--{name}") for name, value in given.items()}


def _ood(parsed: Parsed) -> dict[str, Any]:
    """The other source as a component: its name and its arguments."""
    given = {n.removeprefix(_GROUP): v for n, v in parsed.options.items() if n.startswith(_GROUP)}
    if "ood" not in parsed.options:
        if given:
            raise ConfigError(
                f"--ood.{next(iter(given))} without --ood",
                expected="the name of a source of tasks",
                do="give --ood NAME",
            )
        return {}
    return {"name": parsed.options["ood"]} | given


def to_dict(effects: Effects, judged: Judgement) -> dict[str, Any]:
    """What `innerloop stability --json` prints, but for the name of the run."""
    setup = {name: value for name, value in effects.setup.items() if name != "config"}
    usual = effects.undisturbed.to_dict("score") | effects.gained.to_dict("gain")
    told = {"setup": setup, "undisturbed": usual | {"n": effects.setup["episodes"]}}
    told |= {"effects": [effect.to_dict() for effect in effects.all]}
    told |= {"not_measured": [{"name": n, "reason": r} for n, r in effects.skipped.items()]}
    return told | judged.to_dict()


def text(name: str, effects: Effects, judged: Judgement) -> str:
    """Everything for people: the undisturbed score, what each perturbation costs, findings."""
    setup, metric = effects.setup, effects.setup["metric"]
    sizes = f"{setup['ways']}-way {setup['shots']}-shot" if setup["ways"] else f"{setup['shots']}-shot"
    usual, gain = effects.undisturbed, effects.gained
    lines = [
        f"{name}: {setup['episodes']} {setup['split']} tasks of seed {setup['seed']}, {sizes}",
        f"undisturbed {metric} {score(metric, usual.value, usual.half_width)}, better than a constant guess "
        f"by {score(metric, gain.value, gain.half_width)}",
        "",
        _table(effects.all, metric) if effects.all else "nothing was measured beside it",
        "",
        *_notes(effects),
    ]
    lines += [f"not measured  {', '.join(names)}: {why}" for why, names in _reasons(effects).items()]
    findings = [finding_text(finding) for finding in judged.findings] or ["no findings"]
    told = [f"{len(judged.passed)} rules passed{_silent(judged)}"]
    return "\n".join([*lines, "", *findings, *told])


def _table(effects: Sequence[Effect], metric: str) -> str:
    rows = []
    for effect in effects:
        lost = effect.lost
        share = "-" if lost is None else f"{100 * lost.value:.0f} +- {100 * lost.half_width:.0f} %"
        worse = score(metric, effect.harm.value, effect.harm.half_width, signed=True)
        rows.append(
            [
                f"{effect.name}: {effect.size}",
                score(metric, effect.score),
                worse if effect.paired else f"({worse})",
                share,
                _bar(effect),
                str(effect.n),
            ]
        )
    head = ["perturbation", metric, "worse by", "of the gain", "", "tasks"]
    return table(rows, head=head)


def _bar(effect: Effect) -> str:
    """The lost share as a bar, from the left; hollow where its interval includes none at all."""
    if effect.lost is None:
        return "".ljust(_BAR)
    length = round(_BAR * min(1.0, max(0.0, effect.lost.value)))
    return (("█" if effect.lost.clearly_positive else "░") * length).ljust(_BAR)


def _notes(effects: Effects) -> list[str]:
    """How to read the table, and what of it is by design."""
    lines = [
        "95 % intervals over tasks, differences on the same tasks; 'of the gain' is the share that is lost",
        "of what is gained over a constant guess: 100 % is as bad as guessing",
    ]
    own = dict.fromkeys(effect.name for effect in effects.all if "reference" in effect.row)
    if own:
        lines.append(f"{', '.join(own)}: the difference is on those queries alone that are judged both times")
    if any(not effect.paired for effect in effects.all):
        lines.append(
            "in brackets: other tasks, so no pairs; their share is measured by their own constant guess"
        )
    failed = [f"{effect.name} {effect.size}: {effect.failed}" for effect in effects.all if effect.failed]
    if failed:
        lines.append(f"tasks that left the finite numbers count as bad as can be: {', '.join(failed)}")
    if effects.setup["ordered"]:
        lines.append("this learner reads its support in order, so that the order may matter is by design")
    if effects.setup["transductive"]:
        lines.append("this learner's predictions depend on the other queries (BatchNorm transductive)")
    factor = effects.setup["safety_factor"]
    if factor is not None:
        lines.append(
            f"2 / (alpha lambda_max) of inner steps is {factor:.2g}; on a quadratic they diverge below 1: "
            "what longer ones do here, the rows of the inner rate say"
        )
    return lines


def _reasons(effects: Effects) -> dict[str, list[str]]:
    """What was not measured, by the reason."""
    found: dict[str, list[str]] = {}
    for name, reason in effects.skipped.items():
        found.setdefault(reason, []).append(name)
    return found


def _silent(judged: Judgement) -> str:
    found: dict[str, list[str]] = {}
    for answer in judged.silent:
        found.setdefault(answer.reason, []).append(answer.id)
    told = "".join(f"\nnot evaluated  {', '.join(ids)}: {reason}" for reason, ids in found.items())
    return f", {len(judged.silent)} not evaluated{told}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _takes(name: str) -> Takes:
    known = {option.name: option for option in _OPTIONS}
    if name.startswith(_GROUP):
        return "value"
    if name not in known:
        raise unknown_option(name, known, "stability")
    return "nothing" if known[name].metavar is None else "value"


_ABOUT = """Judges a run on fixed tasks, as they are and disturbed: longer and more inner steps, other
shots and ways, wrong labels, an outlier, corrupted, unfamiliar and adversarial inputs, queries of
one class. Prints what each costs, the worst first, and findings with what to do; writes all to
RUN/stability.json. Several runs are the first, with runs of other seeds beside it. Exits 0 if
nothing is wrong, 1 for a warning, 2 for an error."""
