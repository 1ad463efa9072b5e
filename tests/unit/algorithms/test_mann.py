"""MANN step by step, one slot after another; and that what is stored is found again."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import SIZE, WAYS, images
from innerloop.algorithms import MANN
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.testing.questions import close, predictions

SIZES: dict[str, Any] = {"slots": 5, "width": 3, "reads": 2, "hidden": 4, "decay": 0.8, "scale": 2.0}


def made(**how: Any) -> MANN:
    return MANN(MLP(SIZE * SIZE, None, hidden=(6,)), **{"ways": WAYS} | SIZES | how)


def drawn(learner: MANN, gate: tuple[float, ...] = (0.3, -0.7)) -> dict[str, Any]:
    meta = learner.init(torch.Generator().manual_seed(0)) | {"gate": torch.tensor(gate).double()}
    return {
        part: node if isinstance(node, Tensor) else {name: leaf.double() for name, leaf in node.items()}
        for part, node in meta.items()
    }


class ByHand:
    """One sequence, with torch's own LSTM cell and memory as lists."""

    def __init__(self, meta: dict[str, Any]) -> None:
        weight, bias = meta["controller"]["weight"], meta["controller"]["bias"]
        hidden = len(bias) // 4
        self.cell = nn.LSTMCell(weight.shape[1] - hidden, hidden).double().requires_grad_(False)
        self.cell.load_state_dict(
            {
                "weight_ih": weight[:, :-hidden],
                "weight_hh": weight[:, -hidden:],
                "bias_ih": bias,
                "bias_hh": torch.zeros_like(bias),
            }
        )
        self.meta = meta
        self.state = (torch.zeros(hidden).double(), torch.zeros(hidden).double())
        self.memory = [torch.zeros(3).double() for _ in range(5)]
        self.usage = [0.0] * 5
        self.weights = [[0.0] * 5, [0.0] * 5]
        self.read = torch.zeros(6).double()

    def step(self, x: Tensor, label: Tensor) -> Tensor:
        """Logits after one more input."""
        meta = self.meta
        embedded = F.linear(
            x.flatten(), meta["params"]["body.1.weight"], meta["params"]["body.1.bias"]
        ).relu()
        self.state = self.cell(torch.cat([embedded, label, self.read]), self.state)
        keys = F.linear(self.state[0], meta["key"]["head.weight"], meta["key"]["head.bias"]).tanh().split(3)
        free = sorted(range(5), key=lambda slot: self.usage[slot])[:2]
        writes = []
        for head in range(2):
            gate = 1 / (1 + math.exp(-float(meta["gate"][head])))
            kept = [gate * weight for weight in self.weights[head]]
            writes.append([w + (1 - gate) * (slot == free[head]) for slot, w in enumerate(kept)])
        for slot in range(5):
            before = self.memory[slot] * (slot not in free)
            self.memory[slot] = before + sum(writes[head][slot] * keys[head] for head in range(2))
        for head in range(2):
            scores = [math.exp(2.0 * cosine(keys[head], row)) for row in self.memory]
            self.weights[head] = [score / sum(scores) for score in scores]
        for slot in range(5):
            both = sum(self.weights[head][slot] + writes[head][slot] for head in range(2))
            self.usage[slot] = 0.8 * self.usage[slot] + both
        rows = [
            [w * row for w, row in zip(self.weights[head], self.memory, strict=True)] for head in range(2)
        ]
        self.read = torch.cat([torch.stack(each).sum(0) for each in rows])
        whole = torch.cat([self.state[0], self.read])
        return F.linear(whole, meta["head"]["head.weight"], meta["head"]["head.bias"])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / ((a @ a + 1e-8) * (b @ b + 1e-8)).sqrt())


@pytest.mark.parametrize("late", [False, True])
def test_it_is_the_paper_s_recurrence(late: bool) -> None:
    learner, episode = made(late_labels=late), take(images(1), 0)
    meta = drawn(learner)
    labels = list(F.one_hot(episode.support.y, WAYS).double())
    nothing = torch.zeros(WAYS).double()
    given = [nothing, *labels] if late else [*labels, nothing]
    expected = []
    for query in episode.query.x:
        sequence = ByHand(meta)
        for x, label in zip(episode.support.x, given[:-1], strict=True):
            sequence.step(x, label)
        expected.append(sequence.step(query, given[-1]))
    assert len({tuple(row.tolist()) for row in expected}) == len(expected)
    close({"logits": predictions(learner, meta, episode)}, {"logits": torch.stack(expected)}, 1e-10)


def written(gate: float, support: int, slots: int) -> Tensor:
    """The memory after some steps of distinct inputs, [slots, width]."""
    learner = made(slots=slots, reads=1)
    meta, state = drawn(learner, (gate,)), learner._empty(drawn(learner, (gate,)))
    rows = torch.eye(9).double()[:, :support].T * 4
    for x in rows.split(1):
        state = learner._after(meta, x, state)
    return state["memory"][0]


def test_each_example_is_written_to_a_free_slot() -> None:
    memory = written(-40.0, 4, 6)  # a closed gate: nothing goes where something was read
    assert (memory.abs().sum(1) > 1e-3).tolist() == [True] * 4 + [False] * 2


def test_when_none_is_free_one_slot_is_emptied_for_the_new() -> None:
    changed = (written(-40.0, 3, 3) - written(-40.0, 4, 3)).abs().sum(1) > 1e-6
    assert int(changed.sum()) == 1
    sizes = [written(-40.0, steps, 1).abs().sum() for steps in (1, 2, 4)]
    assert max(sizes) < 2 * min(sizes), "what was there before is gone"


def test_the_least_used_slots_are_each_chosen_once() -> None:
    usage = torch.tensor([[0.5, 0.1, 0.9, 0.2, 0.3], [0.0, 0.0, 0.0, 0.0, 0.0]])
    chosen = made(reads=2)._least_used(usage)
    assert chosen.argmax(-1).tolist() == [[1, 3], [0, 1]]
    assert chosen.sum(-1).eq(1).all()


def test_an_open_gate_adds_to_what_was_read() -> None:
    assert bool((written(40.0, 4, 6).abs().sum(1) > 1e-6).all())


def test_a_sharp_read_finds_what_was_just_stored() -> None:
    learner = made(slots=4, reads=1, scale=1e4)
    meta = drawn(learner, (-40.0,))
    state = learner._empty(meta)
    for step, x in enumerate((torch.eye(9)[:3] * 6).double().split(1)):
        state = learner._after(meta, x, state)
        filled = [slot for slot, row in enumerate(state["memory"][0]) if float(row.abs().sum()) > 1e-3]
        assert len(filled) == step + 1
        assert float(state["weights"].max()) > 0.99
        close({"read": state["read"][0]}, {"read": state["memory"][0, state["weights"].argmax()]}, 0.01)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ways": 1}, "ways >= 2"),
        ({"slots": 0}, "slots >= 1"),
        ({"reads": 6}, "reads <= slots"),
        ({"hidden": 0}, "hidden >= 1"),
        ({"decay": 1.5}, "decay"),
        ({"scale": 0.0}, "scale > 0"),
    ],
)
def test_a_bad_setting_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**how)


def test_huge_inputs_leave_it_finite() -> None:
    learner, episode = made(), take(images(1), 0)
    huge = episode._replace(support=Batch(episode.support.x * 1e200, episode.support.y))
    assert bool(torch.isfinite(predictions(learner, drawn(learner), huge)).all())
