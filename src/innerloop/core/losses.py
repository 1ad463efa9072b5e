"""Losses and metrics by name, each a mean over the examples of one task."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.core.types import Episode, Loss, Metric


def loss_value(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """Mean loss of one task: outputs [S, ways] and y [S] for cross_entropy, both [S, F] for mse."""
    if loss == "cross_entropy":
        return F.cross_entropy(outputs, y)
    return (outputs - y).square().mean()


def trivial_loss(loss: Loss, episode: Episode, ways: int | None = None) -> Tensor:
    """The query loss of one task for a predictor that ignores inputs: the support mean, or a fair guess."""
    if loss == "cross_entropy":
        return episode.support.x.new_tensor(math.log(ways or 1))
    return loss_value(loss, episode.support.y.mean(0).expand_as(episode.query.y), episode.query.y)


def score(metric: Metric, outputs: Tensor, y: Tensor) -> Tensor:
    """Mean score of one task: the share of right labels, or the mean squared error."""
    if metric == "accuracy":
        return (outputs.argmax(-1) == y).to(torch.float32).mean()
    return (outputs - y).square().mean()
