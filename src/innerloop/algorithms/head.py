"""What the learners share whose inner loop adapts the head alone."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import linear

from innerloop.algorithms.base import GradientLearner
from innerloop.core.functional import Params
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.mode import mode
from innerloop.core.types import Batch, Fast, Meta


class HeadLearner(GradientLearner, ABC):
    """Adapts the parameters of the module's last layer that has any.

    What this layer is given for the support is computed once, where the layer is linear, the module ends
    with it, and nothing is dropped.
    """

    def adapts(self) -> set[str]:
        return self.net.head_names()

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = super().begin(meta, support)
        if not mode().whole:
            return fast
        features = self.features_of(meta, support.x)
        return fast if features is None else fast | {"features": features}

    def features_of(self, meta: Meta, inputs: Tensor, *, rows: int | None = None) -> Tensor | None:
        """What the head is given for inputs [S, ...], of which the first `rows` are the support; [S, D].

        None where it cannot be told apart: outputs are not the head's own, or masks are drawn on the way.
        """
        statistics = meta.get(STATISTICS)
        return self.net.before_head(self.weights(meta), inputs, rows=rows, statistics=statistics)

    def support_outputs(self, meta: Meta, fast: Fast, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        if "features" not in fast:
            return super().support_outputs(meta, fast, params, inputs)
        return outputs_of(params, fast["features"])

    def predict_each(self, meta: Meta, states: Iterable[Fast], inputs: Tensor) -> list[Tensor]:
        outputs, features = [], None
        for count, fast in enumerate(states):
            if count == 0:
                support = fast.get(DATA, {}).get("support", inputs[:0])
                features = self.features_of(meta, torch.cat([support, inputs]), rows=len(support) or None)
            if features is None:
                outputs.append(self.predict(meta, fast, inputs))
            else:
                outputs.append(outputs_of(fast["params"], features[-len(inputs) :]))
        return outputs


def outputs_of(params: Params, features: Tensor) -> Tensor:
    """What a linear last layer of those parameters makes of its input [S, D]."""
    head = {name.rpartition(".")[2]: value for name, value in params.items()}
    return linear(features, head["weight"], head.get("bias"))
