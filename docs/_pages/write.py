"""Writes the reference: a page for each component, made from its class at each build."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from _pages import choose, commands, findings, public
from _pages.docstrings import COST, EXAMPLE, NOTES, OUTER, Docstring, Part, parse, published
from _pages.rst import Links, code, docstring, docstring_of, heading, inline, labelled, table

#: Title and first sentence of the index of each kind of component, and the option that takes its name.
KINDS = {
    "algorithms": (
        "Algorithms",
        "Written for one task each; `innerloop train --algorithm NAME`.",
        "algorithm",
    ),
    "gradients": ("Gradient paths", "How the outer gradient is obtained; `--gradient NAME`.", "gradient"),
    "rules": ("Update rules", "How an inner gradient becomes new parameters, differentiably.", ""),
    "models": ("Models", "Any `nn.Module` will do as well; `--model NAME`.", "model"),
    "tasks": ("Tasks", "Where episodes come from; `--tasks NAME`.", "tasks"),
}
#: Bases whose methods are documented once, on their own pages.
CONTRACTS = ("MetaLearner", "ModuleLearner", "GradientLearner", "EmbeddingLearner", "MetaGradient")
CONTRACTS += ("UpdateRule", "TaskSource", "Model")

Pages = dict[str, str]


def pages() -> Pages:
    """Every generated page: its path below the reference, and its text."""
    offered = public.facades()
    links = link_targets(offered)
    found: Pages = {}
    for kind, (title, about, option) in KINDS.items():
        names = {n: v for n, v in offered[f"{public.PACKAGE}.{kind}"].items() if inspect.isclass(v)}
        for name, value in names.items():
            write = algorithm if kind == "algorithms" else component
            found[f"{kind}/{name}.rst"] = write(name, value, kind, option, links)
        found[f"{kind}/index.rst"] = index(title, about, names, links)
    found["functions.rst"] = functions(offered[public.PACKAGE], links)
    if f"{public.PACKAGE}.testing" in offered:
        found["testing.rst"] = listing("Testing", f"{public.PACKAGE}.testing", links)
    found["contract.rst"] = contract()
    found["command-line.rst"] = command_line()
    found["choose.txt"] = choose.choose(offered[f"{public.PACKAGE}.algorithms"], links)
    found["findings.txt"] = findings.findings()
    return found


def write(folder: Path) -> None:
    """Write all pages into a folder; those that are as they were keep their date, so builds are short."""
    made = pages()
    for old in [path for path in folder.rglob("*") if path.is_file()]:
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = text.rstrip() + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != whole:
            path.write_text(whole, encoding="utf-8")


def link_targets(offered: Mapping[str, Mapping[str, Any]]) -> Links:
    """What names in docstrings link to: `MAML`, `rules.SGD`, `core.functional.FunctionalModule`, `rules`."""
    full = [f"{package}.{name}" for package, names in offered.items() for name in names]
    full += [f"{public.PACKAGE}.{name}" for name in (*public.CONTRACT, *public.RESULTS)]
    by_last = {name.rpartition(".")[2]: name for name in reversed(full)}
    return by_last | {name.removeprefix(f"{public.PACKAGE}."): name for name in full}


def algorithm(name: str, kind: type, group: str, option: str, links: Links) -> str:
    """The page of an algorithm: sections from the labels of its docstring, then the constructor."""
    said = parse(public.own_docstring(kind))
    sections = {
        "The update": _update(said, links),
        "When to choose it": _section(said, "Strengths", links),
        "Published": _published(said, links),
        "Use": _use(said, links, _class(name, kind, group)),
        "Differences from the paper": _section(said, "Differences from the paper", links),
        "Reference": _section(said, "Reference", links),
    }
    facts = _facts(name, kind, said, option, links)
    parts = [heading(name), inline(said.summary, links), facts]
    parts += [f"{heading(title, '-')}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(parts)


def component(name: str, kind: type, group: str, option: str, links: Links) -> str:
    """The page of any other component: its class."""
    parts = [heading(name)]
    concrete = not inspect.isabstract(kind) and name not in (*CONTRACTS, "Record")
    parts += [f"On the command line: ``--{option} {name}``."] if option and concrete else []
    return "\n\n".join([*parts, _class(name, kind, group)])


def index(title: str, about: str, names: Mapping[str, type], links: Links) -> str:
    """The page that lists the components of a kind, each with a line about it."""
    group = title_group(title)
    rows = [
        [f":doc:`{name} <{name}>`", inline(parse(public.own_docstring(kind)).summary, links)]
        for name, kind in names.items()
    ]
    listed = table(rows, ("Name", "What it is"), widths=(25, 75))
    tree = ".. toctree::\n   :hidden:\n\n" + "\n".join(f"   {name}" for name in names)
    module = f".. py:module:: {public.PACKAGE}.{group}"
    return "\n\n".join([heading(title), module, inline(about, links), listed, tree])


def title_group(title: str) -> str:
    return next(group for group, (known, *_) in KINDS.items() if known == title)


def functions(offered: Mapping[str, Any], links: Links) -> str:
    """The page of the package itself: what it offers, and what that takes and gives."""
    about = f"What ``import {public.PACKAGE} as il`` offers beside its packages."
    parts = [heading("Functions and results"), f".. py:module:: {public.PACKAGE}", about]
    shown = {n: v for n, v in offered.items() if not isinstance(v, ModuleType) and n not in public.CONTRACT}
    parts += [_auto(f"{public.PACKAGE}.{name}", value) for name, value in shown.items()]
    parts.append(heading("What they take and give", "-"))
    parts += [_auto(name, value) for name, value in public.listed(public.RESULTS).items()]
    return "\n\n".join(parts)


def listing(title: str, package: str, links: Links) -> str:
    """The page of a package whose names need none of their own."""
    module = __import__(package, fromlist=["__doc__"])
    parts = [heading(title), f".. py:module:: {package}", docstring(parse(module.__doc__), links)]
    parts += [_auto(f"{package}.{name}", value) for name, value in public.facade(package).items()]
    return "\n\n".join(parts)


def contract() -> str:
    """The page of what algorithms are written with."""
    about = "What an algorithm, and a model of this package, is made of. See :doc:`/writing-an-algorithm`."
    parts = [heading("The contract of a learner"), about]
    parts += [_auto(name, value) for name, value in public.listed(public.CONTRACT).items()]
    return "\n\n".join(parts)


def command_line() -> str:
    """The page of the commands: their own help."""
    parts = [heading("Command line")]
    for name, text in commands.helps().items():
        parts += [heading(f"innerloop {name}", "-")] if name else []
        parts.append(code(text, "none", "help"))
    return "\n\n".join(parts)


def _facts(name: str, kind: type, said: Docstring, option: str, links: Links) -> str:
    path = getattr(kind, "gradient", None)
    rows = {
        "Option": f"``--{option} {name}``",
        "Meta-learned": inline(said.said("Meta-learned"), links),
        "Adapted": inline(said.said("Adapted"), links),
        "Derivatives": f"{choose.order(kind)} (``{type(path).__name__}``)",
        _need(said, *COST).label: inline(said.said(*COST), links),
        "Tasks": _tasks(kind),
    }
    return table([[f"**{label}**", text] for label, text in rows.items()], (), widths=(22, 78), css="facts")


def _tasks(kind: Any) -> str:
    words = {"cross_entropy": "classification", "mse": "regression"}
    found = [" and ".join(words.get(str(loss), str(loss)) for loss in kind.solves)]
    found += ["any number of ways at test"] if kind.any_ways else []
    found += ["the module is an embedding, without a head"] if kind.embeds else []
    found += ["the order of the support matters"] if kind.ordered is True else []
    found += ["trained on examples of all training classes at once"] if kind.pooled else []
    return "; ".join(found)


def _update(said: Docstring, links: Links) -> str:
    rest = Part("", said.parts[0].blocks[1:])
    texts = [docstring_of(rest, links)] if rest.blocks else []
    texts += [labelled(part, links) for part in said.parts if part.label in ("Inner loop", *OUTER)]
    return "\n\n".join(texts)


def _section(said: Docstring, label: str, links: Links) -> str:
    """The text under a label, which begins a sentence now, if not with a symbol."""
    text = docstring_of(_need(said, label), links)
    return text[:1].upper() + text[1:] if re.match("[a-z]{2}", text) else text


def _published(said: Docstring, links: Links) -> str:
    figures = published(said.said("Published"))
    if not figures:
        return _section(said, "Published", links)
    rows = [[f.dataset, choose.lines(f), inline(f.source, links)] for f in figures]
    return table(rows, ("Dataset", "Figures", "Source"), widths=(20, 40, 40), css="figures")


def _use(said: Docstring, links: Links, signature: str) -> str:
    """Example, notes, and the constructor."""
    notes = [docstring_of(part, links) for part in said.parts if part.label == NOTES]
    return "\n\n".join([docstring_of(_need(said, EXAMPLE), links), *notes, signature])


def _need(said: Docstring, *labels: str) -> Part:
    """The part under one of some labels; an empty one where it is missing, which is told elsewhere."""
    return said.part(*labels) or Part(labels[0], ())


def _class(name: str, kind: type, group: str) -> str:
    return _auto(f"{public.PACKAGE}.{group}.{name}", kind)


def _auto(name: str, value: Any) -> str:
    if not inspect.isclass(value):
        return f".. autofunction:: {name}"
    members = _members(value)
    return f".. autoclass:: {name}" + (f"\n   :members: {', '.join(members)}" if members else "")


def _members(kind: type) -> list[str]:
    """The public members to show: not those that a contract documents, on whose page they are."""
    if kind.__name__ in CONTRACTS:
        return [name for name in public.public_members(kind) if name in vars(kind)]
    spoken: set[str] = set()
    for base in (*kind.__mro__, *public.protocols(kind)):
        spoken |= set(public.public_members(base)) if base.__name__ in CONTRACTS else set()
    return [name for name in public.public_members(kind) if name not in spoken]
