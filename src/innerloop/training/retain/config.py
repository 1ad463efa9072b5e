"""The settings of what keeps earlier tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from innerloop.core.errors import ConfigError, check_count, check_range

Balance = Literal["reservoir", "family"]


@dataclass(frozen=True)
class RetainConfig:
    """What is done against forgetting; several may be on at once, and by default none is.

    What a stage of a stream leaves behind (an anchor, the importance of each parameter) is taken when it
    ends; so `l2`, `ewc`, `si`, `distill` and `recall` are refused where there are no stages. A run that
    starts from another one (`start`) has those weights as its first anchor, which `l2` and `distill` need no
    stage for.
    Tasks are kept as they were drawn, with their examples.

    Args:
        replay: the share of each step's tasks, in [0, 1), that is drawn from the memory instead, rounded to
            whole tasks; neither none of them nor all.
        memory: how many tasks are kept, >= 1, for `replay` and `project`.
        balance: which: `reservoir` keeps each task seen so far with the same probability (Vitter 1985);
            `family` gives every family seen so far an equal part of the memory, and a reservoir each.
        l2: weight, >= 0, of half the squared distance to the last anchor, added to the outer loss.
        ewc: weight, >= 0, of elastic weight consolidation: half the squared distance to each anchor, every
            parameter weighted by its Fisher information, the mean square of the meta-gradients of single
            tasks (Kirkpatrick et al. 2017, arXiv:1612.00796).
        ewc_decay: None keeps an anchor for each stage; a number in [0, 1] is the online form, with one
            anchor, the last, and information that decays by that factor at each stage (Schwarz et al. 2018,
            arXiv:1805.06370).
        ewc_tasks: tasks that the information is estimated on, at the end of each stage, >= 1.
        si: strength c, >= 0, of synaptic intelligence: the importance of a parameter is what it contributed
            to the fall of the loss along the way (Zenke et al. 2017, arXiv:1703.04200).
        si_damping: xi, > 0, which bounds the importance of parameters that hardly moved.
        distill: weight, >= 0, of learning without forgetting: the loss between what the learner predicts
            after adapting to today's tasks, and what the last anchor predicts after adapting to them (Li and
            Hoiem 2016, arXiv:1606.09282, on adapted models), with whatever else the learner's outer loss has
            in it. Not for learners whose outer loss takes no predictions for labels: these are refused.
        recall: slots, >= 0, of an external memory of meta-parameters: at the end of each stage they are kept
            with a key to its tasks, and outside of training a task is adapted to from those whose key fits
            its support set best (`algorithms/recalling.py`). Where it is full, the older of the two whose
            tasks are most alike gives way. The memory is part of the run, so that evaluation, `adapt` and
            whatever loads it read it too.
        project: averaged gradient episodic memory: where the meta-gradient would raise the loss on as many
            tasks from the memory, that part is taken out of it (Chaudhry et al. 2019, arXiv:1812.00420).
    """

    replay: float = 0.0
    memory: int = 200
    balance: Balance = "reservoir"
    l2: float = 0.0
    ewc: float = 0.0
    ewc_decay: float | None = None
    ewc_tasks: int = 32
    si: float = 0.0
    si_damping: float = 1e-3
    distill: float = 0.0
    recall: int = 0
    project: bool = False

    def __post_init__(self) -> None:
        check_range("retain.replay", self.replay, low=0.0, high=1.0 - 1e-9)
        check_count("retain.memory", self.memory, low=1)
        check_count("retain.ewc_tasks", self.ewc_tasks, low=1)
        check_count("retain.recall", self.recall, low=0)
        if self.balance not in ("reservoir", "family"):
            raise ConfigError(
                f"retain.balance = {self.balance!r}", expected="reservoir or family", do="choose one of these"
            )
        for name in ("l2", "ewc", "si", "distill"):
            check_range(f"retain.{name}", getattr(self, name), low=0.0)
        check_range("retain.si_damping", self.si_damping, low=0.0, open_low=True)
        if self.ewc_decay is not None:
            check_range("retain.ewc_decay", self.ewc_decay, low=0.0, high=1.0)

    @property
    def remembers(self) -> bool:
        """Whether tasks are kept."""
        return self.replay > 0.0 or self.project
