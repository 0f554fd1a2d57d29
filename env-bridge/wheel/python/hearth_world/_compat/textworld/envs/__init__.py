"""The environments by kind of file."""

import re

from textworld.envs.pddl import PddlEnv


def _guess_backend(path):
    if path.endswith(".ulx"):
        raise NotImplementedError(
            "Glulx games are not supported anymore. Use TextWorld version < 1.7.0 to play Glulx games."
        )
    if path.endswith(".tw-pddl"):
        return PddlEnv
    if re.search(r"\.z[1-8]", path) or path.endswith(".json"):
        raise NotImplementedError(
            f"hearth_world plays .tw-pddl games, and {path} is a Z-machine game\nhint: TextWorld itself plays it"
        )
    raise ValueError("Unsupported game format: {}".format(path))
