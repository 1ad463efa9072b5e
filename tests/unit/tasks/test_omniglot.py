"""Omniglot against its known facts, and against damaged files."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from innerloop.core.errors import ConfigError, DataError
from innerloop.tasks import Omniglot, omniglot_files


def test_there_are_1623_characters_of_20_drawings(omniglot):
    assert len(omniglot._store.names) == 1623
    assert set(omniglot._store.counts.tolist()) == {20}
    assert omniglot._store.examples.shape == (32460, 1, 28, 28)
    assert omniglot._store.examples.dtype == np.uint8


def test_ink_is_one_and_paper_is_zero(omniglot):
    x = omniglot.sample("test", 4, 0).support.x
    assert x.min() == 0
    assert 0.9 < x.max() <= 1
    assert x.mean() < 0.2


@pytest.mark.parametrize(
    ("protocol", "rotations", "classes"),
    [
        ("vinyals", "none", (1028, 172, 423)),
        ("vinyals", "train", (4112, 172, 423)),
        ("vinyals", "all", (4112, 688, 1692)),
        ("lake", "none", (792, 172, 659)),
    ],
)
def test_splits_have_their_published_sizes(omniglot_root, protocol, rotations, classes):
    spec = Omniglot(omniglot_root, protocol=protocol, rotations=rotations).spec
    assert spec.classes == dict(zip(("train", "val", "test"), classes, strict=True))


def test_the_vinyals_split_is_the_published_list(omniglot, omniglot_root):
    for split, pool in omniglot._store.pools.items():
        published = (
            (omniglot_root.parent / "splits" / "omniglot_vinyals" / f"{split}.txt").read_text().split()
        )
        assert {omniglot._store.names[i].split("/", 1)[1] for i in pool.ids} == {
            line.rsplit("/", 1)[0] for line in published
        }


@pytest.mark.parametrize(
    ("ways", "shots", "known"),
    [
        (5, 1, 48.0),
        (5, 5, 70.4),
        pytest.param(20, 1, 28.4, marks=pytest.mark.slow),
        pytest.param(20, 5, 50.8, marks=pytest.mark.slow),
    ],
)
def test_pixel_nearest_neighbour_scores_what_is_known(omniglot, ways, shots, known):
    source = omniglot.resized(ways=ways, shots=shots)
    right: list[torch.Tensor] = []
    for chunk in range(10):
        support, query = source.sample("test", 100, chunk)
        a, b = (torch.nn.functional.normalize(x.flatten(2), dim=-1) for x in (support.x, query.x))
        nearest = (b @ a.mT).argmax(-1)
        right.append((support.y.gather(1, nearest) == query.y).float().mean(1))
    assert abs(100 * torch.cat(right).mean().item() - known) < 1.5


def test_extracted_folders_give_the_same_pixels(omniglot, omniglot_root, tmp_path, monkeypatch):
    wanted = {"images_background": ("Latin", 26), "images_evaluation": ("Keble", 26)}
    monkeypatch.setattr(omniglot_files, "PARTS", {part: (n, "") for part, (_, n) in wanted.items()})
    for part, (alphabet, _) in wanted.items():
        with zipfile.ZipFile(omniglot_root / f"{part}.zip") as archive:
            names = [n for n in archive.namelist() if n.startswith(f"{part}/{alphabet}/")]
            archive.extractall(tmp_path, names)
    found = omniglot_files.load_characters(str(tmp_path))
    assert len(found.names) == 52
    for index, name in enumerate(found.names):
        row = omniglot._store.starts[omniglot._store.names.index(name)]
        assert (found.images[20 * index : 20 * index + 20] == omniglot._store.examples[row : row + 20]).all()


def test_too_many_shots_name_the_character(omniglot):
    with pytest.raises(DataError, match="has 20 examples"):
        omniglot.resized(shots=6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ways": 1}, "ways = 1"),
        ({"shots": 0}, "shots = 0"),
        ({"queries": "4"}, "queries = '4'"),
        ({"train_ways": 1.5}, "train_ways = 1.5"),
        ({"protocol": "vinials"}, "did you mean 'vinyals'"),
        ({"rotations": True}, "one of all, none, train"),
    ],
)
def test_wrong_settings_are_refused_before_any_file_is_read(setting, message):
    with pytest.raises(ConfigError, match=message):
        Omniglot("/nowhere", **setting)


@pytest.mark.parametrize(("setting", "split"), [({"ways": 173}, "val"), ({"ways": 424}, "test")])
def test_more_ways_than_characters_is_refused_at_construction(omniglot_root, setting, split):
    with pytest.raises(ConfigError, match=f"classes in split '{split}'"):
        Omniglot(omniglot_root, **setting)
    with pytest.raises(ConfigError, match="classes in split 'train'"):
        Omniglot(omniglot_root, train_ways=4113)


# ---- damaged files ----------------------------------------------------------------------------------------


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (105, 105), value).save(buffer, "png")
    return buffer.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)


def drawings(part: str, *, count: int = 20) -> dict[str, bytes]:
    return {f"{part}/Latin/character01/0001_{i + 1:02d}.png": png() for i in range(count)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in omniglot_files.PARTS:
        write_zip(tmp_path / f"{part}.zip", drawings(part))
    return tmp_path


def message(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        Omniglot(root)
    assert len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


def test_missing_characters_are_counted(root):
    assert "1 characters in" in message(root)


def test_a_missing_drawing_is_named(root):
    write_zip(root / "images_background.zip", drawings("images_background", count=19))
    assert "19 drawings of 'images_background/Latin/character01'" in message(root)


def test_a_truncated_zip_is_named(root):
    whole = (root / "images_evaluation.zip").read_bytes()
    (root / "images_background.zip").write_bytes(whole[: len(whole) // 2])
    assert "images_background.zip' is truncated or not a zip" in message(root)


def test_a_zip_with_a_flipped_byte_is_refused(root):
    path = root / "images_background.zip"
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(raw)
    assert "images_background.zip' is truncated or not a zip" in message(root)


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../b.png", "..\\evil.png", "C:/evil.png"]
)
def test_a_zip_with_a_path_outside_itself_is_refused(root, name):
    write_zip(root / "images_background.zip", {name: png()})
    assert "a path outside itself" in message(root)


def test_an_image_that_does_not_decode_is_named(root):
    members = drawings("images_background")
    members["images_background/Latin/character01/0001_07.png"] = png()[:40]
    write_zip(root / "images_background.zip", members)
    assert "0001_07.png' does not decode" in message(root)


def test_a_root_that_is_a_file_is_refused(root):
    assert "is a file" in message(root / "images_background.zip")


def test_offline_it_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot_files, "_URL", "http://127.0.0.1:9/{}.zip")
    text = message(tmp_path / "none")
    assert "http://127.0.0.1:9/images_background.zip" in text
    assert str(tmp_path / "none" / "images_background.zip") in text
    assert not list(tmp_path.rglob("*.zip"))


def test_a_changed_zip_is_read_again_and_an_unchanged_one_is_not(root, monkeypatch):
    monkeypatch.setattr(omniglot_files, "PARTS", dict.fromkeys(omniglot_files.PARTS, (1, "")))
    first = omniglot_files.load_characters(str(root)).images
    assert first.max() == 255  # a black page is all ink
    monkeypatch.setattr(omniglot_files, "decode", None)
    moved = root / "moved"
    moved.mkdir()
    for part in omniglot_files.PARTS:
        shutil.copy(root / f"{part}.zip", moved)
    assert (omniglot_files.load_characters(str(moved)).images == first).all()
    monkeypatch.undo()
    monkeypatch.setattr(omniglot_files, "PARTS", dict.fromkeys(omniglot_files.PARTS, (1, "")))
    write_zip(root / "images_background.zip", dict.fromkeys(drawings("images_background"), png(1)))
    assert (omniglot_files.load_characters(str(root)).images[:20] == 0).all()
