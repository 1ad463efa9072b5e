"""Whether a learner's meta-gradient is right: a verdict for anyone's learner and tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError, check_count, check_range
from innerloop.core.functional import FunctionalModule
from innerloop.core.learner import STATISTICS, MetaLearner
from innerloop.core.rng import Rng, generator, key
from innerloop.core.types import Batch, Episode, Meta, Split
from innerloop.core.vectorise import take
from innerloop.gradients.base import MetaGradient, learned
from innerloop.gradients.questioning import Subject
from innerloop.gradients.unrolled import Unrolled

_SHOWN = 12  # leaves that a printed report lists


class Samples(Protocol):
    """Tasks on demand, such as a source of `innerloop.tasks`."""

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode: ...


@dataclass(frozen=True)
class GradientCheck:
    """The verdict of `check_gradient`; true where it passed.

    Attributes:
        subject: what was checked, in words.
        exact: whether the path claims the true gradient, and was held to it.
        errors: for each leaf of `meta`, the largest deviation from difference quotients, as a share of the
            leaf's gradient; for a path that is not exact, from the exact gradient.
        problems: what is wrong, a sentence each; empty where the check passed.
        notes: what is worth knowing and not wrong: kinks, leaves that rightly have no gradient.
        cosine, length: for a path that is not exact: the cosine with the exact gradient, and its length as a
            multiple of that gradient's.
    """

    subject: str
    exact: bool
    errors: dict[str, float]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cosine: float | None = None
    length: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        lines = [f"{'passed' if self.passed else 'FAILED'}: {self.subject}"]
        lines += [f"  wrong: {problem}" for problem in self.problems]
        if self.cosine is not None:
            lines.append(
                "  not exact, and declared so: beside the exact gradient its "
                f"cosine is {self.cosine:.4f} and its length {self.length:.4f}"
            )
        if not self.errors:
            return "\n".join(lines)
        against = "difference quotients" if self.exact else "the exact gradient"
        lines.append(f"  largest relative deviation from {against}, by leaf:")
        worst = sorted(self.errors.items(), key=lambda item: -item[1])
        lines += [f"    {error:8.1e}  {name}" for name, error in worst[:_SHOWN]]
        lines += [f"    and {len(worst) - _SHOWN} more, all smaller"] if len(worst) > _SHOWN else []
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def check_gradient(
    learner: MetaLearner,
    tasks: Samples | Episode,
    *,
    meta: Meta | None = None,
    gradient: MetaGradient | None = None,
    num_tasks: int = 4,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> GradientCheck:
    """Compare a learner's meta-gradient with difference quotients of its outer objective, in float64.

    Every leaf of `meta` is moved along a direction and in a single coordinate, and all leaves together, at
    a random point close to the initial one (where zero biases would sit on the kink of a ReLU). Where kinks
    disturb the quotients, other steps and directions are tried; a leaf that none can judge is a note, not
    a failure. Also checked: that losses repeat and do not depend on other tasks, that recomputing steps and
    lifting tasks by `vmap` change nothing, and that every leaf is learned. The learner is left as it is.

    Args:
        learner: an algorithm of this package or of your own.
        tasks: a source of tasks, or stacked episodes [T, ...]. Small ones will do: the time grows with
            the number of leaves.
        meta: where to check; None is the learner's own initialisation.
        gradient: the path; None is the learner's own, else `Unrolled`. One that does not claim to be
            exact is compared with the exact gradient, and does not fail for being another.
        num_tasks: tasks of the mean, >= 1; with two or more, leaks between them are seen.
        seed: of the tasks, the initialisation, and the directions.
        tolerance: largest deviation, as a share of the leaf's gradient, > 0.

    >>> import innerloop as il
    >>> net = il.models.MLP(1, 1, hidden=(8,))
    >>> learner = il.algorithms.MAML(net, inner_steps=2, loss="mse")
    >>> verdict = il.check_gradient(learner, il.tasks.Sinusoid())
    >>> verdict.passed
    True
    >>> print(il.check_gradient(learner, il.tasks.Sinusoid(), gradient=il.gradients.FirstOrder()))
    ... # doctest: +ELLIPSIS
    passed: FirstOrder(...) of MAML on 4 tasks, in float64
      not exact, and declared so: beside the exact gradient its cosine is 0.9... and its length ...
      ...
    """
    check_count("num_tasks", num_tasks, low=1)
    check_range("tolerance", tolerance, low=0.0, open_low=True)
    if not isinstance(learner, MetaLearner):
        raise ConfigError(
            f"learner of type {type(learner).__name__}",
            expected="a MetaLearner",
            do="wrap a module in an algorithm, such as il.algorithms.MAML(module)",
        )
    path = gradient or getattr(learner, "gradient", None) or Unrolled()
    learner = copy.deepcopy(learner)
    episodes = _episodes(tasks, num_tasks, seed)
    start = learner.init(generator(seed, "init")) if meta is None else meta
    with float64_by_default():
        to_float64(learner)
        subject = Subject(learner, beside(start, seed), episodes, path, key(seed, "check"), tolerance)
        subject.ask(torch.Generator().manual_seed(seed))
    cosine, length = subject.beside or (None, None)
    count = len(episodes.support.x)
    return GradientCheck(
        f"{path} of {type(learner).__name__} on {count} task{'s' * (count > 1)}, in float64",
        path.exact,
        subject.errors,
        tuple(subject.problems),
        tuple(subject.notes),
        cosine,
        length,
    )


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Tensors that a learner makes in its steps are as precise as the rest."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _episodes(tasks: Samples | Episode, count: int, seed: int) -> Episode:
    if isinstance(tasks, Episode):
        drawn = take(tasks, slice(0, count))
    elif hasattr(tasks, "sample"):
        drawn = tasks.sample("train", count, key(seed, "check", "tasks"))
    else:
        raise ConfigError(
            f"tasks of type {type(tasks).__name__}",
            expected="a source with a method `sample`, or stacked episodes",
            do="pass il.tasks.Sinusoid(), or il.Episode(il.Batch(x, y), il.Batch(x, y)) with a task axis",
        )
    return Episode(*(Batch(_double(batch.x), _double(batch.y)) for batch in drawn))


def beside(meta: Meta, seed: int) -> Meta:
    """The point to check at: one hundredth of each leaf's size away."""
    rng = generator(seed, "check")
    for name, leaf in _named(meta):
        kind = f"of {leaf.dtype}" if isinstance(leaf, Tensor) else f"of type {type(leaf).__name__}"
        if not isinstance(leaf, Tensor) or not (leaf.is_floating_point() or name.startswith(STATISTICS)):
            raise ContractError(
                f"meta leaf {name!r} {kind}",
                expected="float tensors in a nested dict: what the outer loop learns",
                do="make it a float tensor, or keep it on the learner as a hyperparameter",
            )

    def nudged(leaf: Tensor) -> Tensor:
        size = float(leaf.square().mean().sqrt()) if leaf.numel() else 0.0
        return leaf + 0.01 * (size or 1.0) * torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype).to(leaf)

    double = tree.map(lambda leaf: _double(leaf.detach()), meta)
    return double | tree.map(nudged, learned(double))


def _named(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _named(child, f"{prefix}/{name}" if prefix else str(name))
    else:
        yield prefix, node


def to_float64(learner: MetaLearner) -> None:
    """Cast what a learner holds beside `meta`: modules, and tensors on itself."""
    for name, value in vars(learner).items():
        setattr(learner, name, _cast(value))


def _cast(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return value.double()
    if isinstance(value, FunctionalModule):
        value.to(torch.float64)  # pyright: ignore[reportArgumentType]
        return value
    rebuilt: dict[type, Callable[[], Any]] = {
        dict: lambda: {name: _cast(child) for name, child in value.items()},
        list: lambda: [_cast(child) for child in value],
        tuple: lambda: tuple(_cast(child) for child in value),
    }
    if type(value) in rebuilt:
        return rebuilt[type(value)]()
    return _double(value) if isinstance(value, Tensor) else value


def _double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf
