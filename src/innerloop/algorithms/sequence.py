"""What the learners share that read a support set as a sequence: its order, and labels as inputs."""

from __future__ import annotations

from abc import ABC

import torch

from innerloop.algorithms.embedding import EmbeddingLearner
from innerloop.core.learner import DATA
from innerloop.core.mode import mode
from innerloop.core.rng import fold_key, keyed_uniform
from innerloop.core.types import Batch, Fast, Meta


class SequenceLearner(EmbeddingLearner, ABC):
    """Reads embedded support examples with their labels one after another, and then each query by itself.

    Tasks list a support set class by class, and that is what a reader would learn to rely on. So
    meta-training reads it in an order drawn for each task; elsewhere it is read as it is given.
    """

    any_ways = False  # labels are inputs, one for each way
    ordered = True
    ways: int

    def begin(self, meta: Meta, support: Batch) -> Fast:
        known = torch.arange(self.ways, device=support.y.device)
        labels = (support.y[:, None] == known).to(support.x.dtype)
        key, x = mode().key, support.x
        if mode().training and key is not None:
            order = keyed_uniform(fold_key(key, 0), (len(x),)).argsort()
            x, labels = x[order], labels[order]
        return {DATA: {"support": x, "labels": labels}}
