"""Any `nn.Module` as a pure function of its parameters, with a named BatchNorm policy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.core.errors import ConfigError
from innerloop.core.mode import mode
from innerloop.core.normalise import TwiceDifferentiable, per_channel
from innerloop.core.rng import fold_key, keyed_uniform

BatchNormPolicy = Literal["support", "transductive", "running"]
POLICIES: tuple[str, ...] = ("support", "transductive", "running")
Params = dict[str, Tensor]


@dataclass
class _Pass:
    """What the layers of one forward pass need to know."""

    rows: int | None = None  # normalise with the statistics of the first `rows` examples
    running: bool = False  # normalise with the running statistics
    gathered: Params | None = None  # where batch statistics are put, by buffer name
    layer: int = field(default=0)  # counts dropout layers, so that each draws its own mask


_PASS: ContextVar[_Pass] = ContextVar("innerloop_pass")
_GATHERED: ContextVar[Params | None] = ContextVar("innerloop_gathered", default=None)


class _BatchNorm(nn.Module):
    """BatchNorm whose statistics come from where the policy says, and which keeps no state."""

    def __init__(self, source: nn.modules.batchnorm._BatchNorm, name: str) -> None:
        super().__init__()
        self.name, self.eps = name, source.eps
        self.weight, self.bias = source.weight, source.bias
        size = source.num_features
        mean, var = source.running_mean, source.running_var
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(size) if mean is None else mean.detach().clone())
        self.register_buffer("running_var", torch.ones(size) if var is None else var.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        now = _PASS.get()
        if now.gathered is not None:
            self._gather(x.detach(), now.gathered)
        if not now.running and now.rows is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        if now.running:
            mean, var = self.running_mean, self.running_var
        else:
            var, mean = torch.var_mean(x[: now.rows], dim=_all_but_channel(x), correction=0)
        scale = torch.rsqrt(var + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return torch.addcmul(per_channel(shift, x), x, per_channel(scale, x))

    def _gather(self, x: Tensor, gathered: Params) -> None:
        var, mean = torch.var_mean(x, dim=_all_but_channel(x))
        gathered[f"{self.name}.running_mean"] = mean
        gathered[f"{self.name}.running_var"] = var


class _Dropout(nn.Module):
    """Dropout whose mask is a function of the task's key, so that a recomputed step repeats it."""

    def __init__(self, probability: float, whole_channels: bool) -> None:
        super().__init__()
        self.probability, self.whole_channels = probability, whole_channels

    def forward(self, x: Tensor) -> Tensor:
        now, key = _PASS.get(), mode().key
        now.layer += 1
        if not mode().training or self.probability == 0.0 or key is None:
            return x
        shape = (*x.shape[:2], *(1,) * (x.ndim - 2)) if self.whole_channels else tuple(x.shape)
        # Steps have the streams 0, 1, ... of the same key, so layers count the other way.
        kept = keyed_uniform(fold_key(key, -now.layer), shape) >= self.probability
        return x * kept / (1.0 - self.probability)


class _Attention(nn.MultiheadAttention):
    """Attention by plain arithmetic, which `vmap` lifts; it cannot lift the fused operator of a CPU."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        masks = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask, "is_causal": is_causal}
        averaged = average_attn_weights
        outputs, weights = super().forward(query, key, value, average_attn_weights=averaged, **masks)
        return outputs, weights if need_weights else None


class FunctionalModule:
    """A module as a pure function `(params, x) -> outputs` of one task.

    The module is copied; its BatchNorm and Dropout layers are replaced by ones without state.
    Dropout hidden inside other layers (attention weights, recurrent layers) is off.

    Args:
        module: any `nn.Module` that maps [S, ...] to [S, outputs].
        policy: `support` normalises queries with the support set's statistics, `transductive`
            with their own, `running` with running averages once meta-training is over.
    """

    def __init__(self, module: nn.Module, policy: BatchNormPolicy) -> None:
        if policy not in POLICIES:
            raise ConfigError(
                f"batch_norm = {policy!r}", expected=f"one of {', '.join(POLICIES)}", do="choose one"
            )
        self.policy = policy
        self._module = _without_fast_path(_without_state(copy.deepcopy(module)).eval())
        self._norms = [m for m in self._module.modules() if isinstance(m, _BatchNorm)]
        self._idle: list[nn.Module] = []
        places = sum(1 for _ in self._module.named_parameters(remove_duplicate=False))
        self._tied = places > len(self.names)  # looking for tied parameters takes longer than a small pass

    @property
    def names(self) -> list[str]:
        """Names of the parameters, in the module's order."""
        return [name for name, _ in self._module.named_parameters()]

    @property
    def has_batch_norm(self) -> bool:
        """Whether there is a BatchNorm layer, so that the policy makes a difference."""
        return bool(self._norms)

    @property
    def needs_support(self) -> bool:
        """Whether predicting on queries needs the support inputs at hand."""
        return self.policy == "support" and bool(self._norms)

    def params(self) -> Params:
        """A copy of the module's own parameters, pretrained weights included."""
        return {name: p.detach().clone() for name, p in self._module.named_parameters()}

    def statistics(self) -> Params:
        """A copy of the running statistics; empty unless the policy uses them."""
        if self.policy != "running":
            return {}
        return {
            f"{norm.name}.{kind}": getattr(norm, kind).detach().clone()
            for norm in self._norms
            for kind in ("running_mean", "running_var")
        }

    def to(self, device: torch.device | str) -> None:
        """Move what is no parameter (constant buffers) to a `device`."""
        self._idle.clear()
        self._module.to(device)

    @contextmanager
    def _lent(self) -> Iterator[nn.Module]:
        """A copy of the module that shares its tensors, for one pass.

        A pass puts the task's parameters in the module's place, so two threads may not share one.
        """
        try:
            module = self._idle.pop()
        except IndexError:
            tensors = [*self._module.parameters(), *self._module.buffers()]
            module = copy.deepcopy(self._module, {id(tensor): tensor for tensor in tensors})
        try:
            yield module
        finally:
            self._idle.append(module)

    def __call__(
        self,
        params: Params,
        x: Tensor,
        *,
        statistics: Params | None = None,
        support_x: Tensor | None = None,
    ) -> Tensor:
        """Outputs for `x`; with `support_x`, both pass together and the support's outputs are dropped."""
        if support_x is None:
            return self.joint(params, x, statistics=statistics)
        rows = support_x.shape[0]
        return self.joint(params, torch.cat([support_x, x]), rows=rows, statistics=statistics)[rows:]

    def joint(
        self,
        params: Params,
        x: Tensor,
        *,
        rows: int | None = None,
        statistics: Params | None = None,
    ) -> Tensor:
        """Outputs for every row of `x`, of which the first `rows` are the support set.

        `statistics` are the running ones, for the policy that uses them.
        """
        with self._lent() as module:
            return self._pass(module, params, x, rows, statistics)

    def _pass(
        self, module: nn.Module, params: Params, x: Tensor, rows: int | None, statistics: Params | None = None
    ) -> Tensor:
        running, low = self.policy == "running" and not mode().training, mode().precision
        now = _Pass(
            rows=rows if self.policy == "support" else None,
            running=running,
            gathered=_GATHERED.get(),
        )
        tensors = params | statistics if running and statistics else params
        token = _PASS.set(now)
        try:
            if low is None:
                return torch.func.functional_call(module, tensors, (x,), tie_weights=self._tied)
            with torch.autocast(x.device.type, dtype=low):
                return torch.func.functional_call(module, tensors, (x,), tie_weights=self._tied).to(x.dtype)
        finally:
            _PASS.reset(token)

    @contextmanager
    def gathering(self) -> Iterator[Params]:
        """Collect the batch statistics of the passes in this block, where running averages are kept."""
        gathered: Params = {}
        token = _GATHERED.set(gathered if self.policy == "running" and mode().training else None)
        try:
            yield gathered
        finally:
            _GATHERED.reset(token)

    def head_names(self) -> set[str]:
        """Names of the parameters of the last layer that has any: what ANIL adapts."""
        owner = next(reversed([n.rpartition(".")[0] for n, _ in self._module.named_parameters()]), "")
        return {n for n, _ in self._module.named_parameters() if n.rpartition(".")[0] == owner}

    def before_head(
        self, params: Params, x: Tensor, *, rows: int | None = None, statistics: Params | None = None
    ) -> Tensor | None:
        """What a linear last layer is given for `x` [S, D]; None unless outputs are that layer's own of it.

        Where they are, whatever comes before may be computed once for any number of steps of the head.
        `rows` and `statistics` are as in `joint`.
        """
        owner = next(iter(self.head_names()), "").rpartition(".")[0]
        seen: list[tuple[Any, Any]] = []
        with self._lent() as module:
            head = module.get_submodule(owner)
            drops = any(isinstance(m, _Dropout) and m.probability for m in module.modules())
            if not owner or type(head) is not nn.Linear or (drops and mode().training):
                return None
            hook = head.register_forward_hook(lambda *call: seen.append((call[1][0], call[2])))
            try:
                outputs = self._pass(module, params, x, rows, statistics)
            finally:
                hook.remove()
        given, made = seen[-1] if len(seen) == 1 else (outputs, None)
        return given if made is outputs and given.ndim == 2 else None

    def features(
        self, params: Params, x: Tensor, *, rows: int | None = None, statistics: Params | None = None
    ) -> Tensor:
        """What the last linear layer is given for `x`, [S, D]; the outputs if no such layer ends it.

        The first `rows` are the support set, and `statistics` the running ones, as in `joint`.
        """
        owner = next(iter(self.head_names()), "").rpartition(".")[0]
        seen: list[Tensor] = []
        with self._lent() as module:
            head = module.get_submodule(owner)
            hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            try:
                outputs = self._pass(module, params, x, rows, statistics)
            finally:
                hook.remove()
        return (seen[-1] if owner and isinstance(head, nn.Linear) else outputs).flatten(1)


def inner_gradient(loss: Callable[[Params], Tensor], params: Params) -> Params:
    """Gradient of a support loss; constant to the outer derivative in first-order mode.

    This is the one place after which a second derivative may be taken.
    """
    return inner_gradient_and_loss(loss, params)[0]


def inner_gradient_and_loss(loss: Callable[[Params], Tensor], params: Params) -> tuple[Params, Tensor]:
    """The same with the loss itself, for a learner that looks at both; as constant as the gradient."""
    tape = mode().tape
    found = dict(_both(loss, params) if tape is None else tape(lambda: _both(loss, params)))
    return found, found.pop(_LOSS)


_LOSS = ""  # no parameter has this name


def _both(loss: Callable[[Params], Tensor], params: Params) -> Params:
    first_order = mode().first_order
    with nullcontext() if first_order else TwiceDifferentiable():
        if not _transforming():
            return _plain_gradient(loss, params, keep=not first_order)
        if first_order:
            with torch.no_grad():
                grads, value = torch.func.grad_and_value(loss)({n: p.detach() for n, p in params.items()})
        else:
            grads, value = torch.func.grad_and_value(loss)(params)
        return grads | {_LOSS: value}


def _plain_gradient(loss: Callable[[Params], Tensor], params: Params, *, keep: bool) -> Params:
    """The same by autograd's own graph, which costs less Python; only where no `torch.func` is at work."""
    with torch.enable_grad():
        # A view is a variable of its own: what else a loss does with the same tensor is a constant to it.
        given = {
            name: p.view_as(p) if keep and p.requires_grad else p.detach().requires_grad_()
            for name, p in params.items()
        }
        value = loss(given)
        found = torch.autograd.grad(
            value, list(given.values()), create_graph=keep, allow_unused=True, materialize_grads=True
        )
    return dict(zip(params, found, strict=True)) | {_LOSS: value if keep else value.detach()}


def _transforming() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


def _without_state(
    module: nn.Module, prefix: str = "", done: dict[nn.Module, nn.Module] | None = None
) -> nn.Module:
    """The module with its BatchNorm and Dropout layers replaced; a layer in two places stays one layer."""
    done = {} if done is None else done
    whole = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    if module in done:
        return done[module]
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        done[module] = _BatchNorm(module, prefix)
    elif isinstance(module, (nn.Dropout, *whole)):
        done[module] = _Dropout(module.p, isinstance(module, whole))
    else:
        done[module] = module
        for name, child in module._modules.items():  # named_children() leaves out a second place
            if child is not None:
                path = f"{prefix}.{name}" if prefix else name
                setattr(module, name, _without_state(child, path, done))
    return done[module]


def _without_fast_path(module: nn.Module) -> nn.Module:
    """Transformer layers in the mode that is made to be differentiated; their own dropout stays off."""
    for layer in module.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.training = True  # the flag of this layer alone: its dropout layers have their own
        elif type(layer) is nn.MultiheadAttention:
            layer.__class__, layer.training, layer.dropout = _Attention, True, 0.0
    return module


def _all_but_channel(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]
