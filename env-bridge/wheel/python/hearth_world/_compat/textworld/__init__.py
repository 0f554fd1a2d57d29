"""The part of TextWorld 1.7 that ALFWorld code uses, on hearth's native world.

If something is missing here, the error names it; `docs/python-package.md` lists what is equal and what differs.
"""

from textworld.core import Agent, Environment, EnvInfoMissingError, EnvInfos, GameState
from textworld.helpers import play, start

__version__ = "1.7.0"

#: True for this package, absent in TextWorld itself.
IS_HEARTH = True


def _not_here(name):
    def refuse(*args, **kwargs):
        raise NotImplementedError(
            f"textworld.{name}: hearth_world plays .tw-pddl games and has no generator of TextWorld's games\n"
            "hint: hearth_world.generate writes new household games; run this script without hearth_world for the generator"
        )

    refuse.__name__ = name
    return refuse


make, Game, GameMaker, GameOptions = map(_not_here, ("make", "Game", "GameMaker", "GameOptions"))
