"""Which tasks a task is like: an embedding of its support set, and normal distributions of these.

A key is the distribution of the embeddings of the tasks that something belongs to. It knows nothing of any
network, so that it is the same at the end of training as it was when it was taken.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from innerloop.core.errors import ContractError
from innerloop.core.rng import key, keyed_normal, keyed_uniform, tensor_keys
from innerloop.core.types import Batch

FEATURES = 128  # of an embedding
_FREQUENCIES = (0.1, 5.0)  # nearly linear features, and ones that tell apart what has the same mean
_RIDGE = 1e-4  # of the mean variance, added to each: features may be functions of one another


def no_keys(number: int) -> dict[str, Tensor]:
    """A number K of keys that know of no task: how many tasks [K], their mean [K, D] and scatter [K, D, D].

    `scale` holds mean and standard deviation of inputs and of targets.
    """
    return {
        "scale": torch.zeros(4),
        "count": torch.zeros(number),
        "mean": torch.zeros(number, FEATURES),
        "scatter": torch.zeros(number, FEATURES, FEATURES),
    }


def embedding(scale: Tensor, support: Batch) -> Tensor:
    """The mean of random Fourier features [D] over the examples of a task; [T, D] of stacked tasks.

    Features are cosines of random projections of an example: its input, and in regression its target beside
    it. Their mean is what of the distribution of examples can be seen through a Gaussian kernel (Rahimi and
    Recht 2007; Smola et al. 2007), here of two widths.

    Args:
        scale: of the keys; see `scales`.
        support: x [S, ...] and y [S] or [S, F]; [T, S, ...] of stacked tasks.
    """
    first = support.y.ndim if support.y.is_floating_point() else support.y.ndim + 1
    x = support.x.flatten(first - 1).to(torch.float32)
    parts = [(x - scale[0]) / scale[1] * x.shape[-1] ** -0.5]
    if support.y.is_floating_point():
        y = support.y.to(torch.float32)
        parts.append((y - scale[2]) / scale[3] * y.shape[-1] ** -0.5)
    examples = torch.cat(parts, -1) * len(parts) ** -0.5
    directions, phases = _features(examples.shape[-1], str(examples.device))
    return (examples @ directions + phases).cos().mean(-2)


def scales(support: Batch) -> Tensor:
    """Mean and standard deviation of the inputs of stacked tasks, and of targets that are numbers.

    Raises:
        ContractError: inputs are whole numbers, which may be names of things.
    """
    if not support.x.is_floating_point():
        raise ContractError(
            f"inputs of type {support.x.dtype}, to tell by them which tasks are alike",
            expected="inputs that are numbers, such as pixels or embeddings",
            do="leave out retain.recall, or the schedule 'progressive'",
        )
    values = [support.x, support.y] if support.y.is_floating_point() else [support.x]
    found = [t.to(torch.float32) for value in values for t in (value.mean(), value.std().clamp_min(1e-6))]
    return torch.stack(found) if len(found) == 4 else torch.cat([torch.stack(found), found[0].new_zeros(2)])


def added(keys: dict[str, Tensor], place: int, embedded: Tensor) -> None:
    """Take the embeddings [T, D] of more tasks into the key at `place`, in place (Chan et al. 1979)."""
    count, mean, scatter = (keys[name][place] for name in ("count", "mean", "scatter"))
    centre, more = embedded.mean(0), len(embedded)
    away, total = centre - mean, count + more
    spread = embedded - centre
    scatter += spread.T @ spread + torch.outer(away, away) * (count * more / total)
    mean += away * (more / total)
    count += more


def log_likelihoods(keys: dict[str, Tensor], embedded: Tensor) -> Tensor:
    """The logarithm of the density of an embedding [D] under each key [K], but for a constant.

    A key of few tasks takes its covariance from all of them; one of no tasks has no density.
    """
    root = torch.linalg.cholesky_ex(_covariances(keys)).L  # no error: a key that is not finite fits no task
    off = torch.linalg.solve_triangular(root, (embedded - keys["mean"])[..., None], upper=False)[..., 0]
    found = -0.5 * off.square().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return found.masked_fill(keys["count"] == 0, -torch.inf)


def divergences(keys: dict[str, Tensor]) -> Tensor:
    """How unlike the tasks of each two keys are [K, K]: Kullback and Leibler's divergence, both ways."""
    covariances, means = _covariances(keys), keys["mean"]
    precisions = torch.cholesky_inverse(torch.linalg.cholesky(covariances))
    traces = torch.einsum("iab,jba->ij", precisions, covariances)
    away = means[:, None] - means
    squares = torch.einsum("ija,iab,ijb->ij", away, precisions, away)
    both = traces + traces.T + squares + squares.T - 2 * FEATURES
    return 0.5 * both


def _covariances(keys: dict[str, Tensor]) -> Tensor:
    count, scatter = keys["count"][:, None, None], keys["scatter"]
    together = scatter.sum(0) / count.sum().clamp_min(1.0)
    found = (scatter + FEATURES * together) / (count + FEATURES)
    even = found.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp_min(1e-12)
    return found + _RIDGE * even * torch.eye(FEATURES, dtype=found.dtype, device=found.device)


@cache
def _features(size: int, device: str) -> tuple[Tensor, Tensor]:
    """The projections [size, D] and phases [D] of all runs: they are part of what an embedding is."""
    one, other = tensor_keys(key(0, "features of tasks"), 2, torch.device(device))
    wide = torch.tensor(_FREQUENCIES, device=device).repeat(FEATURES // len(_FREQUENCIES))
    return keyed_normal(one, (size, FEATURES)) * wide, 2 * torch.pi * keyed_uniform(other, (FEATURES,))
