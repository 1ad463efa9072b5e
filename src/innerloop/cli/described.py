"""What classes say of themselves, read from their source: names, arguments and docstrings without an import.

Importing an algorithm imports torch, which takes seconds; a list or a help page must answer at once.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from innerloop.core.errors import unknown

PACKAGE = Path(__file__).parents[1]
#: The kinds of component of a run, and the package that holds each.
KINDS = {"algorithm": "algorithms", "model": "models", "tasks": "tasks", "gradient": "gradients"}


@dataclass(frozen=True)
class Argument:
    """One setting of a class: its annotation and default as source text; no default means required."""

    name: str
    annotation: str
    default: str | None
    about: str

    @property
    def is_bool(self) -> bool:
        return self.annotation == "bool"

    @property
    def is_list(self) -> bool:
        return self.annotation.startswith(("tuple", "list"))


@dataclass(frozen=True)
class Described:
    """A class: what it is in a line, and its settings by name."""

    name: str
    about: str
    arguments: Mapping[str, Argument]


def registry(kind: str) -> Mapping[str, str]:
    """Names of one kind of component -> their files."""
    if kind == "gradient":
        return gradients()
    return importlib.import_module(f"innerloop.{KINDS[kind]}").REGISTRY


@cache
def gradients() -> Mapping[str, str]:
    """The gradient paths and their files: what the package offers that is a concrete `MetaGradient`."""
    offered = _from_files(ast.parse((PACKAGE / "gradients/__init__.py").read_text(encoding="utf-8")))
    found = {name: place for name, place in sorted(offered.items()) if _is_below("MetaGradient", place, name)}
    return {name: Path(place).stem for name, place in found.items()}


@cache
def streams() -> Mapping[str, str]:
    """The tasks that come one after another, and their files: concrete `StreamTasks`."""
    places = registry("tasks")
    return {n: file for n, file in places.items() if _is_below("StreamTasks", f"tasks/{file}.py", n)}


def _is_below(root: str, place: str, name: str) -> bool:
    """Whether a class that is not abstract stands below another one of ours."""

    def below(place: str, name: str) -> bool:
        tree = ast.parse((PACKAGE / place).read_text(encoding="utf-8"))
        node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
        if node is None:
            return False
        return name == root or any(below(*base) for base in _bases(tree, node, place))

    abstract = re.search(rf"^class {name}\(.*\bABC\b.*\)", (PACKAGE / place).read_text("utf-8"), re.MULTILINE)
    return abstract is None and below(place, name)


def component(kind: str, name: str) -> Described:
    """A component by its name, or a `ConfigError` with the nearest one."""
    places = registry(kind)
    if name not in places:
        raise unknown(kind, name, places)
    return read_class(f"{KINDS[kind]}/{places[name]}.py", name)


def components(kind: str) -> list[Described]:
    return [component(kind, name) for name in registry(kind)]


@cache
def read_class(place: str, name: str) -> Described:
    """The class `name` in a file below the package; the file's first line tells what it is.

    A constructor that it inherits, and what its bases say of their arguments, are its own.
    """
    tree = ast.parse((PACKAGE / place).read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    text = ast.get_docstring(node) or ""
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    inherited = {n: a for base in _bases(tree, node, place) for n, a in read_class(*base).arguments.items()}
    if made is not None:
        found = _parameters(made)
    elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        found = _fields(node)
    else:
        found = [(a.name, a.annotation, a.default) for a in inherited.values()]
    said = {n: a.about for n, a in inherited.items()} | argument_lines(text)
    arguments = {n: Argument(n, annotation, default, said.get(n, "")) for n, annotation, default in found}
    whole = first_sentence(ast.get_docstring(tree) or text)
    return Described(name, whole.removeprefix(f"{name}: "), arguments)


def _bases(tree: ast.Module, node: ast.ClassDef, place: str) -> list[tuple[str, str]]:
    """The bases of a class that stand in the package: file and name of each."""
    here = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    from_files, found = _from_files(tree), []
    for base in map(ast.unparse, node.bases):
        at = place if base in here else from_files.get(base)
        if at is not None and (PACKAGE / at).is_file():
            found.append((at, base))
    return found


def _from_files(tree: ast.Module) -> dict[str, str]:
    """The names that a module imports from files of the package -> those files."""
    return {
        alias.name: f"{n.module.removeprefix('innerloop.').replace('.', '/')}.py"
        for n in tree.body
        if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("innerloop.")
        for alias in n.names
    }


def first_sentence(text: str) -> str:
    """The first line of a docstring, without its full stop.

    >>> first_sentence("Does this.\\n\\nAnd that.")
    'Does this'
    """
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


def argument_lines(text: str) -> dict[str, str]:
    """The entries of a docstring's `Args:`; `a, b: ...` describes both.

    >>> argument_lines("One.\\n\\nArgs:\\n    a, b: of\\n        both.\\n    c: of one.\\n\\nMore.")
    {'a': 'of both', 'b': 'of both', 'c': 'of one'}
    """
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n(?=[ ]))*)", text, re.MULTILINE)
    result: dict[str, str] = {}
    for entry in re.split(r"\n(?= {4}\w)", "\n" + section[1].rstrip() if section else ""):
        names, colon, rest = entry.partition(":")
        if colon:
            said = " ".join(rest.split()).removesuffix(".")
            result |= {name.strip(): said for name in names.split(",")}
    return result


def _parameters(function: ast.FunctionDef) -> list[tuple[str, str, str | None]]:
    given = function.args
    plain = given.args[1:]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    defaults += given.defaults
    both = [*zip(plain, defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [(a.arg, _text(a.annotation) or "Any", _text(d)) for a, d in both]


def _fields(node: ast.ClassDef) -> list[tuple[str, str, str | None]]:
    lines = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return [(ast.unparse(n.target), ast.unparse(n.annotation), _text(n.value)) for n in lines]


def _text(node: ast.expr | None) -> str | None:
    return None if node is None else ast.unparse(node)
