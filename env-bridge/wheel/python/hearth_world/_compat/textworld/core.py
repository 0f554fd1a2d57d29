"""Environments, wrappers and what an environment reports."""

import sys
import textwrap
from copy import deepcopy
from io import StringIO

_BASIC = (
    "feedback", "description", "inventory", "location", "facts", "win_facts", "fail_facts", "last_action", "last_command", "game",
    "won", "lost", "score", "moves", "max_score", "objective", "entities", "typed_entities", "verbs", "command_templates",
    "admissible_commands", "possible_admissible_commands", "possible_commands", "intermediate_reward", "policy_commands",
)  # fmt: skip


class EnvInfos:
    """Which information an environment reports besides its text.

    Each keyword is a flag; `extras` is a list of names.

    Raises:
        ValueError: if a keyword is unknown.
    """

    __slots__ = [*_BASIC, "extras"]

    def __init__(self, **kwargs):
        unknown = set(kwargs) - set(self.__slots__)
        if unknown:
            raise ValueError(
                f"Unknown information requested: {sorted(unknown)}. Available information are: {sorted(self.__slots__)}"
            )
        for name in _BASIC:
            setattr(self, name, kwargs.get(name, False))
        self.extras = kwargs.get("extras", [])

    @property
    def basics(self):
        """The requested names, extras excluded."""
        return [name for name in _BASIC if getattr(self, name)]

    def __len__(self):
        return len(self.basics) + len(self.extras)

    def __eq__(self, other):
        return self.basics == other.basics and self.extras == other.extras

    def copy(self):
        return EnvInfos(**dict.fromkeys(self.basics, True), extras=list(self.extras))


class GameState(dict):
    """What an environment reports. An attribute that is missing reads as None."""

    def __getattr__(self, attr):
        return self.get(attr)

    def __setattr__(self, attr, value):
        self[attr] = value

    def copy(self):
        return GameState({key: deepcopy(value) for key, value in self.items()})


class Environment:
    """A text game that can be loaded, reset and played."""

    def __init__(self, request_infos=None):
        self.state = GameState()
        self.request_infos = request_infos or EnvInfos()

    def load(self, path):
        raise NotImplementedError()

    def step(self, command):
        raise NotImplementedError()

    def reset(self):
        raise NotImplementedError()

    def seed(self, seed=None):
        return []

    def render(self, mode="human"):
        message = self.state.feedback.rstrip() + "\n"
        if self.display_command_during_render and self.state.last_command is not None:
            message = "> " + self.state.last_command + "\n" + message
        if mode == "human":
            message = "\n".join("\n".join(textwrap.wrap(line, width=80)) for line in message.split("\n"))
        if mode not in ("ansi", "text"):
            sys.stdout.write(message + "\n")
            return None
        out = StringIO()
        out.write(message + "\n")
        if mode == "text":
            return out.getvalue()
        return out

    def close(self):
        pass

    def copy(self):
        raise NotImplementedError()

    @property
    def display_command_during_render(self):
        return self.__dict__.setdefault("_display_command_during_render", False)

    @display_command_during_render.setter
    def display_command_during_render(self, value):
        self._display_command_during_render = value

    def __str__(self):
        return type(self).__name__


class Wrapper:
    """Passes everything on to another environment. An instance that has none is applied by calling it."""

    def __init__(self, env=None):
        self._wrap(env)

    def __call__(self, env):
        self._wrap(env)
        return self

    def _wrap(self, env):
        self._wrapped_env = env

    def __getattr__(self, attr):
        wrapped = self.__dict__.get("_wrapped_env")
        if wrapped is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {attr!r}")
        return getattr(wrapped, attr)

    @property
    def unwrapped(self):
        return getattr(self._wrapped_env, "unwrapped", self._wrapped_env)

    def load(self, path):
        return self._wrapped_env.load(path)

    def step(self, command):
        return self._wrapped_env.step(command)

    def reset(self):
        return self._wrapped_env.reset()

    def seed(self, seed=None):
        return self._wrapped_env.seed(seed)

    def render(self, mode="human"):
        return self._wrapped_env.render(mode)

    def close(self):
        if self._wrapped_env:
            self._wrapped_env.close()

    def copy(self):
        raise NotImplementedError()

    @property
    def display_command_during_render(self):
        return self._wrapped_env.display_command_during_render

    @display_command_during_render.setter
    def display_command_during_render(self, value):
        self._wrapped_env.display_command_during_render = value

    def __str__(self):
        return f"{type(self).__name__}.{self._wrapped_env}"


class Agent:
    """Something that plays: it gets what the environment reports and returns a command."""

    def reset(self, env):
        pass

    def act(self, game_state, reward, done):
        raise NotImplementedError()

    def finish(self, game_state, reward, done):
        pass

    @property
    def wrappers(self):
        return []


class GameNotRunningError(RuntimeError):
    """The game is over, or was never started."""

    def __init__(self, msg=""):
        super().__init__(
            msg or "Game is not running at the moment. Reset the environment to start a new game using `env.reset()`."
        )


class EnvInfoMissingError(NameError):
    """Information that someone needs was not requested."""

    def __init__(self, requester, info):
        super().__init__(
            f"The info '{info}' requested by `{requester}` is missing."
            f" Make sure it is enabled like so `Environment(request_infos=EnvInfos(`{info}`=True))`."
        )
