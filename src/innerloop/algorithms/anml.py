"""ANML: features that a second network opens and closes, so that a head can be trained on them online."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import RuleName
from innerloop.algorithms.head import outputs_of
from innerloop.algorithms.trajectory import TrajectoryLearner
from innerloop.core.errors import ContractError
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.learner import DATA, STATISTICS
from innerloop.core.types import Fast, Loss, Meta
from innerloop.gradients import Unrolled
from innerloop.models.base import Model, first_draw, global_rng_untouched


class ANML(TrajectoryLearner):
    """Learns, with the features, a network that says for each input which of them the head sees and changes.

    Along a trajectory (x_1, y_1), (x_2, y_2), ..., class after class, with body theta and gate g held:

        z_k = theta(x_k) * sigmoid(g(x_k));   W_{k+1} = W_k - inner_lr * grad_W L(head(W_k, z_k), y_k)

    A feature that is closed for an input leaves no trace of it in W. The head's rows for the trajectory's
    classes begin anew in each task.
    Outer objective: the loss of W_K on other examples of the trajectory and on examples of other classes,
    which are to be remembered; differentiated through all steps, in theta, in g and in W_0.
    Meta-learned: the body, the gate, and the initial head. Adapted: the head.

    Cost per inner step: the head's forward and backward pass on one example; gated features of the trajectory
    are computed once, which costs two networks where OML's costs one.

    Strengths: as OML, for streams of hundreds of classes that are seen once; the gate is chosen anew for each
    input, so that inputs that look different interfere less. Not worth twice the cost where OML does.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs] that ends with a linear layer, the head. The
            gate is a network like it with as many outputs as the head has inputs, and with layers that
            normalise each example by itself wherever the module has BatchNorm.
        inner_lr: inner step size, > 0. The official code: 0.1.
        inner_steps: steps in training, >= 0; as many as the support has examples are one pass over it. The
            official code: 20, of one class.
        test_inner_steps: steps at test; None is the same number.
        inner_batch: examples a step, >= 1.
        reset: whether the head's rows for the classes of the support begin anew in each task. Where the
            support has all classes of the head, as in few-shot tasks, none do.
        inner_rule: the update rule of `il.rules` that takes the inner steps, with its usual settings.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is the
            last step alone.
        loss: `cross_entropy` or `mse`; with the latter nothing is reset.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`. The
            official code normalises each example by itself.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.ANML(il.models.Conv4(12, width=8, norm="none"))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> sorted(meta), tuple(meta["gate"]["head.weight"].shape)
    (['gate', 'params'], (8, 8))

    Differences from the paper: the head alone adapts, as it does there at test; in the official code the
    body's layers learn in the inner loop as well, and the inner gradients are constants (`FirstOrder`). The
    gate's network is as wide as the other one; there it has 112 filters beside 256.

    Reference: Beaulieu, Frati, Miconi, Lehman, Stanley, Clune and Cheney 2020, arXiv 2002.09571.
    """

    bounded = True  # a gate may close on an input that is far from all others
    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 20,
        test_inner_steps: int | None = None,
        inner_batch: int = 1,
        reset: bool = True,
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
            inner_batch=inner_batch,
            reset=reset,
            inner_rule=inner_rule,
            inner_clip=inner_clip,
            step_weights=step_weights,
            loss=loss,
            batch_norm=batch_norm,
        )
        self._wrap(module, loss, batch_norm, parts={"gate": _gate(module, self.adapts())})

    def features_of(self, meta: Meta, inputs: Tensor, *, rows: int | None = None) -> Tensor:
        features = self.net.features(self.weights(meta), inputs, rows=rows, statistics=meta.get(STATISTICS))
        return features * torch.sigmoid(self.parts["gate"](meta["gate"], inputs))

    def support_outputs(self, meta: Meta, fast: Fast, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return outputs_of(params, fast["features"] if "features" in fast else self.features_of(meta, inputs))

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        support = fast.get(DATA, {}).get("support", inputs[:0])
        both, rows = torch.cat([support, inputs]), len(support)
        return outputs_of(fast["params"], self.features_of(meta, both, rows=rows or None)[rows:])


def _gate(module: nn.Module, head: set[str]) -> nn.Module:
    """A network like the module, with an output for each input of its head, and no statistics of batches."""
    owner = next(iter(head)).rpartition(".")[0]
    last = module.get_submodule(owner)
    if type(last) is not nn.Linear or not owner:
        raise ContractError(
            f"{type(module).__name__}, which does not end with a linear layer after others",
            expected="layers that make features, and a linear head",
            do="use a module such as il.models.Conv4",
        )
    gate = copy.deepcopy(module)
    with global_rng_untouched():
        wide = nn.Linear(last.in_features, last.in_features).to(last.weight)
    for parameter in wide.parameters():
        nn.init.zeros_(parameter)
    _put(gate, owner, wide)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            _put(gate, name, nn.GroupNorm(1, layer.num_features, eps=layer.eps).to(last.weight))
    if isinstance(gate, Model):
        gate.draw(first_draw())
    return gate


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one of that name."""
    above, _, own = name.rpartition(".")
    setattr(module.get_submodule(above), own, layer)
