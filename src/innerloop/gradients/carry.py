"""Unrolls that last longer than an outer step: what is carried from one to the next.

The carry is a tree of tensors with a leading task axis, so that it is written into checkpoints like all
else: the tasks themselves, the number of inner steps done, and the state of the path.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from innerloop.core.errors import ContractError, check_count
from innerloop.core.types import Tree
from innerloop.core.vectorise import num_tasks
from innerloop.gradients.base import Carry, Tasks
from innerloop.gradients.chain import as_episodes, as_tree


def resumed(tasks: Tasks, horizon: int | None) -> Tasks:
    """The carried tasks, while their unroll is short of its horizon; then the new ones."""
    carry = tasks.carry
    if horizon is None or carry is None or steps_done(carry) >= horizon:
        return replace(tasks, carry=None)
    episodes = as_episodes(carry)
    if num_tasks(episodes) != num_tasks(tasks.episodes):
        raise ContractError(
            f"{num_tasks(tasks.episodes)} tasks, and a carry of {num_tasks(episodes)}",
            expected="as many tasks in each outer step of an unroll",
            do="start without the carry, or keep tasks_per_step",
        )
    return replace(tasks, episodes=episodes)


def carried(tasks: Tasks, done: int, state: Tree, horizon: int | None) -> Carry:
    """What the next outer step goes on from; None for a path whose unrolls end with the outer step."""
    if horizon is None:
        return None
    steps = torch.full((num_tasks(tasks.episodes),), done, device=tasks.keys.device)
    return {"steps": steps, "state": state} | as_tree(tasks.episodes)


def steps_done(carry: Carry) -> int:
    """Inner steps behind a carried state."""
    return 0 if carry is None else int(carry["steps"][0])


def check_horizon(horizon: int | None) -> None:
    if horizon is not None:
        check_count("horizon", horizon, low=1)
