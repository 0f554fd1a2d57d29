"""ALFWorld for TRL's `GRPOTrainer(environment_factory=...)`.

    from hearth_world.trainers.trl import environment_factory, reward
    trainer = GRPOTrainer(
        model=..., train_dataset=dataset, reward_funcs=reward,
        environment_factory=environment_factory("json_2.1.3", split="train"),
    )

A row of the dataset may name its game in a column `game`. The model plays with the tool `act`.
"""

import functools
from typing import Any, Callable, Optional

from .._episode import Episodes
from .._world import World


class ALFWorldTool:
    """One game. TRL shows every public method but `reset` to the model as a tool."""

    def __init__(self, world: World, split: Optional[str], turn_limit: int, seed: int):
        self._episodes = Episodes(world, split=split, turn_limit=turn_limit, seed=seed)

    def reset(self, **columns: Any) -> str:
        """Starts the next game, or the one that the column `game` of the dataset names."""
        return self._episodes.start(columns.get("game"))

    def act(self, command: str) -> str:
        """Plays one command in the room and returns what happens.

        Args:
            command: A command such as "go to desk 1", "open drawer 2", "take mug 1 from desk 1" or "look".

        Returns:
            What happens. "Nothing happens." means that the command is not possible now.
        """
        if self._episodes.is_over:
            raise ValueError("Game over.")
        return self._episodes.play(command)

    @property
    def won(self) -> bool:
        return self._episodes.won


class _Factory:
    """Makes environments with different orders of games. It can be pickled."""

    def __init__(self, games: Any, split: Optional[str], turn_limit: int, seed: int):
        self._arguments = (split, turn_limit)
        self._games = games
        self._seed = seed

    @functools.cached_property
    def _world(self) -> World:
        return self._games if isinstance(self._games, World) else World(self._games)

    def __call__(self) -> ALFWorldTool:
        self._seed += 1
        return ALFWorldTool(self._world, *self._arguments, self._seed)


def environment_factory(
    games: Any, *, split: Optional[str] = "train", turn_limit: int = 50, seed: int = 0
) -> "Callable[[], ALFWorldTool]":
    """Returns a factory without arguments, as TRL wants it.

    Args:
        games: a suite (see `hearth_world.World`).
        split: the split of the suite, or None for all.
        turn_limit: most commands of a game.
        seed: of the order of the games.
    """
    return _Factory(games, split, turn_limit, seed)


def reward(environments: "list[ALFWorldTool]", **columns: Any) -> "list[float]":
    """The reward of each completion: 1.0 if its game is won, else 0.0."""
    return [float(environment.won) for environment in environments]
