"""Networks that are update rules: gradients in, steps out, the same weights for every coordinate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from innerloop.algorithms.preprocess import log_and_sign
from innerloop.algorithms.recurrent import lstm_init, lstm_state, lstm_step
from innerloop.core import tree
from innerloop.core.types import Tree

Params = dict[str, Tensor]

_DECAYS = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
_TIMES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
_EXPONENT = 1e-3  # of the second output: a step's length changes slowly with the weights
_SMALL = 1e-8


class OptimizerNetwork(ABC):
    """The weights of an optimizer, and what it keeps of each parameter from step to step.

    Everything is a tree of tensors, and the state of a parameter stands under its name, so that
    parameters may come and go. Coordinates of all parameters pass through the network as rows of one batch.
    """

    @abstractmethod
    def init(self, rng: torch.Generator) -> Tree:
        """Weights before training."""

    @abstractmethod
    def start(self, weights: Tree, params: Params) -> dict[str, Tree]:
        """The state of each parameter before the first step."""

    @abstractmethod
    def step(
        self, weights: Tree, grads: Params, state: dict[str, Tree], params: Params
    ) -> tuple[Params, dict[str, Tree]]:
        """What to add to each parameter, and the states after."""


@dataclass(frozen=True)
class LSTMNetwork(OptimizerNetwork):
    """LSTM layers and a linear output for each coordinate, which has a recurrent state of its own.

    Args:
        hidden: cells of a layer.
        layers: 0 is a linear map of what the gradient is preprocessed to.
        preprocess: where the logarithms of `log_and_sign` end; None takes gradients as they are.
        output_scale: what the output is multiplied by.
    """

    hidden: int
    layers: int
    preprocess: float | None
    output_scale: float

    def init(self, rng: torch.Generator) -> Tree:
        inputs = 1 if self.preprocess is None else 2
        widths = [inputs, *(self.hidden,) * self.layers]
        cells = {f"layer{i}": lstm_init(rng, width, self.hidden) for i, width in enumerate(widths[:-1])}
        return cells | {"output": _linear(rng, widths[-1], 1)}

    def start(self, weights: Tree, params: Params) -> dict[str, Tree]:
        layers = [f"layer{i}" for i in range(self.layers)]
        return {
            name: {layer: lstm_state(weights[layer], p.numel()) for layer in layers}
            for name, p in params.items()
        }

    def step(
        self, weights: Tree, grads: Params, state: dict[str, Tree], params: Params
    ) -> tuple[Params, dict[str, Tree]]:
        rows = torch.cat([grad.reshape(-1) for grad in grads.values()])
        x = rows[:, None] if self.preprocess is None else log_and_sign(rows, self.preprocess)
        joined = tree.map(lambda *parts: torch.cat(parts), *(state[name] for name in grads))
        after = {}
        for layer in (f"layer{i}" for i in range(self.layers)):
            after[layer] = lstm_step(weights[layer], x, joined[layer])
            x = after[layer]["h"]
        out = (x @ weights["output"]["weight"].T + weights["output"]["bias"]).squeeze(1)
        return _by_name(self.output_scale * out, grads), _states_by_name(after, grads)


@dataclass(frozen=True)
class MLPNetwork(OptimizerNetwork):
    """A small network for each coordinate, of its gradient's moving averages and of time.

    The features are the gradient, the parameter and six averages of the gradient, each divided by its
    root mean square over the parameter's tensor, and tanh(t / tau - 1) for eleven times tau. The outputs are
    a direction d and an exponent m, and the step is output_scale * d * exp(m / 1000).

    Args:
        hidden: width of the hidden layers.
        layers: their number; 0 is a linear map of the features.
        output_scale: about the length of a step.
    """

    hidden: int
    layers: int
    output_scale: float

    def init(self, rng: torch.Generator) -> Tree:
        widths = [2 + len(_DECAYS) + len(_TIMES), *(self.hidden,) * self.layers, 2]
        pairs = enumerate(pairwise(widths))
        return {f"layer{i}": _linear(rng, inputs, outputs) for i, (inputs, outputs) in pairs}

    def start(self, weights: Tree, params: Params) -> dict[str, Tree]:
        bias = weights["layer0"]["bias"]
        return {
            name: {"averages": bias.new_zeros(p.numel(), len(_DECAYS)), "time": bias.new_zeros(())}
            for name, p in params.items()
        }

    def step(
        self, weights: Tree, grads: Params, state: dict[str, Tree], params: Params
    ) -> tuple[Params, dict[str, Tree]]:
        after = {name: self._seen(grad.reshape(-1), state[name]) for name, grad in grads.items()}
        features = [self._features(grads[n].reshape(-1), params[n].reshape(-1), s) for n, s in after.items()]
        x = torch.cat(features)
        for index in range(self.layers + 1):
            layer = weights[f"layer{index}"]
            x = x @ layer["weight"].T + layer["bias"]
            x = x.relu() if index < self.layers else x
        out = self.output_scale * x[:, 0] * (_EXPONENT * x[:, 1]).exp()
        return _by_name(out, grads), after

    def _seen(self, grad: Tensor, state: Tree) -> Tree:
        """The state after one more gradient [n]."""
        decays = torch.tensor(_DECAYS, dtype=grad.dtype, device=grad.device)
        averages = decays * state["averages"] + (1 - decays) * grad[:, None]
        return {"averages": averages, "time": state["time"] + 1}

    def _features(self, grad: Tensor, param: Tensor, state: Tree) -> Tensor:
        """[n, features] for the coordinates of one tensor."""
        moving = torch.cat([grad[:, None], param[:, None], state["averages"]], dim=1)
        moving = moving * (moving.square().mean(0) + _SMALL).rsqrt()
        times = torch.tensor(_TIMES, dtype=grad.dtype, device=grad.device)
        clock = (state["time"] / times - 1).tanh().expand(len(grad), len(_TIMES))
        return torch.cat([moving, clock], dim=1)


def _linear(rng: torch.Generator, inputs: int, outputs: int) -> dict[str, Tensor]:
    bound = inputs**-0.5
    return {
        "weight": torch.empty(outputs, inputs).uniform_(-bound, bound, generator=rng),
        "bias": torch.empty(outputs).uniform_(-bound, bound, generator=rng),
    }


def _by_name(rows: Tensor, like: Params) -> Params:
    """Rows [n] of all coordinates as one tensor for each parameter, of its shape."""
    parts = rows.split([leaf.numel() for leaf in like.values()])
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}


def _states_by_name(joined: Tree, like: Params) -> dict[str, Tree]:
    """A tree of leaves [n, ...] of all coordinates as one for each parameter."""
    sizes = [leaf.numel() for leaf in like.values()]
    parts = [leaf.split(sizes) for leaf in tree.leaves(joined)]
    return {name: tree.rebuild(joined, [of[i] for of in parts]) for i, name in enumerate(like)}
