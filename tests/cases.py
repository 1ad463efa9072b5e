"""THE table: one row for each registered algorithm. Whatever a row says, every question is asked of it.

A row holds the settings that make the algorithm small. What it can do (`exact`, `transductive`,
`embeds`, whether it takes regression tasks) is read from its class, so that no test names an algorithm.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop import algorithms
from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.functional import POLICIES
from innerloop.core.rng import key, task_keys, uniform
from innerloop.core.types import Batch, Episode, Meta
from innerloop.models import MLP, Conv4
from innerloop.tasks import Sinusoid

#: Name of the algorithm -> settings that make it small and its inner loop real.
ROWS: dict[str, dict[str, Any]] = {
    "ALFA": {"inner_lr": 0.1, "inner_steps": 2},
    "ANIL": {"inner_lr": 0.1, "inner_steps": 2},
    "ANML": {"inner_lr": 0.1, "inner_steps": 5},
    "BOIL": {"inner_lr": 0.1, "inner_steps": 2},
    "Baseline": {"inner_lr": 0.1, "test_inner_steps": 3},
    "BaselinePlusPlus": {"inner_lr": 0.1, "test_inner_steps": 3},
    "CAVIA": {"inner_lr": 0.5, "inner_steps": 2, "context": 3},
    "ConditionalNeuralProcess": {"representation": 4, "encoder": (8,), "decoder": (8,)},
    "FOMAML": {"inner_lr": 0.1, "inner_steps": 2},
    "ImplicitMAML": {"inner_lr": 0.05, "inner_steps": 2, "proximal": 2.0},
    "LEO": {"latents": 4, "latent_steps": 2, "finetuning_steps": 1, "encoder_weight": 0.0},
    "LaMAML": {"inner_lr": 0.15, "inner_steps": 2, "inner_batch": 3},
    "LearnedAggregation": {"inner_lr": 0.1, "inner_steps": 2, "attention": 0.5},
    "LearnedOptimizer": {"inner_steps": 3, "test_inner_steps": 3, "init_scale": None},
    "LearningToAdapt": {"inner_lr": 0.1, "inner_steps": 2},
    "LogisticHead": {"newton_steps": 2, "init_lambda": 0.5},
    "MAML": {"inner_lr": 0.1, "inner_steps": 2},
    "MAMLPlusPlus": {"inner_lr": 0.1, "inner_steps": 2},
    "MANN": {"slots": 8, "width": 5, "reads": 2, "hidden": 6},
    "MatchingNet": {},
    "MetaCurvature": {"inner_lr": 0.1, "inner_steps": 2},
    "MetaLSTM": {"inner_steps": 3},
    "MetaOptNet": {},
    "MetaSGD": {"inner_lr": 0.1, "inner_steps": 2},
    "MetaTransfer": {"inner_lr": 0.1, "inner_steps": 2},
    "OML": {"inner_lr": 0.1, "inner_steps": 5},
    "ProtoMAML": {"inner_lr": 0.01, "inner_steps": 2},
    "ProtoNet": {},
    "RelationNet": {},
    "Reptile": {"inner_lr": 0.01, "inner_steps": 3, "inner_batch": 3},
    "RidgeHead": {"init_lambda": 0.5, "init_scale": 2.0},
    "SNAIL": {"max_length": 5, "filters": 3, "keys": (4, 3), "values": (3, 4)},
    "TNet": {"inner_lr": 0.1, "inner_steps": 2},
}

#: Networks that the questions are asked on, and the BatchNorm policies that make a difference there.
NETWORKS: dict[str, tuple[str, ...]] = {"mlp": ("support",), "group": ("support",), "batch": POLICIES}

WAYS, SHOTS, QUERIES, SIZE = 3, 2, 2, 16


@dataclass(frozen=True)
class Case:
    """One algorithm around one small network under one BatchNorm policy."""

    algorithm: str
    network: str
    batch_norm: str = "support"
    dropout: float = 0.0

    def __str__(self) -> str:
        policy = f"-{self.batch_norm}" if self.network == "batch" else ""
        return f"{self.algorithm}-{self.network}{policy}"

    @property
    def kind(self) -> type[ModuleLearner]:
        return getattr(algorithms, self.algorithm)

    @property
    def regression(self) -> bool:
        """Whether this case is asked on regression tasks: those that take a loss, on the MLP."""
        return self.kind.solves == ("mse",) or (self.network == "mlp" and "mse" in self.kind.solves)

    @property
    def adapts(self) -> bool:
        """Whether it has an inner loop that begins without the labels."""
        return not self.kind.amortised

    def learner(self, **changes: Any) -> ModuleLearner:
        """The algorithm around a fresh network, with some settings of its row changed."""
        settings = ROWS[self.algorithm] | {"batch_norm": self.batch_norm} | changes
        known = {"loss": "mse" if self.regression else "cross_entropy", "ways": WAYS, "classes": WAYS}
        taken = inspect.signature(self.kind).parameters
        settings = {name: value for name, value in known.items() if name in taken} | settings
        return self.kind(self.module(), **settings)

    def module(self) -> torch.nn.Module:
        outputs = None if self.kind.embeds else WAYS
        if self.regression:
            more = self.kind.more_inputs(ROWS[self.algorithm])
            return MLP(1 + more, None if self.kind.embeds else 1, hidden=(8, 8), dropout=self.dropout)
        if self.network == "mlp":
            return MLP(SIZE * SIZE, outputs, hidden=(8, 8), dropout=self.dropout)
        return Conv4(outputs, size=SIZE, width=4, norm=self.network, dropout=self.dropout)  # pyright: ignore

    def meta(self, seed: int = 0) -> Meta:
        """Its meta-parameters in float64, at a point without symmetries (no zero biases)."""
        drawn = self.learner().init(torch.Generator().manual_seed(seed))
        shifted = {
            path: _shifted(path, leaf.double(), index)
            for index, (path, leaf) in enumerate(tree.flatten(drawn).items())
        }
        return tree.unflatten(shifted)

    def episodes(self, num_tasks: int = 4, seed: int = 0) -> Episode:
        """Small tasks in float64 that fit the network."""
        if self.regression:
            return as_double(Sinusoid(shots=5, queries=6).sample("train", num_tasks, seed))
        return images(num_tasks, seed)


CASES = [
    Case(name, network, policy)
    for name in ROWS
    for network, policies in NETWORKS.items()
    if network == "mlp" or "cross_entropy" in getattr(algorithms, name).solves
    for policy in policies
]
DROPOUT_CASES = [
    Case(case.algorithm, case.network, dropout=0.4)
    for case in CASES
    if case.network in ("mlp", "batch") and case.batch_norm == "support"
]


def images(num_tasks: int, seed: int = 0, *, shots: int = SHOTS, queries: int = QUERIES) -> Episode:
    """Tasks of noisy pictures: each class has its own, float64; x [T, WAYS * n, 1, SIZE, SIZE]."""
    keys = task_keys(key(seed, "images"), num_tasks)
    pixels = SIZE * SIZE
    prototypes = uniform(keys, WAYS * pixels).reshape(num_tasks, WAYS, 1, pixels)
    each = shots + queries
    noise = uniform(task_keys(key(seed, "noise"), num_tasks), WAYS * each * pixels, -0.5, 0.5)
    x = torch.from_numpy(prototypes + noise.reshape(num_tasks, WAYS, each, pixels))
    x = x.reshape(num_tasks, WAYS, each, 1, SIZE, SIZE)
    return Episode(_labelled(x[:, :, :shots]), _labelled(x[:, :, shots:]))


def as_double(episodes: Episode) -> Episode:
    """The same tasks in float64; labels stay whole numbers."""

    def cast(values: Tensor) -> Tensor:
        return values.double() if values.is_floating_point() else values

    return Episode(*(Batch(cast(batch.x), cast(batch.y)) for batch in episodes))


def _labelled(x: Tensor) -> Batch:
    tasks, ways, each = x.shape[:3]
    return Batch(x.flatten(1, 2).contiguous(), torch.arange(ways).repeat_interleave(each).repeat(tasks, 1))


def _shifted(path: str, leaf: Tensor, index: int) -> Tensor:
    """Biases away from zero and scales away from one, so that every leaf matters."""
    if path.endswith("running_var"):
        return leaf * 0.05  # about what these networks see, so that features survive
    noise = uniform(task_keys(key(index, "shift"), 1), leaf.numel(), -0.1, 0.1)
    return leaf + torch.from_numpy(noise).reshape(leaf.shape)
