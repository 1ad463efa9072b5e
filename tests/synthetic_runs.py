"""Run folders with made-up records, healthy and broken: what a run would write, without training one.

Names and places of records are those of the table in `innerloop.measure`.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Row = dict[str, Any]
LAYERS = ("params/layers.0.weight", "params/layers.0.bias", "params/layers.1.weight", "params/layers.1.bias")


@dataclass(frozen=True)
class Kind:
    """What a made-up run does.

    Attributes:
        start, end, power: the loss goes from `start` to `end` as a power of the step; larger is sooner.
        dependence: the share of what is gained over a constant guess that another task's support costs.
        gap: validation over training loss.
        curvature: `alpha lambda` at the first and the last look; `sensitivity` at the last.
        update: relative size of outer updates.
        signal: of the meta-gradient against its noise, at the last look.
        broken: share of tasks that are not finite at the last look.
        conflict: cosine of the gradients of two families of tasks, if there are two.
        images: whether its tasks are images, judged by accuracy.
        leak: the check before training that does not hold, if any.
        forgets: of a stream of three families, the share of a family's score that later stages take; None is
            no stream.
    """

    start: float = 3.6
    end: float = 0.5
    power: float = 1.0
    dependence: float = 0.85
    gap: float = 1.05
    curvature: tuple[float, float] = (0.15, 1.1)
    sensitivity: float = 1.4
    update: float = 2e-3
    signal: float = 0.05
    broken: float = 0.0
    conflict: float | None = None
    images: bool = False
    leak: str = ""
    forgets: float | None = None


FAMILIES = ("sine", "line", "wave")
HEALTHY = Kind()
STREAM = Kind(forgets=0.3)
CONVERGED = Kind(start=3.6, end=0.5, power=14.0)
STALLED = Kind(start=3.7, end=3.7, dependence=0.01, update=4e-8, signal=6.0, curvature=(0.1, 0.1))
DIVERGED = Kind(curvature=(0.4, 4.7), sensitivity=30.0, broken=0.6)
MEMORISED = Kind(end=0.2, dependence=0.01, gap=6.0)
IMAGES = Kind(start=1.6, end=0.2, images=True, power=3.0)


def write_run(
    folder: Path,
    kind: Kind = HEALTHY,
    *,
    seed: int = 0,
    probe_seed: int = 0,
    tasks: int = 60,
    looks: int = 25,
    probe: bool = True,
) -> Path:
    """Write the folder of a made-up run; without `probe`, as runs were written before there was one."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = 100 * (looks - 1)
    (folder / "config.yaml").write_text(json.dumps(_config(kind, steps, seed)), "utf-8")
    (folder / "spec.json").write_text(json.dumps(_spec(kind)), "utf-8")
    (folder / "environment.json").write_text(json.dumps(_ENVIRONMENT), "utf-8")
    (folder / "engine.json").write_text(json.dumps(_ENGINE), "utf-8")
    rows = list(_records(kind, looks, tasks, (seed, probe_seed)))
    _write(folder / "metrics.jsonl", list(_metrics(kind, rows, steps)))
    if probe:
        _write(folder / "probe.jsonl", rows)
        if kind.images:
            (folder / "worst-tasks.json").write_text(json.dumps(_pictures()), "utf-8")
    return folder


def planted(kind: Kind, **changes: Any) -> Kind:
    """The kind with something changed."""
    return replace(kind, **changes)


def _config(kind: Kind, steps: int, seed: int) -> Row:
    tasks: Row = (
        {"name": "Omniglot", "ways": 5, "shots": 1} if kind.images else {"name": "Sinusoid", "shots": 10}
    )
    return {
        "algorithm": {"name": "MAML", "inner_lr": 0.03, "inner_steps": 5},
        "model": {"name": "Conv4" if kind.images else "MLP"},
        "tasks": tasks,
        "steps": steps,
        "tasks_per_step": 4,
        "seed": seed,
        "optimizer": {"name": "Adam", "lr": 0.001, "schedule": "cosine"},
    }


def _spec(kind: Kind) -> Row:
    if kind.images:
        return {"input_shape": [1, 28, 28], "outputs": 5, "loss": "cross_entropy", "metric": "accuracy"}
    return {"input_shape": [1], "outputs": 1, "loss": "mse", "metric": "mse"}


_ENVIRONMENT = {
    "innerloop": "0.1.0",
    "python": "3.11.7",
    "platform": "Linux",
    "machine": "x86_64",
    "cpus": 2,
    "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "command": ["/usr/bin/innerloop", "train", "--algorithm", "MAML", "--out", "runs/a b"],
}
_ENGINE = {"gradient": {"name": "Unrolled"}, "tasks_axis": "vmap", "compile": False, "reason": "a short run"}


def _records(kind: Kind, looks: int, tasks: int, seeds: tuple[int, int]) -> Iterator[Row]:
    rng, drawn = (np.random.default_rng((seed, i)) for i, seed in enumerate(seeds))
    hard = {
        split: drawn.lognormal(0.0, 0.5, tasks if split == "val" else tasks // 2)
        for split in ("val", "train")
    }
    level = math.log(5) if kind.images else 4.0
    yield {"step": 0, "name": "setup", "value": _setup(kind, tasks, seeds[1], looks)}
    for name in ("state_leak", "query_leak", "class_leak", "transduction"):
        yield _row(0, name, [0.5 if name == kind.leak else 0.0])
    for h in (4, 5, 6, 8):
        yield _row(0, "quotient", [10.0 ** -(h + 1), 2 * 10.0 ** -(h + 1)], inner_step=h)
    for split, scale in hard.items():
        values = np.full(len(scale), level) if kind.images else level * scale
        yield _row(0, "trivial", values, split=split)
    if kind.forgets is not None:
        yield from _stream(kind.forgets, looks, rng)
    for i in range(4):
        for j in range(3):
            place = {
                "split": "val",
                "inner_step": i,
                "family": FAMILIES[j] if kind.forgets else f"task {j + 1}",
            }
            score = 0.8 if i == j + 1 else 0.2
            values = np.full(12, score if kind.images else 4.0 * (1.0 - score))
            yield _row(100 * (looks - 1), "sequential", values + 0.01 * rng.random(12), **place)
    for look in range(looks):
        step, done = 100 * look, look / (looks - 1)
        mean = kind.end + (kind.start - kind.end) * (1 + 12 * done) ** -kind.power
        post = mean * hard["val"] * rng.lognormal(0.0, 0.01, tasks)
        last = look == looks - 1
        if last and kind.broken:
            post[: int(kind.broken * tasks)] = np.nan
        yield _row(step, "post", post, split="val")
        yield _row(step, "pre", 3.9 * hard["val"] * rng.lognormal(0.0, 0.02, tasks), split="val")
        score = np.clip(np.exp(-post) + 0.1, 0.0, 1.0) if kind.images else post
        yield _row(step, "score", score, split="val")
        yield _row(step, "lr", [0.001 * (1 + math.cos(math.pi * 0.8 * done)) / 2])
        yield _row(step, "update", [kind.update * rng.lognormal(0.0, 0.1)])
        for i, layer in enumerate(LAYERS):
            yield _row(step, "update", [kind.update * (0.5 + i) * rng.lognormal(0.0, 0.2)], layer=layer)
        if look % 4 == 0:
            yield from _wide(kind, step, done, mean, hard, rng, last=last)


def _wide(
    kind: Kind,
    step: int,
    done: float,
    mean: float,
    hard: dict[str, Any],
    rng: np.random.Generator,
    *,
    last: bool,
) -> Iterator[Row]:
    for split in ("val", "train"):
        own = mean * hard[split] / (kind.gap if split == "train" else 1.0)
        if split == "train":
            yield _row(step, "post", own, split=split)
            yield _row(step, "pre", 3.9 * hard[split], split=split)
        half = len(own) // 2
        guess = np.full(half, math.log(5)) if kind.images else 4.0 * hard[split][:half]
        share = kind.dependence * min(1.0, 0.2 + done)
        yield _row(step, "wrong", own[:half] + share * (guess - own[:half]), split=split)
    yield _row(step, "averaged", 0.998 * mean * hard["val"], split="val")
    yield _row(step, "distance", [0.01 * (1.0 - done) + 1e-4])
    sharp = kind.curvature[0] + (kind.curvature[1] - kind.curvature[0]) * done
    for j in range(26 if last else 6):
        shrink = mean + (3.9 - mean) * 0.45**j if sharp < 2 else mean * 1.3**j
        few = hard["val"][:25]
        yield _row(step, "query", shrink * few, split="val", inner_step=j)
        yield _row(step, "support", 0.8 * shrink * few, split="val", inner_step=j)
    for scale in (1.3, 2.0, 3.0):
        yield _row(step, "stretched", mean * scale**sharp * hard["val"][:3], split="val", scale=scale)
    yield _row(step, "curvature", sharp * np.array([0.6, 0.8, 1.0]))
    yield _row(step, "sensitivity", 1.0 + (kind.sensitivity - 1.0) * done * np.array([0.5, 0.8, 1.0]))
    for i, layer in enumerate(LAYERS):
        for j in range(6):
            yield _row(step, "backward", [0.4 * 0.8 ** (5 - j) * (1 + i)] * 3, inner_step=j, layer=layer)
    noise = 0.3
    yield _row(step, "noise", [noise])
    signal = noise * (kind.signal + 1.5 * (1 - done) ** 4) + 0.01 * rng.normal()
    yield _row(step, "signal", [signal])
    yield _row(step, "norm", [math.sqrt(max(0.0, signal) + noise)])
    if kind.conflict is not None:
        yield _row(step, "conflict", [2.0 * kind.conflict, 1.0, 4.0], layer="sine, line")
    yield _row(step, "leverage", [0.2 + 0.05 * rng.random()])
    yield _row(step, "gradient", rng.lognormal(0.0, 0.5, 8))
    yield _row(step, "first_order", [0.97 - 0.4 * done])
    yield _row(step, "first_order_error", [0.25 + 1.5 * done])


def _setup(kind: Kind, tasks: int, seed: int, looks: int) -> Row:
    baselines = (
        {"nearest_neighbour": 0.45, "untrained_centroid": 0.38} if kind.images else {"support_mean": 4.0}
    )
    return {
        "every": 100,
        "wide": 4,
        "val": tasks,
        "train": tasks // 2,
        "seed": seed,
        "inner_steps": 5,
        "trained_steps": 5,
        "metric": "accuracy" if kind.images else "mse",
        "loss": "cross_entropy" if kind.images else "mse",
        "baselines": baselines,
        "skipped": {},
    } | ({} if kind.forgets is None else {"families": list(FAMILIES), "stages": _stages(looks)})


def _stages(looks: int) -> list[Row]:
    length = 100 * (looks - 1) // 3
    return [{"family": n, "start": i * length, "end": (i + 1) * length} for i, n in enumerate(FAMILIES)]


def _stream(forgets: float, looks: int, rng: np.random.Generator) -> Iterator[Row]:
    """Three stages: a family rises to 0.9 in its own, and falls by `forgets` in each later one."""
    length = 100 * (looks - 1) // 3
    for j, name in enumerate(FAMILIES):
        yield _row(0, "trivial", np.full(20, 4.0), split="val", family=name)
        spread = 0.05 * rng.standard_normal(20)
        for step in sorted({0, *range(length // 4, 3 * length + 1, length // 4)}):
            stage = max(0, -(-step // length) - 1)
            score = 0.1 if stage < j or step == 0 else 0.9 - forgets * (stage - j)
            loss = 4.0 * (1.0 - score - spread)
            for quantity in ("post", "score"):
                yield _row(step, quantity, loss, split="val", family=name)


def _metrics(kind: Kind, rows: list[Row], steps: int) -> Iterator[Row]:
    looks = [r for r in rows if r["name"] == "score"]
    metric = "accuracy" if kind.images else "mse"
    for look in looks:
        known = np.array([math.nan if v is None else v for v in look["values"]])
        mean = float(known.mean())
        row = {"kind": "validation", "step": look["step"], "metric": metric, "seconds": 0.02 * look["step"]}
        row |= {"mean": None if math.isnan(mean) else mean, "ci95": 0.05, "n": len(known)}
        if look["step"]:
            train = {"kind": "train", "step": look["step"], "failed_tasks": 0, "lr": 0.001, "clipped": 0.1}
            yield train | {"loss": 0.0 if math.isnan(mean) else 1.1 * mean, "seconds": 0.02 * look["step"]}
        else:
            row["baselines"] = {"nearest_neighbour": 0.45} if kind.images else {"support_mean": 4.0}
        yield row


def _pictures() -> Row:
    buffer = io.BytesIO()
    Image.fromarray((np.indices((28, 28)).sum(0) % 7 * 40).astype(np.uint8)).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode("ascii")
    support = [{"png": png, "label": i} for i in range(5)]
    query = [{"png": png, "label": i % 5, "predicted": (i + (i > 6)) % 5} for i in range(10)]
    task = {"split": "val", "number": 3, "seed": 0, "loss": 2.0, "support": support, "query": query}
    return {"tasks": [task, task | {"number": 7}]}


def _row(step: int, name: str, values: Any, **place: Any) -> Row:
    shown = [float(f"{v:.7g}") if math.isfinite(v) else None for v in np.asarray(values, float).tolist()]
    return {"step": step, "name": name} | place | {"values": shown}


def _write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
