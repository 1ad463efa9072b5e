"""Caches of these tests go to one temporary folder, and nothing is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from innerloop.tasks import Glyphs, Omniglot


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("INNERLOOP_CACHE")
    os.environ["INNERLOOP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["INNERLOOP_CACHE"]
    else:
        os.environ["INNERLOOP_CACHE"] = before


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    data = os.environ.get("INNERLOOP_DATA")
    if not data or not (Path(data) / "omniglot").is_dir():
        pytest.skip("INNERLOOP_DATA holds no omniglot folder: the real drawings are not here")
    return Path(data) / "omniglot"


@pytest.fixture(scope="session")
def omniglot(omniglot_root: Path, _own_cache: None) -> Omniglot:
    return Omniglot(omniglot_root)


@pytest.fixture(scope="session")
def glyphs(_own_cache: None) -> Glyphs:
    return Glyphs()
