"""ALFWorld as a verifiers taskset.

    HEARTH_GAMES=json_2.1.3 uv run eval hearth_world.trainers.verifiers --env.taskset.split valid_unseen

The game plays the user: the model answers with a command, alone or after `Action:`, and the next text comes back. The
reward is 1.0 if the goal is reached.
"""

import os
from collections.abc import Iterator
from typing import Any, Optional

import verifiers.v1 as vf

from .._native import Env, Game
from .._world import World

SYSTEM_PROMPT = (
    "You act in a household by text. Answer each observation with exactly one command on the last line, for example "
    '"go to desk 1", "open drawer 2", "take mug 1 from desk 1", "move mug 1 to shelf 1", "clean mug 1 with sinkbasin 1", '
    '"heat egg 1 with microwave 1", "cool egg 1 with fridge 1", "use desklamp 1", "examine mug 1", "inventory" or "look". '
    '"Nothing happens." means that the command is not possible now.'
)


def command_of(reply: str) -> str:
    """Returns the command of a reply: its last line that is not empty, without a leading `Action:`."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    if not lines:
        return ""
    last = lines[-1]
    if last.lower().startswith("action:"):
        last = last[len("action:") :].strip()
    return last.strip("`\"'> ")


class ALFWorldConfig(vf.TasksetConfig):
    games: str = os.environ.get("HEARTH_GAMES", "")
    """The suite: a folder in ALFWorld's layout, or one that `hearth_world.generate` wrote. [default: $HEARTH_GAMES]"""
    split: Optional[str] = "train"
    """The split of the suite; all games if there is none."""
    turn_limit: int = 50
    """Maximum number of commands of a game."""


class ALFWorldData(vf.TaskData):
    game: str
    """The game file."""
    turn_limit: int
    """Maximum number of commands."""


class ALFWorldTask(vf.Task[ALFWorldData, vf.State, vf.TaskConfig]):
    """One game."""


class ALFWorldEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class ALFWorldVerifiersEnv(vf.Env[ALFWorldEnvConfig]):
    """Plays one game with the player."""

    async def run(self, task: Any, agents: Any) -> None:
        env = Env(Game(task.data.game))
        env.reset()
        turns = 0
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                text, won = env.step(command_of(segment.last_reply))
                turns += 1
                if won or turns >= task.data.turn_limit:
                    break
                segment = await interaction.turn(text)
        trace = interaction.trace
        trace.record_reward("won", float(env.won), 1.0)
        trace.info["turns"] = turns


class ALFWorldTaskset(vf.Taskset[ALFWorldTask, ALFWorldConfig]):
    """One task per game. The opening text of the game is the prompt."""

    def load(self) -> Iterator[ALFWorldTask]:
        config = self.config
        if not config.games:
            raise ValueError("games is empty\nhint: set --env.taskset.games, or the variable HEARTH_GAMES")
        for info in World(config.games).split(config.split):
            yield ALFWorldTask(
                ALFWorldData(
                    id=info.id,
                    name=info.id,
                    prompt=Env(Game(info.path)).reset(),
                    system_prompt=SYSTEM_PROMPT,
                    game=info.path,
                    turn_limit=config.turn_limit,
                ),
                config.task,
            )


__all__ = ["ALFWorldTaskset", "ALFWorldVerifiersEnv"]
