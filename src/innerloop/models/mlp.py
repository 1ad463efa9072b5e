"""A multilayer perceptron."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from innerloop.core.errors import check_count, check_range
from innerloop.core.types import TaskSpec
from innerloop.models.base import Model, first_draw, global_rng_untouched


class MLP(Model):
    """Linear layers with ReLU between; the default is the sinusoid network of MAML, 1-40-40-1.

    Args:
        inputs: size of an example; inputs of any shape are flattened.
        outputs: size of the output; None ends at the last hidden layer, for an embedding.
        hidden: widths of the hidden layers.
        batch_norm: whether BatchNorm follows each hidden linear layer.
        dropout: probability of dropping a hidden unit in meta-training.
        bias: whether the linear layers have one.

    Weights are drawn as `nn.Linear` draws them (uniform within 1/sqrt(fan-in)).
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int | None = 1,
        *,
        hidden: tuple[int, ...] = (40, 40),
        batch_norm: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_range("dropout", dropout, low=0.0, high=0.99)
        for name, value in [("inputs", inputs), ("outputs", 1 if outputs is None else outputs)]:
            check_count(name, value, low=1)
        self.inputs, self.outputs, self.hidden = inputs, outputs, tuple(hidden)
        self.batch_norm, self.dropout, self.bias = batch_norm, dropout, bias
        with global_rng_untouched():
            layers: list[nn.Module] = [nn.Flatten()]
            before = inputs
            for width in self.hidden:
                check_count("hidden", width, low=1)
                layers.append(nn.Linear(before, width, bias=bias))
                layers += [nn.BatchNorm1d(width)] if batch_norm else []
                layers.append(nn.ReLU())
                layers += [nn.Dropout(dropout)] if dropout else []
                before = width
            self.body = nn.Sequential(*layers)
            self.head = nn.Identity() if outputs is None else nn.Linear(before, outputs, bias=bias)
        self.draw(first_draw())

    @classmethod
    def sizes_for(cls, spec: TaskSpec, *, embeds: bool) -> dict[str, Any]:
        size = 1
        for side in spec.input_shape:
            size *= side
        return {"inputs": size, "outputs": None if embeds else spec.outputs}

    @property
    def output_size(self) -> int:
        return self.outputs or (self.hidden[-1] if self.hidden else self.inputs)

    def draw(self, rng: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=rng)
                if self.bias:
                    nn.init.uniform_(module.bias, -bound, bound, generator=rng)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
