"""A recurrent cell as a pure function, since torch's own cannot be lifted by `vmap`."""

from __future__ import annotations

import torch
from torch import Tensor

from innerloop.core.types import Tree


def lstm_init(rng: torch.Generator, inputs: int, hidden: int) -> dict[str, Tensor]:
    """Weights [4 * hidden, inputs + hidden] and bias [4 * hidden], uniform within 1/sqrt(hidden)."""
    bound = hidden**-0.5
    shape = (4 * hidden, inputs + hidden)
    return {
        "weight": torch.empty(shape).uniform_(-bound, bound, generator=rng),
        "bias": torch.empty(4 * hidden).uniform_(-bound, bound, generator=rng),
    }


def lstm_state(params: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The state of `rows` cells before the first input: zeros [rows, hidden]."""
    hidden = params["bias"].shape[0] // 4
    return {name: params["bias"].new_zeros(rows, hidden) for name in ("h", "c")}


def lstm_step(params: dict[str, Tensor], x: Tensor, state: Tree) -> dict[str, Tensor]:
    """One step for inputs [rows, inputs]; the output is the new state's `h` [rows, hidden].

    Gates stand in torch's order: input, forget, cell, output.

    Reference: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """
    gates = torch.cat([x, state["h"]], dim=1) @ params["weight"].T + params["bias"]
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * state["c"] + i.sigmoid() * g.tanh()
    return {"h": o.sigmoid() * c.tanh(), "c": c}
