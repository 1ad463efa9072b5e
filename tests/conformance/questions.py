from innerloop.testing.probing import *  # noqa: F403
from innerloop.testing.questions import *  # noqa: F403
