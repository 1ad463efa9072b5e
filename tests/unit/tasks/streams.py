"""What tests of streams share: whether two draws are the same, and a stream made from its configuration."""

from __future__ import annotations

from typing import Any

import torch
import yaml

from innerloop.core.types import Episode
from innerloop.training.config import TrainConfig
from innerloop.training.experiment import RunConfig, describe
from unit.training.resuming import sinusoid_learner


def equal(one: Episode, other: Episode) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def rebuilt(stream: Any) -> Any:
    """The stream that its configuration makes, after YAML."""
    written = yaml.safe_dump(describe(sinusoid_learner(), stream, TrainConfig()).to_dict())
    return RunConfig.from_dict(yaml.safe_load(written)).build()[1]
