"""A batch of games, in the order of TextWorld."""

import operator
import os
import sys
import textwrap
from functools import partial
from io import StringIO

from hearth_world import GameOrder
from textworld.core import EnvInfos
from textworld.envs.batch import AsyncBatchEnv, SyncBatchEnv
from textworld.envs.wrappers import Filter, GenericEnvironment, Limit


def _make_env(request_infos, max_episode_steps=None, wrappers=[]):
    env = GenericEnvironment(request_infos)
    if max_episode_steps:
        env = Limit(env, max_episode_steps=max_episode_steps)
    for wrapper in list(wrappers) + [Filter]:
        env = wrapper(env)
    return env


def _yellow(text):
    if "NO_COLOR" in os.environ or "ANSI_COLORS_DISABLED" in os.environ:
        return text
    if "FORCE_COLOR" not in os.environ and (os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()):
        return text
    return f"\033[33m{text}\033[0m"


def _in_order(games, seed):
    if not games:
        raise ValueError("the list of games is empty")
    for index in GameOrder(len(games), seed):
        yield games[index]


class TextworldBatchGymEnv:
    """Plays `batch_size` games at once. Every reset takes the next games of the shuffled list."""

    def __init__(
        self,
        gamefiles,
        request_infos=None,
        batch_size=1,
        asynchronous=True,
        auto_reset=False,
        max_episode_steps=None,
        wrappers=[],
    ):
        self.gamefiles = gamefiles
        self.batch_size = batch_size
        self.request_infos = request_infos or EnvInfos()
        self.seed(1234)
        make = partial(_make_env, self.request_infos, max_episode_steps, wrappers)
        batch = AsyncBatchEnv if batch_size > 1 and asynchronous else SyncBatchEnv
        self.batch_env = batch([make] * batch_size, auto_reset)

    def seed(self, seed=None):
        """Shuffles the games as numpy's `RandomState(seed)` does, and returns `[seed]`.

        Raises:
            ValueError: if the seed is not between 0 and 2**32 - 1.
        """
        if seed is None:
            number = int.from_bytes(os.urandom(4), "little")
        else:
            number = operator.index(seed)
            if not 0 <= number < 2**32:
                raise ValueError("Seed must be between 0 and 2**32 - 1")
        games = list(self.gamefiles)
        self._gamefiles_iterator = _in_order(games, number)
        return [seed]

    def reset(self):
        if self.batch_env is not None:
            self.batch_env.close()
        games = [next(self._gamefiles_iterator) for _ in range(self.batch_size)]
        self.batch_env.load(games)
        self.last_commands = [None] * self.batch_size
        self.obs, infos = self.batch_env.reset()
        return self.obs, infos

    def skip(self, nb_games=1):
        """Leaves out the next games of the list."""
        for _ in range(nb_games):
            next(self._gamefiles_iterator)

    def step(self, commands):
        assert isinstance(commands, (list, tuple)), "Expected a list of commands."
        self.last_commands = commands
        self.obs, scores, dones, infos = self.batch_env.step(commands)
        return self.obs, scores, dones, infos

    def close(self):
        if self.batch_env is not None:
            self.batch_env.close()
        self.batch_env = None

    def render(self, mode="human"):
        parts = []
        for command, obs in zip(self.last_commands, self.obs):
            message = obs.rstrip() + "\n"
            if command is not None:
                shown = "> " + command
                message = (_yellow(shown) if mode in ("ansi", "human") else shown) + "\n" + message
            if mode == "human":
                message = "\n".join("\n".join(textwrap.wrap(line, width=80)) for line in message.split("\n"))
            parts.append(message)
        text = "\n-----\n".join(parts) + "\n"
        if mode not in ("ansi", "text"):
            sys.stdout.write(text)
            return None
        out = StringIO()
        out.write(text)
        return out.getvalue() if mode == "text" else out
