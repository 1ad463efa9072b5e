"""The public verdict: no false alarms, the wrong leaf by name, and errors that say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import innerloop as il
from cases import CASES, Case
from innerloop.algorithms import FOMAML, MAML
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Displacement, Evolution, FirstOrder, Implicit, Recompute, Truncated
from innerloop.gradients.base import learned
from innerloop.models import MLP, Conv4
from innerloop.tasks import Omniglot, Sinusoid
from innerloop.testing.probing import close
from unit.gradients.problems import PROBLEMS, LearnedRates, network
from unit.gradients.quadratics import Proximal, Pulled, pulls, regressions


def slow_if_alike(case: Case) -> Any:
    """Every case is asked; quick are all on a small network, and one on each. The battery asks the rest."""
    alike = case.network != "mlp" and (case.algorithm != "MAML" or case.batch_norm != "support")
    return pytest.param(case, marks=[pytest.mark.slow] if alike else [], id=str(case))


@pytest.mark.parametrize("row", [slow_if_alike(row) for row in CASES])
def test_every_algorithm_on_every_network_passes(row: Case) -> None:
    found = il.check_gradient(row.learner(), row.episodes(2))
    assert found.passed, str(found)
    assert not any("kinks" in note for note in found.notes), str(found)
    assert set(found.errors) == set(tree.flatten(learned(row.meta())))
    if found.exact:
        assert max(found.errors.values()) <= 1e-6
        assert found.cosine is None
    else:
        assert found.cosine is not None


@pytest.mark.parametrize("name", ["sum over steps", "Adam", "learned rates", "recurrent rule", "transformer"])
def test_every_kind_of_learner_passes(name: str) -> None:
    problem = PROBLEMS[name]()
    found = il.check_gradient(problem.learner, problem.episodes, num_tasks=2)
    assert found.passed, str(found)


def test_float32_learners_are_checked_in_float64_and_left_as_they_are() -> None:
    learner = LearnedRates(network(), inner_lr=0.05, inner_steps=2, loss="mse")
    before = {name: p.detach().clone() for name, p in learner.module.named_parameters()}
    meta = learner.init(torch.Generator())
    copied = tree.map(torch.clone, meta)
    assert il.check_gradient(learner, Sinusoid(shots=5, queries=5), meta=meta).passed
    assert torch.get_default_dtype() == torch.float32
    assert all(torch.equal(before[name], p) for name, p in learner.module.named_parameters())
    assert {p.dtype for p in learner.net.params().values()} == {torch.float32}
    close(meta, copied, 0.0)


def test_pooling_and_zero_biases_do_not_raise_a_false_alarm() -> None:
    for norm in ("none", "group"):
        net = Conv4(5, width=4, norm=norm, pooling="max")  # pyright: ignore
        found = il.check_gradient(MAML(net, inner_lr=0.1, inner_steps=1), Omniglot.tiny(), num_tasks=1)
        assert found.passed, str(found)


# --- paths that are not exact ----------------------------------------------------------------------------


def test_a_path_that_is_not_exact_is_held_beside_the_one_that_is() -> None:
    learner = FOMAML(network(), inner_lr=0.05, inner_steps=2, loss="mse")
    found = il.check_gradient(learner, Sinusoid(shots=5, queries=5))
    assert found.passed
    assert not found.exact
    assert found.cosine is not None
    assert found.length is not None
    assert 0.5 < found.cosine < 1 - 1e-6
    assert 0.1 < found.length < 10
    assert "not exact, and declared so" in str(found)
    whole = il.check_gradient(learner, Sinusoid(shots=5, queries=5), gradient=Truncated(None))
    assert whole.cosine == pytest.approx(1.0, abs=1e-12)
    assert whole.length == pytest.approx(1.0, abs=1e-12)
    assert max(whole.errors.values()) < 1e-10


def test_what_a_path_does_not_learn_is_a_note() -> None:
    learner = LearnedRates(network(), inner_lr=0.05, inner_steps=2, loss="mse")
    found = il.check_gradient(learner, Sinusoid(shots=5, queries=5), gradient=Displacement())
    assert found.passed
    assert any("no gradient on this path" in note and "lr/0.weight" in note for note in found.notes)


def test_implicit_and_evolution_are_compared_too() -> None:
    found = il.check_gradient(Proximal(), regressions(), gradient=Implicit(tolerance=1e-12))
    assert found.cosine == pytest.approx(1.0, abs=1e-9)
    evolved = il.check_gradient(Pulled(), pulls(4), gradient=Evolution(pairs=60, sigma=0.1))
    assert evolved.passed
    assert evolved.cosine is not None
    assert evolved.cosine > 0.9


# --- what is wrong, by name ------------------------------------------------------------------------------


class Forgetful(LearnedRates):
    """Detaches the rates, or never reads them, or a leaf; or remembers, or draws, what it should not."""

    fault = ""

    def rates(self, meta: Meta, k: int) -> Any:
        if self.fault == "detached":
            return {n: p.detach() if n == "2.weight" else p for n, p in meta["lr"].items()}
        return {n: 0.1 for n in meta["lr"]} if self.fault == "unused" else meta["lr"]  # noqa: C420

    def begin(self, meta: Meta, support: Batch) -> Fast:
        if self.fault == "remembers":
            self.seen = 0.9 * getattr(self, "seen", 0.0) + 1e-3 * support.x.detach().mean()
        return super().begin(meta, support)

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        outputs = super().predict(meta, fast, inputs)
        outputs = outputs + getattr(self, "seen", 0.0)
        return outputs + 1e-3 * torch.randn(()) if self.fault == "draws" else outputs


def verdict(fault: str, **settings: Any) -> Any:
    learner = Forgetful(network(), inner_lr=0.05, inner_steps=2, loss="mse")
    learner.fault = fault
    return il.check_gradient(learner, Sinusoid(shots=5, queries=5), **settings)


def test_the_faultless_one_passes() -> None:
    assert verdict("").passed


def test_a_missing_gradient_is_reported_by_name() -> None:
    found = verdict("detached")
    assert not found
    assert [p for p in found.problems if "no gradient reaches lr/2.weight" in p] == list(found.problems)
    assert found.errors["lr/2.weight"] == pytest.approx(1.0)
    assert max(error for name, error in found.errors.items() if name != "lr/2.weight") <= 1e-6
    lines = str(found).splitlines()
    assert lines[0].startswith("FAILED: Unrolled() of Forgetful on 4 tasks")
    assert "lr/2.weight" in lines[1]


def test_a_leaf_that_nothing_depends_on_is_reported_by_name() -> None:
    found = verdict("unused")
    assert sorted(p.split(" ")[0] for p in found.problems) == sorted(
        f"lr/{n}" for n in dict(network().named_parameters())
    )
    assert all("is not learned" in p for p in found.problems)


@pytest.mark.parametrize("fault", ["remembers", "draws"])
def test_a_loss_that_does_not_repeat_is_reported(fault: str) -> None:
    found = verdict(fault)
    assert len(found.problems) == 1
    assert "changes from call to call" in str(found)


class Bent(nn.Module):
    """Kinks at every scale: waves of triangles, each finer than the last and as steep."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.smooth = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 3.7 ** -torch.arange(5.0, 18.0)
        waves = self.weight / lengths
        return self.smooth(x) + ((waves - waves.floor() - 0.5).abs() * lengths).sum()


def test_what_no_quotient_can_judge_is_called_a_kink() -> None:
    learner = MAML(Bent(), inner_lr=0.0001, inner_steps=0, loss="mse")
    found = il.check_gradient(learner, Sinusoid(shots=5, queries=5))
    assert found.passed, str(found)
    assert any("kinks at params/weight" in note for note in found.notes), str(found)


# --- what cannot be checked ------------------------------------------------------------------------------


class WithMeta(LearnedRates):
    extra: Any = None

    def init(self, rng: torch.Generator) -> Meta:
        return super().init(rng) | {"extra": self.extra}


@pytest.mark.parametrize(
    ("extra", "got"),
    [
        (torch.arange(3), "meta leaf 'extra' of torch.int64"),
        ({"rate": 0.1}, "meta leaf 'extra/rate' of type float"),
        ([torch.zeros(1)], "meta leaf 'extra' of type list"),
    ],
)
def test_meta_is_a_tree_of_float_tensors(extra: Any, got: str) -> None:
    learner = WithMeta(network(), loss="mse")
    learner.extra = extra
    with pytest.raises(ContractError) as raised:
        il.check_gradient(learner, Sinusoid())
    assert raised.value.got == got
    assert raised.value.do


def test_losses_have_to_be_finite() -> None:
    learner = MAML(MLP(1, 1), inner_lr=1e9, inner_steps=30, loss="mse")
    with pytest.raises(ContractError, match="not finite after adaptation, of task 0, 1"):
        il.check_gradient(learner, Sinusoid(), num_tasks=2)


class Root(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input * 0).square().sqrt()


def test_a_gradient_that_is_not_finite_is_reported_by_name() -> None:
    found = il.check_gradient(MAML(Root(1, 1, bias=False), inner_steps=0, loss="mse"), Sinusoid())
    assert not found.passed
    assert "the meta-gradient of task 0, 1, 2, 3 is not finite, at params/weight" in found.problems


def test_other_things_are_refused() -> None:
    learner = MAML(MLP(1, 1), loss="mse")
    with pytest.raises(ConfigError, match="learner of type MLP"):
        il.check_gradient(MLP(1, 1), Sinusoid())  # pyright: ignore
    with pytest.raises(ConfigError, match="tasks of type list"):
        il.check_gradient(learner, [1])  # pyright: ignore
    for wrong in ({"num_tasks": 0}, {"tolerance": 0.0}, {"tolerance": float("nan")}):
        with pytest.raises(ConfigError):
            il.check_gradient(learner, Sinusoid(), **wrong)  # pyright: ignore
    with pytest.raises(ContractError, match="does not depend on meta"):
        il.check_gradient(learner, Sinusoid(), gradient=Implicit())


@pytest.mark.parametrize("gradient", [Recompute(), Recompute(2)], ids=str)
def test_another_exact_path_is_held_to_the_same(gradient: Recompute) -> None:
    case = Case("MAML", "mlp")
    found = il.check_gradient(case.learner(), case.episodes(), gradient=gradient)
    assert found.passed
    assert str(gradient) in str(found)
    assert not il.check_gradient(case.learner(), case.episodes(), gradient=FirstOrder()).exact
