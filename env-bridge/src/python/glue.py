"""The code that hearth runs in a worker process: one world, one game at a time.

Every world has load(game), reset(), step(command) and close(). A reset or a step returns
(observation, status, commands): a str; "playing", "won" or "lost"; the admissible commands, or None
if the world does not list them.
"""

import importlib
import importlib.util
import os
import sys


class TextWorldGames:
    """The games of ALFWorld (`.tw-pddl`), run as ALFWorld runs them, and of TextWorld (`.z1` to `.z8`)."""

    def __init__(self):
        import textworld

        self.textworld = textworld
        self.infos = textworld.EnvInfos(won=True, lost=True, admissible_commands=True)
        # Created only once: each new environment copies and opens a library of 34 MB and never closes it.
        self.pddl = None
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
        return self._observation(self.env.reset())

    def step(self, command):
        return self._observation(self.env.step(command)[0])

    def close(self):
        if self.env is not None and self.env is not self.pddl:
            self.env.close()

    def _observation(self, state):
        status = "won" if state["won"] else "lost" if state["lost"] else "playing"
        return state["feedback"], status, state["admissible_commands"]


class UsersWorld:
    """A class of the user with reset(game), step(command) and close(), named as SOURCE:CLASS."""

    def __init__(self, path):
        source, _, name = path.rpartition(":")
        module = self._module(source)
        if not hasattr(module, name):
            raise AttributeError(f"{source} has no class {name}")
        kind = getattr(module, name)
        missing = [method for method in ("reset", "step", "close") if not callable(getattr(kind, method, None))]
        if missing:
            raise TypeError(
                f"{name} of {source} has no method {', '.join(missing)}: a world has reset(game), step(command) and close()"
            )
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
        return self._observation("reset", self.world.reset(self.game))

    def step(self, command):
        return self._observation("step", self.world.step(command))

    def close(self):
        self.world.close()

    def _observation(self, method, result):
        if isinstance(result, tuple) and len(result) == 2:
            result = (*result, None)
        is_valid = (
            isinstance(result, tuple)
            and len(result) == 3
            and isinstance(result[0], str)
            and result[1] in ("playing", "won", "lost")
            and (result[2] is None or isinstance(result[2], list) and all(isinstance(c, str) for c in result[2]))
        )
        if not is_valid:
            raise TypeError(
                f'{self.name}.{method} must return (observation, "playing" | "won" | "lost") or '
                f"(observation, status, [commands]), and returned {result!r:.300}"
            )
        return result


def enter(site_packages, isolated):
    """Puts the packages of a venv first. If the venv is isolated, removes those of the interpreter."""
    import site

    own = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    before = list(sys.path)
    site.addsitedir(site_packages)
    new = [path for path in sys.path if path not in before]
    removed = own if isolated else []
    sys.path[:] = new + [path for path in before if path not in removed]


def prepare(temporary):
    """Sets what an embedded interpreter lacks compared with a Python process."""
    import faulthandler
    import tempfile

    sys.argv = ["hearth"]
    tempfile.tempdir = temporary
    os.environ["TMPDIR"] = temporary
    faulthandler.enable()  # if the process crashes or is aborted, the Python stack is printed to stderr


def explain(error, stack):
    """Returns the traceback as Python prints it."""
    import traceback

    return "".join(traceback.format_exception(type(error), error, stack))
