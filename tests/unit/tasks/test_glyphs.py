"""Glyphs: what is drawn is stated, the same everywhere, and no shape stands in two splits."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import numpy as np
import pytest

from innerloop.core.errors import DataError
from innerloop.tasks import Glyphs, glyph_fonts, glyph_render, glyph_twins

TESTED = {"matplotlib": "3.11.2", "pillow": "13.0.0"}


def test_numbers_of_classes_and_of_removed_twins_are_as_stated(glyphs):
    assert glyphs.spec.classes == {"train": 1570, "val": 77, "test": 248}
    assert glyphs.num_twins == 855
    text = re.sub(r"\s+", " ", Glyphs.__doc__ or "")
    assert "1,570 / 77 / 248" in text
    assert "855 look like an earlier one" in text


def test_the_images_are_those_whose_hash_is_stated(glyphs):
    for package, version in TESTED.items():
        if importlib.metadata.version(package) != version:
            pytest.skip(f"the hash is stated for {package} {version}")
    assert glyphs.sha256 in (Glyphs.__doc__ or "")


def test_scripts_of_val_and_test_are_in_no_name_of_another_split(glyphs):
    scripts = {"val": ("ARMENIAN", "LAO"), "test": ("GREEK", "COPTIC", "GEORGIAN")}
    for split, pool in glyphs._store.pools.items():
        for index in pool.ids:
            words = glyphs._store.names[index].replace("-", " ").split()
            for other, own in scripts.items():
                assert (other == split) == bool(set(own) & set(words)) or other != split
                assert other == split or not set(own) & set(words)


def test_no_two_classes_share_an_image(glyphs):
    images = glyphs._store.examples.reshape(len(glyphs._store.names), 20, -1)
    seen: dict[bytes, int] = {}
    for index, own in enumerate(images):
        for image in own:
            assert seen.setdefault(image.tobytes(), index) == index


def test_lookalikes_of_three_alphabets_are_one_class(glyphs):
    kept = {chr(int(name.split()[0][2:], 16)) for name in glyphs._store.names}
    assert "A" in kept
    assert not {"\u0391", "\u0410"} & kept  # Greek Alpha, Cyrillic A
    assert {"\u03b1", "\u03a9", "\u03bb", "\u0416", "\u0539", "\u10d0"} <= kept
    assert not {"\u00b5", "\u2126", "\u2211", "\u220f", "ɑ", "⍴", "Ѱ"} & kept  # Greek letters by other names


def test_every_image_has_ink_that_is_not_cut_off(glyphs):
    images = glyphs._store.examples[:, 0].astype(np.int64)
    ink = (images > 127).sum(axis=(1, 2))
    assert (ink >= 15).mean() > 0.9995
    assert ink.min() >= 5
    edge = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert ((edge > 127).sum(axis=1) <= 2).mean() > 0.9


def test_jitter_is_a_function_of_the_character_alone():
    files = glyph_fonts.font_files()
    together = glyph_render.draw({"A": [0, 4, 8], "Ж": [0, 4, 8]}, files)
    alone = glyph_render.draw({"Ж": [0, 4, 8]}, files)
    assert (glyph_render.jittered("Ж", together["Ж"]) == glyph_render.jittered("Ж", alone["Ж"])).all()
    assert not (glyph_render.jittered("Ж", together["Ж"]) == glyph_render.jittered("A", together["A"])).all()


def test_a_blank_and_a_missing_glyph_are_not_drawn():
    drawn = glyph_render.draw({" ": [0], "\uffff": [0], "A": [0]}, glyph_fonts.font_files())
    assert list(drawn) == ["A"]


def test_upright_glyphs_are_centred():
    mask = glyph_render.draw({"H": [0]}, glyph_fonts.font_files())["H"][0]
    image = glyph_render.upright(mask).astype(float)
    middle = (
        (np.arange(28) * image.sum(1)).sum() / image.sum(),
        (np.arange(28) * image.sum(0)).sum() / image.sum(),
    )
    assert np.allclose(middle, 13.5, atol=0.3)
    assert 18 <= (image.max(1) > 127).sum() <= 22


def test_twins_are_found_by_their_mean_over_shared_faces():
    rng = np.random.default_rng(0)
    drawings = rng.integers(0, 256, size=(2, 4, 28, 28), dtype=np.uint8)
    drawings[:, 1] = drawings[:, 0]  # a twin in both faces
    drawings[0, 2] = drawings[0, 0]  # a twin in one face of two
    drawings[0, 3], drawings[1, 3] = drawings[0, 2], 0  # a twin in the only face that it has
    present = np.array([[True] * 4, [True, True, True, False]])
    alike = glyph_twins.similarities(drawings, present)
    assert alike[0, 1] == pytest.approx(1)
    assert alike[0, 2] < glyph_twins.TWIN
    assert alike[0, 3] == pytest.approx(1)
    assert glyph_twins.without_twins(alike, ["train"] * 4) == [0, 2]
    between = np.array([[1, 0.9], [0.9, 1]], dtype=np.float32)
    assert glyph_twins.without_twins(between, ["train", "train"]) == [0, 1]
    assert glyph_twins.without_twins(between, ["train", "test"]) == [0]


@pytest.mark.parametrize(
    ("character", "split"),
    [
        ("A", "train"),
        ("Ж", "train"),
        ("→", "train"),
        ("Ա", "val"),
        ("ກ", "val"),
        ("α", "test"),
        ("ა", "test"),
    ],
)
def test_the_script_decides_the_split(character, split):
    assert glyph_fonts.split_of(character) == split


def test_variants_and_marks_are_no_classes():
    found = glyph_fonts.candidates(glyph_fonts.font_files())
    assert not {"²", "½", "①", "\u0301", " ", "\u2126", "𝐀"} & set(found)
    assert {"é", "Ω", "→"} <= set(found)
    assert min(map(len, found.values())) >= glyph_fonts.MIN_FACES


def test_missing_fonts_are_said_with_a_remedy(monkeypatch):
    monkeypatch.setattr(glyph_fonts, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install matplotlib"):
        Glyphs()


def test_fonts_are_found_without_importing_matplotlib(glyphs):
    code = "import sys; from innerloop.tasks import Glyphs; Glyphs(); sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
