"""What the algorithms of this package share: a module, and inner learning by gradients."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from innerloop import rules
from innerloop.core.errors import ConfigError, ContractError, check_count, check_range, unknown
from innerloop.core.functional import BatchNormPolicy, FunctionalModule, Params, inner_gradient
from innerloop.core.learner import DATA, STATISTICS, MetaLearner
from innerloop.core.losses import loss_value
from innerloop.core.mode import mode
from innerloop.core.rng import keyed_uniform
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients.base import MetaGradient
from innerloop.models.base import Model, fresh_parameters
from innerloop.rules import UpdateRule
from innerloop.rules.shared import clipped

RuleName = Literal["Adagrad", "Adam", "AdamW", "RMSprop", "SGD"]


def embedding_size(module: nn.Module, given: int | None) -> int:
    """The width of an embedding: that of a model of ours, or as it was given for another module."""
    known = module.output_size if isinstance(module, Model) else None
    size = known if given is None else given
    if size is None:
        raise ConfigError(
            f"{type(module).__name__}, whose embedding is of unknown size",
            expected="embedding_size: the width of the module's output",
            do="give embedding_size=...",
        )
    check_count("embedding_size", size, low=1)
    return size


def at_step(meta: Meta, names: tuple[str, ...], k: int) -> Meta:
    """What parts of `meta` hold for inner step `k`, their leaves [steps, ...]; from the last on, the last."""
    return {name: {path: leaf[min(k, len(leaf) - 1)] for path, leaf in meta[name].items()} for name in names}


class ModuleLearner(MetaLearner):
    """A learner around one `nn.Module`, whose parameters are `meta["params"]`.

    What a class can do is declared on it, so that nothing outside has to know its name.

    Attributes:
        gradient: how this algorithm obtains its outer gradient.
        solves: the losses of the tasks that it is for; one that is for several takes `loss` as an argument.
        embeds: whether the module gives an embedding, and needs no output per class.
        any_ways: whether tasks may have another number of ways than those it was trained on.
        amortised: whether `begin` learns from support labels already, so that no inner step is needed.
        ordered: whether the order of the support examples matters.
        bounded: whether outputs stay finite as long as the module's own do, so large inputs fail no task.
        pooled: whether it is meta-trained on examples of all training classes at once, whose labels mean
            the same in every task, and not on few-shot tasks.
        small: settings with which it learns small tasks in a short training: what the questions train with.
        lessons: outer steps of that training.
        floor: the score that it states to reach on them; None is the one of all others.
        parts: networks of its own beside the module, by name; `meta` holds their parameters under that name.
    """

    solves: ClassVar[tuple[Loss, ...]] = ("cross_entropy", "mse")
    embeds: ClassVar[bool] = False
    any_ways: ClassVar[bool] = False
    amortised: ClassVar[bool] = False
    ordered: bool = False  # of an instance, where it is an option
    bounded: ClassVar[bool] = False
    pooled: ClassVar[bool] = False
    small: ClassVar[Mapping[str, Any]] = {}
    lessons: ClassVar[int] = 300
    floor: ClassVar[float | None] = None
    concurrent = True  # a FunctionalModule lends each pass a copy
    gradient: MetaGradient
    module: nn.Module
    batch_norm: BatchNormPolicy
    test_inner_steps: int
    parts: dict[str, FunctionalModule]

    def _wrap(
        self,
        module: nn.Module,
        loss: Loss,
        batch_norm: BatchNormPolicy,
        parts: Mapping[str, nn.Module] | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"module of type {type(module).__name__}",
                expected="a torch.nn.Module",
                do="pass the base model first",
            )
        if not self.embeds and not any(True for _ in module.parameters()):
            raise ContractError(
                "a module without parameters", expected="something to learn", do="use another module"
            )
        if loss not in self.solves:
            raise ConfigError(f"loss = {loss!r}", expected=" or ".join(self.solves), do="choose one")
        self.module, self.loss, self.batch_norm = module, loss, batch_norm
        self.net = FunctionalModule(module, batch_norm)
        self.parts = {name: FunctionalModule(part, batch_norm) for name, part in (parts or {}).items()}
        self._modules = dict(parts or {})

    @classmethod
    def more_inputs(cls, settings: Mapping[str, Any]) -> int:
        """How many numbers it adds to each input that is a vector, under these constructor arguments."""
        return 0

    def module_inputs(self, inputs: Tensor) -> Tensor:
        """Inputs as the module is given them before anything was learned from a support set."""
        return inputs

    @property
    def transductive(self) -> bool:
        """Whether a query's prediction may depend on the other queries."""
        return self.batch_norm == "transductive" and self.net.has_batch_norm

    def init(self, rng: torch.Generator) -> Meta:
        """The module's own parameters; a model of ours that is as it was made is drawn from `rng`."""
        params = fresh_parameters(self.module, rng) or self.net.params()
        drawn = {
            name: fresh_parameters(self._modules[name], rng) or part.params()
            for name, part in self.parts.items()
        }
        statistics = self.net.statistics()
        return {"params": params} | drawn | ({STATISTICS: statistics} if statistics else {})

    def weights(self, meta: Meta) -> Params:
        """The module's parameters before any inner step, as `meta` stands for them."""
        return meta.get("params", {})

    def to(self, device: torch.device | str) -> None:
        """Move what is not in `meta` (constant buffers) to a device."""
        for net in (self.net, *self.parts.values()):
            net.to(device)

    def distribution(self, meta: Meta, fast: Fast, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the target at each input, [Q, F] both; of learners that have one."""
        raise ContractError(
            f"{type(self).__name__}, which predicts no distribution",
            expected="a learner with predictive uncertainty, such as ConditionalNeuralProcess",
            do="use predict",
        )

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        with self.net.gathering() as gathered:
            loss = loss_value(self.loss, self.predict(meta, fast, query.x), query.y)
        return loss, dict(gathered)


class GradientLearner(ModuleLearner, ABC):
    """Adapts some of the module's parameters by steps of an update rule on the support loss.

    A subclass says which outer gradient it takes (`gradient`), and may say which parameters adapt
    and by which rule.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: inner step size, > 0.
        inner_steps: steps in training, >= 0.
        test_inner_steps: steps at test; None is the same number.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: weights of the query loss after each inner step; None is the last step alone.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.
    """

    steps_alike = True
    small = {"inner_lr": 0.5, "inner_steps": 2}
    rule: UpdateRule
    inner_batch: int | None = None

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        inner_rule: RuleName = "SGD",
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_count("inner_steps", inner_steps, low=0)
        if inner_clip is not None:
            check_range("inner_clip", inner_clip, low=0.0, open_low=True)
        self.inner_clip = inner_clip
        if test_inner_steps is not None:
            check_count("test_inner_steps", test_inner_steps, low=0)
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        self.test_inner_steps = inner_steps if test_inner_steps is None else test_inner_steps
        if inner_rule not in get_args(RuleName):
            raise unknown("inner_rule", str(inner_rule), get_args(RuleName))
        self.inner_rule: str = inner_rule
        self.rule = getattr(rules, inner_rule)(inner_lr)
        self.step_weights = None if step_weights is None else tuple(step_weights)
        if self.step_weights is not None and len(self.step_weights) != inner_steps:
            raise ConfigError(
                f"{len(self.step_weights)} step_weights for inner_steps = {inner_steps}",
                expected="one weight for each inner step",
                do=f"give {inner_steps}, or none for the last step alone",
            )
        self._wrap(module, loss, batch_norm)

    def adapts(self) -> set[str]:
        """Names of the parameters that the inner loop changes: all of them."""
        return set(self.net.names)

    def begin(self, meta: Meta, support: Batch) -> Fast:
        names = self.adapts()
        adapted = {name: p for name, p in meta["params"].items() if name in names}
        fast: Fast = {"params": adapted, "rule": self.rule.init(adapted)}
        return fast | {DATA: {"support": support.x}} if self.net.needs_support else fast

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        batch = minibatch(support, self.inner_batch)

        def support_loss(params: dict[str, Tensor]) -> Tensor:
            return self.inner_loss(meta, fast, params, batch)

        return self.descended(meta, fast, support_loss)

    def descended(self, meta: Meta, fast: Fast, loss: Callable[[dict[str, Tensor]], Tensor]) -> Fast:
        """The state after a step of the update rule on `loss`, a function of what adapts."""
        grads = inner_gradient(loss, fast["params"])
        if self.inner_clip is not None:
            grads = clipped(grads, self.inner_clip)
        params, state = self.rule_at(meta).step(grads, fast["rule"], fast["params"])
        return fast | {"params": params, "rule": state}

    def rule_at(self, meta: Meta) -> UpdateRule:
        """The update rule of an inner step; one that is learned takes its numbers from `meta`."""
        return self.rule

    def inner_loss(self, meta: Meta, fast: Fast, params: dict[str, Tensor], batch: Batch) -> Tensor:
        """What an inner step descends on, with `params` in the place of what adapts."""
        return loss_value(self.loss, self.support_outputs(meta, fast, params, batch.x), batch.y)

    def support_outputs(self, meta: Meta, fast: Fast, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """The outputs that the inner loss is taken of, with `params` in the place of what adapts."""
        return self.net(self.weights(meta) | params, inputs, statistics=meta.get(STATISTICS))

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return self.net(
            self.weights(meta) | fast["params"],
            inputs,
            statistics=meta.get(STATISTICS),
            support_x=fast.get(DATA, {}).get("support"),
        )

    def displaced(self, meta: Meta, fast: Fast) -> Meta:
        return meta | {"params": meta["params"] | fast["params"]}


def minibatch(batch: Batch, size: int | None) -> Batch:
    """`size` examples drawn by the key of this place; all of them where that is None, or there is no key."""
    key = mode().key
    if size is None or size >= len(batch.y) or key is None:
        return batch
    chosen = keyed_uniform(key, (len(batch.y),)).argsort()[:size]
    return Batch(batch.x[chosen], batch.y[chosen])
