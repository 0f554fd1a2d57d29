"""ALFWorld's text world as a native package: the same texts, thousands of times faster.

    from hearth_world import World
    world = World("json_2.1.3")
    env = world.env(world.split("valid_unseen")[0])
    print(env.reset())
    text, won = env.step(env.admissible()[0])

`hearth_world.compat.install()` makes existing code that imports `alfworld` and `textworld` run on it.
"""

import os

from ._native import Batch, Env, Expert, Game, GameError, GameOrder, _after_fork
from ._world import GameInfo, VecEnv, World, generate

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

__version__ = "0.1.0"

__all__ = [
    "Batch", "Env", "Expert", "Game", "GameError", "GameInfo", "GameOrder", "VecEnv", "World", "generate",
]  # fmt: skip
