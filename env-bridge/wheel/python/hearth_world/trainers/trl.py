"""ALFWorld for TRL's `GRPOTrainer(environment_factory=...)`.

    from hearth_world.trainers.trl import environment_factory, reward, rows
    trainer = GRPOTrainer(
        model=..., train_dataset=Dataset.from_list(rows("json_2.1.3", split="train")), reward_funcs=reward,
        environment_factory=environment_factory("json_2.1.3"),
    )

Every row of the dataset must name its game in a column `game`, so that the completions of one prompt play the same game:
`rows` makes such rows. The model plays with the tool `act`.
"""

import functools
from typing import Any, Callable, Optional

from .._episode import Episodes
from .._world import World

PROMPT = "You act in a household by text. Use the tool act, one command at a time, until the task is done."


class ALFWorldTool:
    """One game. TRL shows every public method but `reset` to the model as a tool."""

    def __init__(self, world: World, turn_limit: int):
        self._episodes = Episodes(world, turn_limit=turn_limit)

    def reset(self, **columns: Any) -> str:
        """Starts the game that the column `game` of the dataset names.

        Raises:
            ValueError: if there is no such column: completions of one prompt would then play different games.
        """
        if columns.get("game") is None:
            raise ValueError(
                "the dataset has no column `game`\nhint: hearth_world.trainers.trl.rows makes rows with a prompt and a game"
            )
        return self._episodes.start(columns["game"])

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
    """Makes environments that share the list of games. It can be pickled."""

    def __init__(self, games: Any, turn_limit: int):
        self._turn_limit = turn_limit
        self._games = games

    @functools.cached_property
    def _world(self) -> World:
        return World.of(self._games)

    def __call__(self) -> ALFWorldTool:
        return ALFWorldTool(self._world, self._turn_limit)


def environment_factory(games: Any, *, turn_limit: int = 50) -> "Callable[[], ALFWorldTool]":
    """Returns a factory without arguments, as TRL wants it.

    Args:
        games: a suite (see `hearth_world.World`).
        turn_limit: the maximum number of commands of a game.
    """
    return _Factory(games, turn_limit)


def rows(games: Any, *, split: Optional[str] = "train", prompt: str = PROMPT) -> "list[dict[str, Any]]":
    """Returns one row per game, with the columns `prompt` (a conversation) and `game` (its id).

    Args:
        games: a suite (see `hearth_world.World`).
        split: the split of the suite, or None for all.
        prompt: the user's message; the opening text of the game follows it.
    """
    infos = World.of(games).split(split)
    return [{"prompt": [{"role": "user", "content": prompt}], "game": info.id} for info in infos]


def reward(environments: "list[ALFWorldTool]", **columns: Any) -> "list[float]":
    """The reward of each completion: 1.0 if its game is won, else 0.0."""
    return [float(environment.won) for environment in environments]
