"""CAVIA: a few numbers that tell the task, adapted while the network stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner, RuleName
from innerloop.algorithms.layers import affine_after, convolutions
from innerloop.core import tree
from innerloop.core.errors import ConfigError, check_count, unknown
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA, STATISTICS, MetaLearner
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients import Unrolled
from innerloop.models import MLP

Conditioning = Literal["auto", "concatenate", "film"]
_CONTEXT = {"concatenate": 5, "film": 100}


class CAVIA(GradientLearner):
    """Adapts a short vector, the context, that the network is conditioned on; no weight adapts.

    Inner loop, from c_0 = 0 in every task:

        c_{k+1} = c_k - inner_lr * grad_c L_S(theta, c_k)

    The context is concatenated to every input, or it scales and shifts the maps of a convolution (FiLM): a
    linear layer of c gives gamma and beta, and maps h become gamma * h + beta.
    Outer objective: L_Q(theta, c_K), differentiated through all steps.
    Meta-learned: theta, with FiLM its linear layer too. Adapted: the context alone.

    Cost per inner step: one forward and backward pass on the support set, and in training the backward pass
    of both; what a task keeps is `context` numbers, whatever the size of the network.

    Strengths: little to store for each task, little to overfit with, and a step size that matters little;
    not where tasks differ by more than a few numbers can tell.
    Published: miniImageNet 5-way 1-shot 51.82 +- 0.65, 5-way 5-shot 65.85 +- 0.55 (secondary sources, 512
    filters); miniImageNet 5-way 1-shot 47.24 +- 0.65, 5-way 5-shot 59.05 +- 0.54 (secondary sources, 32
    filters).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; where contexts are concatenated, from
            [S, features + context], which models built from a configuration are sized for.
        context: numbers in the context, >= 1; None is 5 where they are concatenated, as in the paper's
            regression, and 100 with FiLM, as on miniImageNet.
        conditioning: `concatenate` (inputs are flattened to vectors), `film`, or `auto`: `film` for a module
            with convolutions.
        film_layer: the convolution that FiLM follows, counted from 1; the last, if there are fewer.
        inner_lr: inner step size, > 0.
        inner_steps: steps in training, >= 0. The paper: 1 on the sinusoid, 2 on miniImageNet.
        test_inner_steps: steps at test; None is the same number.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings; for
            others (momentum), set `rule` on the learner.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.CAVIA(il.models.MLP(1 + 5, 1), loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> support = il.tasks.Sinusoid().sample("train", 1, 0).support
    >>> learner.begin(meta, il.Batch(support.x[0], support.y[0]))["params"]["context"].shape
    torch.Size([5])

    Differences from the paper: FiLM stands right behind the convolution's normalisation, or behind the
    convolution where none follows; the official code pools in between. The official code clips each task's
    gradient at 10; here the outer optimizer may clip their mean (`optimizer.clip_value`).

    Reference: Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson 2019, arXiv 1810.03642.
    """

    gradient = Unrolled()
    small = {"context": 50, "inner_lr": 5.0, "inner_steps": 5}

    def __init__(
        self,
        module: nn.Module,
        *,
        context: int | None = None,
        conditioning: Conditioning = "auto",
        film_layer: int = 3,
        inner_lr: float = 1.0,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        inner_rule: RuleName = "SGD",
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_rule=inner_rule,
            inner_clip=inner_clip,
            step_weights=step_weights,
            loss=loss,
            batch_norm=batch_norm,
        )
        if conditioning not in get_args(Conditioning):
            raise unknown("conditioning", str(conditioning), get_args(Conditioning))
        check_count("film_layer", film_layer, low=1)
        self.context, self.film_layer = context, film_layer
        self.conditioning: str = conditioning
        layers = convolutions(module)
        if conditioning == "film" and not layers:
            raise ConfigError(
                f"conditioning = 'film' on {type(module).__name__}, which has no convolution",
                expected="a module with convolutions",
                do="use conditioning='concatenate'",
            )
        film = bool(layers) if conditioning == "auto" else conditioning == "film"
        self._film = affine_after(module, layers[min(film_layer, len(layers)) - 1]) if film else None
        self._size = _CONTEXT["film" if film else "concatenate"] if context is None else context
        check_count("context", self._size, low=1)
        if self._film is not None:
            channels = len(module.get_parameter(f"{self._film}.weight"))
            parts = {"film": MLP(self._size, 2 * channels, hidden=())}
            self._wrap(module, loss, batch_norm, parts=parts)

    @classmethod
    def more_inputs(cls, settings: Mapping[str, Any]) -> int:
        if settings.get("conditioning") == "film":
            return 0
        size = settings.get("context")
        return _CONTEXT["concatenate"] if size is None else size

    def module_inputs(self, inputs: Tensor) -> Tensor:
        return self._given(inputs, inputs.new_zeros(self._size))

    def begin(self, meta: Meta, support: Batch) -> Fast:
        context = {"context": tree.leaves(meta["params"])[0].new_zeros(self._size)}
        fast: Fast = {"params": context, "rule": self.rule.init(context)}
        return fast | {DATA: {"support": support.x}} if self.net.needs_support else fast

    def support_outputs(self, meta: Meta, fast: Fast, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        context = params["context"]
        inputs = self._given(inputs, context)
        return self.net(self._conditioned(meta, context), inputs, statistics=meta.get(STATISTICS))

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        context, support = fast["params"]["context"], fast.get(DATA, {}).get("support")
        return self.net(
            self._conditioned(meta, context),
            self._given(inputs, context),
            statistics=meta.get(STATISTICS),
            support_x=None if support is None else self._given(support, context),
        )

    def displaced(self, meta: Meta, fast: Fast) -> Meta:
        return MetaLearner.displaced(self, meta, fast)

    def _given(self, inputs: Tensor, context: Tensor) -> Tensor:
        """What the module is given for some inputs."""
        if self._film is not None:
            return inputs
        return torch.cat([inputs.flatten(1), context.expand(len(inputs), -1)], dim=1)

    def _conditioned(self, meta: Meta, context: Tensor) -> dict[str, Tensor]:
        """The module's parameters under a context: a layer that scales and shifts channels does FiLM too."""
        params = meta["params"]
        if self._film is None:
            return params
        scale, shift = self.parts["film"](meta["film"], context[None])[0].chunk(2)
        weight, bias = params[f"{self._film}.weight"], params[f"{self._film}.bias"]
        rows = scale.view(-1, *(1,) * (weight.ndim - 1))
        return params | {f"{self._film}.weight": rows * weight, f"{self._film}.bias": scale * bias + shift}
