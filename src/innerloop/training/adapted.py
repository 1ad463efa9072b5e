"""A model that has learned one task: predicts, saves, loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ContractError, DataError, check_range
from innerloop.core.learner import adapt, without_memory
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Batch, Fast, Meta

Examples = Any  # tensors, arrays, or nested lists of numbers


class Adapted:
    """A learner after its inner loop on one support set.

    Attributes:
        classes: the labels as the user gave them, in the order of the outputs; None for regression.
    """

    def __init__(self, learner: ModuleLearner, meta: Meta, fast: Fast, classes: list[Any] | None) -> None:
        self.learner, self.meta, self.fast, self.classes = learner, meta, fast, classes

    @classmethod
    def of(
        cls, learner: ModuleLearner, meta: Meta, x: Examples, y: Examples, inner_steps: int | None
    ) -> Adapted:
        """Run the inner loop on a support set: inputs x [S, ...], labels or targets y [S] or [S, F]."""
        steps = learner.test_inner_steps if inner_steps is None else inner_steps
        check_range("inner_steps", steps, low=0)
        inputs = as_inputs(x, "support x")
        classes, targets = _targets(y, learner.loss == "cross_entropy")
        if len(inputs) != len(targets):
            raise DataError(
                f"{len(inputs)} support inputs and {len(targets)} labels",
                expected="as many labels as inputs",
                do="pair them up",
            )
        device = tree.leaves(meta)[0].device
        support = Batch(inputs.to(device), targets.to(device))
        try:
            with torch.no_grad(), running_in(ways=count_ways(targets), first_order=True):
                width = learner.predict(meta, learner.begin(meta, support), support.x[:1]).shape[-1]
                if classes is None or len(classes) <= width:
                    return cls(learner, meta, adapt(learner, meta, support, steps), classes)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"support of shape {tuple(inputs.shape)}: {str(error).strip().splitlines()[0][:120]}",
                expected="inputs like those of the training tasks",
                do="reshape them",
            ) from error
        raise DataError(
            f"{len(classes)} classes", expected=f"at most {width}, as in training", do="use fewer classes"
        )

    def predict(self, x: Examples) -> Any:
        """Labels [Q] as the user gave them, or targets [Q, F] as a tensor (regression)."""
        outputs = self.outputs(x)
        if self.classes is None:
            return outputs
        chosen = [self.classes[i] for i in outputs[:, : len(self.classes)].argmax(-1).tolist()]
        return torch.tensor(chosen) if all(isinstance(c, int) for c in self.classes) else chosen

    def predict_proba(self, x: Examples) -> Tensor:
        """Probability of each class [Q, classes], in the order of `classes`."""
        if self.classes is None:
            raise ContractError("predict_proba of a regression", expected="a classifier", do="use predict")
        return self.outputs(x)[:, : len(self.classes)].softmax(-1)

    def distribution(self, x: Examples) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the target at each input, [Q, F] both.

        Raises:
            ContractError: the learner predicts no distribution.
        """
        mean, sd = self._asked(self.learner.distribution, x)
        return mean.cpu(), sd.cpu()

    def outputs(self, x: Examples) -> Tensor:
        """The model's outputs [Q, ways] or [Q, F]."""
        return self._asked(self.learner.predict, x).cpu()

    def _asked(self, of: Callable[[Meta, Fast, Tensor], Any], x: Examples) -> Any:
        device = tree.leaves(self.meta)[0].device
        with torch.no_grad(), running_in(first_order=True):
            return of(self.meta, self.fast, as_inputs(x, "x").to(device))

    def values(self) -> tuple[dict[str, Tensor], str]:
        """What a file must hold to have this model again: tensors by path, and classes as JSON."""
        tensors = {f"meta/{p}": t for p, t in tree.flatten(without_memory(self.meta)).items()}
        tensors |= {f"fast/{p}": t for p, t in tree.flatten(self.fast, empties=True).items()}
        # Leaves may share memory (an unadapted parameter, an expanded tensor), which files cannot.
        return {path: t.detach().cpu().clone().contiguous() for path, t in tensors.items()}, json.dumps(
            self.classes
        )

    @classmethod
    def from_values(cls, learner: ModuleLearner, tensors: dict[str, Tensor], classes: str) -> Adapted:
        """The model that `values` gave as `tensors` and `classes`."""
        both = tree.unflatten(tensors)
        return cls(learner, both["meta"], both.get("fast", {}), json.loads(classes))


def as_inputs(x: Examples, name: str) -> Tensor:
    """Examples as float32 [S, ...]; a vector of numbers becomes [S, 1]."""
    try:
        inputs = torch.as_tensor(np.asarray(x) if isinstance(x, Sequence) else x)
        inputs = inputs.to(torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} of type {type(x).__name__}", expected="an array of numbers [S, ...]", do="convert it"
        ) from error
    if inputs.ndim == 0 or not bool(torch.isfinite(inputs).all()):
        what = "a single number" if inputs.ndim == 0 else "NaN or infinity"
        raise DataError(f"{name} holds {what}", expected="finite numbers [S, ...]", do="clean the data")
    return inputs[:, None] if inputs.ndim == 1 else inputs


def _targets(y: Examples, classify: bool) -> tuple[list[Any] | None, Tensor]:
    if not classify:
        return None, as_inputs(y, "support y")
    labels = y.tolist() if isinstance(y, (Tensor, np.ndarray)) else list(y)
    if not all(isinstance(label, (int, str)) for label in labels):
        raise DataError(
            "labels that are neither whole numbers nor text",
            expected="one label an example",
            do="convert them",
        )
    classes = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
    place = {label: i for i, label in enumerate(classes)}
    return classes, torch.tensor([place[label] for label in labels])
