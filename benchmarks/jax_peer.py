"""The JAX contender: the same models in `jax.lax`, `jit` of the gradient of a vmapped inner loop with optax.

The models are read off the PyTorch ones, layer by layer, under the same parameter names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from contenders import Skipped, values
from torch import nn
from works import Problem

import innerloop as il

Arrays = dict[str, Any]
Apply = Callable[[Arrays, Any], Any]


def prepare(problem: Problem) -> Callable[[], Arrays]:
    """The meta-step, compiled ahead of its first call."""
    work, network = problem.work, problem.network()
    if not work.inner_steps:
        raise Skipped("no inner loop to differentiate")
    backend = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if backend != problem.device:
        raise Skipped(f"this JAX runs on {backend}, not on {problem.device}")
    inner = optax.sgd(work.inner_lr)
    body, head = module(network.body, "body"), module(network.head, "head")

    def task_loss(params: Arrays, episode: Any) -> Any:
        (sx, sy), (qx, qy) = episode
        features = body(params, sx)
        fast: Any = {name: p for name, p in params.items() if name.startswith("head.")}
        state = inner.init(fast)
        for _ in range(work.inner_steps):
            grads = jax.grad(lambda fast: loss(head(fast, features), sy))(fast)
            updates, state = inner.update(grads, state)
            fast = optax.apply_updates(fast, updates)
        return loss(head(fast, body(params, qx)), qy)

    def loss(outputs: Any, y: Any) -> Any:
        if not work.ways:
            return jnp.square(outputs - y).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1).mean()

    def meta_loss(params: Arrays, episodes: Any) -> Any:
        return jax.vmap(task_loss, in_axes=(None, 0))(params, episodes).mean()

    double = problem.episodes.support.x.dtype == torch.float64
    with jax.enable_x64(double):
        params = {name: jnp.asarray(p.cpu().numpy()) for name, p in values(network).items()}
        episodes = tuple(tuple(jnp.asarray(t.cpu().numpy()) for t in batch) for batch in problem.episodes)
        compiled = jax.jit(jax.grad(meta_loss)).lower(params, episodes).compile()
    return lambda: jax.block_until_ready(compiled(params, episodes))


def module(source: nn.Module, name: str) -> Apply:
    """A module of the works as a function of parameters and inputs."""
    if isinstance(source, nn.Sequential):
        layers = [module(layer, f"{name}.{i}") for i, layer in enumerate(source)]
        return lambda params, x: _through(layers, params, x)
    if isinstance(source, (il.models.MLP, il.models.Conv4)):
        body, head = module(source.body, f"{name}.body"), module(source.head, f"{name}.head")
        if isinstance(source, il.models.MLP):
            return lambda params, x: head(params, body(params, x))
        pool = _spatial_mean if source.pooling == "stride" else _flatten
        return lambda params, x: head(params, pool(body(params, x)))
    return _layer(source, name)


def _layer(source: nn.Module, name: str) -> Apply:
    weight, bias = f"{name}.weight", f"{name}.bias"
    match source:
        case nn.Linear():
            return lambda p, x: x @ p[weight].T + p[bias]
        case nn.Conv2d():
            return lambda p, x: _convolution(x, p[weight], source.stride) + _channels(p[bias])
        case nn.BatchNorm2d():
            return lambda p, x: _normalised(x, source.eps) * _channels(p[weight]) + _channels(p[bias])
        case nn.MaxPool2d():
            return lambda p, x: _max_pooled(x)
        case nn.ReLU():
            return lambda p, x: jax.nn.relu(x)
        case nn.Flatten():
            return lambda p, x: _flatten(x)
        case nn.Identity():
            return lambda p, x: x
    raise Skipped(f"no JAX version of {type(source).__name__} here")


def _through(layers: list[Apply], params: Arrays, x: Any) -> Any:
    for layer in layers:
        x = layer(params, x)
    return x


def _convolution(x: Any, weight: Any, stride: Any) -> Any:
    return jax.lax.conv_general_dilated(
        x, weight, stride, [(1, 1), (1, 1)], dimension_numbers=("NCHW", "OIHW", "NCHW")
    )


def _normalised(x: Any, eps: float) -> Any:
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + eps)


def _max_pooled(x: Any) -> Any:
    window = (1, 1, 2, 2)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def _channels(values: Any) -> Any:
    return values[:, None, None]


def _spatial_mean(x: Any) -> Any:
    return x.mean((2, 3))


def _flatten(x: Any) -> Any:
    return x.reshape(len(x), -1)
