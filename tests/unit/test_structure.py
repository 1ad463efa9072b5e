"""The shape of the source itself. Each rule maps sources to violations, and each is shown to fail."""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "innerloop"
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 500, 60, 8


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its text and its tree."""

    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    def at(self, node: ast.stmt | ast.expr | ast.ExceptHandler) -> str:
        return f"{self.name}:{node.lineno}"


Modules = dict[str, Module]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def read_package() -> Modules:
    modules = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, path.read_text("utf-8"), is_package)
    return modules


# --- imports ---------------------------------------------------------------------------------------------


def at_import(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: none inside a function or under TYPE_CHECKING."""
    for node in body:
        yield node
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import(handler.body)


def source_of(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name that `from X import ...` reads, relative ones resolved."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*base, node.module] if node.module else base)


def imported(module: Module, known: Modules) -> set[str]:
    """The modules of the package that importing `module` names."""
    found = set()
    for node in at_import(module.tree.body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = source_of(module, node)
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names}
    return {name for name in found if name in known} - {module.name}


def import_cycles(modules: Modules) -> list[str]:
    graph = {name: imported(module, modules) for name, module in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def facade_imports(modules: Modules) -> list[str]:
    """`import innerloop`, or a name of its facade, inside the package."""
    found = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                bare = any(alias.name == PACKAGE for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and source_of(module, node) == PACKAGE:
                names = {alias.name for alias in node.names} - {"__version__"}
                bare = any(f"{PACKAGE}.{name}" not in modules for name in names)
            else:
                continue
            if bare:
                found.append(f"{module.at(node)} imports {PACKAGE} itself")
    return found


# --- size ------------------------------------------------------------------------------------------------


def long_files(modules: Modules) -> list[str]:
    lengths = {name: len(module.source.splitlines()) for name, module in modules.items()}
    return [f"{name} has {n} lines > {MAX_FILE_LINES}" for name, n in lengths.items() if n > MAX_FILE_LINES]


def functions(module: Module) -> Iterator[Function]:
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def long_functions(modules: Modules) -> list[str]:
    """Functions of too many lines, from `def` to the last one, without the docstring."""
    found = []
    for module in modules.values():
        for node in functions(module):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{module.at(node)} {node.name} has {length} lines > {MAX_FUNCTION_LINES}")
    return found


def wide_functions(modules: Modules) -> list[str]:
    """Functions of too many parameters; of a constructor, keyword-only ones are settings and free."""
    found = []
    for module in modules.values():
        for node in functions(module):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if node.name != "__init__":
                count += len(node.args.kwonlyargs)
            if count > MAX_PARAMETERS:
                found.append(f"{module.at(node)} {node.name} has {count} parameters > {MAX_PARAMETERS}")
    return found


# --- what is written -------------------------------------------------------------------------------------


def prints(modules: Modules) -> list[str]:
    return [
        f"{module.at(node)} prints outside the command line"
        for module in modules.values()
        if not module.name.startswith(f"{PACKAGE}.cli")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def is_broad(node: ast.expr | None) -> bool:
    options = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(o, ast.Name) and o.id in ("Exception", "BaseException") for o in options)


def says_nothing(body: list[ast.stmt]) -> bool:
    return all(isinstance(getattr(s, "value", s), (ast.Pass, ast.Continue, ast.Constant)) for s in body)


def swallowed_errors(modules: Modules) -> list[str]:
    """`except:`, and `except Exception` or `suppress(Exception)` after which the error is gone."""
    found = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                bad = node.type is None or (is_broad(node.type) and says_nothing(node.body))
            elif isinstance(node, ast.Call):
                bad = ast.unparse(node.func).split(".")[-1] == "suppress" and any(map(is_broad, node.args))
            else:
                continue
            if bad:
                found.append(f"{module.at(node)} swallows every error")
    return found


# --- classes ---------------------------------------------------------------------------------------------

ABSTRACT_BASES = {"ABC", "Protocol", "TypedDict"}
ERROR_BASES = {"Exception", "Warning", "BaseException"}


@dataclass(frozen=True)
class Class:
    """What the tree of a class tells: its bases by bare name, and its methods, abstract or not."""

    where: str
    name: str
    bases: tuple[str, ...]
    abstract: frozenset[str]
    defined: frozenset[str]


def bare_name(node: ast.expr) -> str:
    return re.split(r"[\[.(]", ast.unparse(node).split("[")[0])[-1]


def describe(module: Module, node: ast.ClassDef) -> Class:
    methods = [f for f in node.body if isinstance(f, Function)]
    abstract = {f.name for f in methods if "abstractmethod" in map(bare_name, f.decorator_list)}
    assigned = {ast.unparse(t) for s in node.body if isinstance(s, ast.Assign) for t in s.targets}
    defined = {f.name for f in methods} - abstract | assigned
    bases = tuple(bare_name(base) for base in node.bases)
    return Class(module.at(node), node.name, bases, frozenset(abstract), frozenset(defined))


def classes(modules: Modules) -> dict[str, Class]:
    """Every class by its name; a second one of the same name by its place."""
    found: dict[str, Class] = {}
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found[module.at(node) if node.name in found else node.name] = describe(module, node)
    return found


def lineage(name: str, known: dict[str, Class]) -> list[str]:
    """The class, then its ancestors, depth first: names, known or not."""
    above = known[name].bases if name in known else ()
    return [name, *(n for base in above for n in lineage(base, known))]


def is_concrete(name: str, known: dict[str, Class]) -> bool:
    if name not in known or ABSTRACT_BASES & set(known[name].bases) or known[name].abstract:
        return False
    ancestors = [known[n] for n in lineage(name, known) if n in known]
    if ERROR_BASES & set(lineage(name, known)):
        return False  # errors are a hierarchy, so that a caller can catch a family
    missing = {method for c in ancestors for method in c.abstract}
    return not missing - {method for c in ancestors for method in c.defined}


def concrete_inheritance(modules: Modules) -> list[str]:
    """Classes that inherit from a class of the package that could itself be instantiated."""
    known = classes(modules)
    return [
        f"{c.where} {c.name} inherits from {base}, which is concrete"
        for c in known.values()
        for base in c.bases
        if is_concrete(base, known)
    ]


# --- the rules hold, and each is able to fail ------------------------------------------------------------

Rule = Callable[[Modules], list[str]]
FIVE = ", ".join(f"a{i}" for i in range(5))


def nine(names: str) -> str:
    return f"{FIVE}, {names}, b1, b2, b3"


#: rule -> (sources that break it, sources that come close and do not), each a {module: text}
PLANTED: dict[Rule, tuple[list[dict[str, str]], list[dict[str, str]]]] = {
    import_cycles: (
        [
            {"innerloop.a": "from innerloop.b import x", "innerloop.b": "import innerloop.a"},
            {"innerloop.a": "from innerloop import b", "innerloop.b": "from . import a"},
            {
                "innerloop.a": "try:\n    from . import b\nexcept ImportError:\n    raise",
                "innerloop.b": "class C:\n    from .c import d",
                "innerloop.c": "from .a import e",
            },
        ],
        [
            {"innerloop.a": "from innerloop import b", "innerloop.b": "def f():\n    from . import a"},
            {"innerloop.a": "from . import b", "innerloop.b": "if TYPE_CHECKING:\n    from . import a"},
        ],
    ),
    facade_imports: (
        [
            {"innerloop.a": "import innerloop"},
            {"innerloop.a": "def f():\n    import innerloop as il"},
            {"innerloop.a": "from innerloop import load"},
            {"innerloop.a": "from . import load"},
        ],
        [
            {"innerloop.a": "from innerloop import b, __version__\nimport innerloop.b", "innerloop.b": ""},
            {"innerloop.a": '"""\n>>> import innerloop as il\n"""'},
        ],
    ),
    long_files: ([{"innerloop.a": "x = 1\n" * 501}], [{"innerloop.a": "x = 1\n" * 500}]),
    long_functions: (
        [
            {"innerloop.a": "def f():\n" + "    x = 1\n" * 60},
            {"innerloop.a": "class C:\n    async def f(self):\n" + "        x = 1\n" * 60},
        ],
        [
            {"innerloop.a": "def f():\n" + "    x = 1\n" * 59},
            {"innerloop.a": 'def f():\n    """' + "\n" * 60 + '    """\n    return 1'},
        ],
    ),
    wide_functions: (
        [
            {"innerloop.a": f"def f({nine('b0')}): ..."},
            {"innerloop.a": f"def f({nine('*, b0')}): ..."},
            {"innerloop.a": f"class C:\n    def __init__(self, {nine('b0')}): ..."},
        ],
        [
            {"innerloop.a": f"class C:\n    def f(self, {FIVE}, *, b1, b2, b3): ..."},
            {"innerloop.a": f"class C:\n    def __init__(self, {nine('*, b0')}): ..."},
        ],
    ),
    prints: (
        [{"innerloop.a": "print(1)"}, {"innerloop.training.b": "def f():\n    print(1)"}],
        [{"innerloop.cli.main": "print(1)"}, {"innerloop.a": '"""\n>>> print(1)\n1\n"""\ntable.print(1)'}],
    ),
    swallowed_errors: (
        [
            {"innerloop.a": "try:\n    f()\nexcept:\n    g()"},
            {"innerloop.a": "try:\n    f()\nexcept Exception:\n    pass"},
            {
                "innerloop.a": "while x:\n    try:\n        f()\n"
                "    except (OSError, Exception):\n        continue"
            },
            {"innerloop.a": "with contextlib.suppress(Exception):\n    f()"},
        ],
        [
            {"innerloop.a": "try:\n    f()\nexcept OSError:\n    pass"},
            {"innerloop.a": "try:\n    f()\nexcept Exception as e:\n    raise RuntimeError from e"},
            {"innerloop.a": "with suppress(OSError):\n    f()"},
        ],
    ),
    concrete_inheritance: (
        [
            {"innerloop.a": "class A: ...", "innerloop.b": "class B(a.A): ..."},
            {"innerloop.a": "class A(Generic[T]): ...\nclass B(A[int]): ..."},
            {
                "innerloop.a": "class A(ABC):\n    @abstractmethod\n    def f(self): ...\n"
                "class B(A):\n    def f(self): ...\nclass C(B): ..."
            },
        ],
        [
            {
                "innerloop.a": "class A(ABC):\n    @abc.abstractmethod\n    def f(self): ...\n"
                "class B(A):\n    x = 1\nclass C(B):\n    def f(self): ..."
            },
            {"innerloop.a": "class A(Protocol[T]): ...\nclass B(A[int]): ...\nclass C(nn.Module): ..."},
            {"innerloop.a": "class A(Exception): ...\nclass B(A): ...\nclass C(B): ..."},
        ],
    ),
}


def rule_name(rule: object) -> str:
    return getattr(rule, "__name__", "")


@pytest.fixture(scope="module")
def package() -> Modules:
    return read_package()


def test_the_package_is_read(package: Modules) -> None:
    assert {PACKAGE, f"{PACKAGE}.core.types", f"{PACKAGE}.tasks"} <= set(package)
    assert package[PACKAGE].is_package


@pytest.mark.parametrize("rule", PLANTED, ids=rule_name)
def test_rule_holds(rule: Rule, package: Modules) -> None:
    assert rule(package) == []


def sources(which: int) -> list[tuple[Rule, dict[str, str]]]:
    return [(rule, texts) for rule, cases in PLANTED.items() for texts in cases[which]]


def as_modules(texts: dict[str, str]) -> Modules:
    return {name: Module(name, text) for name, text in texts.items()}


@pytest.mark.parametrize(("rule", "texts"), sources(0), ids=rule_name)
def test_planted_violation_is_seen(rule: Rule, texts: dict[str, str]) -> None:
    assert rule(as_modules(texts))


@pytest.mark.parametrize(("rule", "texts"), sources(1), ids=rule_name)
def test_near_miss_is_let_through(rule: Rule, texts: dict[str, str]) -> None:
    assert rule(as_modules(texts)) == []


# --- requirements ----------------------------------------------------------------------------------------


def requirements(pyproject: str) -> list[str]:
    """Every requirement of a pyproject.toml, without its environment marker."""
    table = tomllib.loads(pyproject)
    project = table["project"]
    extras = project.get("optional-dependencies", {}).values()
    groups = [table["build-system"]["requires"], project["dependencies"], *extras]
    listed = [requirement for group in groups for requirement in group]
    return [r.split(";")[0].strip() for r in listed] + [f"python{project['requires-python']}"]


def not_lower_bounds(pyproject: str) -> list[str]:
    return [r for r in requirements(pyproject) if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?\s*>=\s*[\w.]+", r)]


def distribution(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~!\s]", requirement)[0]).lower()


def not_pinned(pyproject: str, constraints: str) -> list[str]:
    """Requirements without an exact version in the tested set, and lines of that set that are no pin."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    pins = {distribution(line) for line in lines}
    wanted = {distribution(r) for r in requirements(pyproject)} - {"python", "hatchling"}
    return sorted(wanted - pins) + [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)]


PYPROJECT = """
[build-system]
requires = ["hatchling>=1"]
[project]
requires-python = ">=3.11"
dependencies = ["torch{}"]
[project.optional-dependencies]
dev = ["a-b>=1; python_version < '3.12'"]
"""


def test_requirements_are_lower_bounds() -> None:
    assert not_lower_bounds((ROOT / "pyproject.toml").read_text("utf-8")) == []


@pytest.mark.parametrize("bad", ["", "<3", "==2.6", "~=2.6", ">=2.6,<3", ">=2.6,!=2.7"])
def test_planted_upper_bound_is_seen(bad: str) -> None:
    assert not_lower_bounds(PYPROJECT.format(">=2.6")) == []
    assert not_lower_bounds(PYPROJECT.format(bad)) == [f"torch{bad}"]
    assert not_lower_bounds(PYPROJECT.format(">=2").replace(">=3.11", ">=3.11,<4")) == ["python>=3.11,<4"]


def test_every_requirement_has_a_tested_version() -> None:
    read = [(ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "constraints.txt")]
    assert not_pinned(*read) == []


@pytest.mark.parametrize(
    "bad", ["torch==2.13.0", "torch==2.13.0\nA_b>=1", "torch @ file:///t.whl\na_b==1", "torch==2+cpu\na.b==1"]
)
def test_planted_missing_pin_is_seen(bad: str) -> None:
    assert not_pinned(PYPROJECT.format(">=2.6"), "# tested\ntorch==2.13.0\nA_b==1\n") == []
    assert not_pinned(PYPROJECT.format(">=2.6"), bad)
