"""The version, and where the games are."""

import os

__version__ = "0.4.2"

ALFWORLD_DATA = os.getenv("ALFWORLD_DATA", os.path.expanduser("~/.cache/alfworld"))
os.makedirs(ALFWORLD_DATA, exist_ok=True)
os.environ["ALFWORLD_DATA"] = ALFWORLD_DATA

BUILTIN_DATA_PATH = os.path.join(os.path.dirname(__file__), "data")
ALFRED_PDDL_PATH = os.path.join(BUILTIN_DATA_PATH, "alfred.pddl")
ALFRED_TWL2_PATH = os.path.join(BUILTIN_DATA_PATH, "alfred.twl2")
