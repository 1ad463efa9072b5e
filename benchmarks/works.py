"""The works: which model, on which episodes, with how many inner steps. One meta-step of each is timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from innerloop import Batch, Episode

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Work:
    """One meta-step.

    Attributes:
        name: family and what varies within it, such as `conv4/8tasks-1query-5steps`.
        network: makes the module whose parameters the inner loop changes; ANIL's head.
        shape: of one example.
        support, query: examples of a task.
        ways: number of classes; 0 is regression of one target.
        body: makes what comes before `network` and is not changed by the inner loop.
    """

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tasks: int
    support: int
    query: int
    inner_steps: int
    inner_lr: float
    ways: int = 5
    algorithm: str = "MAML"
    body: Callable[[], nn.Module] = nn.Identity
    sinusoid: bool = False

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]


class Network(nn.Module):
    """`head(body(x))`, of which the inner loop changes the head: in MAML it is the whole network."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Encoder(nn.Module):
    """A transformer encoder for sequences [S, length, features], in plain operators."""

    def __init__(self, *, features: int, length: int, ways: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.blocks(self.embed(x) + self.place)).mean(1))


class Block(nn.Module):
    """Attention and a perceptron, each after a LayerNorm. The fused attention has no second derivative."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.join((weights @ v).transpose(-3, -2).flatten(-2))
        return x + self.mlp(self.norm2(x))


class Problem:
    """A work made ready: weights and episodes, the same for every contender."""

    def __init__(self, work: Work, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.work, self.device = work, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._network = Network(work.body(), work.network()).to(device, dtype)
            self.episodes = Episode(*(Batch(*(_to(t, device, dtype) for t in b)) for b in _episodes(work)))

    def network(self) -> Network:
        """A copy of its own for each contender, in training mode: batches are normalised by themselves."""
        return copy.deepcopy(self._network).train()

    def tasks(self) -> Iterator[Episode]:
        (sx, sy), (qx, qy) = self.episodes
        for i in range(self.work.tasks):
            yield Episode(Batch(sx[i], sy[i]), Batch(qx[i], qy[i]))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y) if self.work.ways else F.mse_loss(outputs, y)


def _to(values: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    return values.to(device, dtype if values.is_floating_point() else None)


def _episodes(work: Work) -> Episode:
    """Sinusoids, or noise with labels: what is timed does not depend on the values."""
    if work.sinusoid:
        return il.tasks.Sinusoid(shots=work.support, queries=work.query).sample("train", work.tasks, 0)

    def batch(size: int) -> Batch:
        x = torch.randn(work.tasks, size, *work.shape)
        if work.ways:
            return Batch(x, torch.arange(work.ways).repeat(work.tasks, size // work.ways))
        return Batch(x, torch.randn(work.tasks, size, 1))

    return Episode(batch(work.support), batch(work.query))


def all_works(*, quick: bool = False) -> dict[str, Work]:
    """Every work by name; `quick` shrinks them until they only show that they run."""
    width, size, steps = (8, 32, 2) if quick else (64, 84, 5)

    def fewer(tasks: int) -> int:
        return min(tasks, 2) if quick else tasks

    omniglot = partial(il.models.Conv4, ways=5, width=width)
    omniglot_body = partial(il.models.Conv4, ways=None, width=width)
    mini = partial(il.models.Conv4, ways=5, channels=3, size=size, width=width // 2, pooling="max")
    encoder = partial(Encoder, features=8, length=16, ways=5, width=32, heads=4, layers=2)
    large_mlp = partial(il.models.MLP, 64, 1, hidden=(16, 16) if quick else (256, 256))

    def conv4(family: str, tasks: int, queries: int, k: int) -> Work:
        name = f"{family}/{tasks}tasks-{queries}quer{'y' if queries == 1 else 'ies'}-{_steps(k)}"
        return Work(name, omniglot, (1, 28, 28), fewer(tasks), 5, 5 * queries, k, inner_lr=0.4)

    def conv4_84(family: str, k: int, queries: int = 15) -> Work:
        name = f"{family}/conv4-84-{'' if queries == 15 else f'{queries}query-'}{_steps(k)}"
        return Work(name, mini, (3, size, size), fewer(4), 5, 5 * queries, k, 0.01)

    def mlp(k: int) -> Work:
        examples = 32 if quick else 512
        return Work(
            f"memory/mlp-{_steps(k)}", large_mlp, (64,), fewer(8), examples, examples, k, 0.01, ways=0
        )

    sinusoid = [
        Work(f"sinusoid/{_steps(k)}", il.models.MLP, (1,), fewer(25), 10, 10, k, 0.01, ways=0, sinusoid=True)
        for k in (1, 5)
    ]
    anil = Work(
        "anil/8tasks-15queries-5steps",
        partial(nn.Linear, width, 5),
        (1, 28, 28),
        fewer(8),
        5,
        75,
        5,
        inner_lr=0.4,
        algorithm="ANIL",
        body=omniglot_body,
    )
    protonet = Work(
        "protonet/8tasks-15queries",
        nn.Identity,
        (1, 28, 28),
        fewer(8),
        5,
        75,
        inner_steps=0,
        inner_lr=0.0,
        algorithm="ProtoNet",
        body=omniglot_body,
    )
    works = [
        *sinusoid,
        *(conv4("conv4", t, q, k) for t in (8, 32) for q in (1, 15) for k in (1, steps)),
        conv4_84("conv4-84", steps),
        anil,
        protonet,
        Work("transformer/8tasks-5steps", encoder, (16, 8), fewer(8), 5, 25, steps, inner_lr=0.1),
        conv4("cores", 8, 15, 1),
        conv4("cores", 32, 1, steps),
        *(mlp(k) for k in ((1, 5) if quick else (1, 5, 20, 50))),
        conv4_84("memory", 4 * steps),
        *(conv4_84("memory", k, queries=1) for k in ((2,) if quick else (5, 20, 50))),
    ]
    return {work.name: work for work in works}


def _steps(count: int) -> str:
    return f"{count}step{'' if count == 1 else 's'}"
