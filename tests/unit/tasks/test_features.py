"""Features on disk: what is read, how classes are split, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from innerloop.core.errors import ConfigError, DataError
from innerloop.tasks import Arrays, Features
from innerloop.training.experiment import RunConfig

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float16)
Y = np.repeat(np.arange(12), 5)
SIZES = {"ways": 2, "shots": 1, "queries": 2}


def written(path: Path, **arrays: Any) -> Path:
    np.savez(path / "file.npz", **arrays)
    return path / "file.npz"


def test_they_are_the_tasks_of_the_same_arrays_in_memory(tmp_path: Path) -> None:
    order = RNG.permutation(60)
    path = written(tmp_path, emb=X[order], label=Y[order], note=np.array("a note"))
    ours, theirs = Features(path, **SIZES), Arrays(X[order].astype(np.float32), Y[order], **SIZES)
    for split in ("train", "val", "test"):
        for a, b in zip(ours.sample(split, 4, 0), theirs.sample(split, 4, 0), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)
    assert ours.spec.classes == theirs.spec.classes
    assert ours.sample("train", 1, 0).support.x.dtype == torch.float32


def test_arrays_may_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, a=X, b=-X, label=Y, fine=np.arange(60) // 5 % 6)
    fractions = {"val_fraction": 0.34, "test_fraction": 0.34}
    ours = Features(path, features="b", labels="fine", **SIZES, **fractions)
    assert sum((ours.spec.classes or {}).values()) == 6
    seen = torch.cat([b.x.flatten(0, 1) for b in ours.sample("train", 200, 0)])
    assert {tuple(row) for row in seen.tolist()} <= {tuple(row) for row in (-X).astype(np.float32).tolist()}


@pytest.mark.parametrize("names", [["test", "train", "val"], [2, 0, 1], ["2", "0", "1"]])
def test_a_split_of_its_own_is_kept(tmp_path: Path, names: list[Any]) -> None:
    coded = np.repeat(np.array(names)[np.arange(12) % 3], 5)
    order = RNG.permutation(60)
    path = written(tmp_path, x=X[order], y=Y[order], part=coded[order])
    source = Features(path, split="part", **SIZES)
    assert source.spec.classes == {"train": 4, "val": 4, "test": 4}
    rows = {tuple(row): int(y) for row, y in zip(X.astype(np.float32).tolist(), Y, strict=True)}
    for split, remainder in (("test", 0), ("train", 1), ("val", 2)):
        seen = source.sample(split, 100, 0).query.x.flatten(0, 1).tolist()
        assert {rows[tuple(row)] for row in seen} == {c for c in range(12) if c % 3 == remainder}


def test_a_run_is_rebuilt_from_its_configuration(tmp_path: Path) -> None:
    path = written(tmp_path, emb=X, label=Y)
    values = {"algorithm": "ProtoNet", "tasks": {"name": "Features", "path": str(path), **SIZES}}
    learner, source = RunConfig.from_dict(values).build()
    assert source.spec.input_shape == (3,)
    assert type(learner.module).__name__ == "MLP"


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ({"emb": X}, {}, "set labels"),
        ({"label": Y}, {}, "set features"),
        ({"emb": X, "more": X, "label": Y}, {}, "set features"),
        ({"emb": X, "label": Y, "y": Y}, {}, "set labels"),
        ({"emb": X, "label": Y}, {"features": "embs"}, "did you mean 'emb'"),
        ({"emb": X, "label": Y}, {"split": "part"}, "no array 'part'"),
        ({"emb": X[:50], "label": Y}, {}, "50 rows"),
        ({"emb": np.full_like(X, np.nan), "label": Y}, {}, "NaN"),
        ({"emb": X, "label": Y, "part": np.full(60, "dev")}, {"split": "part"}, "with dev"),
        ({"emb": X, "label": Y, "part": np.arange(60) % 3}, {"split": "part"}, "class '0' with examples in"),
        ({"emb": X, "label": Y.astype(object)}, {}, "allow_pickle|pickle|Object"),
    ],
)
def test_what_cannot_be_tasks_is_refused_by_name(
    tmp_path: Path, arrays: Any, settings: Any, message: str
) -> None:
    path = written(tmp_path, **arrays)
    with pytest.raises(DataError, match=message):
        Features(path, **SIZES, **settings)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes(written(tmp_path, emb=X, label=Y).read_bytes()[:200])
    np.save(tmp_path / "one.npy", X)
    for name in ("nowhere.npz", "text.npz", "cut.npz", "one.npy", "."):
        with pytest.raises(DataError, match="features"):
            Features(tmp_path / name)
    with pytest.raises(ConfigError, match="ways"):
        Features(written(tmp_path, emb=X, label=Y), ways=9)
