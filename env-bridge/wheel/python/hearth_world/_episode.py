"""One game after another, for adapters that play a single game at a time."""

import os
from typing import Any, Optional

from ._native import Env, Game, GameOrder
from ._world import World


class Episodes:
    """Plays the games of a suite, one at a time, with a turn limit.

    Args:
        games: a suite (see `hearth_world.World`).
        split: the split, or None for all games.
        turn_limit: commands after which an episode is over.
        seed: decides the order of the games, as in TextWorld.
    """

    def __init__(
        self,
        games: "str | os.PathLike[str] | World",
        *,
        split: Optional[str] = None,
        turn_limit: int = 50,
        seed: int = 0,
    ):
        if turn_limit < 1:
            raise ValueError(f"turn_limit is {turn_limit} and must be at least 1")
        self.world = World.of(games)
        self.turn_limit = turn_limit
        self.choose(split=split, seed=seed)
        self.env: Optional[Env] = None
        self.info: Any = None
        self.text = ""
        self.turn = 0

    def choose(self, *, split: Optional[str] = None, task_types: Any = None, seed: Optional[int] = None) -> None:
        """Chooses the games that follow: of a split, of some task types, in the order of a seed."""
        games = self.world.split(split, task_types)
        if not games:
            raise ValueError(f"there are no games of split {split!r} with task types {task_types!r}")
        self._chosen = games
        self._order = GameOrder(len(games), (seed or 0) % 2**32)

    def start(self, game: Any = None) -> str:
        """Starts the next game, or the one with this id or path. Returns its opening text."""
        if game is None:
            self.info = self._chosen[next(self._order)]
        else:
            self.info = self.world.find(game)
        self.env = Env(Game(self.info.path))
        self.turn = 0
        self.text = self.env.reset()
        return self.text

    @property
    def running(self) -> Env:
        """The environment. Raises `RuntimeError` before the first start."""
        if self.env is None:
            raise RuntimeError("no game has been started; reset first")
        return self.env

    @property
    def won(self) -> bool:
        return self.env is not None and self.env.won

    @property
    def is_over(self) -> bool:
        return self.won or self.turn >= self.turn_limit

    def play(self, command: str) -> str:
        """Plays a command and returns the text. Raises `RuntimeError` if the game is over."""
        env = self.running
        if self.is_over:
            raise RuntimeError("the game is over; reset first")
        self.text, _ = env.step(command)
        self.turn += 1
        return self.text

    @property
    def task(self) -> str:
        """The sentence after `Your task is to: ` in the opening text."""
        sentence = self.running.game.task or ""
        return sentence.split("Your task is to: ")[-1].strip()
