"""All that a run carries from one outer step to the next, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.types import Meta, Tree
from innerloop.gradients.base import Carry, learned
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.retain.retention import Retention, retention


@dataclass
class TrainState:
    """The state between outer steps; with the configuration, it determines the rest of the run.

    Attributes:
        step: outer steps done.
        meta: what is learned.
        optimizer: the outer optimizer, over the leaves of the learned part of `meta`.
        window: losses since the last line of metrics; with `failed_tasks`, and `clipped`: outer steps whose
            meta-gradient was clipped.
        best: validation score and step of the best look so far, or None.
        carry: what the gradient path goes on from: a tree of tensors, or None.
        average: the moving average of `meta` over outer steps; None where none is kept.
        retention: what is done against forgetting, with what it keeps of the past; None where nothing is.
    """

    step: int
    meta: Meta
    optimizer: torch.optim.Optimizer
    window: list[float] = field(default_factory=list)
    failed_tasks: int = 0
    clipped: int = 0
    best: tuple[float, int] | None = None
    carry: Carry = None
    average: Meta | None = None
    retention: Retention | None = None

    @property
    def judged(self) -> Meta:
        """What the run is worth so far: the average where one is kept, and otherwise `meta`."""
        return self.meta if self.average is None else self.average

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by path: `meta/...`, `average/...`, `optimizer/<leaf>/...`, `carry/...`, `retain/...`."""
        found = tree.flatten(self.meta, "meta") | tree.flatten(self.average or {}, "average")
        for index, slots in self.optimizer.state_dict()["state"].items():
            for name, value in slots.items():
                found[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
        found |= {} if self.retention is None else self.retention.tensors()
        found = {path: leaf.detach().contiguous() for path, leaf in found.items()}
        # Leaves of a carry may share memory (a task's inputs, an expanded tensor), which files cannot.
        carry = {} if self.carry is None else tree.flatten(self.carry, "carry", empties=True)
        return found | {path: leaf.detach().clone().contiguous() for path, leaf in carry.items()}

    def values(self) -> dict[str, Any]:
        """Everything else, as plain values; floats survive JSON exactly."""
        more = {} if self.retention is None else {"retain": self.retention.values()}
        more |= {} if self.carry is None else {"carry": _shape(self.carry)}
        return more | {
            "step": self.step,
            "window": self.window,
            "failed_tasks": self.failed_tasks,
            "clipped": self.clipped,
            "best": None if self.best is None else list(self.best),
        }

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what `tensors` and `values` of an equally configured run hold, in place.

        Raises:
            ContractError: they are of another model; nothing was taken over.
        """
        parts = {"meta": self.meta, "average": self.average or {}}
        for part, own in parts.items():
            check_leaves(stored(tensors, part), own, "checkpoint")
        for part, own in parts.items():
            for path, leaf in tree.flatten(own, part).items():
                leaf.detach().copy_(tensors[path])
        state = self.optimizer.state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            if path.startswith("optimizer/"):
                _, index, name = path.split("/", 2)
                slots.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(state | {"state": slots})
        self.step, self.window = values["step"], values["window"]
        self.failed_tasks, self.clipped = values["failed_tasks"], values.get("clipped", 0)
        self.best = None if values["best"] is None else tuple(values["best"])
        device = tree.leaves(self.meta)[0].device
        if self.retention is not None:
            self.retention.restore(tensors, values.get("retain", {}), device)
        shape = values.get("carry")
        self.carry = None if shape is None else _filled(shape, tensors, device)


def _shape(node: Tree, path: str = "carry") -> Any:
    """A tree with the path of each leaf in its place: a node without leaves (SGD's state) is in no path."""
    if isinstance(node, dict):
        return {name: _shape(child, f"{path}/{name}") for name, child in node.items()}
    return path


def _filled(shape: Any, tensors: dict[str, Tensor], device: torch.device) -> Tree:
    """The inverse of `_shape`."""
    return tree.map(lambda path: tensors[path].to(device), shape)


def stored_meta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The leaves of `meta` by path, out of a checkpoint's tensors."""
    return stored(tensors, "meta")


def stored(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The leaves of a part of the state by path, out of a checkpoint's tensors."""
    return {path.removeprefix(f"{part}/"): t for path, t in tensors.items() if path.startswith(f"{part}/")}


def check_leaves(stored: dict[str, Tensor], meta: Meta, what: str) -> None:
    """Raise `ContractError` unless stored leaves have the paths and shapes of `meta`."""
    expected = tree.flatten(meta)
    for path in sorted(expected.keys() | stored.keys()):
        a, b = (tuple(found[path].shape) if path in found else "nothing" for found in (stored, expected))
        if a != b:
            raise ContractError(
                f"{what} with {a} at {path}",
                expected=f"{b}, as the model has it",
                do="use it with the model it was trained with",
            )


def new_state(meta: Meta, config: TrainConfig) -> TrainState:
    """The state before the first step."""
    meta = tree.map(lambda leaf: leaf.detach().to(config.device, copy=True), meta)
    average = None if config.optimizer.average is None else tree.map(torch.clone, meta)
    optimizer = make_optimizer(config.optimizer, tree.leaves(learned(meta)))
    kept = retention(config.retain, config.seed)
    if kept is not None and config.start is not None:
        kept.anchored(meta)
    return TrainState(0, meta, optimizer, average=average, retention=kept)


def make_optimizer(config: OptimizerConfig, leaves: list[Tensor]) -> torch.optim.Optimizer:
    """The `torch.optim` optimizer that a configuration names."""
    if config.name == "SGD":
        return torch.optim.SGD(leaves, config.lr, momentum=config.momentum)
    if config.name == "RMSprop":
        return torch.optim.RMSprop(leaves, config.lr, momentum=config.momentum)
    betas = (config.beta1, config.beta2)
    if config.name == "AdamW":
        return torch.optim.AdamW(leaves, config.lr, betas, weight_decay=config.weight_decay)
    return torch.optim.Adam(leaves, config.lr, betas)
