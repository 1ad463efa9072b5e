"""The command line's entry: finds the command, and turns errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from innerloop import __version__
from innerloop.core.errors import (
    ConfigError,
    ContractError,
    DataError,
    InnerloopError,
    NonFiniteError,
    unknown,
)

DONE, BAD_INPUT, NON_FINITE, INTERRUPTED, CLOSED_PIPE = 0, 2, 3, 130, 141


class Command(NamedTuple):
    """A command: the module that runs it, and what it does, in one line."""

    module: str
    about: str


COMMANDS = {
    "train": Command("train", "meta-train a learner on a distribution over tasks"),
    "evaluate": Command("evaluate", "judge a run on unseen tasks, beside baselines, with intervals"),
    "report": Command("report", "write one page on runs: verdict, findings, charts"),
    "watch": Command("watch", "draw the verdict and curves of a run in the terminal while it trains"),
    "compare": Command("compare", "judge several runs on the same tasks, with paired differences"),
    "doctor": Command("doctor", "say whether runs have converged, what is wrong with them, and what to do"),
    "stability": Command("stability", "say what a run's adaptation can bear: noise, outliers, attacks, ..."),
    "tradeoff": Command("tradeoff", "search what gains on new tasks and keeps the old ones; at what price"),
    "adapt": Command("adapt", "learn new classes from a few images each, and label other images"),
    "bench": Command("bench", "compare algorithms, or optimizers, on equal terms, in one table"),
    "check": Command("check", "ask an algorithm, of ours or of yours, whether it does what it should"),
    "plan": Command("plan", "say what each gradient path would cost, before anything is trained"),
    "list": Command("list", "name the algorithms, tasks, models, gradients or recipes there are"),
}

HEADINGS = {
    ConfigError: "a setting is not valid",
    ContractError: "something does not fit",
    DataError: "data cannot be read or written",
    NonFiniteError: "training went non-finite",
}


def entry() -> int:
    """What the installed script calls; its result is the exit code."""
    # On a busy machine torch's threads would burn the time that others need, spinning while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return main(sys.argv[1:])


def main(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code: the one place where errors become messages."""
    _log_to_stderr()
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
        return code
    except InnerloopError as error:
        _say(message(error))
        return NON_FINITE if isinstance(error, NonFiniteError) else BAD_INPUT
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _mute_stdout()
        return CLOSED_PIPE
    except OSError as error:
        # A disk that is full or may not be written to; a command that knows more has said it already.
        if error.filename is None:
            _mute_stdout()
        told = DataError(
            f"{error.filename or 'standard output'}: {error.strerror or error}",
            expected="files that can be read and written",
            do="free space, or check the path and its permissions",
        )
        _say(message(told))
        return BAD_INPUT


def message(error: InnerloopError) -> str:
    """Four lines: what is wrong in general, what was got, what was expected, and what to do."""
    general = next((text for kind, text in HEADINGS.items() if isinstance(error, kind)), "not possible")
    heading = getattr(error, "heading", general)
    parts = {"error": heading, "got": error.got, "expected": error.expected, "do": error.do}
    return "\n".join(f"{name}: {' '.join(str(text).split())}" for name, text in parts.items())


def _dispatch(argv: Sequence[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("--help", "-h", "help"):
        print(_help())
        return DONE
    if name in ("--version", "-V"):
        print(f"innerloop {__version__}")
        return DONE
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    return importlib.import_module(f"innerloop.cli.{COMMANDS[name].module}").run(list(argv[1:]))


def _help() -> str:
    lines = [
        "innerloop: meta-learning for PyTorch",
        "",
        "usage: innerloop COMMAND [arguments]",
        "",
        *(f"  {name:<10}{command.about}" for name, command in COMMANDS.items()),
        "",
        "  innerloop COMMAND --help    what a command takes",
        "  innerloop --version         the version",
        "",
        "first steps:",
        "  innerloop train --algorithm MAML --tasks Sinusoid --steps 2000 --out runs/sinusoid",
        "  innerloop evaluate runs/sinusoid",
        "",
        "exit codes: 0 done, 1 a check fails, 2 bad input, 3 training went non-finite, 130 interrupted",
    ]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _mute_stdout() -> None:
    """Point stdout at nothing, or the interpreter complains of it once more when it exits."""
    with contextlib.suppress(OSError, ValueError):  # a stdout that is no file needs nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ToStderr(logging.Handler):
    """Writes the package's log to what stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(f"{record.levelname.lower()}: {record.getMessage()}")


def _log_to_stderr() -> None:
    log = logging.getLogger("innerloop")
    if not log.handlers:
        log.addHandler(_ToStderr())
        log.setLevel(logging.INFO)
