"""A cart whose mass changes while it is steered: a model that adapts at every moment, beside three others.

Trains a model of carts of all masses to adapt to the last transitions, and one jointly, without adaptation.
Then they meet carts that become some five times heavier, or lighter, halfway: they predict what a shaking
hand does to them, and steer them by planning with what they predict. Five minutes on one core; runs that are
there already are not trained again.

    python examples/learning_to_adapt.py --steps 5000 --out runs/learning-to-adapt
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch

import innerloop as il
from innerloop.core.rng import key, task_keys, uniform
from innerloop.evaluate.statistics import summarise
from innerloop.report.style import BASELINES, INK, OURS, clean, new_figure, save
from innerloop.tasks.cart import FORCE, STEP, Cart, CartSimulator
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.online import Online, RandomShooting

SPANS, MEMORY = (60, 20, 40), 8  # moments before the mass changes, just after, later; transitions adapted to
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)  # that fine-tuning may choose from
PLANNER = RandomShooting(Cart(), (-FORCE,), (FORCE,), horizon=8, candidates=256)
MODULE = il.models.MLP(3, 2, hidden=(64, 64))
OUTER = OptimizerConfig(lr=2e-3, schedule="cosine", clip_norm=10.0)
TITLES = ("error of the next prediction", "squared distance from the goal")


def goal(moment: float) -> float:
    """Where the cart is wanted: to and fro within four seconds, about as fast as the heaviest can."""
    return 0.4 * math.sin(2 * math.pi * moment * STEP / 4.0)


def errors(model: Online, cart: CartSimulator, number: int, *, steers: bool) -> Iterator[float]:
    """Squared distances from the goal where the model `steers`, or squared errors of its predictions."""
    model.reset()
    state, shakes = cart.reset(), uniform(task_keys(key(0, "hand", number), 1), sum(SPANS), -2.5, 2.5)[0]
    for now, shake in enumerate(shakes):

        def cost(states: torch.Tensor, forces: torch.Tensor, k: int, now: int = now) -> torch.Tensor:
            return (states[:, 0] - goal(now + k + 1)).square()

        hand = 5.0 * (goal(now + 5) - state[:1]) - 2.0 * state[1:] + float(shake)
        force = PLANNER.plan(model.predict, state, cost, now)[0] if steers else hand.clamp(-FORCE, FORCE)
        after = cart.step(float(force))
        x, y = Cart.encoded(state, force), Cart.target(state, after)
        wrong = (model.predict(x[None])[0] - y).square().mean()
        model.observe(x, y)
        state = after
        yield (float(state[0]) - goal(now + 1)) ** 2 if steers else float(wrong)


def lived(model: Online, episodes: int, stream: str, *, steers: bool) -> torch.Tensor:
    """Its errors [episodes, moments], with carts that are light and become heavy, or the other way round."""
    rows = []
    for i, (light, heavy, friction) in enumerate(uniform(task_keys(key(0, stream), episodes), 3)):
        masses = (0.5 * 2.0**light, 2.5 * 2.0**heavy)
        cart = Cart().simulator(masses[i % 2], 0.5 + friction, changes={SPANS[0]: masses[1 - i % 2]})
        rows.append(list(errors(model, cart, i, steers=steers)))
    return torch.tensor(rows)


def picture(found: list[dict[str, torch.Tensor]], target: Path) -> Path:
    figure = new_figure(7.0, 5.6)
    for axes, title, rows in zip(figure.subplots(2, 1, sharex=True), TITLES, found, strict=True):
        clean(axes)
        for (name, values), (colour, dashes) in zip(rows.items(), [(OURS, "-"), *BASELINES], strict=False):
            smooth = values.unfold(1, 5, 1).mean((0, 2)).tolist()  # over episodes, and the last five moments
            times = [STEP * (k + 5) for k in range(len(smooth))]
            axes.semilogy(times, smooth, color=colour, linestyle=dashes, linewidth=1.5, label=name)
        axes.axvline(SPANS[0] * STEP, color=INK, linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=9, color=INK)
    figure.supxlabel("seconds; at the line the mass changes", fontsize=9, color=INK)
    figure.legend(handles=axes.lines[:-1], loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    return save(figure, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5000, help="outer steps of each training")
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("runs/learning-to-adapt"))
    given = parser.parse_args()
    config = TrainConfig(given.steps, tasks_per_step=16, optimizer=OUTER)

    def trained(name: str, steps: int) -> il.Run:
        learner = il.algorithms.LearningToAdapt(MODULE, inner_lr=0.1, inner_steps=steps, rates="layer")
        return il.train(learner, Cart(shots=MEMORY), config=config, out=given.out / name, existing="resume")

    def tuned(rate: float) -> Online:
        learner = il.algorithms.MAML(MODULE, inner_lr=rate, loss="mse")
        return Online(learner, joint.meta, memory=MEMORY, carry=True)

    adaptive, joint = trained("adaptive", 5), trained("joint", 0)
    best = min(RATES, key=lambda r: float(lived(tuned(r), 8, "tuning", steers=False).nan_to_num(1e9).mean()))
    models = {
        "adapts": Online(adaptive.learner, adaptive.meta, memory=MEMORY),
        "the same, not adapted": Online(adaptive.learner, adaptive.meta, inner_steps=0),
        "trained jointly": Online(joint.learner, joint.meta),
        f"trained jointly, fine-tuned at rate {best:g}": tuned(best),
    }
    found = []
    for steers, title in enumerate(TITLES):
        found.append({n: lived(m, given.episodes, "test", steers=bool(steers)) for n, m in models.items()})
        print(f"\n{title}: before the mass changes, in the 2 s after that, and later")
        for name, values in found[-1].items():
            parts = [summarise(span.mean(1).tolist()) for span in values.split(SPANS, 1)]
            print(f"{name:42}" + "".join(f"  {part.mean:.5f} +- {part.ci95:.5f}" for part in parts))
    print(picture(found, given.out / "adaptation.png"))


if __name__ == "__main__":
    main()
