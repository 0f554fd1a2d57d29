"""The part of TextWorld 1.7 that ALFWorld code uses, on hearth's native world.

If something is missing here, the error names it; `docs/python-package.md` lists what is equal and what differs.
"""

from textworld.core import Agent, Environment, EnvInfoMissingError, EnvInfos, GameState
from textworld.helpers import play, start

__version__ = "1.7.0"

#: True for this package, absent in TextWorld itself.
IS_HEARTH = True


def __getattr__(name):
    if name in ("make", "Game", "GameMaker", "GameOptions", "generator"):
        raise AttributeError(
            f"module 'textworld' of hearth_world has no {name!r}: it plays .tw-pddl games and does not generate games\n"
            "hint: hearth_world.generate writes new household games; uninstall the compatibility layer for TextWorld's generator"
        )
    raise AttributeError(f"module 'textworld' has no attribute {name!r}")
