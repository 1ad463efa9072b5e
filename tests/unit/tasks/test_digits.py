"""8x8 digits: which images are where, how they are turned, and in which order their pixels stand."""

from __future__ import annotations

import sys

import pytest
import torch

from innerloop.core.errors import ConfigError, DataError
from innerloop.core.types import SPLITS, Split
from innerloop.tasks import Digits, PermutedDigits, RotatedDigits


def seen(source: Digits, split: Split) -> set[tuple[float, ...]]:
    episode = source.sample(split, 60, 0)
    return {tuple(row.flatten().tolist()) for batch in episode for row in batch.x.flatten(0, 1)}


def images(**settings: float | int | None) -> torch.Tensor:
    """The same 300 images under any settings: tasks do not depend on them."""
    return Digits(**settings).sample("train", 6, 0).support.x.flatten(0, 1)[:, 0]  # type: ignore[arg-type]


def test_no_image_is_in_two_splits_and_all_splits_have_all_ten_digits() -> None:
    source = Digits()
    train, val, test = (seen(source, split) for split in SPLITS)
    assert min(len(train), len(val), len(test)) > 400
    assert not train & (val | test)
    assert not val & test
    assert source.spec.classes == dict.fromkeys(SPLITS, 10)


def test_images_are_ink_on_paper_from_zero_to_one() -> None:
    x = Digits().sample("test", 4, 0).query.x
    assert x.shape == (4, 75, 1, 8, 8)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert float(x[..., 0, 0].mean()) < 0.01, "corners are paper"


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_right_angles_turn_anticlockwise_and_change_no_value(turns: int) -> None:
    assert torch.equal(images(rotation=90.0 * turns), torch.rot90(images(), turns, (1, 2)))


def test_a_whole_turn_is_none_and_a_small_one_is_between() -> None:
    straight = images()
    assert torch.equal(images(rotation=360), straight)
    assert torch.equal(images(rotation=-90), images(rotation=270))
    near, far = (float((images(rotation=a) - straight).square().mean()) for a in (10, 45))
    assert 0 < near < 0.3 * far


def test_a_permutation_moves_pixels_alike_in_every_image() -> None:
    straight, moved = images().flatten(1), images(permutation=3).flatten(1)
    assert torch.equal(straight.sort(1).values, moved.sort(1).values)
    # Each place of the permuted images has the values of one place of the others, over all images.
    same = (moved[:, :, None] == straight[:, None, :]).all(0)
    assert bool(same.any(1).all())
    assert not torch.equal(moved, straight)
    assert not torch.equal(moved, images(permutation=4).flatten(1))


def test_pixels_are_permuted_after_turning() -> None:
    straight, moved = images().flatten(1), images(permutation=3).flatten(1)
    same = (moved[:, :, None] == straight[:, None, :]).all(0)
    known = same.sum(1) == 1  # places whose pixel nobody else equals in all images
    assert int(known.sum()) > 40
    turned, both = images(rotation=90).flatten(1), images(rotation=90, permutation=3).flatten(1)
    assert torch.equal(turned[:, same.int().argmax(1)[known]], both[:, known])


def test_families_of_streams_are_those_digits() -> None:
    rotated, permuted = RotatedDigits([0, 90]), PermutedDigits(3, seed=7)
    for stream, settings in (
        (rotated, [{"rotation": 0}, {"rotation": 90}]),
        (permuted, [{}, {"permutation": 8}, {"permutation": 9}]),
    ):
        for number, own in enumerate(settings):
            alone = Digits(**own).sample("test", 3, 1).query.x  # type: ignore[arg-type]
            assert torch.equal(stream.family(number).sample("test", 3, 1).query.x, alone)


@pytest.mark.parametrize("rotation", [float("nan"), float("inf"), "90"])
def test_what_is_no_angle_is_refused(rotation: float) -> None:
    with pytest.raises(ConfigError, match="rotation"):
        Digits(rotation=rotation)


def test_what_is_no_stream_of_digits_is_refused() -> None:
    with pytest.raises(ConfigError, match="a name of its own"):
        RotatedDigits([90, 90.0])
    with pytest.raises(ConfigError, match="two sources or more"):
        RotatedDigits([90])
    with pytest.raises(ConfigError, match="count = 1"):
        PermutedDigits(1)
    with pytest.raises(ConfigError, match="permutation = -1"):
        Digits(permutation=-1)
    with pytest.raises(ConfigError, match="ways = 11"):
        RotatedDigits(ways=11)
    with pytest.raises(DataError, match="43 examples"):
        PermutedDigits(shots=30)


def test_without_scikit_learn_the_extra_is_named_and_stand_ins_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for kind in (Digits, RotatedDigits, PermutedDigits):
        with pytest.raises(ConfigError, match=r"pip install 'innerloop\[sklearn\]'"):
            kind()
        assert kind.tiny().sample("train", 1, 0).support.x.shape == (1, 3, 1, 8, 8)
