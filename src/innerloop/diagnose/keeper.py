"""Which checkpoint to keep: the earliest that is not worse than the best."""

from __future__ import annotations

from innerloop.diagnose.history import History
from innerloop.diagnose.statistics import mean_of
from innerloop.diagnose.verdict import EPSILON, capped


def earliest_best(history: History, *, epsilon: float = EPSILON) -> int:
    """The outer step of the earliest look that no later one beats beyond doubt.

    A look takes the place of the one that was kept if it is better by more than `epsilon` of the loss, on the
    same tasks, at the lower end of a one-sided 95 % interval. So what is a little better by chance takes no
    place, and many small gains together do.
    """
    post = history.series("post", split="val")
    losses = capped(history, post.stacked())
    kept = 0
    for i in range(1, len(losses)):
        gain = mean_of(losses[kept] - losses[i])
        if gain.low > epsilon * losses[kept].mean():
            kept = i
    return post.steps[kept]
