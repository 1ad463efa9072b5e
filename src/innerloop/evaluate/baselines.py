"""What any learner must beat: predictors that were never meta-trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.core.functional import FunctionalModule
from innerloop.core.types import Episode, TaskSpec

Baseline = Callable[[Episode], Tensor]  # one task -> outputs [Q, ways] or [Q, F]
Inputs = Callable[[Tensor], Tensor]


def baselines_for(
    spec: TaskSpec, module: nn.Module, params: dict[str, Tensor], seen: Inputs = lambda inputs: inputs
) -> dict[str, Baseline]:
    """The baselines that apply to these tasks, by name.

    Args:
        module, params: the network as it was before meta-training.
        seen: inputs as the network is given them.
    """
    if spec.loss == "mse":
        return {"nearest_neighbour": nearest_target, "support_mean": support_mean}
    return {
        "nearest_neighbour": nearest_neighbour(spec.outputs),
        "untrained_centroid": untrained_centroid(spec.outputs, module, params, seen),
    }


def nearest_neighbour(ways: int) -> Baseline:
    """The label of the support example of largest cosine similarity on raw inputs."""

    def outputs(episode: Episode) -> Tensor:
        support, query = (F.normalize(b.x.flatten(1), dim=1) for b in episode)
        nearest = (query @ support.T).argmax(1)
        return F.one_hot(episode.support.y[nearest], ways).to(episode.query.x.dtype)

    return outputs


def nearest_target(episode: Episode) -> Tensor:
    """The target of the support example that is nearest by Euclidean distance."""
    distance = (episode.query.x.flatten(1)[:, None] - episode.support.x.flatten(1)[None]).square().sum(-1)
    return episode.support.y[distance.argmin(1)]


def support_mean(episode: Episode) -> Tensor:
    """The mean of the support targets, whatever the input."""
    return episode.support.y.mean(0).expand_as(episode.query.y)


def untrained_centroid(
    ways: int, module: nn.Module, params: dict[str, Tensor], seen: Inputs = lambda inputs: inputs
) -> Baseline:
    """The nearest class mean in the features of the network before meta-training."""
    net = FunctionalModule(module, "support")
    net.to(next(iter(params.values()), torch.empty(0)).device)

    def outputs(episode: Episode) -> Tensor:
        rows = episode.support.x.shape[0]
        both = seen(torch.cat([episode.support.x, episode.query.x]))
        features = net.features(params, both, rows=rows)
        return centroid(ways, episode.support.y, features[:rows], features[rows:])

    return outputs


def centroid(ways: int, y: Tensor, support: Tensor, queries: Tensor) -> Tensor:
    """Outputs [Q, ways]: how near queries [Q, D] are to the mean of each class's support [S, D], y [S]."""
    labels = F.one_hot(y, ways).to(support.dtype)
    means = (labels.T @ support) / labels.sum(0)[:, None]
    return -(queries[:, None] - means[None]).square().sum(-1)
