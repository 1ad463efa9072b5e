"""Hundreds of classes, one after another, each drawing seen once: what is left of them at the end.

`python benchmarks/class_incremental.py --root FOLDER --minutes 15`. Each method is trained on the training
characters of Omniglot for so many minutes of one core. Its features are then held, and a linear head that
begins at zero reads test trajectories of 15 drawings a character, one drawing a step, in their order; it is
judged on 5 other drawings of every character seen. Optimizer and rate of each method and length are those
that do best on validation trajectories.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tables
import torch
from machine import entry
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import innerloop as il
from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.head import HeadLearner
from innerloop.core.types import Meta, Split
from innerloop.evaluate.statistics import Summary, paired_difference, summarise
from innerloop.tasks import ClassIncrementalOmniglot
from innerloop.training.config import OptimizerConfig, ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder

Optimizer = tuple[str, float]  # "SGD" or "Adam", and its rate

WIDTH, OUTPUTS = 64, 800  # filters of a block; an output for each of 792 training characters, and a few more
PASSES = 3  # of the head through drawings in random order, for the upper bound
#: What the head is trained with, of which validation trajectories choose.
OPTIMIZERS: list[Optimizer] = [("SGD", rate) for rate in (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)]
OPTIMIZERS += [("Adam", rate) for rate in (0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)]
#: The same for a whole network, whose every step costs more.
WHOLE: list[Optimizer] = [("Adam", rate) for rate in (0.0003, 0.0001, 0.00003, 0.00001)]
WHOLE += [("SGD", rate) for rate in (0.01, 0.003, 0.001)]


# --- training --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """What is trained: `learner` makes it anew, `tasks_per_step` trajectories (or batches) an outer step.

    It begins with the weights of the method `after`, which then has half of the time, or with fresh ones.
    """

    learner: Callable[[], ModuleLearner]
    tasks_per_step: int = 1
    lr: float = 1e-3
    after: str | None = None


def network(ways: int | None = OUTPUTS) -> il.models.Conv4:
    """Four blocks without BatchNorm that end in 576 features, and a linear head."""
    return il.models.Conv4(ways, width=WIDTH, norm="none", pooling="max", halvings=3)


METHODS: dict[str, Method] = {
    "OML": Method(lambda: il.algorithms.OML(network(), inner_lr=0.03, inner_steps=15)),
    "OML after pretraining": Method(
        lambda: il.algorithms.OML(network(), inner_lr=0.03, inner_steps=15), lr=5e-4, after="pretraining"
    ),
    "ANML": Method(lambda: il.algorithms.ANML(network(), inner_lr=0.03, inner_steps=15)),
    "pretraining": Method(lambda: il.algorithms.Baseline(network(None), classes=792), tasks_per_step=2),
}


def trained(name: str, tasks: ClassIncrementalOmniglot, args: argparse.Namespace) -> tuple[Any, Meta]:
    """A method's learner and its meta-parameters: of an earlier run in `--out`, or trained now."""
    method, minutes, before = METHODS[name], args.minutes, None
    if method.after is not None:
        minutes, before = minutes / 2, args.out / f"{name}, first"
        _run(METHODS[method.after], tasks, args, place=before, minutes=minutes)
    return _run(method, tasks, args, place=args.out / name, minutes=minutes, before=before)


def _run(
    method: Method,
    tasks: ClassIncrementalOmniglot,
    args: argparse.Namespace,
    *,
    place: Path,
    minutes: float,
    before: Path | None = None,
) -> tuple[Any, Meta]:
    """The run of that folder, which is trained now if there is none, from the weights of the one before."""
    if (place / "config.yaml").is_file():
        run = il.load(place, checkpoint="last")  # as when it is trained now: no validation chose among steps
        return run.learner, run.meta
    began = time.process_time()
    deadline = began + 60.0 * minutes
    times = [time.process_time() for _ in start(method.learner(), tasks, _config(method, 24, args), None)]
    per_step = (times[-2] - times[3]) / (len(times) - 5)
    steps = max(2, int(0.97 * (deadline - time.process_time()) / per_step))
    training = start(method.learner(), tasks, _config(method, steps, args, before), RunFolder(place))
    for _ in training:
        if time.process_time() >= deadline:
            training.save()
            break
    spent = (time.process_time() - began) / 60
    tables.say(
        f"{place.name}: {training.state.step} of {steps} outer steps in {spent:.1f} minutes of one core"
    )
    return training.learner, training.state.meta


def _config(method: Method, steps: int, args: argparse.Namespace, before: Path | None = None) -> TrainConfig:
    return TrainConfig(
        start=None if before is None else str(before),
        steps=steps,
        tasks_per_step=method.tasks_per_step,
        seed=args.seed,
        threads=1,
        compile=False,
        tasks_axis="loop",
        log_every=50,
        optimizer=OptimizerConfig(lr=method.lr, schedule="cosine", clip_norm=10.0),
        validation=ValidationConfig(every=steps, episodes=2),
        probe=ProbeConfig(level="off"),
    )


# --- a head, online --------------------------------------------------------------------------------------


def online(x: Tensor, y: Tensor, classes: int, kind: str, rates: list[float]) -> Tensor:
    """Heads [R, classes, D] after one step on each example in turn, from zero, one head for each rate.

    Args:
        x: features of one trajectory [S, D]; `y`: its labels [S].
        kind: "SGD" or "Adam".
        rates: step sizes R.
    """
    head = torch.zeros(len(rates), classes, x.shape[1])
    first, second = torch.zeros_like(head), torch.zeros_like(head)
    rate = torch.tensor(rates)[:, None, None]
    for s, (here, label) in enumerate(zip(x, y.tolist(), strict=True)):
        error = torch.softmax(head @ here, -1)
        error[:, label] -= 1.0
        grad = error[..., None] * here
        if kind == "SGD":
            head -= rate * grad
            continue
        first.lerp_(grad, 0.1)
        second.mul_(0.999).addcmul_(grad, grad, value=0.001)
        scale = second.sqrt().div_((1 - 0.999 ** (s + 1)) ** 0.5).add_(1e-8)
        head -= rate * (first / scale) / (1 - 0.9 ** (s + 1))
    return head


def accuracy(head: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The share of right labels [R] of heads [R, C, D] on x [Q, D], y [Q]."""
    return ((x @ head.mT).argmax(-1) == y).float().mean(-1)


def judged(
    tasks: ClassIncrementalOmniglot,
    split: Split,
    count: int,
    chosen: Sequence[Optimizer],
    *,
    shuffled: int = 0,
) -> Tensor:
    """Accuracies [O, count] after one pass in order; or after `shuffled` passes in random orders."""
    (x, y), (queries, labels) = tasks.sample(split, count, 0)
    x, queries = (torch.cat([part, torch.ones_like(part[..., :1])], -1) for part in (x, queries))
    if shuffled:
        draw = torch.Generator().manual_seed(0)
        order = torch.cat([torch.randperm(x.shape[1], generator=draw) for _ in range(shuffled)])
        x, y = x[:, order], y[:, order]
    classes = int(y.max()) + 1
    kinds = {kind: [rate for other, rate in chosen if other == kind] for kind, _ in chosen}
    found = [
        torch.stack(
            [accuracy(online(x[i], y[i], classes, kind, rates), queries[i], labels[i]) for i in range(count)],
            1,
        )
        for kind, rates in kinds.items()
    ]
    return torch.cat(found)


def head_online(
    features: ClassIncrementalOmniglot, classes: int, args: argparse.Namespace, *, shuffled: int = 0
) -> tuple[list[float], Optimizer]:
    """Accuracy of each test trajectory, and the optimizer that validation trajectories chose."""
    shorter = features.resized(ways=min(classes, args.selection_classes))
    tried = judged(shorter, "val", args.selection, OPTIMIZERS, shuffled=shuffled).mean(1)
    best = OPTIMIZERS[int(tried.argmax())]
    scores = judged(features.resized(ways=classes), "test", args.trajectories, [best], shuffled=shuffled)
    return scores[0].tolist(), best


# --- a whole network, online -----------------------------------------------------------------------------


def network_online(
    tasks: ClassIncrementalOmniglot, classes: int, args: argparse.Namespace
) -> tuple[list[float], Optimizer]:
    """The same for a fresh network of which everything learns."""
    shorter = tasks.resized(ways=min(classes, args.whole_selection))
    tried = [sum(_network_after(shorter, "val", args.selection, one)) for one in WHOLE]
    best = WHOLE[max(range(len(WHOLE)), key=tried.__getitem__)]
    return _network_after(tasks.resized(ways=classes), "test", args.trajectories, best), best


def _network_after(
    tasks: ClassIncrementalOmniglot, split: Split, count: int, chosen: Optimizer
) -> list[float]:
    (x, y), (queries, labels) = tasks.sample(split, count, 0)
    fresh, scores = network(int(y.max()) + 1), []
    for i in range(count):
        net: nn.Module = copy.deepcopy(fresh)
        optimizer = getattr(torch.optim, chosen[0])(net.parameters(), lr=chosen[1])
        for image, label in zip(x[i], y[i], strict=True):
            optimizer.zero_grad()
            cross_entropy(net(image[None]), label[None]).backward()
            optimizer.step()
        with torch.no_grad():
            scores.append(float((net(queries[i]).argmax(1) == labels[i]).float().mean()))
    return scores


# --- the table -------------------------------------------------------------------------------------------


def features_of(learner: Any, meta: Meta, tasks: ClassIncrementalOmniglot) -> ClassIncrementalOmniglot:
    """The trajectories of a learner's features, scaled so that their mean square length is one hundred."""

    def made(x: Tensor) -> Tensor:
        if isinstance(learner, HeadLearner):
            found = learner.features_of(meta, x)
            assert found is not None, "its head is a linear layer"
            return found
        return learner.net.features(meta["params"], x)

    found = tasks.mapped(made, splits=("val", "test"))
    length = found.sample("val", 50, 0).support.x.square().sum(-1).mean().sqrt()
    return found.mapped(lambda x: x * (10.0 / length), splits=("val", "test"))


def contenders(args: argparse.Namespace) -> dict[str, Callable[[int], tuple[list[float], Optimizer]]]:
    """What is judged, by its name in the table: a function of the number of classes."""
    tasks = ClassIncrementalOmniglot(args.root, ways=3, shots=5, outputs=OUTPUTS)
    longer = tasks.resized(shots=15, queries=5)
    found: dict[str, Callable[[int], tuple[list[float], Optimizer]]] = {}
    kept: list[ClassIncrementalOmniglot] = []
    for name in args.methods:
        kept.append(features_of(*trained(name, tasks, args), longer))
        found[name] = lambda classes, features=kept[-1]: head_online(features, classes, args)
    if "head" in args.rivals:
        fresh = METHODS["pretraining"].learner()
        untrained = features_of(fresh, fresh.init(torch.Generator().manual_seed(args.seed)), longer)
        found["no training, head online"] = lambda classes: head_online(untrained, classes, args)
    if "network" in args.rivals:
        found["no training, all online"] = lambda classes: network_online(longer, classes, args)
    if "iid" in args.rivals and kept:
        told = f"{args.methods[0]}, in random order, {PASSES} passes"
        found[told] = lambda classes: head_online(kept[0], classes, args, shuffled=PASSES)
    return found


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of every contender at every number of classes, printed as they come."""
    scores: dict[str, dict[int, list[float]]] = {}
    record: list[dict[str, Any]] = []
    for name, judge in contenders(args).items():
        scores[name] = {}
        for classes in args.classes:
            if name.endswith("all online") and classes > args.whole_classes:
                continue
            scores[name][classes], best = judge(classes)
            one = {"method": name, "classes": classes, "best": best, "scores": scores[name][classes]}
            record.append(one)
            found = _percent(summarise(scores[name][classes]))
            tables.say(f"{name}, {classes} classes: {found} ({best[0]} {best[1]:g})")
    rows = [
        [name, *(_percent(summarise(by[n])) if n in by else "" for n in args.classes)]
        for name, by in scores.items()
    ]
    first = next(iter(scores))
    for name, by in list(scores.items())[1:]:
        gaps = (_percent(paired_difference(scores[first][n], by[n])) if n in by else "" for n in args.classes)
        rows.append([f"{first} less: {name}", *gaps])
    title = f"accuracy on all classes after one pass, %; {args.trajectories} trajectories, 95 % intervals"
    tables.show(title, ["", *(f"{n} classes" for n in args.classes)], rows)
    return {"minutes": args.minutes, "seed": args.seed, "found": record}


def _percent(found: Summary) -> str:
    return f"{100 * found.mean:.1f} +- {100 * found.ci95:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn test characters one after another, in one pass.")

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def names(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    def add(name: str, default: Any, told: str, kind: Callable[[str], Any] = int) -> None:
        parser.add_argument(f"--{name}", type=kind, default=default, help=told)

    parser.add_argument("--root", required=True, help="folder with Omniglot's files")
    parser.add_argument("--out", type=Path, required=True, help="where trained runs are kept and found again")
    add("minutes", 15.0, "of training on one core, for each method", float)
    add("methods", ["OML after pretraining", "OML", "pretraining"], "to train", names)
    add("rivals", ["head", "network", "iid"], "beside them: untrained, and the upper bound", names)
    add("classes", [10, 50, 100, 200], "of test trajectories", numbers)
    add("trajectories", 10, "at test")
    add("selection", 2, "validation trajectories that choose a head's optimizer")
    add("selection-classes", 100, "at most, of these")
    add("whole-selection", 20, "classes at most, where the whole network's is chosen")
    add("whole-classes", 100, "up to which the whole network is judged")
    add("seed", 0, "of weights and training tasks")
    add("json", None, "where to write every figure", Path)
    parser.add_argument("--train-only", action="store_true", help="judge nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train_only:
        tasks = ClassIncrementalOmniglot(args.root, ways=3, shots=5, outputs=OUTPUTS)
        for name in args.methods:
            trained(name, tasks, args)
        return
    found = compared(args)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    entry(main)
