"""Suites of games, and many games at once."""

import operator
import os
from typing import Any, NamedTuple, Sequence

from . import _native
from ._native import Batch, Env, Game, GameOrder

SPLITS = ("train", "valid_train", "valid_seen", "valid_unseen")
_MOST_ENVS = 1 << 20


class GameInfo(NamedTuple):
    """A game of a suite: its id, its split, its task type if it is known, and its file."""

    id: str
    split: str
    task_type: "str | None"
    path: str


class World:
    """The games of a suite: a folder in ALFWorld's layout, a folder or manifest that `generate` wrote, or one
    `.tw-pddl` file.

    Raises:
        ValueError: if `path` is no suite, or a suite without games.
        FileNotFoundError: if there is no such `.tw-pddl` file.
    """

    def __init__(self, path: "str | os.PathLike[str]"):
        self.path = os.path.expandvars(os.path.expanduser(os.fspath(path)))
        parent, name = os.path.split(os.path.abspath(self.path))
        if name in SPLITS and os.path.isdir(self.path):
            raise ValueError(f"{self.path} is the split {name} of a suite\nhint: World({parent!r}).split({name!r})")
        if self.path.endswith(".tw-pddl"):
            Game(self.path)  # reports a missing or damaged file here, not at the first reset
            self.games = [GameInfo(self.path, "train", None, self.path)]
            self.left_out: "list[tuple[str, str]]" = []
            return
        games, left_out = _native.scan(self.path)
        self.games = [GameInfo(id, split, task_type, os.fspath(path)) for id, split, task_type, path in games]
        self.left_out = [(os.fspath(path), reason) for path, reason in left_out]
        if not self.games and self.left_out:
            path, reason = self.left_out[0]
            raise ValueError(
                f"{self.path} has no game that can be played; {len(self.left_out)} are left out, for example {path}: {reason}\n"
                "hint: if game.tw-pddl is missing, `alfworld-download` of the package alfworld fetches the games"
            )

    @classmethod
    def of(cls, games: "World | str | os.PathLike[str]") -> "World":
        """Returns `games` itself if it is a world, else the world at this path."""
        return games if isinstance(games, World) else cls(games)

    def split(self, name: "str | None", task_types: "str | Sequence[str] | None" = None) -> "list[GameInfo]":
        """Returns the games of `train`, `valid_train`, `valid_seen` or `valid_unseen`; all games if the name is None.
        `task_types`, such as `pick_and_place_simple`, keeps only games of these types.

        Raises:
            ValueError: for an unknown split, or a task type that no game of the suite has.
        """
        if name is not None and name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; known: {', '.join(SPLITS)}")
        games = [game for game in self.games if name is None or game.split == name]
        if task_types is None:
            return games
        wanted = {task_types} if isinstance(task_types, str) else set(task_types)
        known = {game.task_type for game in self.games}
        if not wanted <= known:
            unknown = ", ".join(sorted(repr(kind) for kind in wanted - known))
            raise ValueError(f"unknown task type {unknown}; the suite has {', '.join(sorted(filter(None, known)))}")
        return [game for game in games if game.task_type in wanted]

    def env(self, game: "GameInfo | str | os.PathLike[str] | int") -> Env:
        """Returns an environment of one game: an entry of `games`, its id, its path, or its index."""
        return Env(Game(self.find(game).path))

    def vec(
        self,
        num_envs: int,
        split: "str | None" = None,
        task_types: "str | Sequence[str] | None" = None,
        **options: Any,
    ) -> "VecEnv":
        """Returns `num_envs` environments that share the games of a split, or of the whole suite. `options` are those of
        `VecEnv`."""
        return VecEnv([game.path for game in self.split(split, task_types)], num_envs, **options)

    def find(self, game: "GameInfo | str | os.PathLike[str] | int") -> GameInfo:
        """Returns a game by its entry in `games`, its id, its path, or its index.

        Raises:
            ValueError: if the suite has no such game.
        """
        if isinstance(game, GameInfo):
            return game
        if isinstance(game, (str, os.PathLike)):
            name = os.fspath(game)
            for info in self.games:
                if name in (info.id, info.path):
                    return info
            raise ValueError(f"the suite {self.path} has no game {name!r}; its ids look like {self.games[0].id!r}")
        return self.games[operator.index(game)]

    def __len__(self) -> int:
        return len(self.games)

    def __repr__(self) -> str:
        return f"World({self.path!r}): {len(self.games)} games"


class VecEnv:
    """Many games at once: one call plays one command in each, on all cores and without the GIL.

    It can be pickled: the copy continues in the same states, with the same games.

    Args:
        games: paths of game files.
        num_envs: how many are played at once.
        seed: decides the order of the games, as in TextWorld; `None` keeps the order of `games`.
        turn_limit: commands after which a game is over, or `None`.
        autoreset: `None`: a game that is over repeats its last result. `"next_step"`: the next `step` starts the
            next game in its place and ignores the command. `"same_step"`: the next game starts at once, and
            `infos["final_text"]` has the last text.
        group_size: the first `group_size` environments play the same games one after another, so do the next, and so on.
            Group-relative advantages, as in GRPO, compare the episodes of a group. Divides `num_envs`.
    """

    def __init__(
        self,
        games: "Sequence[str | os.PathLike[str]]",
        num_envs: int,
        *,
        seed: "int | None" = None,
        turn_limit: "int | None" = 50,
        autoreset: "str | None" = None,
        group_size: int = 1,
    ):
        if not games:
            raise ValueError("games is empty")
        if not 1 <= num_envs <= _MOST_ENVS:
            raise ValueError(f"num_envs is {num_envs} and must be from 1 to {_MOST_ENVS}")
        if group_size < 1 or num_envs % group_size:
            raise ValueError(f"group_size is {group_size} and must divide num_envs, which is {num_envs}")
        if autoreset not in (None, "next_step", "same_step"):
            raise ValueError(f"autoreset is {autoreset!r} and must be None, 'next_step' or 'same_step'")
        self.games = [os.fspath(game) for game in games]
        self.num_envs = num_envs
        self.turn_limit = turn_limit
        self.autoreset = autoreset
        self.group_size = group_size
        self.batch: "Batch | None" = None
        self.seed(seed)

    def seed(self, seed: "int | None") -> None:
        """Starts the order of the games again."""
        if seed is not None and not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed} and must be from 0 to 2**32 - 1, or None")
        self._order = GameOrder(len(self.games), seed)
        # By group: its games that some member has not started. By environment: how many of them it has started.
        self._queues: "list[list[str]]" = [[] for _ in range(self.num_envs // self.group_size)]
        self._started = [0] * self.num_envs

    def reset(self) -> "tuple[list[str], dict[str, list[Any]]]":
        """Starts the next game in every place. Returns the texts and the infos."""
        # The members of a group may have played different numbers of games. They start together again.
        self._queues = [[] for _ in self._queues]
        self._started = [0] * self.num_envs
        self._paths = [self._next_path(place) for place in range(self.num_envs)]
        self.batch = Batch(Game.load_many(self._paths), self.turn_limit)
        texts = self.batch.reset()
        self._done = [False] * self.num_envs
        return texts, self._infos([False] * self.num_envs)

    def step(self, commands: "list[str]") -> "tuple[list[str], list[float], list[bool], list[bool], dict[str, list[Any]]]":
        """Plays one command in each game.

        Returns:
            texts, rewards (1.0 once, when the goal is reached), terminated (won), truncated (at the turn limit), and
            infos: lists `won`, `admissible_commands` and `game`.
        """
        batch = self.batch
        if batch is None:
            raise RuntimeError("call reset() before step()")
        if isinstance(commands, str) or len(commands) != self.num_envs:
            raise ValueError(f"commands must be a list of {self.num_envs} texts, one per game")
        before = self._done
        restarted = self._restart(before) if self.autoreset == "next_step" else {}
        # A game that starts now plays no command.
        texts, won, done = batch.step([None if place in restarted else text for place, text in enumerate(commands)])
        rewards = [float(is_won and not was) for is_won, was in zip(won, before)]
        truncated = [over and not is_won for over, is_won in zip(done, won)]
        self._done = done
        final: "list[str | None] | None" = None
        if self.autoreset == "same_step" and any(done):
            started = self._restart(done)
            final = [text if place in started else None for place, text in enumerate(texts)]
            texts = [started.get(place, text) for place, text in enumerate(texts)]
            self._done = [False] * self.num_envs
        infos = self._infos(won)
        if final is not None:
            infos["final_text"] = final
        return texts, rewards, list(won), truncated, infos

    def env(self, index: int) -> Env:
        """Returns a copy of one game as an `Env`, in its current state."""
        if self.batch is None:
            raise RuntimeError("call reset() before env()")
        return self.batch.env(index)

    def _next_path(self, place: int) -> str:
        """Returns the next game of an environment: the one that its group drew, or a new one if it is the first there."""
        group = place // self.group_size
        queue = self._queues[group]
        if self._started[place] == len(queue):
            queue.append(self.games[next(self._order)])
        path = queue[self._started[place]]
        self._started[place] += 1
        members = range(group * self.group_size, (group + 1) * self.group_size)
        if all(self._started[member] for member in members):
            queue.pop(0)
            for member in members:
                self._started[member] -= 1
        return path

    def _restart(self, over: "list[bool]") -> "dict[int, str]":
        """Starts the next game in every place that is over. Returns the opening texts by place."""
        indices = [index for index, is_over in enumerate(over) if is_over]
        assert self.batch is not None
        for index in indices:
            self._paths[index] = self._next_path(index)
        for index, game in zip(indices, Game.load_many([self._paths[index] for index in indices])):
            self.batch.load(index, game)
        return dict(zip(indices, self.batch.reset(indices)))

    def _infos(self, won: "list[bool]") -> "dict[str, list[Any]]":
        assert self.batch is not None
        return {
            "won": won,
            "admissible_commands": self.batch.admissible(),
            "game": list(self._paths),
        }


def generate(
    folder: "str | os.PathLike[str]",
    *,
    train: int = 600,
    valid_train: int = 0,
    valid_seen: int = 0,
    valid_unseen: int = 0,
    seed: int = 1,
) -> World:
    """Writes new household games into a folder, in ALFWorld's layout and words, and returns them. The numbers are those of
    the games of each split.

    Raises:
        ValueError: if the folder already has a suite, or cannot be written.
    """
    _native.generate(
        folder, train=train, valid_train=valid_train, valid_seen=valid_seen, valid_unseen=valid_unseen, seed=seed
    )
    return World(folder)
