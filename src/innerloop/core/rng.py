"""Randomness as a function: the same numbers for the same key, on every machine, in any order.

Nothing here has a state. A key is a 63-bit integer derived from a path such as
`(seed, "tasks", step)`; task *i* of that key draws the same numbers whatever the number of
tasks around it, the size of a chunk, the number of workers, or the point of a resume.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Keys: TypeAlias = NDArray[np.uint64]
Rng: TypeAlias = "torch.Generator | int"

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def key(seed: int, *path: int | str) -> int:
    """A 63-bit key for a place in the program, such as `key(seed, "tasks", step)`."""
    text = "/".join(f"{type(part).__name__[0]}{part}" for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def as_key(rng: Rng) -> int:
    """A key from what a caller holds: an int is a key (modulo 2^63); a generator gives its next draw."""
    if isinstance(rng, torch.Generator):
        return int(torch.randint(0, 2**62, (), generator=rng, device=rng.device))
    return int(rng) % 2**63


def generator(seed: int, stream: str, step: int = 0, task: int = 0) -> torch.Generator:
    """A fresh CPU generator for `(seed, stream, step, task)`."""
    return torch.Generator().manual_seed(key(seed, stream, step, task))


def task_keys(base: int, num_tasks: int, first: int = 0) -> Keys:
    """Keys [num_tasks] of the tasks `first, first + 1, ...` of a base key."""
    index = np.arange(first, first + num_tasks, dtype=np.uint64)
    return _mix(_mix(index * _GOLDEN + np.uint64(base)) + np.uint64(base))


def fold(keys: Keys, stream: int) -> Keys:
    """Independent keys for stream number `stream` of each task."""
    offset = np.uint64((stream + 1) * int(_MIX2) % 2**64)  # numpy warns where a scalar product wraps
    return _mix(keys + offset)


def bits(keys: Keys, n: int) -> NDArray[np.uint64]:
    """`n` uniform 64-bit integers for each key: the splitmix64 sequence (Steele et al. 2014), [*keys, n]."""
    return _mix(keys[..., None] + np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN)


def uniform(keys: Keys, n: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
    """`n` uniform draws in [low, high) for each key, [*keys, n]."""
    return low + (high - low) * (bits(keys, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(keys: Keys, n: int) -> NDArray[np.float64]:
    """`n` standard normal draws for each key (Box and Muller), [*keys, n]."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(fold(keys, 0), n)))
    return radius * np.cos(2.0 * np.pi * uniform(fold(keys, 1), n))


def choose(keys: Keys, population: int, k: int) -> NDArray[np.int64]:
    """`k` distinct members of `range(population)` in random order for each key, [*keys, k]."""
    draws = bits(keys, population)
    if k < population:
        first = np.argpartition(draws, k - 1, axis=-1)[..., :k]
        order = np.argsort(np.take_along_axis(draws, first, axis=-1), axis=-1)
        return np.take_along_axis(first, order, axis=-1)
    return np.argsort(draws, axis=-1)


def tensor_keys(key: int, n: int, device: torch.device) -> Tensor:
    """The keys of `n` tasks as int64 [n], for what is drawn inside inner steps."""
    return torch.from_numpy((task_keys(key, n) >> 1).astype("int64")).to(device)


def keyed_uniform(task_key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform draws in [0, 1) of `shape`, a pure function of `task_key`, an int64 scalar tensor.

    It is made of integer arithmetic, so it runs under `vmap` (one key a task), gives the same
    numbers in a loop, and can be recomputed. Used for dropout and minibatches inside a step.
    """
    count = 1
    for size in shape:
        count *= size
    index = torch.arange(count, device=task_key.device)
    low, high = task_key & 0xFFFFFFFF, (task_key >> 32) & 0xFFFFFFFF
    mixed = _mix32(_mix32(index ^ low) ^ high)
    return ((mixed >> 8).to(torch.float32) * 2.0**-24).reshape(shape)


def keyed_normal(task_key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal draws of `shape` (Box and Muller); `task_key` is as in `keyed_uniform`."""
    radius = (-2.0 * (1.0 - keyed_uniform(fold_key(task_key, 0), shape)).log()).sqrt()
    return radius * (2.0 * torch.pi * keyed_uniform(fold_key(task_key, 1), shape)).cos()


def fold_key(task_key: Tensor, stream: int | Tensor) -> Tensor:
    """An independent key for stream number `stream` (an inner step, a layer) of the task of `task_key`."""
    low = _mix32((task_key & 0xFFFFFFFF) ^ ((stream * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF))
    high = _mix32(((task_key >> 32) & 0x7FFFFFFF) ^ low)
    return ((high & 0x7FFFFFFF) << 32) | low


def _mix(z: Keys) -> Keys:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
        return z ^ (z >> np.uint64(31))


def _mix32(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
