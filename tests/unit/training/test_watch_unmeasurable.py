"""What cannot be measured of a learner is said, and never ends its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.algorithms import FOMAML
from innerloop.diagnose.doctor import diagnose
from innerloop.diagnose.history import History
from innerloop.tasks import Sinusoid
from innerloop.training.config import ProbeConfig, TrainConfig, ValidationConfig
from innerloop.training.fit import start
from innerloop.training.folder import RunFolder


class OnceOnly(torch.autograd.Function):
    """A sine whose derivative refuses to be differentiated, as many an operator of one's own does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("sine has no second derivative")
        (x,) = ctx.saved_tensors
        return grads[0] * x.cos()


class Waves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(OnceOnly.apply(self.first(x)))  # pyright: ignore


def test_a_model_without_second_derivatives_is_trained_and_what_is_missing_has_a_reason(
    tmp_path: Path,
) -> None:
    config = TrainConfig(
        steps=12,
        tasks_axis="loop",
        compile=False,
        validation=ValidationConfig(every=12, episodes=4),
        probe=ProbeConfig(every=2, tasks=4),
    )
    learner = FOMAML(Waves(), inner_lr=0.01, loss="mse")
    for _ in start(learner, Sinusoid(), config, RunFolder(tmp_path / "run")):
        pass
    history = History.read(tmp_path / "run")
    assert len(history.looks) == 7
    assert not history.has("curvature")
    assert "no second derivative" in history.setup["skipped"]["curvature"]
    silent = {answer.id: answer.reason for answer in diagnose(history).silent}
    assert "no second derivative" in silent["VANISHING"]
