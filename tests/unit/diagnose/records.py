"""Made-up records of a run, built by name: what a probe would write, with one thing changed at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.diagnose.history import History, Row

Values = NDArray[np.float64]

LOOKS, EVERY, WIDE = 41, 10, 5
STEPS = (LOOKS - 1) * EVERY
LAYERS = ("params/layers.0.weight", "params/layers.0.bias", "params/head.weight")
CONFIG: dict[str, Any] = {
    "algorithm": {"name": "MAML", "inner_lr": 0.01, "inner_steps": 3},
    "tasks": {"name": "Sinusoid", "shots": 10, "queries": 10},
    "model": {"name": "MLP", "hidden": [8]},
    "steps": STEPS,
    "tasks_per_step": 10,
    "seed": 0,
    "optimizer": {"name": "Adam", "lr": 1e-3, "schedule": "constant"},
}
_ONCE = ("trivial", "state_leak", "query_leak", "class_leak", "transduction", "quotient")
_EVERY_LOOK = ("pre", "score", "lr", "update")


class Records:
    """Records of a run; `put` and `without` change them, and return the same object.

    Args:
        losses: `post` on the validation tasks [K, T], at `LOOKS` looks unless K is another.
        config: settings by dotted name, over `CONFIG`.
        every: outer steps between two looks.
    """

    def __init__(self, losses: Values, *, config: dict[str, Any] | None = None, every: int = EVERY) -> None:
        self.looks = [every * i for i in range(len(losses))]
        self.wide = [*self.looks[::WIDE], *([] if (len(losses) - 1) % WIDE == 0 else self.looks[-1:])]
        self.tasks = losses.shape[1]
        self.setup: dict[str, Any] = {
            "val": self.tasks,
            "train": max(2, self.tasks // 2),
            "inner_steps": 3,
            "trained_steps": 3,
            "metric": "mse",
            "loss": "mse",
            "first_order": False,
            "exact": True,
            "every": every,
            "wide": WIDE,
            "skipped": {},
        }
        self.metrics: list[Row] = []
        self.config = copy.deepcopy(CONFIG)
        for name, value in (config or {}).items():
            node = self.config
            *path, last = name.split(".")
            for part in path:
                node = node.setdefault(part, {})
            node[last] = value
        self._rows: dict[tuple[str, tuple[tuple[str, Any], ...]], list[Row]] = {}
        self.put("trivial", np.full(self.tasks, 4.0), split="val").put("post", losses, split="val")

    def put(self, name: str, values: Any, *, at: list[int] | None = None, **place: Any) -> Records:
        """Replace a quantity: a number, the values of each task [n], or those of each look [K, n].

        Args:
            at: its outer steps; those at which a probe measures it, if not given.
        """
        train = place.get("split") == "train"
        usual = self.looks if name in _EVERY_LOOK or (name == "post" and not train) else self.wide
        steps = at if at is not None else [0] if name in _ONCE else usual
        given = np.atleast_1d(np.asarray(values, float))
        each = given if given.ndim == 2 else np.broadcast_to(given, (len(steps), len(given)))
        assert len(each) == len(steps), (name, len(each), len(steps))
        self._rows[name, tuple(sorted(place.items()))] = [
            {"step": step, "name": name} | place | {"values": [_plain(v) for v in row]}
            for step, row in zip(steps, each.tolist(), strict=True)
        ]
        return self

    def without(self, name: str) -> Records:
        self._rows = {key: rows for key, rows in self._rows.items() if key[0] != name}
        return self

    def known(self, **facts: Any) -> Records:
        """Change facts of the setup."""
        self.setup |= facts
        return self

    @property
    def rows(self) -> list[Row]:
        """The lines of `probe.jsonl`, in order."""
        rows = [row for rows in self._rows.values() for row in rows]
        setup = {"step": 0, "name": "setup", "value": self.setup}
        return [setup, *sorted(rows, key=lambda row: row["step"])]

    @property
    def history(self) -> History:
        return History(self.config, self.metrics, self.rows)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- curves ----------------------------------------------------------------------------------------------


def curve(
    mean: Callable[[Values], Values],
    *,
    looks: int = LOOKS,
    tasks: int = 40,
    spread: float = 0.5,
    iterates: float = 0.0,
    own: float = 0.0,
    seed: int = 0,
) -> Values:
    """Losses [K, T]: `mean` of the share of the run that is done, times how hard each task is, with noise.

    Args:
        spread: standard deviation of the logarithm of how hard tasks are, the same at all looks.
        iterates: relative noise of a look that all its tasks share, as that of the iterate is.
        own: relative noise of each task at each look.
    """
    rng = np.random.default_rng(seed)
    hard = rng.lognormal(0.0, spread, tasks)
    hard /= hard.mean()
    shared = 1.0 + iterates * rng.standard_normal((looks, 1))
    each = 1.0 + own * rng.standard_normal((looks, tasks))
    return mean(np.linspace(0.0, 1.0, looks))[:, None] * hard * shared * each


def falling(per_window: float) -> Callable[[Values], Values]:
    """Falls by this share over each half of the run, and has fallen more before."""
    return lambda done: np.exp(-2.0 * per_window * done)


def learned(floor: float = 0.5) -> Callable[[Values], Values]:
    """A usual learning curve: most of it is gained early, and some all along."""
    return lambda done: floor + 3.0 * (1.0 + 8.0 * done) ** -1.0


def settled(floor: float = 0.5) -> Callable[[Values], Values]:
    """Has fallen, and is flat since long."""
    return lambda done: floor + 3.0 * np.exp(-60.0 * done)


def flat(level: float = 2.0) -> Callable[[Values], Values]:
    return lambda done: np.full(len(done), level)


# --- runs ------------------------------------------------------------------------------------------------


def healthy(losses: Values | None = None, *, config: dict[str, Any] | None = None, seed: int = 0) -> Records:
    """A run with every record, in which no rule finds anything."""
    losses = curve(learned(), iterates=0.004, own=0.01, seed=seed) if losses is None else losses
    made = Records(losses, config=config)
    rng = np.random.default_rng((seed, 1))
    tasks, train, wide = made.tasks, made.setup["train"], len(made.wide)
    at_wide = losses[[made.looks.index(step) for step in made.wide]]
    made.put("pre", 3.8 * losses[0] / losses[0].mean(), split="val")
    made.put("score", losses, split="val")
    made.put("lr", made.config["optimizer"]["lr"], at=made.looks[1:])
    made.put("update", 2e-3, at=made.looks[1:])
    for layer in LAYERS:
        made.put("update", 2e-3, at=made.looks[1:], layer=layer)
    made.put("trivial", np.full(train, 4.0), split="train")
    made.put("post", 0.95 * at_wide[:, :train], split="train")
    made.put("pre", np.full(train, 3.8), split="train")
    made.put("wrong", at_wide[:, : tasks // 2] + 3.0, split="val")
    made.put("wrong", 0.95 * at_wide[:, : train // 2] + 3.0, split="train")
    made.put("averaged", 1.01 * at_wide[1:], split="val", at=made.wide[1:])
    made.put("distance", 0.01, at=made.wide[1:])
    few = min(25, tasks)
    for k in range(16):
        at = made.wide if k <= 3 else made.wide[-1:]
        made.put("support", 3.0 * 0.5**k * np.ones(few), split="val", inner_step=k, at=at)
        made.put("query", 3.2 * 0.6**k * np.ones(few), split="val", inner_step=k, at=at)
    for scale in (1.3, 2.0, 3.0):
        made.put("stretched", 0.3 * np.ones(few), split="val", scale=scale)
    made.put("gradient", rng.lognormal(0.0, 0.4, (wide, 8)))
    made.put("signal", np.full((wide, 1), 0.02)).put("noise", 0.1).put("norm", 0.4).put("leverage", 0.3)
    made.put("curvature", [0.3, 0.4, 0.5]).put("sensitivity", [1.1, 1.2, 1.4])
    for layer in LAYERS:
        for k in range(4):
            made.put("backward", 0.5 * 0.9 ** (3 - k) * np.ones(3), layer=layer, inner_step=k)
    made.put("first_order", 0.95).put("first_order_error", 0.3)
    for name in ("state_leak", "query_leak", "class_leak", "transduction"):
        made.put(name, 0.0)
    for distance in range(2, 8):
        made.put("quotient", np.full(8, 10.0 ** (-2 * distance + 3)), inner_step=distance)
    made.metrics = [
        {"kind": "train", "step": step, "loss": float(np.nanmean(losses[i])), "failed_tasks": 0, "lr": 1e-3}
        for i, step in enumerate(made.looks)
        if step
    ]
    return made
