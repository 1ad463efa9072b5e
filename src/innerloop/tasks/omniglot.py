"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

from __future__ import annotations

import os
from typing import Literal, Self, final

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import unknown
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.images import read_image
from innerloop.tasks.omniglot_files import IMAGE_SIZE, load_characters, split_characters
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store

PROTOCOLS = ("vinyals", "lake")
ROTATIONS = ("none", "train", "all")


@final
class Omniglot(ClassTasks):
    """A class is a character; its examples are 20 drawings, float32 [1, 28, 28] with ink = 1 and paper = 0.

    Drawings are resized from 105x105 with Lanczos, as in the MAML code. Raw-pixel nearest neighbour
    (cosine) on the 423 Vinyals test characters scores 47.5 %, 71.4 %, 27.7 % and 50.5 % for 5-way
    1-shot, 5-way 5-shot, 20-way 1-shot and 20-way 5-shot.

    Args:
        root: folder with `images_background.zip` and `images_evaluation.zip`, or with the two extracted
            folders; None means the cache folder. What is missing there is downloaded (14 MB) from the
            authors' repository and checked.
        ways: classes of a task, >= 2.
        shots, queries: support and query drawings of each class; together at most 20.
        train_ways, train_shots, train_queries: sizes of training tasks; None means the same as at test.
        protocol: "vinyals" splits the characters 1028/172/423. "lake" tests on the 659 characters of the
            20 evaluation alphabets, validates on the 172 of Armenian, Bengali, Early Aramaic, Hebrew and
            Mkhedruli (the Vinyals validation alphabets), and trains on the other 792 of the background set.
        rotations: the splits in which turns by 0, 90, 180 and 270 degrees make four classes of each
            character: "none", "train" (4112 training classes), or "all".

    Raises:
        ConfigError: a size, the protocol or the rotations are out of range.
        DataError: files are missing (and cannot be downloaded), truncated, incomplete, or not images.

    Reference: Lake, Salakhutdinov, Tenenbaum, *Human-level concept learning through probabilistic program
    induction*, Science 2015; splits of Vinyals et al., *Matching Networks*, arXiv:1606.04080.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        protocol: Literal["vinyals", "lake"] = "vinyals",
        rotations: Literal["none", "train", "all"] = "train",
    ) -> None:
        self.root: str | None = None if root is None else os.fspath(root)
        self.protocol, self.rotations = protocol, rotations
        if protocol not in PROTOCOLS:
            raise unknown("protocol", str(protocol), PROTOCOLS)
        if rotations not in ROTATIONS:
            raise unknown("rotations", str(rotations), ROTATIONS)
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )
        characters = load_characters(self.root)
        splits = split_characters(characters.names, protocol)
        turned = {"none": (), "train": ("train",), "all": ("train", "val", "test")}[rotations]
        pools = {split: Pool.of(ids, rotations=split in turned) for split, ids in splits.items()}
        self._set_store(ExampleStore(characters.images, characters.counts, characters.names, pools))

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """A drawing of one's own, dark on light, as this source has them: uint8 [1, 28, 28], ink 255."""
        return read_image(path, IMAGE_SIZE, grey=True, invert=True)

    @classmethod
    def tiny(cls) -> Self:
        """24 synthetic characters with 8 drawings each, 3-way 1-shot; needs no files."""
        source = cls.__new__(cls)
        source.root, source.protocol, source.rotations = None, "vinyals", "train"
        source._set_sizes(ways=3, shots=1, queries=3, train_ways=None, train_shots=None, train_queries=None)
        source._set_store(stroke_store(rotations=True))
        return source
