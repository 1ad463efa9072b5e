"""Omniglot as a trajectory: characters that come one after another, to be learned without forgetting."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from innerloop.core.errors import ConfigError, check_count, unknown
from innerloop.core.rng import Rng, bits, choose, fold
from innerloop.core.types import SPLITS, Batch, Episode, Split, TaskSpec
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.episodes import as_float, choose_within, split_keys
from innerloop.tasks.images import read_image
from innerloop.tasks.omniglot import PROTOCOLS
from innerloop.tasks.omniglot_files import IMAGE_SIZE, load_characters, split_characters
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store


@final
class ClassIncrementalOmniglot(ClassTasks):
    """A task is a trajectory: all support drawings of one character, then all of the next, up to the last.

    In training a character has the number that it has among all training characters, in every task, so that
    a model has an output for each; the query is other drawings of the trajectory's characters, and then
    drawings of as many others, one of each, that the model should not have forgotten. At test, where no
    character is known, they are numbered from 0 as they come, and the query is drawings of them alone.
    Drawings are as in `Omniglot`, float32 [1, 28, 28].

    Args:
        root: folder with `images_background.zip` and `images_evaluation.zip`, or with the two extracted
            folders; None means the cache folder, which is filled where it is empty.
        ways: characters of a trajectory at test, >= 2; `resized(ways=200)` gives longer ones.
        shots, queries: support and query drawings of each character at test; together at most 20.
        train_ways, train_shots, train_queries: sizes of training trajectories.
        remember: drawings of other characters in a training query, >= 0.
        outputs: of the model, at least the number of training characters, and at least `ways`.
        protocol: "lake" tests on the 659 characters of the evaluation alphabets, validates on 172 of the
            background alphabets and trains on its other 792; "vinyals" splits 1028/172/423.

    Raises:
        ConfigError: a size or the protocol is out of range.
        DataError: files are missing (and cannot be downloaded), truncated, incomplete, or not images.

    Reference: Javed and White, *Meta-Learning Representations for Continual Learning*, arXiv:1905.12588.
    """

    absolute = True

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        ways: int = 50,
        shots: int = 15,
        queries: int = 5,
        train_ways: int = 3,
        train_shots: int = 5,
        train_queries: int = 5,
        remember: int = 15,
        outputs: int = 1000,
        protocol: Literal["lake", "vinyals"] = "lake",
    ) -> None:
        self.root: str | None = None if root is None else os.fspath(root)
        self.protocol: Literal["lake", "vinyals"] = protocol
        if protocol not in PROTOCOLS:
            raise unknown("protocol", str(protocol), PROTOCOLS)
        self.remember = check_count("remember", remember, low=0)
        self.outputs = check_count("outputs", outputs, low=2)
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )
        characters = load_characters(self.root)
        pools = {split: Pool.of(ids) for split, ids in split_characters(characters.names, protocol).items()}
        self._set_store(ExampleStore(characters.images, characters.counts, characters.names, pools))

    def _set_store(self, store: ExampleStore) -> None:
        super()._set_store(store)
        self._check_outputs()
        trained, ways = store.num_classes["train"], self.sizes("train").ways
        if ways + self.remember > trained:
            raise ConfigError(
                f"trajectories of {ways} and remember = {self.remember} with {trained} training characters",
                expected=f"together at most {trained}, since those to remember are others",
                do="lower remember or train_ways",
            )

    def _check_outputs(self) -> None:
        needed = max(self._store.num_classes["train"], self.ways)
        if self.outputs < needed:
            raise ConfigError(
                f"outputs = {self.outputs}",
                expected=f"at least {needed}: one for each training character, and for each of a trajectory",
                do=f"set outputs to {needed} or more",
            )

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec(
            self._store.example_shape,
            self.outputs,
            "cross_entropy",
            "accuracy",
            shots=self.shots,
            queries=self.queries,
            classes=self._store.num_classes,
        )

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same characters with other sizes at test; training keeps its sizes.

        Raises:
            ConfigError, DataError: split test cannot make such tasks, or the model has too few outputs.
        """
        other = super().resized(ways=ways, shots=shots, queries=queries)
        other._check_outputs()
        return other

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Stacked trajectories: x float32 [T, ways * shots, 1, 28, 28] and y int64 [T, ways * shots].

        The query is [T, ways * queries], and in training [T, ways * queries + remember]. Task i does not
        depend on `num_tasks`; support and query are disjoint, and what is to be remembered is of other
        characters than the trajectory's.
        """
        keys, sizes = split_keys(split, num_tasks, rng), self.sizes(split)
        self._store.check(split, sizes)
        remembered = self.remember if split == "train" else 0
        pool, each = self._store.pools[split], sizes.shots + sizes.queries
        picked = choose(keys, len(pool), sizes.ways + remembered)
        seen, others = picked[:, : sizes.ways], picked[:, sizes.ways :]
        labels = seen if split == "train" else np.broadcast_to(np.arange(sizes.ways), seen.shape)
        ids = pool.ids[seen]
        order = choose_within(bits(fold(keys, 0), sizes.ways), self._store.counts[ids], each)
        rows = self._store.starts[ids][..., None] + order
        support = self._batch(rows[..., : sizes.shots], labels)
        query = self._batch(rows[..., sizes.shots :], labels)
        if not remembered:
            return Episode(support, query)
        ids = pool.ids[others]
        drawn = choose_within(bits(fold(keys, 1), remembered), self._store.counts[ids], 1)
        kept = self._batch(self._store.starts[ids][..., None] + drawn, others)
        return Episode(support, Batch(torch.cat([query.x, kept.x], 1), torch.cat([query.y, kept.y], 1)))

    def _batch(self, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Batch:
        """The drawings in rows [T, classes, n] of the store, class after class; labels are [T, classes]."""
        tasks, classes, each = rows.shape
        x = torch.from_numpy(self._store.examples[rows.reshape(tasks, classes * each)])
        return Batch(as_float(x), torch.from_numpy(np.repeat(labels, each, axis=1).astype(np.int64)))

    def mapped(
        self, fn: Callable[[Tensor], Tensor], *, splits: Sequence[Split] = SPLITS, block: int = 500
    ) -> Self:
        """The same trajectories of what `fn` makes of drawings, computed once for all of them.

        Args:
            fn: from drawings float32 [n, 1, 28, 28] to anything [n, ...], such as the features of a network.
            splits: whose drawings are needed; those of others become zeros.
            block: drawings that it is given at a time.
        """
        ids = np.concatenate([self._store.pools[split].ids for split in splits])
        needed = torch.from_numpy(
            np.isin(np.repeat(np.arange(len(self._store.counts)), self._store.counts), ids)
        )
        drawings = torch.from_numpy(self._store.examples)[needed]
        with torch.no_grad():
            found = torch.cat([fn(as_float(part)).to(torch.float32) for part in drawings.split(block)])
        made = torch.zeros(len(needed), *found.shape[1:])
        made[needed] = found
        other = copy.copy(self)
        other._store = replace(self._store, examples=made.numpy())
        return other

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """A drawing of one's own, dark on light, as this source has them: uint8 [1, 28, 28], ink 255."""
        return read_image(path, IMAGE_SIZE, grey=True, invert=True)

    @classmethod
    def tiny(cls) -> Self:
        """24 synthetic characters, of which 12 train; trajectories of 3 at test and of 2 in training."""
        source = cls.__new__(cls)
        source.root, source.protocol, source.remember, source.outputs = None, "lake", 3, 12
        source._set_sizes(ways=3, shots=1, queries=3, train_ways=2, train_shots=2, train_queries=2)
        source._set_store(stroke_store())
        return source
