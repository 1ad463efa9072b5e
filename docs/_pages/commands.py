"""What the command line says of itself: the help of every command, as it prints it."""

from __future__ import annotations

import contextlib
import io

from innerloop.cli.main import COMMANDS, main


def help_of(*words: str) -> str:
    """What `innerloop WORDS --help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main([*words, "--help"])
    if code != 0:
        raise RuntimeError(f"innerloop {' '.join(words)} --help: exit code {code}")
    return printed.getvalue().rstrip()


def helps() -> dict[str, str]:
    """The help of each command by its name; that of the program itself under an empty one."""
    return {"": help_of()} | {name: help_of(name) for name in COMMANDS}
