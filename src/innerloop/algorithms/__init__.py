"""The algorithms, one file each. Adding one is its file, and its line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerloop.core.registry import lazy

if TYPE_CHECKING:
    from innerloop.algorithms.alfa import ALFA
    from innerloop.algorithms.anil import ANIL
    from innerloop.algorithms.anml import ANML
    from innerloop.algorithms.baseline import Baseline
    from innerloop.algorithms.baseline_plus_plus import BaselinePlusPlus
    from innerloop.algorithms.boil import BOIL
    from innerloop.algorithms.cavia import CAVIA
    from innerloop.algorithms.conditional_neural_process import ConditionalNeuralProcess
    from innerloop.algorithms.fomaml import FOMAML
    from innerloop.algorithms.implicit_maml import ImplicitMAML
    from innerloop.algorithms.la_maml import LaMAML
    from innerloop.algorithms.learned_aggregation import LearnedAggregation
    from innerloop.algorithms.learned_optimizer import LearnedOptimizer
    from innerloop.algorithms.learning_to_adapt import LearningToAdapt
    from innerloop.algorithms.leo import LEO
    from innerloop.algorithms.logistic_head import LogisticHead
    from innerloop.algorithms.maml import MAML
    from innerloop.algorithms.maml_plus_plus import MAMLPlusPlus
    from innerloop.algorithms.mann import MANN
    from innerloop.algorithms.matching_net import MatchingNet
    from innerloop.algorithms.meta_curvature import MetaCurvature
    from innerloop.algorithms.meta_lstm import MetaLSTM
    from innerloop.algorithms.meta_sgd import MetaSGD
    from innerloop.algorithms.meta_transfer import MetaTransfer
    from innerloop.algorithms.metaopt_net import MetaOptNet
    from innerloop.algorithms.oml import OML
    from innerloop.algorithms.proto_maml import ProtoMAML
    from innerloop.algorithms.protonet import ProtoNet
    from innerloop.algorithms.relation_net import RelationNet
    from innerloop.algorithms.reptile import Reptile
    from innerloop.algorithms.ridge_head import RidgeHead
    from innerloop.algorithms.snail import SNAIL
    from innerloop.algorithms.tnet import TNet

#: Name of the class, of the flag and of the docs page -> its file.
REGISTRY = {
    "ALFA": "alfa",
    "ANIL": "anil",
    "ANML": "anml",
    "BOIL": "boil",
    "Baseline": "baseline",
    "BaselinePlusPlus": "baseline_plus_plus",
    "CAVIA": "cavia",
    "ConditionalNeuralProcess": "conditional_neural_process",
    "FOMAML": "fomaml",
    "ImplicitMAML": "implicit_maml",
    "LEO": "leo",
    "LaMAML": "la_maml",
    "LearnedAggregation": "learned_aggregation",
    "LearnedOptimizer": "learned_optimizer",
    "LearningToAdapt": "learning_to_adapt",
    "LogisticHead": "logistic_head",
    "MAML": "maml",
    "MAMLPlusPlus": "maml_plus_plus",
    "MANN": "mann",
    "MatchingNet": "matching_net",
    "MetaCurvature": "meta_curvature",
    "MetaLSTM": "meta_lstm",
    "MetaOptNet": "metaopt_net",
    "MetaSGD": "meta_sgd",
    "MetaTransfer": "meta_transfer",
    "OML": "oml",
    "ProtoMAML": "proto_maml",
    "ProtoNet": "protonet",
    "RelationNet": "relation_net",
    "Reptile": "reptile",
    "RidgeHead": "ridge_head",
    "SNAIL": "snail",
    "TNet": "tnet",
}

__all__ = [
    "ALFA",
    "ANIL",
    "ANML",
    "BOIL",
    "CAVIA",
    "FOMAML",
    "LEO",
    "MAML",
    "MANN",
    "OML",
    "REGISTRY",
    "SNAIL",
    "Baseline",
    "BaselinePlusPlus",
    "ConditionalNeuralProcess",
    "ImplicitMAML",
    "LaMAML",
    "LearnedAggregation",
    "LearnedOptimizer",
    "LearningToAdapt",
    "LogisticHead",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaCurvature",
    "MetaLSTM",
    "MetaOptNet",
    "MetaSGD",
    "MetaTransfer",
    "ProtoMAML",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "RidgeHead",
    "TNet",
]


def __getattr__(name: str) -> Any:
    return lazy(__name__, REGISTRY, name)
