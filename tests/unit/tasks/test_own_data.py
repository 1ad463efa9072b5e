"""One line for own data, and what it says when the data will not do."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from innerloop.core.errors import ConfigError, DataError, InnerloopError
from innerloop.tasks import Arrays, ImageFolder
from innerloop.tasks.image_folder import class_folders
from innerloop.tasks.images import read_image

SIZES = {"ways": 2, "shots": 1, "queries": 2}


def fill(folder: Path, *, shade: int, count: int = 4) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (10, 14), (shade, 0, i)).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for c in range(12):
        fill(tmp_path / "data" / f"class{c:02d}", shade=20 * c)
    return tmp_path / "data"


def refused(root: Path, **settings: object) -> str:
    with pytest.raises(InnerloopError) as caught:
        ImageFolder(root, **{**SIZES, **settings})
    assert len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


# ---- folders ----------------------------------------------------------------------------------------------


def test_a_folder_of_folders_is_one_line(root):
    source = ImageFolder(root, **SIZES)
    assert source.spec.classes == {"train": 8, "val": 2, "test": 2}
    assert source.sample("train", 3, 0).support.x.shape == (3, 2, 3, 28, 28)


def test_a_class_is_a_folder(root):
    support, query = ImageFolder(root, **SIZES).sample("train", 30, 0)
    shade = (query.x[:, :, 0].mean((-1, -2)) * 255 / 20).round()
    own = (support.x[:, :, 0].mean((-1, -2)) * 255 / 20).round()
    assert torch.equal(shade, own.repeat_interleave(2, dim=1))
    assert (own[:, 0] != own[:, 1]).all()


def test_the_split_is_seeded(root):
    names = [
        ImageFolder(root, **SIZES, split_seed=seed)._store.pools["test"].ids.tolist() for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]


def test_grey_has_one_channel_and_invert_turns_ink_bright(root):
    plain = ImageFolder(root, **SIZES, grey=True, size=8).sample("test", 1, 0).support.x
    turned = ImageFolder(root, **SIZES, grey=True, size=8, invert=True).sample("test", 1, 0).support.x
    assert plain.shape == (1, 2, 1, 8, 8)
    assert torch.allclose(plain, 1 - turned, atol=1e-6)


def test_folders_named_train_val_and_test_are_the_split(tmp_path):
    for split, letters in (("train", "abc"), ("val", "de"), ("test", "fg")):
        for c in letters:
            fill(tmp_path / split / c, shade=ord(c))
    source = ImageFolder(tmp_path, **SIZES)
    assert source.spec.classes == {"train": 3, "val": 2, "test": 2}
    assert [source._store.names[i] for i in source._store.pools["test"].ids] == ["test/f", "test/g"]


def test_val_may_be_missing_and_says_so_when_sampled(tmp_path):
    for split, letters in (("train", "abc"), ("test", "fg")):
        for c in letters:
            fill(tmp_path / split / c, shade=ord(c))
    source = ImageFolder(tmp_path, **SIZES)
    with pytest.raises(ConfigError, match="0 classes in split 'val'"):
        source.sample("val", 1, 0)


def test_a_class_in_two_splits_is_named(tmp_path):
    for split, letters in (("train", "abc"), ("test", "cd")):
        for c in letters:
            fill(tmp_path / split / c, shade=ord(c))
    assert "class 'c' in train and in test" in refused(tmp_path)


def test_the_folder_with_too_few_images_is_named(root):
    (root / "class03" / "0.png").unlink()
    (root / "class03" / "1.png").unlink()
    assert "class 'class03'" in refused(root)
    assert "has 2 examples" in refused(root)


def test_an_empty_class_folder_is_named(root):
    (root / "class12").mkdir()
    assert "class 'class12'" in refused(root)


def test_the_unreadable_image_is_named(root):
    (root / "class05" / "2.png").write_bytes(b"not an image")
    assert "class05/2.png' does not decode" in refused(root)


def test_a_truncated_image_is_named(root):
    whole = (root / "class05" / "2.png").read_bytes()
    (root / "class05" / "2.png").write_bytes(whole[:50])
    assert "class05/2.png' does not decode" in refused(root)


def test_a_missing_root_is_named(tmp_path):
    assert "none': No such file" in refused(tmp_path / "none")


def test_a_root_that_is_a_file_is_named(root):
    assert "0.png': Not a directory" in refused(root / "class01" / "0.png")


def test_an_empty_root_is_named(tmp_path):
    assert "without sub-folders" in refused(tmp_path)


def test_more_ways_than_classes_is_refused(root):
    assert "ways = 9 with 8 classes in split 'train'" in refused(root, ways=9)
    assert "with 2 classes in split 'test'" in refused(root, ways=3)
    assert "at least one class left to train on" in refused(root, val_fraction=0.6, test_fraction=0.4)


@pytest.mark.parametrize(
    "setting",
    [{"size": 3}, {"size": 1000}, {"size": 28.0}, {"val_fraction": -0.1}, {"test_fraction": float("nan")}],
)
def test_settings_out_of_range_are_refused(root, setting):
    assert next(iter(setting)) in refused(root, **setting)


def test_other_files_are_left_alone(root):
    (root / "class00" / "notes.txt").write_text("x")
    (root / "class00" / ".hidden.png").write_text("x")
    (root / ".cache").mkdir()
    assert ImageFolder(root, **SIZES).spec.classes == {"train": 8, "val": 2, "test": 2}


def test_a_changed_image_is_read_again(root):
    before = ImageFolder(root, **SIZES)._store.examples
    Image.new("RGB", (30, 30), "white").save(root / "class00" / "0.png")
    after = ImageFolder(root, **SIZES)._store.examples
    assert (after[0] == 255).all()
    assert (after[1:] == before[1:]).all()


def test_the_configuration_can_be_read_back(root):
    source = ImageFolder(root, **SIZES, grey=True)
    settings = {n: getattr(source, n) for n in inspect.signature(ImageFolder).parameters}
    again = ImageFolder(**settings)
    assert torch.equal(source.sample("test", 2, 0).query.x, again.sample("test", 2, 0).query.x)
    assert isinstance(settings["root"], str)


def test_class_folders_are_sorted(root):
    assert [f.name for f in class_folders(root)] == [f"class{c:02d}" for c in range(12)]


# ---- images -----------------------------------------------------------------------------------------------


def test_transparent_parts_become_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == 255).all()


def test_deep_greys_are_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", 8, grey=True)
    assert np.abs(read[0].astype(int) - ramp / 257).max() <= 2


def test_photographs_are_turned_upright(tmp_path):
    picture = Image.new("L", (8, 8), 0)
    picture.paste(255, (0, 0, 8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    picture.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png", 8, grey=True)[0]
    assert read[:, 6].min() > 200
    assert read[:, 1].max() < 55


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png"):
        read_image(tmp_path / "none.png", 8)


# ---- arrays -----------------------------------------------------------------------------------------------

X = np.arange(120.0).reshape(60, 2)
Y = np.repeat(np.arange(12), 5)


def test_arrays_tensors_and_lists_give_the_same_tasks():
    first = Arrays(X, Y, **SIZES).sample("train", 3, 0)
    for x, y in ((torch.tensor(X), torch.tensor(Y)), (X.tolist(), Y.tolist())):
        assert torch.equal(first.query.x, Arrays(x, y, **SIZES).sample("train", 3, 0).query.x)


def test_rows_keep_their_labels_in_any_order():
    order = np.random.default_rng(0).permutation(60)
    support, query = Arrays(X[order], Y[order].astype(str), **SIZES).sample("train", 20, 0)
    assert torch.equal(
        (query.x[..., 0] // 10).long(), (support.x[..., 0] // 10).long().repeat_interleave(2, 1)
    )


def test_pixels_are_scaled_and_other_numbers_are_not():
    pixels = np.full((60, 1, 4, 4), 255, dtype=np.uint8)
    assert Arrays(pixels, Y, **SIZES).sample("train", 1, 0).support.x.max() == 1
    assert Arrays(pixels.astype(np.int32), Y, **SIZES).sample("train", 1, 0).support.x.max() == 255


def bad(x: object = X, y: object = Y, **settings: object) -> str:
    with pytest.raises(InnerloopError) as caught:
        Arrays(x, y, **{**SIZES, **settings})  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) <= 5
    return str(caught.value)


def test_unequal_lengths_are_refused():
    assert "60 rows and y with 59" in bad(y=Y[:-1])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused_with_their_row(value):
    x = X.copy()
    x[17, 1] = value
    assert "in 1 rows, first 17" in bad(x)


def test_objects_and_strings_are_refused():
    assert "x of type object" in bad(X.astype(object))
    assert "x of type <U" in bad(X.astype(str))
    assert "y of type object" in bad(y=Y.astype(object))
    assert "y of type float64" in bad(y=Y.astype(float))
    assert "y of type int64 and shape (60, 1)" in bad(y=Y[:, None])
    assert "no array" in bad([[1.0], [1.0, 2.0]])
    assert "x of shape (60,)" in bad(X[:, 0])


def test_empty_arrays_are_refused():
    assert "0 classes" in bad(X[:0], Y[:0])


def test_too_few_classes_and_too_few_examples_are_refused():
    assert "ways = 9 with 8 classes in split 'train'" in bad(ways=9)
    assert "class '0'" in bad(np.delete(X, [0, 1, 2], 0), np.delete(Y, [0, 1, 2]))
    assert "1 classes" in bad(y=Y * 0)
