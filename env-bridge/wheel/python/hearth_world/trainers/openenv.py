"""ALFWorld as an OpenEnv environment: server and client.

    HEARTH_GAMES=json_2.1.3 python -m hearth_world.trainers.openenv --port 8000

    from hearth_world.trainers.openenv import ALFWorldAction, ALFWorldClient
    with ALFWorldClient(base_url="http://localhost:8000").sync() as client:
        result = client.reset(split="valid_unseen", seed=1)
        result = client.step(ALFWorldAction(command="look"))

Each session has its own game; the server needs no process per session. Needs `openenv-core`.
"""

import itertools
import os
from typing import Any, Optional
from uuid import uuid4

from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

from .._episode import Episodes
from .._world import World
from ._serving import served, serving_parser


class ALFWorldAction(Action):
    """A command such as `go to desk 1`."""

    command: str = Field(..., description="The command to play, for example `go to desk 1`")


class ALFWorldObservation(Observation):
    """What the game says, and what can be done now."""

    text: str = Field(default="", description="The text of the game")
    admissible_commands: list[str] = Field(default_factory=list, description="The commands that do something now")
    won: bool = Field(default=False, description="Whether the goal is reached")
    task: str = Field(default="", description="The task")
    game: str = Field(default="", description="The id of the game")
    turn: int = Field(default=0, description="The number of commands so far")


class ALFWorldEnvironment(Environment[ALFWorldAction, ALFWorldObservation, State]):
    """The games of one suite. The reward is 1.0 when the goal is reached, else 0.0."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, world: World, split: Optional[str] = "train", turn_limit: int = 50, seed: int = 0):
        super().__init__()
        self._episodes = Episodes(world, split=split, turn_limit=turn_limit, seed=seed)
        self._seed = seed
        self._choice: Any = (split, None, None)
        self._state = State(episode_id=None, step_count=0)

    def reset(
        self, seed: Optional[int] = None, episode_id: Optional[str] = None, **kwargs: Any
    ) -> ALFWorldObservation:
        """Starts a game. `split` and `task_types` choose among the games and stay chosen, `seed` orders them, `game` names
        one. Without a seed, the next game follows."""
        unknown = set(kwargs) - {"split", "task_types", "game"}
        if unknown:
            raise ValueError(f"unknown arguments {sorted(unknown)}; known: split, task_types, game, seed, episode_id")
        split, task_types, _ = self._choice
        choice = (kwargs.get("split", split), kwargs.get("task_types", task_types), seed)
        if seed is not None or choice != self._choice:
            self._choice = choice
            self._episodes.choose(split=choice[0], task_types=choice[1], seed=self._seed if seed is None else seed)
        self._episodes.start(kwargs.get("game"))
        self._state = State(episode_id=episode_id or str(uuid4()), step_count=0)
        return self._observation(None)

    def step(self, action: ALFWorldAction, timeout_s: Optional[float] = None, **kwargs: Any) -> ALFWorldObservation:
        """Plays a command."""
        self._episodes.play(action.command)
        self._state.step_count = self._episodes.turn
        return self._observation(float(self._episodes.won))

    @property
    def state(self) -> State:
        return self._state

    def _observation(self, reward: Optional[float]) -> ALFWorldObservation:
        episodes = self._episodes
        return ALFWorldObservation(
            text=episodes.text,
            admissible_commands=episodes.running.admissible(),
            won=episodes.won,
            task=episodes.task,
            game=episodes.info.id,
            turn=episodes.turn,
            done=episodes.is_over,
            reward=reward,
        )


class ALFWorldClient(EnvClient[ALFWorldAction, ALFWorldObservation, State]):
    """A session with the server."""

    def _step_payload(self, action: ALFWorldAction) -> "dict[str, Any]":
        return {"command": action.command}

    def _parse_result(self, payload: "dict[str, Any]") -> "StepResult[ALFWorldObservation]":
        done, reward = payload.get("done", False), payload.get("reward")
        observation = ALFWorldObservation(**payload.get("observation", {}), done=done, reward=reward)
        return StepResult(observation=observation, reward=reward, done=done)

    def _parse_state(self, payload: "dict[str, Any]") -> State:
        return State(episode_id=payload.get("episode_id"), step_count=payload.get("step_count", 0))


def make_app(
    games: "str | os.PathLike[str] | World",
    *,
    split: Optional[str] = "train",
    turn_limit: int = 50,
    sessions: int = 1024,
) -> Any:
    """Returns the FastAPI application. All sessions share the list of games."""
    world = World.of(games)
    ALFWorldEnvironment(world, split, turn_limit)  # reports a wrong split here

    numbers = itertools.count()

    def make() -> ALFWorldEnvironment:
        # Each session has an order of its own.
        return ALFWorldEnvironment(world, split, turn_limit, next(numbers))

    return create_app(
        make, ALFWorldAction, ALFWorldObservation, env_name="hearth_alfworld", max_concurrent_envs=sessions
    )


def main() -> None:
    parser = serving_parser(
        "Serve ALFWorld over OpenEnv's HTTP and WebSocket protocol.",
        port=8000,
        split="train",
        split_help="split of the suite, which a reset can change [default: train]",
    )
    parser.add_argument("--sessions", type=int, default=1024, help="maximum number of sessions at once [default: 1024]")
    options, app = served(
        parser,
        lambda options: make_app(
            options.games, split=options.split, turn_limit=options.turns, sessions=options.sessions
        ),
    )
    import uvicorn

    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
