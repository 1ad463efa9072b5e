"""Global random numbers, which nothing here draws, and a learner of yours may."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> tuple[Any, ...]:
    """The states of torch's, numpy's and Python's global generators, which change with each draw."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    tensors = tuple(state.numpy().tobytes() for state in (torch.get_rng_state(), *gpus))
    name, words, *rest = np.random.get_state()
    return tensors, name, np.asarray(words).tobytes(), *rest, random.getstate()


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Run the block, and put the global generators back to where they were."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    ours, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(ours)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        np.random.set_state(numpys)
        random.setstate(pythons)
