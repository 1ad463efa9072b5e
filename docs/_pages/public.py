"""The public names of the package, and what of them is not documented."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

from _pages.docstrings import lacking, parse

PACKAGE = "innerloop"
#: Packages whose `__all__` is public, beside that of the package itself.
COMPONENTS = ("algorithms", "gradients", "models", "rules", "tasks")
FACADES = (*COMPONENTS, "testing")
#: What public functions take and give, and what those who write an algorithm build on.
CONTRACT = (
    "MetaLearner",
    "algorithms.base.ModuleLearner",
    "algorithms.base.GradientLearner",
    "algorithms.embedding.EmbeddingLearner",
    "core.functional.FunctionalModule",
    "core.functional.inner_gradient",
    "core.losses.loss_value",
    "core.mode.Mode",
    "core.mode.mode",
    "core.mode.count_ways",
    "core.rng.keyed_uniform",
    "core.rng.keyed_normal",
    "core.rng.fold_key",
    "models.base.Model",
)
RESULTS = (
    "training.config.TrainConfig",
    "training.config.OptimizerConfig",
    "training.config.ObjectiveConfig",
    "training.adversary.AdversaryConfig",
    "training.retain.config.RetainConfig",
    "training.config.ValidationConfig",
    "training.config.ProbeConfig",
    "training.adapted.Adapted",
    "training.plan.Plan",
    "training.plan.PathCost",
    "evaluate.run.Evaluation",
    "evaluate.statistics.Summary",
    "diagnose.doctor.Diagnosis",
    "diagnose.verdict.State",
    "diagnose.verdict.Verdict",
    "diagnose.history.History",
    "diagnose.finding.Finding",
    "diagnose.finding.Severity",
    "diagnose.finding.Passed",
    "diagnose.finding.Silent",
    "diagnose.forgetting.Matrix",
    "diagnose.forgetting.summary",
    "diagnose.anytime.Timeline",
    "diagnose.estimate.Estimate",
    "diagnose.estimate.Undefined",
    "diagnose.streams.matrix_of",
    "diagnose.streams.timeline_of",
    "diagnose.streams.rows_of_tasks",
    "tasks.bowls.Descent",
    "tasks.streaming.Stage",
    "gradients.check.GradientCheck",
    "algorithms.trained_optimizer.TrainedOptimizer",
    "training.online.Online",
    "training.online.RandomShooting",
    "tasks.cart.CartSimulator",
)

_DESCRIPTORS = (property, cached_property, classmethod, staticmethod)


def facade(package: str) -> dict[str, Any]:
    """What a package offers: name -> object; without its constants, such as the registry."""
    module = importlib.import_module(package)
    found = {name: getattr(module, name) for name in sorted(module.__all__)}
    return {name: value for name, value in found.items() if _is_documentable(value)}


def facades() -> dict[str, dict[str, Any]]:
    """Each public package, by its full name, and what it offers."""
    packages = (PACKAGE, *(f"{PACKAGE}.{name}" for name in FACADES))
    return {package: facade(package) for package in packages}


def listed(names: Collection[str]) -> dict[str, Any]:
    """Objects by their full names, from names below the package."""
    found = {}
    for name in names:
        module, _, last = f"{PACKAGE}.{name}".rpartition(".")
        found[f"{PACKAGE}.{name}"] = getattr(importlib.import_module(module), last)
    return found


def everything() -> dict[str, Any]:
    """Every public name in full, and its object."""
    offered = {f"{package}.{name}": v for package, names in facades().items() for name, v in names.items()}
    return offered | listed(CONTRACT) | listed(RESULTS)


def conventional(page: str) -> set[str]:
    """The arguments that a page explains for all places: first column of the table under `## Names`."""
    section = re.search(r"^## Names\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| ([^|]*) \|", section[1], re.MULTILINE) if section else []
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def undocumented(names: Mapping[str, Any], known: Collection[str] = ()) -> list[str]:
    """What is missing: docstrings of objects and their public methods, and what is said of arguments.

    The constructor of a component (`innerloop.tasks.Sinusoid`) has each argument in `Args:`, of the class
    or of a base. Elsewhere it is enough that the docstring names an argument, or that it is one of `known`.
    A protocol among `names` speaks for the methods of the classes beside it.
    """
    protocols = {name: value for name, value in names.items() if getattr(value, "_is_protocol", False)}
    wrong = []
    for name, value in names.items():
        if inspect.isclass(value):
            beside = [p for other, p in protocols.items() if _package(other) == _package(name)]
            problems = [*_of_constructor(value, known, strict=_is_component(name))]
            problems += _of_methods(value, known, beside)
        elif isinstance(value, ModuleType):
            problems = [] if value.__doc__ else [": no docstring"]
        else:
            problems = [*_of_function(value, [inspect.getdoc(value) or ""], known)]
        wrong += [f"{name}{problem}" for problem in problems]
    return wrong


def unfinished(algorithms: Mapping[str, type]) -> list[str]:
    """What the docstrings of algorithms lack of the template that pages and tables are made from."""
    return [
        f"{name}: {problem}"
        for name, kind in algorithms.items()
        for problem in lacking(own_docstring(kind), arguments_of(kind))
    ]


def own_docstring(kind: type) -> str | None:
    """The docstring that a class was given; not its base's, nor the signature that Python writes there."""
    text = kind.__dict__.get("__doc__")
    return None if text is None or text.startswith(f"{kind.__name__}(") else text


def arguments_of(function: Any) -> list[str]:
    """The names of what a function or a constructor takes; `*args` without stars, `self` left out."""
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):  # made by C, as the constructor of an exception
        return []
    return [name for name in taken if name not in ("self", "cls") and not name.startswith("_")]


def public_members(kind: type) -> dict[str, Any]:
    """Methods and properties of a class that this package wrote, by name, of bases too."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith(f"{PACKAGE}."):
            found |= {name: value for name, value in vars(base).items() if _is_member(name, value)}
    return found


def protocols(kind: type) -> list[type]:
    """The protocols that stand beside a class in its package, such as `TaskSource` beside every source."""
    package = importlib.import_module(".".join(kind.__module__.split(".")[:2]))
    found = [getattr(package, name) for name in getattr(package, "__all__", ())]
    return [value for value in found if getattr(value, "_is_protocol", False)]


def _is_documentable(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, ModuleType)


def _is_member(name: str, value: Any) -> bool:
    return not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, _DESCRIPTORS))


def _package(name: str) -> str:
    return name.rpartition(".")[0]


def _is_component(name: str) -> bool:
    return _package(name) in {f"{PACKAGE}.{package}" for package in COMPONENTS}


def _of_constructor(kind: type, known: Collection[str], *, strict: bool) -> Iterator[str]:
    if not own_docstring(kind):
        yield ": no docstring"
    if getattr(kind, "_is_protocol", False) or not _wrote_constructor(kind):
        return
    bases = [base for base in reversed(kind.__mro__) if base.__module__.startswith(PACKAGE)]
    docs = [own_docstring(base) or "" for base in bases]
    said = {name: text for doc in docs for name, text in parse(doc).entries.items()}
    for argument in arguments_of(kind):
        named = argument in known or any(_names(doc, argument) for doc in docs)
        if not said.get(argument) and (strict or not named):
            yield f": argument {argument} is not described"


def _wrote_constructor(kind: type) -> bool:
    """Whether its arguments are this package's: a module of torch takes what torch says."""
    maker = next((base for base in kind.__mro__ if "__init__" in vars(base)), object)
    return issubclass(kind, tuple) or maker.__module__.startswith(PACKAGE)


def _of_methods(kind: type, known: Collection[str], protocols: Sequence[type]) -> Iterator[str]:
    told = [name for base in kind.__mro__ for name in parse(own_docstring(base)).entries]
    for name, member in public_members(kind).items():
        if isinstance(member, property) and name in told:
            continue
        speakers = [vars(base).get(name) for base in (*kind.__mro__, *protocols)]
        docs = [inspect.getdoc(_function(speaker)) or "" for speaker in speakers if speaker is not None]
        yield from (f".{name}{problem}" for problem in _of_function(_function(member), docs, known))


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return getattr(member, "__func__", None) or getattr(member, "func", None) or member


def _of_function(function: Any, docs: Sequence[str], known: Collection[str]) -> Iterator[str]:
    if not any(docs):
        yield ": no docstring"
        return
    said = {name: text for doc in docs for name, text in parse(doc).entries.items()}
    for argument in arguments_of(function):
        named = argument in known or any(_names(doc, argument) for doc in docs)
        if (argument not in said and not named) or (argument in said and not said[argument]):
            yield f": argument {argument} is not described"


def _names(text: str, argument: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(argument)}(?!\w)", text) is not None
