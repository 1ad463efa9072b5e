"""MANN: an LSTM that writes the support set to a memory, and reads it back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.algorithms import base
from innerloop.algorithms.recurrent import lstm_init, lstm_state, lstm_step
from innerloop.algorithms.sequence import SequenceLearner
from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Meta, Tree
from innerloop.models import MLP

_GATE = -3.0  # at first a step writes to slots that are free, and hardly to those that were just read
_TINY = 1e-8  # added to squared lengths: the cosine with an empty slot is 0, and has a derivative


class MANN(SequenceLearner):
    """Stores the support set in an external memory, the least recently used slot first, and looks it up.

    At step t an LSTM is given x_t with its label and what was last read, and gives h_t and a key k_t:

        w_t = sigmoid(a) r_{t-1} + (1 - sigmoid(a)) l_{t-1}
        M_t = M_{t-1}, emptied at l_{t-1}, + w_t k_t;   r_t = softmax over slots of scale * cos(k_t, M_t)
        u_t = decay u_{t-1} + r_t + w_t;   l_t = argmin u_t;   logits = W [h_t, sum of r_t M_t]

    r are the weights of a read, w those of a write, u the usage of a slot, and l (one-hot) the least used.
    Each query is one more step after the support, from the same state.

    Outer objective: the cross-entropy of each query. The choice of l_t is a constant to derivatives.
    Meta-learned: the embedding, the LSTM, the maps to keys and logits, and a. Adapted: nothing; the memory
    is what a task leaves.

    Cost: one LSTM step for each support example, one after another, and one for all queries; time and memory
    of a step grow with slots * width, for each query too.

    Strengths: nothing is assumed of how labels are to be used. Slow to learn: nothing tells it at first that
    a query is to be compared with what was stored.
    Published: Omniglot 5-way 1-shot 82.8, 5-way 5-shot 94.9 (Finn et al. 2017, table 1), at the second and
    the fifth example of a class in a sequence.

    Args:
        module: any `nn.Module` from [S, ...] to an embedding [S, D]; pretrained weights are kept.
        ways: classes of a task, >= 2; filled in from the tasks by a configuration.
        embedding_size: D, where the module is not a model of this package.
        slots: rows of the memory, at least `reads` times the support examples, so that none is overwritten.
        width: numbers in a slot, >= 1.
        reads: keys of a step, >= 1; each reads, and writes to a slot of its own.
        hidden: width of the LSTM, >= 1.
        decay: what usage loses from step to step keeps this factor, in [0, 1]. The paper: 0.95.
        scale: factor of the cosine, > 0. The paper: 1. Larger ones sharpen the reads, and learn faster.
        late_labels: whether x_t is given with the label of x_{t-1}, as in the paper, where every example
            is first a question; here the support's labels are known, and come with their examples.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.MANN(il.models.Conv4(ways=None, width=8), ways=3, slots=8)
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> episode = il.tasks.Omniglot.tiny().resized(ways=3).sample("test", 4, 0)
    >>> il.meta_gradient(learner, meta, episode)[1].losses.shape
    torch.Size([4])

    Differences from the paper: there an episode is one sequence, each of whose examples is a question
    before its label is shown, and the loss is taken at all of them; here the support is read first, in an
    order drawn for each task in meta-training, and only queries are judged. A module embeds inputs first.
    With several reads each has its own least used slot. Keys pass through tanh. Sizes are ours.

    Reference: Santoro, Bartunov, Botvinick, Wierstra and Lillicrap 2016, arXiv 1605.06065.
    """

    bounded = True
    lessons = 800
    floor = 0.4  # of three ways: what reads labels as inputs soon knows a few training classes by heart

    def __init__(
        self,
        module: nn.Module,
        *,
        ways: int = 5,
        embedding_size: int | None = None,
        slots: int = 32,
        width: int = 40,
        reads: int = 1,
        hidden: int = 200,
        decay: float = 0.95,
        scale: float = 1.0,
        late_labels: bool = False,
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        check_count("ways", ways, low=2)
        for name, value in [("slots", slots), ("width", width), ("reads", reads), ("hidden", hidden)]:
            check_count(name, value)
        if reads > slots:
            raise ConfigError(
                f"reads = {reads} of slots = {slots}", expected="reads <= slots", do="use fewer reads"
            )
        check_range("decay", decay, low=0.0, high=1.0)
        check_range("scale", scale, low=0.0, open_low=True)
        self.ways, self.embedding_size = ways, embedding_size
        self.slots, self.width, self.reads, self.hidden = slots, width, reads, hidden
        self.decay, self.scale, self.late_labels = decay, scale, late_labels
        parts = {
            "key": MLP(hidden, reads * width, hidden=()),
            "head": MLP(hidden + reads * width, ways, hidden=()),
        }
        self._wrap(module, "cross_entropy", batch_norm, parts)
        self._inputs = base.embedding_size(module, embedding_size) + ways + reads * width

    def init(self, rng: torch.Generator) -> Meta:
        controller = lstm_init(rng, self._inputs, self.hidden)
        return super().init(rng) | {"controller": controller, "gate": torch.full((self.reads,), _GATE)}

    def outputs(self, meta: Meta, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        unknown = torch.zeros_like(labels[:1])
        given = torch.cat([unknown, labels]) if self.late_labels else torch.cat([labels, unknown])
        state = self._empty(meta)
        for x, label in zip(support.split(1), given[:-1].split(1), strict=True):
            state = self._after(meta, torch.cat([x, label], 1), state)
        rows = len(queries)
        state = {name: node.expand(rows, *node.shape[1:]) for name, node in state.items()}
        state = self._after(meta, torch.cat([queries, given[-1:].expand(rows, -1)], 1), state)
        return self.parts["head"](meta["head"], torch.cat([state["h"], state["read"]], 1))

    def _empty(self, meta: Meta) -> Tree:
        """The state of one sequence before its first example."""
        zeros = meta["gate"].new_zeros
        return lstm_state(meta["controller"], 1) | {
            "memory": zeros(1, self.slots, self.width),
            "weights": zeros(1, self.reads, self.slots),
            "usage": zeros(1, self.slots),
            "read": zeros(1, self.reads * self.width),
        }

    def _after(self, meta: Meta, x: Tensor, state: Tree) -> Tree:
        """The state of some sequences after one step; `x` [rows, inputs]."""
        cell = lstm_step(meta["controller"], torch.cat([x, state["read"]], 1), state)
        keys = self.parts["key"](meta["key"], cell["h"]).tanh().unflatten(1, (self.reads, self.width))
        least = self._least_used(state["usage"])
        gate = meta["gate"].sigmoid()[:, None]
        write = gate * state["weights"] + (1.0 - gate) * least
        memory = state["memory"] * (1.0 - least.sum(1))[:, :, None] + write.mT @ keys
        weights = (self.scale * _cosines(keys, memory)).softmax(-1)
        usage = self.decay * state["usage"] + (weights + write).sum(1)
        return cell | {
            "memory": memory,
            "weights": weights,
            "usage": usage,
            "read": (weights @ memory).flatten(1),
        }

    def _least_used(self, usage: Tensor) -> Tensor:
        """One-hot [rows, reads, slots]: the least used slot of usage [rows, slots], the next, and so on."""
        order = usage.detach().argsort(dim=1, stable=True)[:, : self.reads]
        return (order[:, :, None] == torch.arange(self.slots, device=usage.device)).to(usage.dtype)


def _cosines(keys: Tensor, memory: Tensor) -> Tensor:
    """Of keys [rows, reads, width] and slots [rows, slots, width]: [rows, reads, slots]."""
    of_keys, of_slots = (rows.square().sum(-1) + _TINY for rows in (keys, memory))
    return keys @ memory.mT * (of_keys[:, :, None] * of_slots[:, None, :]).rsqrt()
