"""Baselines that are fitted to each task, or take the run's own features: judged when asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.algorithms import MAML
from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ConfigError
from innerloop.core.functional import BatchNormPolicy, FunctionalModule
from innerloop.core.learner import STATISTICS
from innerloop.core.losses import score
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.evaluate.baselines import Baseline, centroid
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.models import MLP
from innerloop.tasks.base import TaskSource

_STEPS, _RATE = 50, 1e-2  # of fine-tuning, by Adam

Embedding = Callable[[Episode], tuple[Tensor, Tensor]]  # one task -> support [S, D] and queries [Q, D]


def further_baselines(
    learner: ModuleLearner, meta: Meta, untrained: Meta, tasks: TaskSource, chosen: FixedEpisodes
) -> dict[str, list[float]]:
    """The score of each task by name of the baseline.

    Fine-tuning: all weights of the network as it was before meta-training, by 50 steps of Adam on the
    support, from a fresh head where it has none. For classes also the nearest class mean in the run's own
    features, and scikit-learn's logistic regression on features of length one, the run's and those before.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    found = {"fine_tuning": _fine_tuned(learner, untrained, tasks, chosen)}
    spec = tasks.spec
    if spec.loss == "mse":
        return found
    before, after = _features(learner, untrained, "support"), _features(learner, meta, learner.batch_norm)
    rivals: dict[str, Baseline] = {
        "untrained_logistic_regression": _logistic(before, spec.outputs),
        "learned_centroid": lambda episode: centroid(spec.outputs, episode.support.y, *after(episode)),
        "learned_logistic_regression": _logistic(after, spec.outputs),
    }
    found |= {name: [] for name in rivals}
    device = next((leaf.device for leaf in learner.weights(meta).values()), torch.device("cpu"))
    for block, _ in chosen.blocks(tasks):
        for i in range(num_tasks(block)):
            episode = Episode(*(Batch(b.x.to(device), b.y.to(device)) for b in take(block, i)))
            for name, rival in rivals.items():
                with torch.no_grad():
                    found[name].append(float(score(spec.metric, rival(episode), episode.query.y)))
    return found


def _features(learner: ModuleLearner, meta: Meta, policy: BatchNormPolicy) -> Embedding:
    """What the network makes of a task's inputs before its head, if it has one."""
    params = learner.weights(meta) or learner.net.params()
    net = FunctionalModule(learner.module, policy if STATISTICS in meta else "support")
    net.to(next(iter(params.values()), torch.empty(0)).device)

    def embedded(episode: Episode) -> tuple[Tensor, Tensor]:
        both, rows = torch.cat([episode.support.x, episode.query.x]), len(episode.support.x)
        of = net.joint if learner.embeds else net.features
        found = of(params, learner.module_inputs(both), rows=rows, statistics=meta.get(STATISTICS)).flatten(1)
        return found[:rows], found[rows:]

    return embedded


def _logistic(embedded: Embedding, ways: int) -> Baseline:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError(
            "baselines = 'all' without scikit-learn, whose logistic regression is one of them",
            expected="the extra 'sklearn'",
            do="pip install 'innerloop[sklearn]', or ask for the standard baselines",
        ) from error

    def outputs(episode: Episode) -> Tensor:
        support, queries = (F.normalize(f, dim=1).double().cpu().numpy() for f in embedded(episode))
        fitted = LogisticRegression(max_iter=1000).fit(support, episode.support.y.cpu().numpy())
        probabilities = episode.query.x.new_zeros(len(queries), ways)
        probabilities[:, torch.from_numpy(fitted.classes_)] = torch.from_numpy(
            fitted.predict_proba(queries)
        ).to(probabilities)
        return probabilities

    return outputs


def _fine_tuned(
    learner: ModuleLearner, untrained: Meta, tasks: TaskSource, chosen: FixedEpisodes
) -> list[float]:
    """The scores of plain training on each support set: `MAML` from weights that it did not learn."""
    spec, params = tasks.spec, learner.weights(untrained) or learner.net.params()
    width = None
    if learner.embeds:
        episode = take(tasks.sample(chosen.split, 1, 0), 0)
        device = next(iter(params.values()), torch.empty(0)).device
        on_device = Episode(*(Batch(b.x.to(device), b.y.to(device)) for b in episode))
        width = _features(learner, untrained, "support")(on_device)[0].shape[1]
    network = _Network(learner, None if width is None else MLP(width, spec.outputs, hidden=()))
    trainer = MAML(network, inner_rule="Adam", inner_lr=_RATE, inner_steps=_STEPS, loss=spec.loss)
    start = trainer.net.params() | {f"body.{name}": leaf for name, leaf in params.items()}
    return evaluate(trainer, {"params": start}, tasks, chosen, curve=False).scores


class _Network(nn.Module):
    """A learner's module as it sees inputs, with a head where it has none."""

    def __init__(self, learner: ModuleLearner, head: nn.Module | None) -> None:
        super().__init__()
        self.body, self.head, self.seen = learner.module, head, learner.module_inputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.body(self.seen(x))
        return outputs if self.head is None else self.head(outputs)
