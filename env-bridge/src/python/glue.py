"""What hearth runs inside a worker process: one world, one game at a time.

Every world has load(game), reset(), step(command) and close(). A reset or a step answers with
(observation, status, commands): a str; "playing", "won" or "lost"; the admissible commands, or None where the world
does not know them.
"""

import importlib
import importlib.util
import os
import sys


class TextWorldGames:
    """ALFWorld's games (`.tw-pddl`), played as ALFWorld plays them, and TextWorld's (`.z1` to `.z8`)."""

    def __init__(self):
        import textworld

        self.textworld = textworld
        self.infos = textworld.EnvInfos(won=True, lost=True, admissible_commands=True)
        self.pddl = None  # made once: each new one copies and opens a library of 34 MB that it never closes
        self.env = None

    def load(self, game):
        if game.endswith(".tw-pddl"):
            self.env = self.pddl = self.pddl or self._alfworld()
            self.env.load(game)
        else:
            if self.env is not None and self.env is not self.pddl:
                self.env.close()
            self.env = self.textworld.start(game, self.infos)
            self.env.seed(1)

    def _alfworld(self):
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl import PddlEnv

        return AlfredDemangler(PddlEnv(self.infos), shuffle=False)

    def reset(self):
        return self._told(self.env.reset())

    def step(self, command):
        return self._told(self.env.step(command)[0])

    def close(self):
        if self.env is not None and self.env is not self.pddl:
            self.env.close()

    def _told(self, state):
        status = "won" if state["won"] else "lost" if state["lost"] else "playing"
        return state["feedback"], status, state["admissible_commands"]


class UsersWorld:
    """A class of the user's: reset(game), step(command) and close()."""

    def __init__(self, place):
        source, _, name = place.rpartition(":")
        module = self._module(source)
        if not hasattr(module, name):
            raise AttributeError(f"{source} has no class {name}")
        kind = getattr(module, name)
        missing = [method for method in ("reset", "step", "close") if not callable(getattr(kind, method, None))]
        if missing:
            raise TypeError(f"{name} of {source} has no method {', '.join(missing)}: a world has reset(game), step(command) and close()")
        self.name = name
        self.game = None
        self.world = kind()

    def _module(self, source):
        if not source.endswith(".py"):
            sys.path.insert(0, os.getcwd())
            return importlib.import_module(source)
        path = os.path.abspath(source)
        sys.path.insert(0, os.path.dirname(path))
        name = os.path.splitext(os.path.basename(path))[0]
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def load(self, game):
        self.game = game

    def reset(self):
        return self._told("reset", self.world.reset(self.game))

    def step(self, command):
        return self._told("step", self.world.step(command))

    def close(self):
        self.world.close()

    def _told(self, method, answer):
        if isinstance(answer, tuple) and len(answer) == 2:
            answer = (*answer, None)
        fits = (
            isinstance(answer, tuple)
            and len(answer) == 3
            and isinstance(answer[0], str)
            and answer[1] in ("playing", "won", "lost")
            and (answer[2] is None or isinstance(answer[2], list) and all(isinstance(c, str) for c in answer[2]))
        )
        if not fits:
            raise TypeError(
                f'{self.name}.{method} must return (observation, "playing" | "won" | "lost") or '
                f"(observation, status, [commands]), and returned {answer!r:.300}"
            )
        return answer


def enter(site_packages, alone):
    """Puts a venv's packages first, and leaves the interpreter's own out where the venv does."""
    import site

    own = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    before = list(sys.path)
    site.addsitedir(site_packages)
    new = [path for path in sys.path if path not in before]
    left_out = own if alone else []
    sys.path[:] = new + [path for path in before if path not in left_out]


def prepare(temporary):
    """Makes an embedded interpreter look like a started one."""
    import faulthandler
    import tempfile

    sys.argv = ["hearth"]
    tempfile.tempdir = temporary
    os.environ["TMPDIR"] = temporary
    faulthandler.enable()  # a crash or a watchdog's abort leaves the Python stack on stderr


def explain(error, place):
    """The traceback as Python prints it."""
    import traceback

    return "".join(traceback.format_exception(type(error), error, place))
