"""Every public name has its page or place, every algorithm its row, and nothing is said twice by hand."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

import innerloop as il
from _pages import choose, commands, public, rst, write
from _pages.docstrings import parse_clean
from innerloop.cli.main import COMMANDS


@pytest.fixture(scope="module")
def pages() -> write.Pages:
    return write.pages()


def test_every_public_name_is_on_a_page(pages: write.Pages) -> None:
    text = "\n".join(pages.values()).split("\n")
    for package, names in public.facades().items():
        for name, value in names.items():
            if not isinstance(value, ModuleType):
                kind = "class" if inspect.isclass(value) else "function"
                assert text.count(f".. auto{kind}:: {package}.{name}") == 1, name


def test_a_page_is_named_as_its_class_and_its_option(pages: write.Pages) -> None:
    for name in il.algorithms.REGISTRY:
        assert f"``--algorithm {name}``" in pages[f"algorithms/{name}.rst"]
    for name in il.tasks.REGISTRY:
        assert f"``--tasks {name}``" in pages[f"tasks/{name}.rst"]


def test_every_algorithm_has_one_row(pages: write.Pages) -> None:
    for name in il.algorithms.REGISTRY:
        assert pages["choose.txt"].count(f"   * - :doc:`{name} </reference/algorithms/{name}>`\n") == 1


def test_a_row_says_what_the_class_and_its_docstring_say() -> None:
    row = choose.row("MAML", il.algorithms.MAML)
    assert (row.adapts, row.order) == ("all of them.", "second, exact")
    (omniglot,) = row.on("Omniglot")
    assert omniglot.figures.startswith("5-way 1-shot 98.7 +- 0.4, ")
    assert omniglot.source == "the paper, table 1"
    assert choose.row("FOMAML", il.algorithms.FOMAML).order == "first"
    assert choose.row("ImplicitMAML", il.algorithms.ImplicitMAML).order == "second, implicit"
    assert choose.row("ProtoNet", il.algorithms.ProtoNet).order == "first: no inner loop"


def test_the_order_of_every_gradient_path_is_known() -> None:
    paths = {
        name
        for name, value in public.facade("innerloop.gradients").items()
        if issubclass(value, il.gradients.MetaGradient) and not inspect.isabstract(value)
    }
    assert paths == set(choose.ORDERS)


def test_the_page_of_the_command_line_is_the_help_itself(pages: write.Pages) -> None:
    for name in COMMANDS:
        assert commands.help_of(name).splitlines()[0] in pages["command-line.rst"]


def test_pages_that_nothing_is_written_to_are_removed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "pages", lambda: {"a/New.rst": "text\n"})
    (tmp_path / "a").mkdir()
    (tmp_path / "a/Old.rst").write_text("gone")
    write.write(tmp_path)
    first = (tmp_path / "a/New.rst").stat().st_mtime_ns
    write.write(tmp_path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["New.rst"]
    assert (tmp_path / "a/New.rst").stat().st_mtime_ns == first


@pytest.mark.parametrize(
    ("plain", "markup"),
    [
        ("a * b * c", r"a \* b \* c"),
        ("*one* and *two words*, not fast*", r"*one* and *two words*, not fast\*"),
        ("|x|^2 + phi_", r"\|x\|^2 + phi\_"),
        ("`a_` and `il.train`", "``a_`` and :py:obj:`il.train <innerloop.train>`"),
        ("W. and so on", r"\W. and so on"),
        ("2) and", r"\2) and"),
        ("arXiv 1703.03400", "`arXiv 1703.03400 <https://arxiv.org/abs/1703.03400>`__"),
        ("98.7 +- 0.4", "98.7 ± 0.4"),
    ],
)
def test_plain_text_stays_what_it_says(plain: str, markup: str) -> None:
    assert rst.inline(plain, {"train": "innerloop.train"}) == markup


def test_a_formula_is_left_as_it_is() -> None:
    found = parse_clean("One.\n\n    a * b_ = |c|\n      d")
    assert rst.docstring(found).endswith("\n\n   a * b_ = |c|\n     d")
