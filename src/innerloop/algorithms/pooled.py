"""What the learners share that are trained as ordinary classifiers, on all training classes at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from innerloop.algorithms.base import ModuleLearner, minibatch
from innerloop.algorithms.base import embedding_size as width_of
from innerloop.core.errors import check_count, check_range
from innerloop.core.functional import BatchNormPolicy, Params, inner_gradient
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import count_ways, mode
from innerloop.core.rng import keyed_uniform
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled


class PooledLearner(ModuleLearner, ABC):
    """Trains an embedding under one head for all training classes; a new task gets a new head.

    In meta-training a task is a batch of examples of all classes, support and query alike, and nothing
    adapts. After it the embedding is frozen, and each inner step fits a task's own head to its support.
    A subclass says what a head is: `fresh` and `logits`.
    """

    solves = ("cross_entropy",)
    embeds = any_ways = pooled = bounded = True
    inner_steps = 0
    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        classes: int = 64,
        inner_lr: float = 0.01,
        test_inner_steps: int = 100,
        inner_batch: int | None = 4,
        momentum: float = 0.9,
        dampening: float = 0.9,
        weight_decay: float = 1e-3,
        embedding_size: int | None = None,
        batch_norm: BatchNormPolicy = "running",
    ) -> None:
        self.classes = check_count("classes", classes, low=2)
        self.test_inner_steps = check_count("test_inner_steps", test_inner_steps, low=0)
        self.inner_batch = None if inner_batch is None else check_count("inner_batch", inner_batch)
        check_range("inner_lr", inner_lr, low=0.0, open_low=True)
        check_range("momentum", momentum, low=0.0, high=1.0 - 1e-9)
        check_range("dampening", dampening, low=0.0, high=1.0)
        check_range("weight_decay", weight_decay, low=0.0)
        self.inner_lr, self.momentum = inner_lr, momentum
        self.dampening, self.weight_decay = dampening, weight_decay
        self._wrap(module, "cross_entropy", batch_norm)
        self.embedding_size, self._width = embedding_size, width_of(module, embedding_size)

    @abstractmethod
    def fresh(self, classes: int, width: int, key: Tensor) -> Params:
        """A head that has learned nothing, for embeddings of that width: a function of an int64 scalar."""

    @abstractmethod
    def logits(self, head: Params, embedded: Tensor) -> Tensor:
        """Outputs [S, classes] of a head for embedded examples [S, D]."""

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        key = torch.randint(2**62, (), generator=rng)
        return meta | {"head": self.fresh(self.classes, self._width, key)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        if mode().training:
            return {"head": meta["head"], DATA: {"support": support.x, "labels": support.y}}
        embedded = self._embedded(meta, support.x)
        ways = mode().ways or count_ways(support.y) or 0
        # One draw for all tasks, so that nothing but its support makes a task's head.
        drawn = self.fresh(ways, self._width, torch.zeros((), dtype=torch.int64, device=support.x.device))
        kept = {"support": support.x} if self.net.needs_support else {}
        head = {name: value.to(embedded.dtype) for name, value in drawn.items()}
        return {"head": head, DATA: kept | {"embedded": embedded}}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        batch = minibatch(Batch(fast[DATA]["embedded"], support.y), self.inner_batch)

        def support_loss(head: Params) -> Tensor:
            return cross_entropy(self.logits(head, batch.x), batch.y)

        grads = inner_gradient(support_loss, fast["head"])
        grads = {name: g + self.weight_decay * fast["head"][name] for name, g in grads.items()}
        if "velocity" in fast:  # the first step has none to keep, and is not dampened either
            kept, new = self.momentum, 1.0 - self.dampening
            grads = {name: kept * fast["velocity"][name] + new * g for name, g in grads.items()}
        head = {name: value - self.inner_lr * grads[name] for name, value in fast["head"].items()}
        return fast | {"head": head, "velocity": grads}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return self.predict_each(meta, [fast], inputs)[0]

    def predict_each(self, meta: Meta, states: Iterable[Fast], inputs: Tensor) -> list[Tensor]:
        outputs, embedded = [], None
        for fast in states:
            if embedded is None:
                support = fast[DATA]["support"] if self.net.needs_support else None
                embedded = self._embedded(meta, inputs, support)
            outputs.append(self.logits(fast["head"], embedded))
        return outputs

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        """In training, of all examples of the batch: there is nothing that sets its support apart."""
        data = fast[DATA]
        if "labels" not in data:
            return super().query_loss(meta, fast, query)
        inputs, rows = torch.cat([data["support"], query.x]), len(data["support"])
        with self.net.gathering() as gathered:
            both = self.net.joint(meta.get("params", {}), inputs, rows=rows, statistics=meta.get(STATISTICS))
        logits = self.logits(fast["head"], both.flatten(1))
        return cross_entropy(logits, torch.cat([data["labels"], query.y])), dict(gathered)

    def _embedded(self, meta: Meta, inputs: Tensor, support: Tensor | None = None) -> Tensor:
        params, statistics = meta.get("params", {}), meta.get(STATISTICS)
        return self.net(params, inputs, statistics=statistics, support_x=support).flatten(1)


def uniform_within(bound: float, shape: tuple[int, ...], key: Tensor) -> Tensor:
    """Uniform draws in [-bound, bound), a function of an int64 scalar, also under `vmap`."""
    return bound * (2.0 * keyed_uniform(key, shape) - 1.0)
