"""A trained run: evaluate it, adapt it to a new task, save and load it."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from safetensors.torch import load_file, save_file
from torch import nn

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError, DataError
from innerloop.core.functional import BatchNormPolicy, FunctionalModule
from innerloop.core.learner import STATISTICS
from innerloop.core.rng import generator
from innerloop.core.types import Meta, Split, TaskSpec
from innerloop.diagnose.doctor import Diagnosis, diagnose
from innerloop.diagnose.effects import Effects
from innerloop.diagnose.history import History
from innerloop.diagnose.stability import Judgement, judge_stability
from innerloop.evaluate.further import further_baselines
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import Evaluation, evaluate
from innerloop.tasks.base import TaskSource
from innerloop.training.adapted import Adapted, Examples
from innerloop.training.experiment import RunConfig, build_tasks, describe
from innerloop.training.folder import CONFIG, SPEC, RunFolder, told_as_data_error
from innerloop.training.loop import Training
from innerloop.training.state import check_leaves, stored_meta

_ADAPTED = "adapted.safetensors"


class Run:
    """A learner with its trained meta-parameters, and the tasks that it was trained on.

    Attributes:
        config: everything that made it.
        step: the outer step of these meta-parameters: that of the best validation score.
        folder: where it is stored, or None.
    """

    def __init__(
        self,
        learner: ModuleLearner,
        meta: Meta,
        *,
        spec: TaskSpec,
        config: RunConfig,
        step: int,
        tasks: TaskSource | None = None,
    ) -> None:
        self.learner, self.meta, self.spec, self.config, self.step = learner, meta, spec, config, step
        self.folder: RunFolder | None = None
        self._tasks = tasks

    @property
    def tasks(self) -> TaskSource:
        """The tasks it was trained on. Their data are read when first asked for: adapting needs none."""
        if self._tasks is None:
            self._tasks = build_tasks(self.config.tasks)
        return self._tasks

    @classmethod
    def of(cls, training: Training) -> Self:
        """The run that a finished training is."""
        state = training.state
        meta = state.judged if training.best_meta is None else training.best_meta
        config = describe(training.learner, training.tasks, training.config)
        step = state.best[1] if state.best else state.step
        tasks = training.tasks
        run = cls(training.learner, meta, spec=tasks.spec, config=config, step=step, tasks=tasks)
        run.folder = training.folder
        return run

    def evaluate(
        self,
        *,
        split: Split = "test",
        episodes: int = 1000,
        seed: int = 0,
        inner_steps: int | None = None,
        batch_norm: BatchNormPolicy | None = None,
        sizes: dict[str, int] | None = None,
        baselines: Literal["standard", "all"] = "standard",
    ) -> Evaluation:
        """Score on the first `episodes` fixed tasks of (seed, split), beside the baselines on the same tasks.

        Args:
            inner_steps: steps of adaptation; None is the learner's `test_inner_steps`.
            batch_norm: another BatchNorm policy than the one trained with.
            sizes: other `ways`, `shots` or `queries` than those trained for.
            baselines: `standard` costs next to nothing: no adaptation, nearest neighbour, nearest centroid in
                features before training (support mean for targets). `all` adds those that are fitted to each
                task: fine-tuning, and for classes logistic regression (scikit-learn) and nearest centroid in
                the run's own features. Training on all tasks together is a run of its own: `MAML` with
                `inner_steps=0`, or `Baseline` for all classes at once.
        """
        if baselines not in ("standard", "all"):
            raise ConfigError(f"baselines = {baselines!r}", expected="standard or all", do="choose one")
        learner = self.learner if batch_norm is None else with_batch_norm(self.learner, batch_norm, self.meta)
        tasks = self.tasks.resized(**sizes) if sizes else self.tasks
        if not learner.any_ways and tasks.spec.outputs != self.spec.outputs:
            raise ConfigError(
                f"ways = {tasks.spec.outputs} for a model with {self.spec.outputs} outputs",
                expected=f"{self.spec.outputs} ways",
                do="train with these ways, or use an algorithm without a head, such as ProtoNet",
            )
        chosen = FixedEpisodes(split, episodes, seed)
        untrained = learner.init(generator(self.config.train.seed, "init"))
        found = evaluate(
            learner,
            self.meta,
            tasks,
            chosen,
            inner_steps=inner_steps,
            tasks_axis=self.config.train.tasks_axis,
            untrained=untrained,
        )
        if baselines == "standard":
            return found
        more = further_baselines(learner, self.meta, untrained, tasks, chosen)
        return dataclasses.replace(found, baselines=found.baselines | more)

    def diagnose(self) -> Diagnosis:
        """Whether training has converged, and what is wrong with it: what `innerloop doctor` says.

        Raises:
            ContractError: the run is in memory alone, so it was not watched.
        """
        if self.folder is None:
            raise ContractError(
                "a run without a folder", expected="records of its training", do="train with out=..."
            )
        return diagnose(History.read(self.folder.path))

    def stability(
        self, *, episodes: int = 200, split: Split = "test", seed: int = 0, only: Sequence[str] = ()
    ) -> Judgement:
        """What its adaptation bears: what `innerloop stability` says, with what each perturbation costs.

        Args:
            episodes, split, seed: fixed tasks, at least 10, as in `evaluate`.
            only: names of perturbations, such as "inner rate"; none is all of them.

        Raises:
            ConfigError: a name that is none, too few tasks, or tasks that do not fit.
        """
        from innerloop.training.stability import stability

        chosen = FixedEpisodes(split, episodes, seed)
        return judge_stability(Effects(stability(self, chosen, only=only)))

    def adapt(self, x: Examples, y: Examples, *, inner_steps: int | None = None) -> Adapted:
        """Learn a new task from its support set: inputs x [S, ...] with labels or targets y.

        A few gradient steps, or a closed form, as the algorithm does it; then call `predict`.
        """
        return Adapted.of(self.learner, self.meta, x, y, inner_steps)

    def save_adapted(self, adapted: Adapted, path: str | os.PathLike[str]) -> None:
        """Write an adapted model to a folder that `load_adapted` reads."""
        target = Path(path)
        tensors, classes = adapted.values()
        with told_as_data_error(target):
            target.mkdir(parents=True, exist_ok=True)
            (target / CONFIG).write_text(self.config.to_yaml(), encoding="utf-8")
            (target / SPEC).write_text(self.spec.to_json(), encoding="utf-8")
            save_file(tensors, str(target / _ADAPTED), metadata={"classes": classes})


def load(
    path: str | os.PathLike[str],
    *,
    module: nn.Module | None = None,
    tasks: TaskSource | None = None,
    checkpoint: Literal["best", "last"] = "best",
) -> Run:
    """The run in a folder, with its best meta-parameters.

    Args:
        checkpoint: `best` is that of the best validation; `last` the newest, whatever it is worth.
        module, tasks: what the run was made with, where a file cannot describe it (a module of
            your own, arrays).

    Raises:
        ContractError: not a run folder, or the checkpoint is of another model.
        DataError: no undamaged checkpoint.
    """
    folder = RunFolder(path)
    folder.check()
    config = RunConfig.from_yaml(folder.path / CONFIG)
    spec = TaskSpec.from_json(folder.read(SPEC)) if tasks is None else tasks.spec
    learner = config.build_learner(spec, module=module)
    learner.to(config.train.device)
    found = folder.best_checkpoint() if checkpoint == "best" else folder.newest_checkpoint()
    if found is None:
        raise DataError(f"{path} without a checkpoint", expected="a run that was begun", do="train it first")
    tensors, values = found
    meta = _fitting(learner, config, tensors, folder)
    run = Run(learner, meta, spec=spec, config=config, step=values["step"], tasks=tasks)
    run.folder = folder
    return run


def load_adapted(path: str | os.PathLike[str], *, module: nn.Module | None = None) -> Adapted:
    """The adapted model that `Run.save_adapted` wrote."""
    file = Path(path) / _ADAPTED
    if not file.is_file():
        raise ContractError(
            f"{path} without {_ADAPTED}", expected="a folder written by save_adapted", do="check the path"
        )
    from safetensors import safe_open

    with safe_open(str(file), "pt") as opened:
        classes = opened.metadata()["classes"]
    folder = RunFolder(path)
    config = RunConfig.from_yaml(folder.path / CONFIG)
    learner = config.build_learner(TaskSpec.from_json(folder.read(SPEC)), module=module)
    # A tensor in a mapped file may stand anywhere, and kernels round by where their input stands.
    tensors = {name: tensor.clone() for name, tensor in load_file(str(file)).items()}
    return Adapted.from_values(learner, tensors, classes)


def with_batch_norm(learner: ModuleLearner, policy: BatchNormPolicy, meta: Meta) -> ModuleLearner:
    """The same learner under another BatchNorm policy."""
    other = copy.copy(learner)
    other.batch_norm, other.net = policy, FunctionalModule(learner.module, policy)
    other.to(tree.leaves(meta)[0].device)
    if policy == "running" and other.net.has_batch_norm and STATISTICS not in meta:
        raise ConfigError(
            f"batch_norm = 'running' for a run trained with {learner.batch_norm!r}",
            expected="a run that kept running statistics",
            do="train with batch_norm=running, or evaluate with support or transductive",
        )
    return other


def _fitting(learner: ModuleLearner, config: RunConfig, tensors: dict[str, Any], folder: RunFolder) -> Meta:
    """The checkpoint's `meta`, if it is of this model."""
    stored, meta = stored_meta(tensors), learner.init(generator(config.train.seed, "init"))
    check_leaves(stored, meta, f"checkpoint in {folder.path}")
    device = config.train.device
    return tree.unflatten({path: stored[path].to(device) for path in tree.flatten(meta)})
