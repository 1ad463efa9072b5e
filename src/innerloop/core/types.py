"""The nouns of the field: a batch, an episode, and what is known about a distribution over tasks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from innerloop.core.errors import ConfigError, ContractError

#: A tree is a tensor, or a dict of trees with string keys. Nothing else: it is what checkpoints hold.
Tree: TypeAlias = Any
Meta: TypeAlias = dict[str, Any]  # what the outer loop learns
Fast: TypeAlias = dict[str, Any]  # a task's state inside the inner loop

Loss = Literal["cross_entropy", "mse"]
Metric = Literal["accuracy", "mse"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Batch(NamedTuple):
    """Labelled examples of one task: `x` is [S, ...]; `y` is [S] class indices or [S, F] targets."""

    x: Tensor
    y: Tensor


class Episode(NamedTuple):
    """One task: `support` to adapt on, `query` to be judged on, disjoint.

    Stacked episodes carry a leading task axis: support.x is [T, S, ...], query.x is [T, Q, ...].
    """

    support: Batch
    query: Batch


@dataclass(frozen=True)
class TaskSpec:
    """All that a learner may know of a distribution over tasks.

    Attributes:
        input_shape: shape of one example, such as (1, 28, 28).
        outputs: size of the model's output: `ways` for classes, the width of a target otherwise.
        loss: what the inner and outer loops minimise.
        metric: what evaluation reports.
        shots, queries: examples per class (classification) or per task (regression), at test.
        classes: number of classes in each split; None where tasks are not made of classes.
    """

    input_shape: tuple[int, ...]
    outputs: int
    loss: Loss
    metric: Metric
    shots: int
    queries: int
    classes: dict[str, int] | None = None

    def to_json(self) -> str:
        """What `spec.json` holds in a run folder."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TaskSpec:
        """The spec that a `text` of `to_json` tells of; a `ContractError` for any other text."""
        try:
            values = json.loads(text)
            return cls(**values | {"input_shape": tuple(values["input_shape"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ContractError(
                f"a description of tasks that cannot be read ({error})",
                expected="spec.json as a training run writes it",
                do="restore the file, or train again",
            ) from error


def check_split(split: str) -> None:
    """Raise `ConfigError` unless `split` is train, val or test."""
    if split not in SPLITS:
        raise ConfigError(
            f"split {split!r}", expected="one of train, val, test", do="name one of these splits"
        )
