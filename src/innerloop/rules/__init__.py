"""Update rules: one step of inner learning each."""

from innerloop.rules.adagrad import Adagrad
from innerloop.rules.adam import Adam
from innerloop.rules.adamw import AdamW
from innerloop.rules.base import UpdateRule
from innerloop.rules.rmsprop import RMSprop
from innerloop.rules.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop", "UpdateRule"]
