"""What training on attacked tasks buys and costs: `python benchmarks/adversarial.py --data DIR`.

A learner is trained twice on Omniglot 5-way 1-shot, on clean tasks and on attacked ones, with the same
seeds, tasks and outer steps. Both are judged on the same fixed test tasks: clean, and with queries (or with
`--attack support` the support set) that projected gradient descent has moved within a ball (ink is in
[0, 1]). Then the attack is questioned: whether more steps or more starts find more, whether examples made on
the other learner or plain noise are as bad (they must not be), and whether anything is left in a large ball.
Exit code 1 if robust accuracy does not double, or if the attack does not stand.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tables import say, show
from torch import Tensor

from innerloop.algorithms.anil import ANIL
from innerloop.algorithms.base import ModuleLearner
from innerloop.algorithms.maml import MAML
from innerloop.algorithms.protonet import ProtoNet
from innerloop.algorithms.ridge_head import RidgeHead
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.rng import fold_key, keyed_uniform
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import over_tasks
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.statistics import Summary, paired_difference, summarise
from innerloop.measure.attack import Attack, attacked_queries, attacked_supports
from innerloop.models import Conv4
from innerloop.tasks import Omniglot
from innerloop.tasks.base import TaskSource
from innerloop.training.adversary import AdversaryConfig
from innerloop.training.config import OptimizerConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import train

INK = (0.0, 1.0)
STEPS = 20  # of the attack that accuracy is judged under
TOLERATED = 0.02  # of accuracy that a stronger attack may find more
LARGE = 5  # times the radius: a ball in which nothing may be left

LEARNERS: dict[str, Callable[[int, int], ModuleLearner]] = {
    "ANIL": lambda ways, width: ANIL(Conv4(ways, width=width, pooling="stride"), inner_lr=0.4, inner_steps=3),
    "MAML": lambda ways, width: MAML(Conv4(ways, width=width, pooling="stride"), inner_lr=0.4, inner_steps=1),
    "ProtoNet": lambda _, width: ProtoNet(Conv4(None, width=width, pooling="stride")),
    "RidgeHead": lambda _, width: RidgeHead(Conv4(None, width=width, pooling="stride")),
}


@dataclass(frozen=True)
class Trained:
    """A learner after one training, and the seconds of one core that it took."""

    learner: ModuleLearner
    meta: Meta
    seconds: float


def trained(name: str, seed: int, radius: float, tasks: TaskSource, args: argparse.Namespace) -> Trained:
    learner = LEARNERS[name](tasks.spec.outputs, args.width)
    config = TrainConfig(
        steps=args.steps,
        tasks_per_step=4,
        seed=seed,
        threads=1,
        tasks_axis="vmap",
        compile=False,
        optimizer=OptimizerConfig(lr=3e-3, schedule="cosine"),
        adversary=AdversaryConfig(**{args.attack: radius}, clean=args.clean),
        validation=ValidationConfig(every=args.steps, episodes=25),  # the last state is what is judged
    )
    begun = time.process_time()
    run = train(learner, tasks, config=config)
    return Trained(learner, run.meta, time.process_time() - begun)


# --- judging ---------------------------------------------------------------------------------------------

#: What moves the inputs of a task, by a key.
Mover = Callable[[Episode, Tensor], Episode]


def accuracies(
    judged: Trained, tasks: TaskSource, episodes: int, move: Mover, *, starts: int = 1
) -> list[float]:
    """The share of queries of each test task that are answered right wherever they were moved, [episodes]."""

    def one_task(episode: Episode, key: Tensor) -> Tensor:
        right = torch.ones(len(episode.query.y), dtype=torch.bool)
        with running_in(training=False, first_order=True):
            for start in range(starts):
                support, query = move(episode, fold_key(key, start))
                fast = adapt(judged.learner, judged.meta, support, judged.learner.test_inner_steps)
                right = right & (judged.learner.predict(judged.meta, fast, query.x).argmax(-1) == query.y)
        return right.double().mean()

    found: list[float] = []
    for block, keys in FixedEpisodes("test", episodes).blocks(tasks):
        with torch.no_grad(), running_in(ways=tasks.spec.outputs):
            found += over_tasks(one_task, block, keys, axis="loop").tolist()
    return found


def clean(episode: Episode, key: Tensor) -> Episode:
    return episode


def noise(part: str, radius: float) -> Mover:
    """A uniform place in the ball."""

    def move(episode: Episode, key: Tensor) -> Episode:
        batch = getattr(episode, part)
        drawn = 2.0 * keyed_uniform(key, tuple(batch.x.shape)) - 1.0
        return episode._replace(**{part: Batch((batch.x + radius * drawn).clamp(*INK), batch.y)})

    return move


def ascent(on: Trained, part: str, radius: float, steps: int = STEPS) -> Mover:
    """Projected gradient ascent of the loss of a learner: the one that is judged, or another."""
    attack = Attack(radius, steps, bounds=INK)

    def move(episode: Episode, key: Tensor) -> Episode:
        inner = on.learner.test_inner_steps
        if part == "support":
            return attacked_supports(on.learner, on.meta, episode, attack, key, inner_steps=inner)
        fast = adapt(on.learner, on.meta, episode.support, inner)
        return Episode(
            episode.support, attacked_queries(on.learner, on.meta, fast, episode.query, attack, key)
        )

    return move


# --- the two questions -----------------------------------------------------------------------------------


def job(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One learner and seed: both trainings, judged, and the attack questioned."""
    torch.set_num_threads(1)
    tasks: Any = Omniglot.tiny() if args.quick else Omniglot(args.data, ways=5, shots=1, queries=5)
    both = {training: trained(name, seed, r, tasks, args) for training, r in _radii(args).items()}
    # Queries can all be made wrong; of a support set no attack leaves less than a guess.
    least = 1.0 / tasks.spec.outputs if args.attack == "support" else 0.0
    found: dict[str, Any] = {"algorithm": name, "seed": seed, "least": least}
    for training, judged in both.items():
        scores = {
            "clean": accuracies(judged, tasks, args.episodes, clean),
            "robust": accuracies(judged, tasks, args.episodes, ascent(judged, args.attack, args.radius)),
        }
        (other,) = (t for t in both if t != training)
        found[training] = scores | {
            "seconds": judged.seconds,
            "questions": questioned(judged, both[other], tasks, args),
        }
    return found


def questioned(
    judged: Trained, other: Trained, tasks: TaskSource, args: argparse.Namespace
) -> dict[str, float]:
    """Mean accuracy on the first test tasks under the attack, stronger ones, and weaker ones."""
    r, part = args.radius, args.attack

    def under(move: Mover, starts: int = 1) -> float:
        return summarise(accuracies(judged, tasks, args.questioned, move, starts=starts)).mean

    return {
        "usual": under(ascent(judged, part, r)),
        "steps": under(ascent(judged, part, r, 5 * STEPS)),
        "starts": under(ascent(judged, part, r), 5),
        "other": under(ascent(other, part, r)),
        "noise": under(noise(part, r)),
        "twice": under(ascent(judged, part, 2 * r)),
        "large": under(ascent(judged, part, min(1.0, LARGE * r))),
    }


def _radii(args: argparse.Namespace) -> dict[str, float]:
    return {"clean": 0.0, "attacked": args.radius}


# --- what is printed -------------------------------------------------------------------------------------


def failures(found: dict[str, Any]) -> list[str]:
    """What of the claim, or of the attack that it rests on, does not hold for one learner and seed."""
    name = f"{found['algorithm']}, seed {found['seed']}"
    robust = {t: summarise(found[t]["robust"]).mean for t in ("clean", "attacked")}
    gain = paired_difference(found["attacked"]["robust"], found["clean"]["robust"])
    doubles = robust["attacked"] >= 2 * robust["clean"] and gain.mean > gain.ci95  # from nothing, too
    told = [] if doubles else ["robust accuracy does not double"]
    for training in ("clean", "attacked"):
        asked = found[training]["questions"]
        for stronger in ("steps", "starts"):
            if asked[stronger] < asked["usual"] - TOLERATED:
                told.append(f"trained on {training} tasks: more {stronger} find more")
        for weaker in ("other", "noise"):
            if asked[weaker] < asked["usual"] - TOLERATED:
                told.append(f"trained on {training} tasks: {weaker} is worse than the attack")
        if asked["large"] > found["least"] + 0.05:
            told.append(f"trained on {training} tasks: something is left in a large ball")
    return [f"{name}: {reason}" for reason in told]


def report(results: list[dict[str, Any]], args: argparse.Namespace) -> None:
    rows, asked = [], []
    for found in results:
        for training in ("clean", "attacked"):
            one = found[training]
            label = (found["algorithm"], str(found["seed"]), training)
            scores = (summarise(one["clean"]), summarise(one["robust"]))
            rows.append((*label, *map(_shown, scores), f"{one['seconds']:.0f}"))
            asked.append((*label, *(f"{100 * value:.1f}" for value in one["questions"].values())))
    title = (
        f"accuracy in %, {args.episodes} test tasks; attack on the {args.attack} set: {STEPS} steps, "
        f"radius {args.radius:g} of ink"
    )
    columns = ("learner", "seed", "trained on", "clean tasks", "attacked tasks", "seconds of training")
    show(title, columns, rows, [*(_told(found) for found in results), _budget(args)])
    columns = ("learner", "seed", "trained on", "the attack", f"{5 * STEPS} steps", "5 starts")
    columns = (*columns, "of the other", "noise", "radius x 2", f"radius x {LARGE}")
    show(f"the attack, questioned on the first {args.questioned} tasks", columns, asked)


def _told(found: dict[str, Any]) -> str:
    clean, attacked = found["clean"], found["attacked"]
    before, after = (summarise(one["robust"]).mean for one in (clean, attacked))
    cost = paired_difference(attacked["clean"], clean["clean"])
    gain = paired_difference(attacked["robust"], clean["robust"])
    ratio = f"times {after / before:.1f}" if before else "from nothing"
    where = f"{found['algorithm']}, seed {found['seed']}"
    return f"{where}: robust accuracy {_shown(gain)} points, {ratio}; clean accuracy {_shown(cost)} points"


def _budget(args: argparse.Namespace) -> str:
    share = f", {args.clean:.0%} of it left clean" if args.clean else ""
    return (
        f"{args.steps} outer steps of 4 tasks, Conv4 of width {args.width}; training attack: 7 steps{share}"
    )


def _shown(found: Summary) -> str:
    return f"{100 * found.mean:.1f} +- {100 * found.ci95:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", metavar="DIR", help="the folder of Omniglot; without it, the cache folder")
    parser.add_argument("--algorithms", default="ProtoNet", help=f"of {', '.join(LEARNERS)}, with commas")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="trainings of each (2)")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="outer steps (1000)")
    parser.add_argument("--width", type=int, default=32, metavar="N", help="channels of Conv4 (32)")
    parser.add_argument("--radius", type=float, default=0.1, metavar="X", help="of both attacks (0.1)")
    parser.add_argument("--clean", type=float, default=0.0, metavar="X", help="share that is left clean (0)")
    parser.add_argument(
        "--attack", choices=("query", "support"), default="query", help="what is moved (query)"
    )
    parser.add_argument("--episodes", type=int, default=200, metavar="N", help="test tasks (200)")
    parser.add_argument(
        "--questioned", type=int, default=25, metavar="N", help="of them, for the attack (25)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, of one core each (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every score")
    parser.add_argument("--quick", action="store_true", help="made-up characters: shows that it runs")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.width, args.episodes, args.questioned, args.seeds = 3, 8, 4, 2, 1
    asked = [(name, seed, args) for name in args.algorithms.split(",") for seed in range(args.seeds)]
    with ProcessPoolExecutor(args.jobs) as pool:
        results = list(pool.map(job, *zip(*asked, strict=True)))
    report(results, args)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    broken = [reason for found in results for reason in failures(found)]
    for reason in broken:
        say(f"does not hold: {reason}")
    return 1 if broken and not args.quick else 0


if __name__ == "__main__":
    sys.exit(main())
