"""Weights to begin with: those of another run, as far as they fit."""

from __future__ import annotations

import logging

from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ContractError
from innerloop.core.learner import FROZEN, STATISTICS
from innerloop.core.rng import generator
from innerloop.core.types import Meta
from innerloop.training.folder import RunFolder
from innerloop.training.state import stored_meta

log = logging.getLogger("innerloop")

_WEIGHTS = ("params", FROZEN)  # where `meta` may hold the module's own, in this run as in the other


def started(learner: ModuleLearner, path: str, seed: int) -> Meta:
    """The learner's initial `meta`, with a run's weights and statistics where names and shapes agree.

    What else the other run has learned (rates, networks beside the module, a head for other classes) stays
    there. How many were taken, and which were not and why, goes to the log.

    Raises:
        ContractError: not a run folder, or nothing in it fits.
        DataError: no undamaged checkpoint.
    """
    folder = RunFolder(path)
    folder.check()
    tensors, values = folder.best_checkpoint()
    stored, meta = stored_meta(tensors), learner.init(generator(seed, "init"))
    missing: list[str] = []
    chosen = {
        name: _taken(name, node, stored, missing) if name in (*_WEIGHTS, STATISTICS) else node
        for name, node in meta.items()
    }
    asked = sum(len(meta.get(name, {})) for name in (*_WEIGHTS, STATISTICS))
    if len(missing) == asked:
        raise ContractError(
            f"start = {path}, of which none of {asked} weights fits: {', '.join(missing[:3])}",
            expected="a run whose model has weights of the same names and shapes",
            do="use the same model as that run, or another start",
        )
    taken, step = asked - len(missing), values["step"]
    rest = f"; not taken: {', '.join(missing)}" if missing else ""
    log.info("training begins with %d of %d weights of %s, step %s%s", taken, asked, path, step, rest)
    return chosen


def _taken(
    node: str, leaves: dict[str, Tensor], stored: dict[str, Tensor], missing: list[str]
) -> dict[str, Tensor]:
    """The leaves of a node as the other run has them, or as they are; those are added to `missing`."""
    result = {}
    for name, own in leaves.items():
        places = [f"{other}/{name}" for other in (_WEIGHTS if node in _WEIGHTS else (node,))]
        found = next((stored[place] for place in places if place in stored), None)
        if found is None or found.shape != own.shape:
            why = "not there" if found is None else f"{tuple(found.shape)} there, not {tuple(own.shape)}"
            missing.append(f"{name} ({why})")
            result[name] = own
        else:
            result[name] = found.to(own)
    return result
