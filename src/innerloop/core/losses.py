"""Losses and metrics by name, each a mean over the examples of one task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.core.types import Loss, Metric


def loss_value(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """Mean loss of one task: outputs [S, ways] and y [S] for cross_entropy, both [S, F] for mse."""
    if loss == "cross_entropy":
        return F.cross_entropy(outputs, y)
    return (outputs - y).square().mean()


def score(metric: Metric, outputs: Tensor, y: Tensor) -> Tensor:
    """Mean score of one task: the share of right labels, or the mean squared error."""
    if metric == "accuracy":
        return (outputs.argmax(-1) == y).to(torch.float32).mean()
    return (outputs - y).square().mean()
