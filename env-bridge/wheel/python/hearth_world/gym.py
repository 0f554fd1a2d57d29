"""gymnasium environments: `hearth/ALFWorld-v0`, single and vectorised.

    import gymnasium
    env = gymnasium.make("hearth_world.gym:hearth/ALFWorld-v0", games="json_2.1.3", split="valid_unseen")
    vec = gymnasium.make_vec("hearth_world.gym:hearth/ALFWorld-v0", num_envs=64, games="json_2.1.3")

An observation is the game's text, an action is a command. Needs the extra `gym`: pip install 'hearth-world[gym]'.
"""

import os
import string
from typing import Any, Optional, Sequence, Union

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from . import Env, Game, GameOrder
from ._world import VecEnv, World

Games = Union[str, "os.PathLike[str]", World, Sequence[str]]

_LONGEST_TEXT = 1 << 14
_LONGEST_COMMAND = 1 << 10
_SIGNS = frozenset(string.printable)


def _paths(games: Games, split: Optional[str]) -> "list[str]":
    if isinstance(games, (str, os.PathLike)):
        games = World(games)
    if isinstance(games, World):
        found = [info.path for info in games.split(split)]
    else:
        found = [os.fspath(path) for path in games]
    if not found:
        raise ValueError(f"there are no games in split {split!r}")
    return found


class ALFWorldEnv(gymnasium.Env[str, str]):
    """One game at a time. Every reset takes the next game, in TextWorld's order for the seed.

    Args:
        games: a suite (see `hearth_world.World`), or paths of game files.
        split: the split of the suite, or None for all. By default `train`, so that nobody trains on test games.
        turn_limit: commands after which an episode is truncated.

    `reset(options={"game": ...})` plays that game instead: its id or path. The reward is 1.0 when the goal is reached, else 0.0.
    `info` has `won`, `admissible_commands` and `game`.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}

    def __init__(
        self,
        games: Games,
        split: Optional[str] = "train",
        turn_limit: int = 50,
        render_mode: Optional[str] = None,
    ):
        if turn_limit < 1:
            raise ValueError(f"turn_limit is {turn_limit} and must be at least 1")
        if isinstance(games, (str, os.PathLike)):
            games = World(games)
        self._world = games if isinstance(games, World) else None
        self.games = _paths(games, split)
        self.turn_limit = turn_limit
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Text(_LONGEST_TEXT, min_length=0, charset=_SIGNS)
        self.action_space = gymnasium.spaces.Text(_LONGEST_COMMAND, min_length=0, charset=_SIGNS)
        self._order: Optional[GameOrder] = None
        self._env: Optional[Env] = None
        self._text = ""
        self._turns = 0

    def reset(
        self, *, seed: Optional[int] = None, options: Optional[dict[str, Any]] = None
    ) -> "tuple[str, dict[str, Any]]":
        super().reset(seed=seed)
        if seed is not None or self._order is None:
            start = int(self.np_random.integers(2**32)) if seed is None else seed % 2**32
            self._order = GameOrder(len(self.games), start)
        game = (options or {}).get("game")
        if game is None:
            path = self.games[next(self._order)]
        else:
            path = self._world.find(game).path if self._world is not None else os.fspath(game)
        self._env = Env(Game(path))
        self._turns = 0
        self._text = self._env.reset()
        self._show()
        return self._text, self._info()

    def step(self, action: str) -> "tuple[str, float, bool, bool, dict[str, Any]]":
        if self._env is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        was_won = self._env.won
        self._text, won = self._env.step(action)
        self._turns += 1
        self._show()
        truncated = not won and self._turns >= self.turn_limit
        return self._text, float(won and not was_won), won, truncated, self._info()

    def render(self) -> Any:
        return self._text if self.render_mode == "ansi" else None

    def _show(self) -> None:
        if self.render_mode == "human":
            print(self._text)

    def _info(self) -> "dict[str, Any]":
        env = self._env
        assert env is not None
        return {"won": env.won, "admissible_commands": env.admissible(), "game": str(env.game.path)}


class ALFWorldVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """`num_envs` games at once, on all cores. A game that is over starts again with the next `step`.

    Observations and actions are tuples or lists of texts; `infos` has arrays of objects and the masks `_won`,
    `_admissible_commands` and `_game`, which are always true.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int,
        games: Games,
        split: Optional[str] = "train",
        turn_limit: int = 50,
        render_mode: Optional[str] = None,
    ):
        if render_mode is not None:
            raise ValueError(f"render_mode is {render_mode!r}; the vectorised environment shows nothing")
        self.num_envs = num_envs
        self.render_mode = None
        self.single_observation_space = gymnasium.spaces.Text(_LONGEST_TEXT, min_length=0, charset=_SIGNS)
        self.single_action_space = gymnasium.spaces.Text(_LONGEST_COMMAND, min_length=0, charset=_SIGNS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._vec = VecEnv(_paths(games, split), num_envs, seed=0, turn_limit=turn_limit, autoreset="next_step")
        self._is_seeded = False

    def reset(
        self, *, seed: Any = None, options: Optional[dict[str, Any]] = None
    ) -> "tuple[Any, dict[str, Any]]":
        if options and "game" in options:
            raise ValueError("options has a game; the vectorised environment takes the next games of its order")
        if isinstance(seed, (list, tuple)):
            raise ValueError("seed must be one number: the environments share one order of games")
        super().reset(seed=seed)
        if seed is not None or not self._is_seeded:
            self._vec.seed(int(self.np_random.integers(2**32)) if seed is None else seed % 2**32)
            self._is_seeded = True
        texts, infos = self._vec.reset()
        return tuple(texts), self._arrays(infos)

    def step(self, actions: Any) -> "tuple[Any, Any, Any, Any, dict[str, Any]]":
        if isinstance(actions, str):
            raise ValueError(f"actions must be {self.num_envs} texts, and is one")
        texts, rewards, terminated, truncated, infos = self._vec.step(list(actions))
        return (
            tuple(texts),
            np.array(rewards, dtype=np.float64),
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            self._arrays(infos),
        )

    def _arrays(self, infos: "dict[str, list[Any]]") -> "dict[str, Any]":
        arrays: "dict[str, Any]" = {}
        for name, values in infos.items():
            array = np.empty(len(values), dtype=object if name != "won" else np.bool_)
            for index, value in enumerate(values):
                array[index] = value
            arrays[name] = array
            arrays["_" + name] = np.ones(len(values), dtype=np.bool_)
        return arrays


gymnasium.register(
    id="hearth/ALFWorld-v0",
    entry_point="hearth_world.gym:ALFWorldEnv",
    vector_entry_point="hearth_world.gym:ALFWorldVectorEnv",
)
