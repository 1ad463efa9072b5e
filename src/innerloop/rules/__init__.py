"""Update rules: one step of inner learning each."""

from innerloop.rules.adam import Adam
from innerloop.rules.base import UpdateRule
from innerloop.rules.sgd import SGD

__all__ = ["SGD", "Adam", "UpdateRule"]
