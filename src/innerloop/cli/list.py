"""`innerloop list`: what there is, by name."""

from __future__ import annotations

import json

from innerloop.cli import described, recipes
from innerloop.cli.options import HELP, JSON, help_page, one_positional, simple
from innerloop.core.errors import unknown

OPTIONS = (JSON, HELP)
KINDS = {"algorithms": "algorithm", "tasks": "tasks", "models": "model", "gradients": "gradient"}
WHAT = "{algorithms,tasks,models,gradients,recipes}"


def run(argv: list[str]) -> int:
    parsed = simple(argv, OPTIONS, "list")
    if parsed.flag("help"):
        print(help_page(f"list {WHAT} [--json]", "Names what there is, each with a line about it.", OPTIONS))
        return 0
    what = one_positional(parsed, WHAT, "list")
    if what not in (*KINDS, "recipes"):
        raise unknown("list", what, (*KINDS, "recipes"))
    found = entries(what)
    if parsed.flag("json"):
        print(json.dumps([{"name": name, "about": about} for name, about in found.items()], indent=2))
        return 0
    width = max(map(len, found), default=0) + 2
    for name, about in found.items():
        print(f"{name:<{width}}{about}".rstrip())
    return 0


def entries(what: str) -> dict[str, str]:
    """Names of one kind, each with a line about it."""
    if what == "recipes":
        return {name: recipes.about(path) for name, path in recipes.places().items()}
    return {found.name: found.about for found in described.components(KINDS[what])}
