"""`innerloop train`: meta-train, with progress on the screen and everything else in a run folder."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerloop.cli import described, settings
from innerloop.cli.described import KINDS, Argument
from innerloop.cli.options import Option, Parsed, no_positionals, option_lines, parse
from innerloop.core.errors import ConfigError, DataError, NonFiniteError

if TYPE_CHECKING:
    from innerloop.training.experiment import RunConfig
    from innerloop.training.folder import RunFolder
    from innerloop.training.loop import Training

INTERRUPTED = 130


def run(argv: list[str]) -> int:
    parsed = parse(argv, settings.takes)
    if parsed.flag("help"):
        print(_help(parsed))
        return 0
    no_positionals(parsed, "train")
    if parsed.flag("resume") and parsed.flag("overwrite"):
        raise ConfigError("--resume and --overwrite", expected="one of them", do="remove one")
    if parsed.flag("resume") and "out" not in parsed.options:
        raise ConfigError(
            "--resume without --out", expected="the run folder to go on with", do="add --out DIR"
        )
    values = settings.gather(parsed)
    from innerloop.training.folder import RunFolder

    out = parsed.options.get("out")
    stored = RunFolder(out) if parsed.flag("resume") and out is not None else None
    if stored is not None and (stored.exists or not values):
        from innerloop.cli.configuration import continued

        return _train(continued(stored, values), stored, "resume")
    settings.require(values)
    from innerloop.cli.configuration import complete_yaml, configured

    config = configured(values)
    if parsed.flag("print_config"):
        print(complete_yaml(config), end="")
        return 0
    folder = RunFolder(out if out is not None else _free_folder(config))
    return _train(config, folder, "overwrite" if parsed.flag("overwrite") else "refuse")


def _train(config: RunConfig, folder: RunFolder, existing: Any) -> int:
    from innerloop.cli.progress import display
    from innerloop.report.validation import draw
    from innerloop.training.experiment import describe
    from innerloop.training.fit import start
    from innerloop.training.folder import CONFIG
    from innerloop.training.interrupt import Interrupt

    learner, tasks = config.build()
    training = start(learner, tasks, config.train, folder, existing)
    if existing == "resume":
        folder.write(CONFIG, describe(learner, tasks, config.train).to_yaml())
    print(_opening(config, training), flush=True)
    try:
        with Interrupt() as interrupt, display(training) as screen:
            for progress in training:
                screen.update(progress)
                if interrupt.asked and progress.step < config.train.steps:
                    training.save()
                    break
    except NonFiniteError:
        with suppress(DataError):  # what matters is what ended the training
            draw(folder.path)
        raise
    if training.state.step < config.train.steps and not training.stopped:
        print(f"interrupted after step {training.state.step}, which is saved; to go on:")
        print(f"  innerloop train --resume --out {shlex.quote(str(folder.path))}", flush=True)
        draw(folder.path)
        return INTERRUPTED
    draw(folder.path)
    print(_closing(training, folder.path))
    return 0


def _opening(config: RunConfig, training: Training) -> str:
    train, step = config.train, training.state.step
    what = f"{type(training.learner).__name__} with {type(training.learner.module).__name__}"
    text = f"{what} on {type(training.tasks).__name__}: {train.steps} steps of {train.tasks_per_step} tasks"
    where = training.folder.path if training.folder else ""
    return f"{text}\nrun folder {where}" + (f", from step {step}" if step else "")


def _closing(training: Training, path: Path) -> str:
    from innerloop.cli.texts import score

    best = training.state.best
    found = ""
    if best is not None:
        metric = training.tasks.spec.metric
        where = "validation" if training.config.stop == "never" else "probe"
        found = f" (step {best[1]}: {where} {metric} {score(metric, best[0])})"
    watch = training.watch
    verdict = [f"verdict     {watch.verdict}"] if watch is not None and watch.verdict is not None else []
    return "\n".join(
        [
            f"run folder  {path}",
            *verdict,
            f"best        {path / 'checkpoints' / 'best.safetensors'}{found}",
            f"picture     {path / 'validation.png'}",
            f"next        innerloop evaluate {shlex.quote(str(path))}",
            f"            innerloop doctor {shlex.quote(str(path))}",
        ]
    )


def _free_folder(config: RunConfig) -> Path:
    """The first of `runs/<algorithm>-<tasks>-1`, `-2`, ... that is not there."""
    stem = f"{config.algorithm['name']}-{config.tasks['name']}".lower()
    number = 1
    while (path := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return path


def _help(parsed: Parsed) -> str:
    sections = {"configuration and output": [*settings.FILES, *settings.FLAGS]}
    sections["what is trained, on what, and how its meta-gradient is obtained"] = [
        Option(kind, f"one of {', '.join(described.registry(kind))}", "NAME", _DEFAULTS.get(kind))
        for kind in KINDS
    ]
    outer = settings.outer_loop()
    sections["outer loop"] = [_option(name, a) for name, a in outer.items() if name not in KINDS]
    for kind in KINDS:
        if kind in parsed.options:
            found = described.component(kind, parsed.options[kind])
            own = [_option(f"{kind}.{n}", a) for n, a in found.arguments.items() if n != "module"]
            sections[f"--{kind} {found.name} ({found.about})"] = own
    lines = ["usage: innerloop train --algorithm NAME --tasks NAME [--out DIR] [settings]", ""]
    lines += ["Meta-trains a learner and writes a run folder: settings, metrics, checkpoints, a picture."]
    for title, options in sections.items():
        lines += ["", f"{title}:", option_lines(options)]
    lines += [
        "",
        "With --algorithm MAML, --tasks Omniglot, --model Conv4 or --gradient Recompute, --help also lists",
        "what these take.",
    ]
    return "\n".join(lines)


_DEFAULTS = {"model": "Conv4 for images, MLP for the rest", "gradient": "the algorithm's own"}


def _option(name: str, argument: Argument) -> Option:
    default = "as the tasks have it" if name == "algorithm.loss" else argument.default
    default = "required" if default is None else default.strip("'\"").replace("None", "none")
    return Option(name, argument.about, _metavar(argument), default)


def _metavar(argument: Argument) -> str:
    """What a value looks like: `N` for a whole number, `X` for a number, `TRUE|FALSE`, `A,B` for a list."""
    kind = argument.annotation.split(" | ")[0]
    if argument.is_list:
        return "A,B,..."
    return {"int": "N", "float": "X", "bool": "[true|false]"}.get(kind, "PATH" if "Path" in kind else "VALUE")
