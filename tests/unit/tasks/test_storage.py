"""Splits, the cache on disk, and downloads from a server on this machine."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from innerloop.core.errors import ConfigError, DataError
from innerloop.tasks.cache import cache_dir, content_hash, load_or_build
from innerloop.tasks.download import fetch
from innerloop.tasks.splits import assert_disjoint, by_class

BODY = bytes(range(256)) * 40
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()


# ---- splits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [3, 10, 41])
def test_a_split_holds_every_class_once(num_classes):
    splits = by_class(num_classes, seed=1)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(num_classes))
    assert all(len(ids) for ids in splits.values())


def test_fractions_are_shares_of_the_classes():
    sizes = {s: len(ids) for s, ids in by_class(50, val_fraction=0.1, test_fraction=0.3).items()}
    assert sizes == {"train": 30, "val": 5, "test": 15}
    assert len(by_class(50, val_fraction=0.0)["val"]) == 0


def test_the_seed_decides_the_split():
    one, same, other = (by_class(40, seed=seed)["test"].tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_nothing_left_to_train_on_is_refused():
    with pytest.raises(ConfigError, match="2 classes"):
        by_class(2)


def test_a_class_in_two_splits_is_named():
    assert_disjoint({"train": ["a", "b"], "val": ["c"], "test": ["d"]})
    with pytest.raises(DataError, match="class 'b' in train and in val"):
        assert_disjoint({"train": ["a", "b"], "val": ["b"], "test": ["d"]})


# ---- cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path))
    return tmp_path


def build(calls: list[int]) -> dict[str, np.ndarray]:
    calls.append(1)
    return {"images": np.arange(5000, dtype=np.uint8), "names": np.array(["a", "bc"])}


def load(calls: list[int], key: str = "k") -> dict[str, np.ndarray]:
    return load_or_build("thing", key, lambda: build(calls))


def test_arrays_are_built_once_for_a_key(cache):
    calls: list[int] = []
    first, second = load(calls), load(calls)
    assert len(calls) == 1
    assert content_hash(first) == content_hash(second)
    load(calls, key="other")
    assert len(calls) == 2
    assert len(list(cache.iterdir())) == 2  # and no temporary file


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "stranger"])
def test_a_damaged_cache_is_built_again(cache, damage, caplog):
    calls: list[int] = []
    load(calls)
    (path,) = cache.iterdir()
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[raw.index(bytes(range(100, 200))) + 7] ^= 1
    elif damage == "stranger":
        np.savez(path, images=np.zeros(3), sha256=np.array("0" * 64))
        raw = bytearray(path.read_bytes())
    path.write_bytes({"truncate": raw[:2000], "empty": b"", "text": b"hello"}.get(damage, raw))
    with caplog.at_level(logging.WARNING, "innerloop"):
        assert load(calls)["images"].tolist() == list(np.arange(5000, dtype=np.uint8))
    assert len(calls) == 2
    assert "building it again" in caplog.text
    load(calls)
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "file" / "deeper"))
    calls: list[int] = []
    with caplog.at_level(logging.WARNING, "innerloop"):
        assert len(load(calls)["images"]) == 5000
    assert "cannot cache" in caplog.text


def test_a_pickle_in_the_cache_is_never_loaded(cache):
    calls: list[int] = []
    load(calls)
    (path,) = cache.iterdir()
    np.savez(path, images=np.array([{"a": 1}], dtype=object), sha256=np.array("x"))
    load(calls)
    assert len(calls) == 2


def test_the_environment_names_the_cache(cache):
    assert cache_dir() == cache


# ---- downloads --------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Serves BODY with ranges; at /broken it closes after a third of what was asked for."""

    ranges: list[str | None] = []

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        if start >= len(BODY):
            self.send_error(416)
            return
        rest = BODY[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 3] if "broken" in self.path else rest)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.ranges.clear()
    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        assert fetch(f"{server}/a.zip", MD5, tmp_path / "a.zip").read_bytes() == BODY
    assert Handler.ranges == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_an_interrupted_download_continues_where_it_stopped(server, tmp_path):
    with pytest.raises(DataError, match="run again to continue"):
        fetch(f"{server}/broken.zip", MD5, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    assert fetch(f"{server}/a.zip", MD5, tmp_path / "a.zip").read_bytes() == BODY
    assert Handler.ranges == [None, f"bytes={len(BODY) // 3}-"]


def test_a_part_that_is_complete_is_not_fetched_again(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY)
    assert fetch(f"{server}/a.zip", MD5, tmp_path / "a.zip").read_bytes() == BODY


def test_another_file_than_published_is_refused_and_forgotten(server, tmp_path):
    with pytest.raises(DataError, match="is not the file that was published"):
        fetch(f"{server}/a.zip", "md5:" + "0" * 32, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_said_with_what_to_put_where(tmp_path):
    with pytest.raises(DataError) as caught:
        fetch("http://127.0.0.1:9/a.zip", MD5, tmp_path / "a.zip")
    assert "download http://127.0.0.1:9/a.zip on another machine and put it at" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5
