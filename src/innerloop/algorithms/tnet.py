"""T-nets: layers behind which a shared linear map bends the inner gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner, RuleName
from innerloop.algorithms.layers import CONVOLUTIONS
from innerloop.core.errors import ContractError, check_range
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA
from innerloop.core.mode import mode
from innerloop.core.rng import fold_key, keyed_uniform
from innerloop.core.types import Batch, Fast, Loss, Meta, Tree
from innerloop.gradients import Unrolled
from innerloop.rules import UpdateRule

_MASKS = 1 << 21  # the stream of a task's key that masks are drawn from; those below are inner steps


class TNet(GradientLearner):
    """Follows every layer by a linear map that is learned across tasks, and adapts the layer alone.

    Linear layers and convolutions compute T (W x + b), T [o, o] acting on outputs or channels:

        (W, b)_{k+1} = (W, b)_k - inner_lr * M * grad_{W, b} L_S

    so that T T^t is the metric in which the layer's outputs descend. M is 1, or with `masked` (an MT-net) a
    mask of the layer's units, 0 or 1 at random, drawn anew for each task with the learned log-odds z: then
    tasks are learned in a subspace.
    Outer objective: the query loss of the last step, differentiated through all steps.
    Meta-learned: theta, T of every layer, from the identity, at which it is MAML, and z. Adapted: W and b,
    and the parameters of other layers as by MAML.

    Cost per inner step: as MAML's, and a product T W a layer: o^2 multiply-adds for each of its inputs.

    Strengths: few steps on a task, since the metric is learned, and less sensitive to `inner_lr`; `meta`
    grows by o^2 numbers a layer.
    Published: Omniglot 5-way 1-shot 99.5, 20-way 1-shot 96.2; miniImageNet 5-way 1-shot 51.7 +- 1.84
    (secondary sources, with masks: MT-net).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] with linear layers or convolutions.
        masked: whether a random mask of units adapts: an MT-net.
        temperature: of the relaxed mask that z is differentiated through, > 0.
        inner_lr: inner step size, > 0. The official code: 0.4 on Omniglot 5-way, 0.01 on miniImageNet.
        inner_steps: steps in training, >= 0. The official code: 1 on Omniglot, 5 on miniImageNet.
        test_inner_steps: steps at test; None is the same number.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.TNet(il.models.MLP(1, 1, hidden=(8,)), loss="mse")
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> {name: tuple(t.shape) for name, t in meta["transforms"].items()}
    {'body.1.weight': (8, 8), 'head.weight': (1, 1)}

    Differences from the paper: where no randomness is at hand (a task learned in production), a mask is its
    likelier value. The gradient with respect to z goes through the relaxed mask, as in the official code, so
    that with `masked` the meta-gradient is not that of the objective. Grouped and transposed convolutions
    have no T; BatchNorm's scale and shift adapt, which the official code leaves alone.

    Reference: Lee and Choi 2018, arXiv 1801.05558.
    """

    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        masked: bool = False,
        temperature: float = 1.0,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        inner_rule: RuleName = "SGD",
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_range("temperature", temperature, low=0.0, open_low=True)
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
        self.masked, self.temperature = masked, temperature
        layers = [name for name, layer in module.named_modules() if _has_outputs(layer)]
        weights = [f"{name}.weight" if name else "weight" for name in layers]
        self._layers = [name for name in weights if name in self.net.names]  # a tied weight has but one name
        if not self._layers:
            raise ContractError(
                f"{type(module).__name__}, which has no linear layer and no convolution",
                expected="layers whose outputs a matrix can act on",
                do="use MAML for this module",
            )

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        params = {name: meta["params"][name] for name in self._layers}
        transforms = {name: torch.eye(len(p), dtype=p.dtype, device=p.device) for name, p in params.items()}
        logits = {"logits": {name: p.new_zeros(len(p)) for name, p in params.items()}}
        return meta | {"transforms": transforms} | (logits if self.masked else {})

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = super().begin(meta, support)
        if not self.masked:
            return fast
        # Noise, not masks: it is no function of `meta`, so that any step may be differentiated alone.
        noise = {name: _noise(index, logits) for index, (name, logits) in enumerate(meta["logits"].items())}
        return fast | {DATA: fast.get(DATA, {}) | {"noise": noise}}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        if not self.masked:
            return super().step(meta, fast, support, k)
        masks = {}
        for name, noise in fast[DATA]["noise"].items():
            logit = meta["logits"][name] + noise
            soft = torch.sigmoid(logit / self.temperature)
            masks[name] = masks[_bias(name)] = (logit >= 0).to(soft) + soft - soft.detach()
        return super().step(meta | {"masks": masks}, fast, support, k)

    def rule_at(self, meta: Meta) -> UpdateRule:
        return _Masked(meta["masks"], self.rule) if self.masked else self.rule

    def support_outputs(self, meta: Meta, fast: Fast, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return super().support_outputs(meta, fast, self._transformed(meta, params), inputs)

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return super().predict(meta, fast | {"params": self._transformed(meta, fast["params"])}, inputs)

    def _transformed(self, meta: Meta, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of a module whose layers are each followed by its T."""
        for name, transform in meta["transforms"].items():
            weight, bias = params[name], params.get(_bias(name))
            params = params | {name: (transform @ weight.flatten(1)).view_as(weight)}
            params |= {} if bias is None else {_bias(name): transform @ bias}
        return params


@dataclass(frozen=True)
class _Masked:
    """Another rule, given gradients of which some rows are left out."""

    masks: dict[str, Tensor]
    rule: UpdateRule

    def init(self, params: dict[str, Tensor]) -> Tree:
        return self.rule.init(params)

    def step(
        self, grads: dict[str, Tensor], state: Tree, params: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tree]:
        kept = {
            name: self.masks[name].view(-1, *(1,) * (grad.ndim - 1)) * grad if name in self.masks else grad
            for name, grad in grads.items()
        }
        return self.rule.step(kept, state, params)


def _noise(index: int, logits: Tensor) -> Tensor:
    """Logistic noise, the difference of two Gumbel draws; zero where no randomness is at hand."""
    key = mode().key
    if key is None:
        return torch.zeros_like(logits)
    uniform = keyed_uniform(fold_key(fold_key(key, _MASKS), index), tuple(logits.shape)) + 2.0**-25
    return (uniform.log() - (1.0 - uniform).log()).to(logits.dtype)


def _has_outputs(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"
