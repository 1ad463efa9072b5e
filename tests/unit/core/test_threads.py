"""Parts of the task axis on several threads: the same numbers, and nothing left behind."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from cases import Case
from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.mode import mode, running_in
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.core.vectorise import Lifting, each_part, lifting, over_tasks
from innerloop.gradients import Evolution, MetaGradient, Recompute, Record, Unrolled
from innerloop.testing.probing import KEY

CASE = Case("MAML", "mlp", dropout=0.3)
CONV = Case("MAML", "batch", dropout=0.3)


class ByHand(MetaLearner):
    """A learner of a user's own, which puts each task's parameters into one module."""

    inner_steps, loss = 1, "mse"

    def __init__(self) -> None:
        self.net = nn.Linear(3, 1)

    def init(self, rng: torch.Generator) -> Meta:
        return {"params": {name: p.detach().clone() for name, p in self.net.named_parameters()}}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {"params": dict(meta["params"])}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return fast

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return torch.func.functional_call(self.net, fast["params"], (inputs,))


class Claims(ByHand):  # a concrete base is fine in a test
    """The same, and says that its tasks may meet."""

    concurrent = True


def estimated(
    how: Lifting, gradient: MetaGradient, tasks: Episode | None = None, case: Case = CASE
) -> tuple[Meta, Record]:
    episodes = case.episodes(6) if tasks is None else tasks
    grads, _, record = gradient.estimate(case.learner(), case.meta(), episodes, key=KEY, axis=how)
    return grads, record


@pytest.mark.parametrize(
    "gradient", [Unrolled(), Recompute(), Evolution(pairs=2)], ids=lambda g: type(g).__name__
)
@pytest.mark.parametrize(("size", "vmap"), [(2, True), (1, False)])
def test_any_number_of_threads_gives_the_same_bits(gradient: MetaGradient, size: int, vmap: bool) -> None:
    whole, record = estimated(Lifting(size, vmap), gradient)
    for threads in (2, 3):
        grads, other = estimated(Lifting(size, vmap, threads), gradient)
        assert all(map(torch.equal, tree.leaves(grads), tree.leaves(whole)))
        assert torch.equal(other.losses, record.losses)


def test_convolutions_on_threads_give_the_same_bits() -> None:
    whole, apart = (estimated(Lifting(3, True, threads), Unrolled(), case=CONV)[0] for threads in (1, 2))
    assert all(map(torch.equal, tree.leaves(whole), tree.leaves(apart)))


def test_threads_of_torch_are_as_before() -> None:
    before = torch.get_num_threads()
    inside: list[int] = []

    def one(x: Tensor) -> Tensor:
        inside.append(torch.get_num_threads())
        return x

    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            over_tasks(one, torch.arange(4.0), axis=Lifting(2, vmap=True, threads=2))
            assert torch.get_num_threads() == count
        assert set(inside) == {1}, "kernels of a part use one core"
    finally:
        torch.set_num_threads(before)


def test_parts_are_spread_and_come_back_in_order() -> None:
    both = threading.Barrier(2, timeout=30)  # passes only if two parts run side by side
    names: set[str] = set()

    def part(which: slice, _: object) -> int:
        if which.start < 2:
            both.wait()
        names.add(threading.current_thread().name)
        return which.start

    assert each_part(part, torch.arange(5.0), Lifting(1, vmap=False, threads=2)) == [0, 1, 2, 3, 4]
    assert len(names) == 2
    assert threading.current_thread().name not in names


def test_an_error_in_a_part_is_raised_and_threads_are_restored() -> None:
    before = torch.get_num_threads()

    def part(which: slice, _: object) -> int:
        if which.start == 2:
            raise ZeroDivisionError("in the third part")
        return which.start

    with pytest.raises(ZeroDivisionError, match="third part"):
        each_part(part, torch.arange(4.0), Lifting(1, vmap=False, threads=2))
    assert torch.get_num_threads() == before


def test_the_mode_reaches_every_thread_and_none_changes_the_caller_s() -> None:
    seen = []

    def one(x: Tensor) -> Tensor:
        seen.append((mode().ways, mode().training, torch.is_grad_enabled()))
        with running_in(ways=99):
            return x * 2

    with running_in(ways=7, training=True):
        over_tasks(one, torch.arange(4.0), axis=Lifting(1, vmap=False, threads=2))
        assert mode().ways == 7
    assert seen == [(7, True, True)] * 4


def test_a_module_and_a_learner_are_left_as_they_were() -> None:
    module = CASE.module()
    learner = CASE.kind(module, inner_steps=2)
    before = copy.deepcopy(module.state_dict())
    flags = [m.training for m in module.modules()]
    names = list(dict(module.named_parameters()))
    held = {name: id(p) for name, p in module.named_parameters()}
    inside = [id(p) for p in learner.net._module.parameters()]
    Unrolled().estimate(learner, CASE.meta(), CASE.episodes(6), key=KEY, axis=Lifting(1, False, threads=3))
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert flags == [m.training for m in module.modules()]
    assert names == list(dict(module.named_parameters()))
    assert held == {name: id(p) for name, p in module.named_parameters()}
    assert inside == [id(p) for p in learner.net._module.parameters()]
    assert all(type(p) is nn.Parameter for p in learner.net._module.parameters())


def test_a_task_that_diverges_on_one_thread_is_reported() -> None:
    tasks = CASE.episodes(6)
    tasks.support.x[3] = torch.nan
    _, record = estimated(Lifting(2, True, threads=3), Unrolled(), tasks)
    assert record.kept == [0, 1, 2, 4, 5]


def test_auto_takes_threads_for_heavy_work_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        small, large = torch.zeros(8, 3), torch.zeros(8, 2**16)
        assert lifting("auto", small, work=10.0) == Lifting(8, cores=1, fallback=True)
        assert lifting("auto", small, work=1e9) == Lifting(8, fallback=True)
        ours = CASE.learner()
        assert lifting("auto", large, ours, 1e9) == Lifting(1, vmap=False, threads=2)
        assert lifting("vmap", large, ours, 1e9).threads == 1
        assert lifting("auto", large, ByHand(), 1e9).threads == 1, "its module is shared by all tasks"
        assert lifting("auto", large, Claims(), 1e9).threads == 2, "planted"
    finally:
        torch.set_num_threads(before)
