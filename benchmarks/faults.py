"""Planted faults: what is broken on purpose, on which problem, and which finding has to see it."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.fomaml import FOMAML
from innerloop.algorithms.maml import MAML
from innerloop.core import tree
from innerloop.core.errors import NonFiniteError
from innerloop.core.rng import key
from innerloop.core.types import Batch, Episode, Fast, Meta, Split
from innerloop.core.vectorise import take
from innerloop.diagnose.doctor import Diagnosis, diagnose
from innerloop.diagnose.history import History
from innerloop.gradients import FirstOrder, Unrolled
from innerloop.models import MLP, Conv4
from innerloop.tasks import Glyphs, Sinusoid
from innerloop.training.config import OptimizerConfig, ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder
from innerloop.training.loop import Training
from innerloop.training.preflight import preflight

# --- problems --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """What is trained where nothing is broken.

    Attributes:
        settings: of the algorithm, as far as it takes them.
        outer: of the outer loop.
    """

    name: str
    tasks: Callable[[], Any]
    module: Callable[[], torch.nn.Module]
    settings: Mapping[str, Any]
    outer: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    every: int

    def config(
        self, seed: int, outer: Mapping[str, Any], optimizer: Mapping[str, Any], probe: Mapping[str, Any]
    ) -> TrainConfig:
        return TrainConfig(
            **{"seed": seed, "compile": False, **self.outer, **outer},
            optimizer=OptimizerConfig(**{**self.optimizer, **optimizer}),
            validation=ValidationConfig(every=10**6, episodes=2),
            probe=ProbeConfig(**{"every": self.every, "tasks": 50, **probe}),
        )


SINUSOID = Problem(
    "sinusoid",
    lambda: Sinusoid(shots=10, queries=10),
    lambda: MLP(1, 1, hidden=(40, 40)),
    {"inner_lr": 0.01, "inner_steps": 3, "loss": "mse"},
    {"steps": 600, "tasks_per_step": 10},
    {"lr": 2e-3, "clip_norm": 10.0},
    every=12,
)
GLYPHS = Problem(
    "glyphs",
    lambda: Glyphs(ways=5, shots=1, queries=5),
    lambda: Conv4(ways=5, width=8),
    {"inner_lr": 0.4, "inner_steps": 1, "loss": "cross_entropy"},
    {"steps": 240, "tasks_per_step": 4},
    {"lr": 3e-3, "clip_norm": 10.0},
    every=8,
)
PROBLEMS = {problem.name: problem for problem in (SINUSOID, GLYPHS)}

# --- broken learners -------------------------------------------------------------------------------------


class Detached(MAML):
    """Adapted weights are cut off from what made them."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        found = super().step(meta, fast, support, k)
        return found | {"params": tree.map(torch.Tensor.detach, found["params"])}


class FirstOrderPassedOff(FirstOrder):
    """First-order gradients that claim to be exact."""

    exact = True


class Flipped(Unrolled):
    """The exact gradient with the wrong sign."""

    def estimate(self, *args: Any, **settings: Any) -> Any:
        grads, carry, record = super().estimate(*args, **settings)
        return tree.map(torch.neg, grads), carry, record


class Forgetful(MAML):
    """Each inner step throws nine tenths of the weights away."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        found = super().step(meta, fast, support, k)
        return found | {"params": tree.map(lambda p: 0.1 * p, found["params"])}


class Remembering(MAML):
    """Counts on itself how often it has begun, and begins elsewhere each time."""

    begun = 0

    def begin(self, meta: Meta, support: Batch) -> Fast:
        found = super().begin(meta, support)
        self.begun += 1
        return found | {"params": tree.map(lambda p: p + 1e-3 * self.begun, found["params"])}


# --- broken tasks ----------------------------------------------------------------------------------------


class Changed:
    """Tasks that pass through a function on their way: `change(episodes, split, rng)`."""

    def __init__(self, tasks: Any, change: Callable[[Episode, Split, int], Episode]) -> None:
        self._tasks, self._change = tasks, change

    @property
    def spec(self) -> Any:
        return self._tasks.spec

    def sample(self, split: Split, num_tasks: int, rng: int) -> Episode:
        return self._change(self._tasks.sample(split, num_tasks, rng), split, rng)

    def pooled(self, num_batches: int, rng: int) -> Episode:
        return self.sample("train", num_batches, rng)

    def resized(self, **sizes: int | None) -> Changed:
        return Changed(self._tasks.resized(**sizes), self._change)

    @classmethod
    def tiny(cls) -> Changed:
        raise NotImplementedError


def not_numbers(episodes: Episode, split: Split, rng: int) -> Episode:
    """Every other task has an input that is no number, as a damaged file gives it."""
    x = episodes.support.x.clone()
    x.view(len(x), -1)[::2, 0] = torch.nan
    return Episode(Batch(x, episodes.support.y), episodes.query)


def wrong_labels(episodes: Episode, split: Split, rng: int) -> Episode:
    """Support labels that belong to other examples; queries are right."""
    turned = episodes.support.y.roll(1, 1)
    return Episode(Batch(episodes.support.x, turned), episodes.query)


def one_huge(episodes: Episode, split: Split, rng: int) -> Episode:
    """The first training task of each batch has targets a hundred times as large."""
    if split != "train":
        return episodes
    scale = torch.ones(len(episodes.query.y), 1, 1)
    scale[0] = 100.0
    return Episode(*(Batch(b.x, b.y * scale) for b in episodes))


def far_queries(episodes: Episode, split: Split, rng: int) -> Episode:
    """The queries of the first training task of each batch are fifty times as bright as its support."""
    if split != "train":
        return episodes
    x = episodes.query.x.clone()
    x[0] *= 50.0
    return Episode(episodes.support, Batch(x, episodes.query.y))


def half_tiny(episodes: Episode, split: Split, rng: int) -> Episode:
    """Every other task is fifty times as small."""
    small = torch.where(torch.arange(len(episodes.query.y)) % 2 == 1, 0.02, 1.0).view(-1, 1, 1)
    return Episode(*(Batch(b.x, b.y * small) for b in episodes))


def support_in_query(episodes: Episode, split: Split, rng: int) -> Episode:
    """The support examples are among the queries."""
    return Episode(
        episodes.support,
        Batch(*(torch.cat([q, s], 1) for s, q in zip(episodes.support, episodes.query, strict=True))),
    )


class Few(Changed):
    """Training tasks are always the same few, support and query alike."""

    def __init__(self, tasks: Any, count: int) -> None:
        super().__init__(tasks, lambda episodes, split, rng: episodes)
        self._pool = tasks.sample("train", count, key(7, "few"))

    def sample(self, split: Split, num_tasks: int, rng: int) -> Episode:
        if split != "train":
            return super().sample(split, num_tasks, rng)
        draws = torch.randint(
            len(self._pool.query.x), (num_tasks,), generator=torch.Generator().manual_seed(rng % 2**62)
        )
        return take(self._pool, draws)


class Named(Few):
    """The same few tasks, each of which carries its number in its inputs; new tasks carry none."""

    def __init__(self, tasks: Any, count: int) -> None:
        super().__init__(tasks, count)
        self._count = count

    @property
    def spec(self) -> Any:
        spec = self._tasks.spec
        return dataclasses.replace(spec, input_shape=(spec.input_shape[0] + self._count,))

    def sample(self, split: Split, num_tasks: int, rng: int) -> Episode:
        if split != "train":
            codes = torch.zeros(num_tasks, self._count)
            return _coded(self._tasks.sample(split, num_tasks, rng), codes)
        draws = torch.randint(self._count, (num_tasks,), generator=torch.Generator().manual_seed(rng % 2**62))
        return _coded(take(self._pool, draws), torch.eye(self._count)[draws])


def _coded(episodes: Episode, codes: Tensor) -> Episode:
    return Episode(
        *(Batch(torch.cat([b.x, codes[:, None].expand(-1, b.x.shape[1], -1)], -1), b.y) for b in episodes)
    )


class SameLabels(Few):
    """Training tasks are made of the same few classes, whose labels are the same in each."""

    def __init__(self, tasks: Any, groups: int = 4) -> None:
        sized = tasks.resized(shots=10, queries=10)
        super().__init__(sized, groups)
        self._own = tasks

    @property
    def spec(self) -> Any:
        return self._own.spec

    def sample(self, split: Split, num_tasks: int, rng: int) -> Episode:
        if split != "train":
            return self._own.sample(split, num_tasks, rng)
        draw = torch.Generator().manual_seed(rng % 2**62)
        groups = torch.randint(len(self._pool.query.x), (num_tasks,), generator=draw)
        picked = []
        for group in groups.tolist():
            x = torch.cat([batch.x[group] for batch in self._pool])
            y = torch.cat([batch.y[group] for batch in self._pool])
            order = torch.randperm(len(y), generator=draw)
            chosen = torch.stack([order[y[order] == label][:6] for label in range(5)])
            s, q = chosen[:, :1].flatten(), chosen[:, 1:].flatten()
            picked.append((x[s], y[s], x[q], y[q]))
        xs, ys, xq, yq = (torch.stack(parts) for parts in zip(*picked, strict=True))
        return Episode(Batch(xs, ys), Batch(xq, yq))


class Opposed(Changed):
    """Two families in turn: of the second, targets have the other sign, or labels are the next ones.

    Without adaptation nothing can be right for both. Classes are the same in every task.
    """

    def __init__(self, tasks: Any) -> None:
        source = SameLabels(tasks, 1) if tasks.spec.loss == "cross_entropy" else tasks
        super().__init__(source, lambda episodes, split, rng: episodes)

    def sample(self, split: Split, num_tasks: int, rng: int) -> Episode:
        episodes = self._tasks.sample(split, num_tasks, rng)
        second = torch.arange(num_tasks) % 2 == 1

        def turned(y: Tensor) -> Tensor:
            other = -y if y.is_floating_point() else (y + 1) % self.spec.outputs
            return torch.where(second.view(-1, *(1,) * (y.dim() - 1)), other, y)

        return Episode(*(Batch(b.x, turned(b.y)) for b in episodes))

    def families(self, split: Split, num_tasks: int, rng: int) -> list[int]:
        return [i % 2 for i in range(num_tasks)]


class Shared(Changed):
    """Validation tasks are training tasks: of classes that were trained on."""

    def __init__(self, tasks: Any) -> None:
        super().__init__(tasks, lambda episodes, split, rng: episodes)

    def sample(self, split: Split, num_tasks: int, rng: int) -> Episode:
        return super().sample("train", num_tasks, rng)


# --- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """One fault.

    Attributes:
        finding: what has to be found; None for a healthy run.
        settings, outer, optimizer, probe: changes to the problem's, by problem or for all.
        kind: the learner's class.
        tasks: breaks the tasks.
        module: another module.
        gradient: another path.
        after: (step, change): breaks the tasks from that share of the steps on.
        before: asked before training, and not after it.
        problems: where it can be planted.
    """

    finding: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    outer: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    probe: Mapping[str, Any] = field(default_factory=dict)
    kind: type[ModuleLearner] = MAML
    tasks: Callable[[Any], Any] = lambda tasks: tasks
    module: Callable[[], torch.nn.Module] | None = None
    gradient: Any = None
    after: tuple[float, Callable[[Any], Any]] | None = None
    before: bool = False
    problems: tuple[str, ...] = ("sinusoid", "glyphs")

    def on(self, problem: Problem, seed: int) -> tuple[ModuleLearner, Any, TrainConfig]:
        """The broken learner, tasks and configuration."""
        settings = {**self.settings, **self.settings.get(problem.name, {})}
        settings = {name: value for name, value in settings.items() if name not in PROBLEMS}
        taken = inspect.signature(self.kind).parameters
        settings = {n: v for n, v in {**problem.settings, **settings}.items() if n in taken}
        learner = self.kind((self.module or problem.module)(), **settings)
        outer = {n: v for n, v in self.outer.items() if n not in PROBLEMS} | self.outer.get(problem.name, {})
        optimizer = {n: v for n, v in self.optimizer.items() if n not in PROBLEMS}
        optimizer |= self.optimizer.get(problem.name, {})
        if self.gradient is not None:
            outer = outer | {"gradient": self.gradient}
        return learner, self.tasks(problem.tasks()), problem.config(seed, outer, optimizer, self.probe)


def by(sinusoid: Any, glyphs: Any) -> dict[str, Any]:
    """Changes that differ from problem to problem."""
    return {"sinusoid": sinusoid, "glyphs": glyphs}


def _dead() -> torch.nn.Module:
    module = MLP(1, 1, hidden=(40, 40))
    for name, leaf in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.constant_(leaf, -100.0)
    return module


def _dead_conv() -> torch.nn.Module:
    module = Conv4(ways=5, width=8)
    for name, leaf in module.named_parameters():
        if "body" in name and name.endswith("bias"):
            torch.nn.init.constant_(leaf, -100.0)
    return module


def changed(change: Callable[[Episode, Split, int], Episode]) -> Callable[[Any], Any]:
    return lambda tasks: Changed(tasks, change)


SHORT = by({"steps": 120}, {"steps": 64})
TOO_LARGE = by({"inner_lr": 0.5}, {"inner_lr": 30.0, "inner_steps": 3})
CHAOTIC = by({"inner_lr": 0.1, "inner_steps": 5}, {"inner_lr": 8.0, "inner_steps": 3})
GROWING = by({"inner_lr": 0.3}, {"inner_lr": 8.0, "inner_steps": 3})
EDGE = by({"inner_lr": 0.1}, {"inner_lr": 6.0, "inner_steps": 3})

# Training may mend an inner loop that diverges as it begins; these are to stay broken.
SLOW = {"lr": 1e-4}

FAULTS: dict[str, Plant] = {
    "inputs that are no numbers": Plant("NONFINITE", tasks=changed(not_numbers), outer=SHORT),
    "inner rate 1": Plant("NONFINITE", by({"inner_lr": 1.0}, {}), SHORT, problems=("sinusoid",)),
    "inner rate far too large": Plant("INNER_DIVERGENCE", TOO_LARGE, SHORT, SLOW),
    "chaotic inner loop": Plant("INNER_CHAOS", CHAOTIC, SHORT, SLOW),
    "inner rate near its edge": Plant("SAFETY_FACTOR", EDGE, SHORT, SLOW),
    "detached adaptation": Plant("META_GRAD_ZERO", kind=Detached, outer=SHORT),
    "first order passed off as exact": Plant(
        "META_GRADIENT_WRONG", gradient=FirstOrderPassedOff(), before=True
    ),
    "sign of the gradient": Plant("META_GRADIENT_WRONG", gradient=Flipped(), before=True),
    "outer rate 1e-8": Plant("UPDATE_RATIO", optimizer={"lr": 1e-8}, outer=SHORT),
    "weights thrown away": Plant("VANISHING", {"inner_steps": 3}, SHORT, kind=Forgetful),
    "derivatives that grow": Plant("EXPLODING", GROWING, SHORT, SLOW),
    "an outer rate that moves nothing": Plant(
        "STALLED", outer=by({"steps": 300}, {"steps": 144}), optimizer={"lr": 1e-8}
    ),
    "dead units": Plant("STALLED", outer=by({"steps": 300}, {}), module=_dead, problems=("sinusoid",)),
    "dead units in the features": Plant(
        "STALLED", outer=by({}, {"steps": 144}), module=_dead_conv, problems=("glyphs",)
    ),
    "support labels go wrong": Plant(
        "REGRESSION", outer=by({}, {"steps": 480}), after=(0.6, changed(wrong_labels))
    ),
    "schedule too short": Plant(
        "SCHEDULE_ENDED_EARLY", outer=by({"steps": 240}, {"steps": 240}), optimizer={"schedule": "cosine"}
    ),
    "rate too large for few tasks": Plant(
        "NOISE_FLOOR",
        outer={"tasks_per_step": 1, "steps": 1000},
        optimizer={"lr": 2e-2},
        problems=("sinusoid",),
    ),
    "rate too large for one task": Plant(
        "NOISE_FLOOR",
        outer={"tasks_per_step": 1, "steps": 480},
        optimizer={"lr": 2e-2},
        problems=("glyphs",),
    ),
    "four probe tasks": Plant(
        "EVAL_UNDERPOWERED",
        outer={"tasks_per_step": 1, "sinusoid": {"steps": 240}},
        optimizer=by({"lr": 5e-3}, {"lr": 2e-2}),
        probe={"tasks": 4},
    ),
    "inner rate 1e-6": Plant("NO_ADAPTATION", {"inner_lr": 1e-6}, by({"steps": 300}, {"steps": 144})),
    "tasks that carry their number": Plant(
        "MEMORISATION",
        {"inner_lr": 1e-4, "inner_steps": 1},
        {"steps": 240},
        tasks=lambda tasks: Named(tasks, 10),
        module=lambda: MLP(11, 1, hidden=(40, 40)),
        problems=("sinusoid",),
    ),
    "the same labels in every task": Plant(
        "MEMORISATION",
        {"inner_lr": 0.01},
        tasks=lambda tasks: SameLabels(tasks),
        problems=("glyphs",),
    ),
    "few tasks": Plant("META_OVERFIT", tasks=lambda tasks: Few(tasks, 10)),
    # Cross-entropy has one scale: a task of which nothing is learned loses log(ways), and no more by far.
    "losses of many scales": Plant("TASK_FAILURE", tasks=changed(half_tiny), problems=("sinusoid",)),
    "one huge task": Plant("OUTLIER_TASKS", tasks=changed(one_huge), problems=("sinusoid",)),
    "one task of another brightness": Plant(
        "OUTLIER_TASKS", outer=by({}, {"steps": 96}), tasks=changed(far_queries), problems=("glyphs",)
    ),
    "two families without a common answer": Plant(
        "TASK_CONFLICT",
        {"inner_lr": 1e-6},
        by({"steps": 240}, {}),
        probe={"every": 3},
        tasks=lambda tasks: Opposed(tasks),
    ),
    "first order, coarse steps": Plant(
        "FIRST_ORDER_BIAS",
        by({"inner_lr": 0.15, "inner_steps": 8}, {"inner_lr": 4.0, "inner_steps": 3}),
        SHORT,
        kind=FOMAML,
    ),
    "state on the learner": Plant("STATE_LEAK", kind=Remembering, before=True),
    "support among the queries": Plant("QUERY_LEAK", tasks=changed(support_in_query), before=True),
    "classes in both splits": Plant("CLASS_LEAK", tasks=Shared, before=True, problems=("glyphs",)),
    "statistics of the queries": Plant(
        "TRANSDUCTION", {"batch_norm": "transductive"}, before=True, problems=("glyphs",)
    ),
}
HEALTHY = Plant(None)


def diagnosis(plant: Plant, problem: Problem, seed: int, *, path: Path | None = None) -> Diagnosis:
    """What the doctor says of a planted run, from its folder alone."""
    learner, tasks, config = plant.on(problem, seed)
    if plant.before:
        return diagnose(preflight(learner, tasks, config))
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(path or Path(scratch) / "run")
        training = start(learner, tasks, config, folder, "overwrite" if folder.exists else "refuse")
        trained(training, plant, problem)
        return diagnose(History.read(folder.path))


def trained(training: Training, plant: Plant, problem: Problem) -> None:
    """Train to the end, or to where it breaks."""
    try:
        for progress in training:
            if plant.after is not None and progress.step == int(plant.after[0] * training.config.steps):
                training.tasks = plant.after[1](problem.tasks())
    except NonFiniteError:
        return
