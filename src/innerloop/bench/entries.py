"""How each few-shot algorithm is trained in the comparison: settings beside its defaults, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]

#: 5-way 1-shot on Omniglot, judged with fifteen queries a class.
TASKS: Settings = {"name": "Omniglot", "ways": 5, "shots": 1, "queries": 15}

# Networks of MAML's Omniglot experiment, and the short schedules that suit a budget of minutes.
_STEPPING: Settings = {
    "tasks": {"train_queries": 2},
    "model": {"name": "Conv4", "width": 64, "pooling": "stride"},
    "tasks_per_step": 16,
    "optimizer": {"name": "Adam", "lr": 0.003, "schedule": "cosine"},
}
# Embeddings train on more ways than they are tested on, as Prototypical Networks do.
_EMBEDDING: Settings = {
    "tasks": {"train_ways": 20, "train_shots": 1, "train_queries": 5},
    "model": {"name": "Conv4", "width": 64, "pooling": "stride"},
    "tasks_per_step": 2,
    "optimizer": {"name": "Adam", "lr": 0.002, "schedule": "cosine"},
}
# Those that read the support set as a sequence know one number of ways.
_READING: Settings = {
    "tasks": {"train_queries": 5},
    "model": {"name": "Conv4", "width": 64, "pooling": "stride"},
    "tasks_per_step": 8,
    "optimizer": {"name": "Adam", "lr": 0.002, "schedule": "cosine", "clip_norm": 10.0},
}
# Ordinary classification of all training classes; a task is a batch of 5 x 15 drawings.
_POOLED: Settings = {
    "tasks": {},
    "model": {"name": "Conv4", "width": 64, "pooling": "stride"},
    "tasks_per_step": 2,
    "optimizer": {"name": "Adam", "lr": 0.002, "schedule": "cosine"},
}
_ONE_STEP = {"inner_lr": 0.4, "inner_steps": 1, "test_inner_steps": 3, "batch_norm": "transductive"}


def _entry(family: Settings, algorithm: Settings | None = None, **changes: Any) -> dict[str, Any]:
    merged = {name: family[name] | changes.pop(name, {}) for name in ("tasks", "model", "optimizer")}
    merged["tasks"] = {**TASKS, **merged["tasks"]}
    return {
        "tasks_per_step": family["tasks_per_step"],
        "algorithm": dict(algorithm or {}),
        **merged,
        **changes,
    }


#: Algorithm -> its settings. `pretrain` names the one whose weights it begins with, after half of the time.
ENTRIES: dict[str, dict[str, Any]] = {
    "MAML": _entry(_STEPPING, _ONE_STEP | {"inner_lr": 1.0}),
    "FOMAML": _entry(_STEPPING, _ONE_STEP),
    "ANIL": _entry(_STEPPING, _ONE_STEP | {"inner_lr": 1.0, "inner_steps": 3}),
    "BOIL": _entry(_STEPPING, _ONE_STEP | {"inner_lr": 0.5}),
    "MetaSGD": _entry(_STEPPING, _ONE_STEP),
    "MAMLPlusPlus": _entry(
        _STEPPING, {"inner_lr": 0.4, "inner_steps": 3, "batch_norm": "transductive"}, tasks_per_step=8
    ),
    "MetaCurvature": _entry(_STEPPING, _ONE_STEP),
    "TNet": _entry(_STEPPING, _ONE_STEP),
    "ALFA": _entry(_STEPPING, _ONE_STEP | {"inner_steps": 2, "test_inner_steps": 2}, tasks_per_step=8),
    "CAVIA": _entry(
        _STEPPING, {"inner_lr": 1.0, "inner_steps": 2, "context": 100, "batch_norm": "transductive"}
    ),
    "ImplicitMAML": _entry(_STEPPING, {"inner_steps": 8, "batch_norm": "transductive"}, tasks_per_step=4),
    "Reptile": _entry(
        _STEPPING,
        {
            "inner_rule": "SGD",
            "inner_lr": 0.3,
            "inner_steps": 5,
            "test_inner_steps": 20,
            "inner_batch": 10,
            "batch_norm": "transductive",
        },
        tasks={"train_shots": 10, "train_queries": 1},
        tasks_per_step=5,
        optimizer={"name": "SGD", "lr": 1.0, "schedule": "linear"},
    ),
    "LearnedAggregation": _entry(_STEPPING, _ONE_STEP, tasks_per_step=8),
    "MetaLSTM": _entry(  # some 200 numbers for each parameter and inner step: a small network, few tasks
        _STEPPING,
        {"inner_steps": 5, "batch_norm": "transductive"},
        model={"width": 16},
        tasks_per_step=2,
        optimizer={"clip_norm": 0.25},
    ),
    "ProtoNet": _entry(_EMBEDDING),
    "MatchingNet": _entry(_EMBEDDING, {"scale": 10.0}),
    "RelationNet": _entry(_EMBEDDING, tasks={"train_ways": 5, "train_queries": 10}, tasks_per_step=4),
    "ProtoMAML": _entry(
        _STEPPING, {"inner_lr": 0.05, "inner_steps": 1, "batch_norm": "transductive"}, tasks_per_step=16
    ),
    "RidgeHead": _entry(_EMBEDDING),
    "LogisticHead": _entry(_EMBEDDING, tasks={"train_ways": 5, "train_queries": 10}, tasks_per_step=4),
    "MetaOptNet": _entry(_EMBEDDING, tasks={"train_ways": 5, "train_queries": 10}, tasks_per_step=4),
    "LEO": _entry(_EMBEDDING, tasks={"train_ways": 5, "train_queries": 5}, tasks_per_step=8),
    "MANN": _entry(_READING),
    "SNAIL": _entry(_READING),
    "Baseline": _entry(_POOLED),
    "BaselinePlusPlus": _entry(_POOLED),
    "MetaTransfer": _entry(
        _STEPPING, {"inner_lr": 0.1, "inner_steps": 10, "test_inner_steps": 50}, pretrain="Baseline"
    ),
}
