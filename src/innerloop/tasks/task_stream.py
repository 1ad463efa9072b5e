"""Any sources, as families of tasks that come one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, final

from innerloop.tasks.streaming import Schedule, StreamTasks


@final
class TaskStream(StreamTasks):
    """Sources that are trained on in an order: one after another, drifting, coming back, or all at once.

    A run on a stream records how it does on every family from first to last, which is what forgetting is
    computed from. Sources must agree as those of a `Mixture` must.

    Args:
        sources: at least two, in their order, each as its name with its arguments, its name alone, or in
            Python an object.
        names: of the families; None calls them after their sources, numbered where these are the same.
        schedule: `sequence` gives each an equal share of the outer steps, one after another; `drift` goes
            over from each to the next gradually; `progressive` lets them join one at a time, what is most
            alike first, and stay; `joint` is all at once.
        rounds: how often the whole sequence comes, >= 1.

    Raises:
        ConfigError: fewer than two sources, unfit ones, names that are not as many and different.

    >>> stream = TaskStream(["Sinusoid", "Linear"], rounds=2)
    >>> [(stream.names[stage.family], stage.start) for stage in stream.stages]
    [('Sinusoid', 0.0), ('Linear', 0.25), ('Sinusoid', 0.5), ('Linear', 0.75)]
    """

    def __init__(
        self,
        sources: list[Mapping[str, Any] | str | Any],
        names: list[str] | None = None,
        *,
        schedule: Schedule = "sequence",
        rounds: int = 1,
    ) -> None:
        self.sources = sources
        self._set_families(sources, names, schedule, rounds)

    @classmethod
    def tiny(cls) -> Self:
        """Sinusoids, then straight lines, of few points."""
        sizes = {"shots": 4, "queries": 6}
        return cls([{"name": "Sinusoid"} | sizes, {"name": "Linear"} | sizes])
