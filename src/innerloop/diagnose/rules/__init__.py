"""Every rule of the doctor, in the order in which they are asked."""

from __future__ import annotations

from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules import forgetting, inner, leaks, meta_gradient, outer, tasks

RULES: tuple[Rule, ...] = (
    *outer.RULES,
    *inner.RULES,
    *meta_gradient.RULES,
    *tasks.RULES,
    *leaks.RULES,
    *forgetting.RULES,
)
