"""The configuration of a run: typed, checked, and the same in YAML, on the command line and in Python."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from innerloop.core.errors import ConfigError, check_count, check_range, nearest, unknown
from innerloop.core.vectorise import check_axis
from innerloop.training.adversary import AdversaryConfig
from innerloop.training.components import Plain, converted
from innerloop.training.paths import GradientChoice, as_gradient, plain
from innerloop.training.retain.config import RetainConfig

Precision: TypeAlias = Literal["float32", "bfloat16"]
Aggregate: TypeAlias = Literal["mean", "DualProj", "IMTLG", "MGDA", "PCGrad", "UPGrad"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The outer optimizer, its schedule, and what is done to gradients before it.

    Args:
        name: an optimizer of `torch.optim`.
        lr: initial rate, > 0.
        momentum: of SGD and RMSprop, in [0, 1).
        beta1, beta2: of Adam and AdamW.
        weight_decay: AdamW's decoupled decay; for the others use `l2`.
        schedule: `constant`, `linear` and `cosine` from `lr` to `min_lr` over all steps, or `step`:
            times `decay` after every `decay_every` steps.
        min_lr: where `linear` and `cosine` end.
        decay: the factor of `step`, >= 0.
        decay_every: outer steps between two uses of `decay`.
        warmup: steps over which the rate rises linearly from 0.
        clip_value, clip_norm: bounds on each entry, and on the norm, of the meta-gradient; None is none.
        l1, l2: weights of sum |w| and of sum w^2 / 2 over the meta-parameters, added to the outer loss.
        average: decay, in [0, 1), of a moving average of the meta-parameters over outer steps, which is
            judged, and kept as best, in their place: of the last 1 / (1 - decay) steps or so. None is none.
        aggregate: how the mean gradients of families of tasks become one: `mean` over all tasks, or an
            aggregator of the extra `torchjd` that avoids conflicts between families. Only tasks that know
            families (`Mixture`) have more than one.
    """

    name: Literal["Adam", "AdamW", "RMSprop", "SGD"] = "Adam"
    lr: float = 1e-3
    momentum: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    min_lr: float = 0.0
    warmup: int = 0
    decay: float = 0.5
    decay_every: int = 2000
    clip_value: float | None = None
    clip_norm: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    average: float | None = None
    aggregate: Aggregate = "mean"

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, low=0.0, open_low=True)
        check_count("optimizer.warmup", self.warmup, low=0)
        for name in ("min_lr", "weight_decay", "l1", "l2", "decay"):
            check_range(f"optimizer.{name}", getattr(self, name), low=0.0)
        for name in ("momentum", "beta1", "beta2"):
            check_range(f"optimizer.{name}", getattr(self, name), low=0.0, high=1.0 - 1e-9)
        check_count("optimizer.decay_every", self.decay_every, low=1)
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                check_range(f"optimizer.{name}", getattr(self, name), low=0.0, open_low=True)
        if self.average is not None:
            check_range("optimizer.average", self.average, low=0.0, high=1.0 - 1e-9)
        if self.aggregate not in get_args(Aggregate):
            raise unknown("optimizer.aggregate", str(self.aggregate), get_args(Aggregate))

    def rate(self, step: int, steps: int) -> float:
        """The rate of outer step `step` (from 0) of `steps`: a pure function, so it needs no state."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, step / max(1, steps))
        if self.schedule == "cosine":
            return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "linear":
            return self.min_lr + (self.lr - self.min_lr) * (1 - done)
        if self.schedule == "step":
            return self.lr * self.decay ** (step // self.decay_every)
        return self.lr


@dataclass(frozen=True)
class ObjectiveConfig:
    """What of the tasks' losses is minimised, and how that changes over training; the usual is their mean.

    Shares are of the outer steps, and begin with the first.

    Args:
        normalise: divide each task's loss by that of the best predictor that ignores inputs, so that no task
            counts more because its targets are large. Classes: no difference, they share one such predictor.
        worst: the share of a step's tasks that is trained on, those of the largest loss after adaptation, in
            (0, 1]; 1 is all. The mean over them is the conditional value at risk. Every task is adapted once
            more, to find them, and the loss in the metrics is theirs.
        curriculum: the share of training over which tasks go from easy to hard, in [0, 1]: of twice as many
            at first, and fewer and fewer, those of the smallest loss after adaptation are trained on. All
            that are drawn are adapted once more, to find them.
        joint: weight, >= 0, of the loss on support and query together before adaptation, which is multi-task
            learning without episodes, beside the query loss. One more forward and backward pass.
        joint_until: the share of training, in (0, 1], over which that weight falls linearly to 0; None keeps
            it.
        first_order_until: the share of training, in [0, 1], in which first-order gradients, cheaper ones,
            stand in for exact ones.
    """

    normalise: bool = False
    worst: float = 1.0
    curriculum: float = 0.0
    joint: float = 0.0
    joint_until: float | None = None
    first_order_until: float = 0.0

    def __post_init__(self) -> None:
        check_range("objective.worst", self.worst, low=0.0, high=1.0, open_low=True)
        check_range("objective.joint", self.joint, low=0.0)
        for name in ("curriculum", "first_order_until"):
            check_range(f"objective.{name}", getattr(self, name), low=0.0, high=1.0)
        if self.joint_until is not None:
            check_range("objective.joint_until", self.joint_until, low=0.0, high=1.0, open_low=True)

    @property
    def chooses(self) -> bool:
        """Whether tasks have weights that differ, so that it has to be known whose gradient is whose."""
        return self.normalise or self.worst < 1.0 or self.curriculum > 0.0

    def candidates(self, tasks: int, progress: float) -> int:
        """How many tasks are drawn at a point of training, to keep `tasks` of them."""
        if progress >= self.curriculum:
            return tasks
        return tasks + math.ceil(tasks * (1.0 - progress / self.curriculum))

    def joint_at(self, progress: float) -> float:
        """The weight of the joint loss at a point of training."""
        return self.joint * (1.0 if self.joint_until is None else max(0.0, 1.0 - progress / self.joint_until))


@dataclass(frozen=True)
class ValidationConfig:
    """How often, and on how many fixed tasks of the validation classes, a run is judged.

    Args:
        every: outer steps between two looks; None looks 20 times in a run.
        episodes: number of tasks, the same at every look.
    """

    every: int | None = None
    episodes: int = 100

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count("validation.every", self.every, low=1)
        check_count("validation.episodes", self.episodes, low=2)


@dataclass(frozen=True)
class ProbeConfig:
    """What is measured of a run while it trains, for its verdict and the doctor; it changes no result.

    Args:
        level: `off`, or `standard`: measured wherever there is a run folder to write to.
        every: outer steps between two looks; None is as often as a tenth of the training time allows.
        tasks: fixed tasks of the validation classes, at most, >= 4; half as many of the training classes.
        epsilon: relative change of the loss over a window that counts as none, > 0.
    """

    level: Literal["off", "standard"] = "standard"
    every: int | None = None
    tasks: int = 100
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count("probe.every", self.every, low=1)
        check_count("probe.tasks", self.tasks, low=4)
        check_range("probe.epsilon", self.epsilon, low=0.0, open_low=True)


@dataclass(frozen=True)
class TrainConfig:
    """Everything about the outer loop.

    Args:
        steps: outer steps.
        tasks_per_step: tasks in each.
        seed: of weights, tasks and everything else.
        start: a run folder: training begins with those of its best weights that have the names and shapes of
            the model's; None begins with fresh ones. A run that is resumed does not read it again.
        gradient: how the meta-gradient is obtained: an object of `innerloop.gradients`, its name, or
            its name with arguments; None is the algorithm's own way.
        tasks_axis: `auto`, `vmap`, `loop` or a chunk size: changes speed and memory, and results by
            rounding alone: chunks are gradient accumulation over tasks, so that many tasks a step need the
            memory of one chunk. `auto` measures on long runs; a fixed choice repeats bitwise.
        memory: GB that a meta-step may take: `auto` is a share of what is free, none is no bound. An
            exact gradient that needs more is computed in smaller chunks, then by recomputing.
        compile: run meta-steps as compiled graphs: `true`, `false`, or `auto`, which does so on a CPU where
            kernels are small and steps many. Compiling takes tens of seconds, less when it was done before.
        precision: of forward passes in meta-steps, `float32` or `bfloat16`; parameters and
            meta-gradients are float32.
        device: `cpu`, `cuda` or `mps`.
        threads: CPU threads of torch; None leaves torch's choice.
        log_every: outer steps between two lines of `metrics.jsonl`.
        checkpoint_every: outer steps between two checkpoints; None is at every validation.
        log: `none`, or `tensorboard` for event files in the run folder.
        optimizer: the outer optimizer, its schedule, and bounds on its gradient.
        objective: what of the tasks' losses is minimised.
        retain: what is done against forgetting earlier tasks.
        adversary: whether training tasks are attacked, so that small changes of an input change no answer.
        validation: how often the run is judged, and on how many tasks.
        probe: what is measured for the verdict and the doctor.
        stop: `never` before the last step, or `when-converged`: as soon as the verdict is CONVERGED or
            WORSENING. Then the best checkpoint is the earliest that is not worse than any later one.
    """

    steps: int = 1000
    tasks_per_step: int = 4
    seed: int = 0
    start: str | None = None
    gradient: GradientChoice = None
    tasks_axis: Literal["auto", "vmap", "loop"] | int = "auto"
    memory: Literal["auto"] | float | None = "auto"
    precision: Precision = "float32"
    compile: Literal["auto"] | bool = "auto"
    device: str = "cpu"
    threads: int | None = None
    log_every: int = 10
    checkpoint_every: int | None = None
    log: Literal["none", "tensorboard"] = "none"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    retain: RetainConfig = field(default_factory=RetainConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    stop: Literal["never", "when-converged"] = "never"

    def __post_init__(self) -> None:
        for name in ("steps", "tasks_per_step", "log_every"):
            check_count(name, getattr(self, name), low=1)
        for name in ("threads", "checkpoint_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), low=1)
        check_count("seed", self.seed, low=0)
        if self.stop == "when-converged" and self.probe.level == "off":
            raise ConfigError(
                "stop = 'when-converged' with probe.level = 'off'",
                expected="a probe to judge convergence by",
                do="leave probe.level at standard",
            )
        check_axis(self.tasks_axis)
        if self.memory not in ("auto", None):
            check_range("memory", self.memory, low=0.0, open_low=True)
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision = {self.precision!r}", expected="float32 or bfloat16", do="choose one of these"
            )
        object.__setattr__(self, "gradient", as_gradient(self.gradient))  # frozen: one form from here on

    @property
    def validate_every(self) -> int:
        """Outer steps between two validations."""
        return self.validation.every or max(1, self.steps // 20)

    def to_dict(self) -> dict[str, Plain]:
        """Plain values, as they stand in `config.yaml`."""
        values = dataclasses.asdict(dataclasses.replace(self, gradient=None))
        return values | {"gradient": plain(as_gradient(self.gradient))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Plain]) -> TrainConfig:
        """The configuration that plain values describe; unknown keys are refused with the nearest name."""
        return _typed(cls, values, "")


def _typed(cls: type[Any], values: Mapping[str, Plain], prefix: str) -> Any:
    hints = get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        full = f"{prefix}{name}"
        if name not in hints:
            near = nearest(name, hints)
            raise ConfigError(
                f"unknown setting {full}",
                expected=f"one of {', '.join(prefix + known for known in hints)}",
                do=f"did you mean {prefix}{near}?" if near else "remove it",
            )
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{full} = {value!r}", expected="settings by name", do=f"give {full}.<setting>"
                )
            arguments[name] = _typed(hints[name], value, f"{full}.")
        elif hints[name] == GradientChoice:
            arguments[name] = as_gradient(value)
        else:
            arguments[name] = converted(hints[name], value, full)
    return cls(**arguments)
