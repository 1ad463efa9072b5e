"""A learned optimizer as one of torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms.optimizer_networks import OptimizerNetwork
from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.types import Tree


class TrainedOptimizer(torch.optim.Optimizer):
    """Takes the steps of a trained network, for the parameters of any module.

    Made by `LearnedOptimizer.optimizer`. Steps are computed in the network's own precision. `state_dict`
    holds what the network keeps of each parameter, not its weights: make the optimizer of the same run,
    then load.

    Args:
        params: parameters, or parameter groups as dicts.
        network: what turns gradients into steps.
        weights: the network's own, from `meta`.
        lr: factor of every step; a schedule may change it.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        network: OptimizerNetwork,
        weights: Tree,
        *,
        lr: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr})
        device = self.param_groups[0]["params"][0].device
        self._network = network
        self._weights = tree.map(lambda leaf: leaf.detach().to(device, copy=True), weights)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every parameter that has a gradient.

        Returns:
            What `closure`, if given, returns: it is called first, to compute the gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group([p for p in group["params"] if p.grad is not None], group["lr"])
        return loss

    def _step_group(self, params: list[Tensor], lr: float) -> None:
        if not params:
            return
        like = tree.leaves(self._weights)[0]
        values = {str(i): p.detach().to(like) for i, p in enumerate(params)}
        grads = {str(i): _dense(p.grad).to(like) for i, p in enumerate(params)}
        fresh = self._network.start(self._weights, values)
        state = {
            str(i): tree.map(lambda leaf: leaf.to(like), self.state[p]) if self.state[p] else fresh[str(i)]
            for i, p in enumerate(params)
        }
        updates, after = self._network.step(self._weights, grads, state, values)
        for i, p in enumerate(params):
            p.add_(updates[str(i)].to(p), alpha=lr)
            self.state[p] = after[str(i)]


def _dense(grad: Tensor | None) -> Tensor:
    if grad is None or grad.layout is not torch.strided or grad.is_complex():
        raise ContractError(
            "a gradient that is sparse or complex",
            expected="dense real gradients",
            do="set sparse=False on the embedding, or optimize this parameter by another optimizer",
        )
    return grad
