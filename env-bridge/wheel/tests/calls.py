"""Makes the calls of published code that is built on alfworld and textworld, and prints what comes back as JSON lines. It
runs on the real packages and on hearth's, and the two outputs must be equal: python calls.py GAME [GAME ...]

The calls are those of Trinity-RFT (one registered game, scalars, an expert), tale-suite (a filter inside the demangler),
and scripts that load one game after another into the same environment.
"""

import json
import random
import sys

GAMES = sys.argv[1:]  # the real packages change sys.argv

import textworld  # noqa: E402
import textworld.gym  # noqa: E402
from alfworld.agents.environment.alfred_tw_env import (  # noqa: E402
    AlfredDemangler,
    AlfredExpert,
    AlfredExpertType,
    AlfredInfos,
)
from textworld.envs.wrappers import Filter, Limit  # noqa: E402


def show(*parts):
    print(json.dumps(parts, sort_keys=True, default=str))


def plain(infos):
    """Facts have no order in TextWorld."""
    return {name: sorted(map(str, value)) if name == "facts" else value for name, value in infos.items()}


def registered_game(game, draw):
    expert = AlfredExpert(expert_type=AlfredExpertType.HANDCODED)
    request = textworld.EnvInfos(description=True, inventory=True, admissible_commands=True)
    env = textworld.gym.make(textworld.gym.register_game(game, request, wrappers=[AlfredDemangler(), expert]))
    for _ in range(2):
        obs, infos = env.reset()
        show("registered", obs, plain(infos))
        for turn in range(12):
            command = draw.choice(infos["admissible_commands"]) if turn % 4 else "think about it"
            obs, score, done, infos = env.step(command)
            show(command, obs, score, done, plain(infos))
    env.close()


def filter_inside(game, draw):
    request = textworld.EnvInfos(
        score=True, max_score=True, won=True, lost=True, feedback=True, moves=True, admissible_commands=True,
        extras=["walkthrough", "expert_plan"],
    )  # fmt: skip
    env = textworld.start(game, request, wrappers=[Filter, AlfredDemangler()])
    obs, infos = env.reset()
    show("filtered", obs, infos)
    for turn in range(10):
        command = draw.choice(infos["admissible_commands"]) if turn % 5 else ""
        obs, score, done, infos = env.step(command)
        show(command, obs, score, done, infos)


def one_environment(games, draw):
    infos = textworld.EnvInfos(won=True, facts=True, moves=True, command_templates=True, last_command=True, extras=["gamefile"])
    env = Limit(textworld.start(games[0], infos, wrappers=[AlfredDemangler(), AlfredInfos]), max_episode_steps=5)
    for game in games:
        env.load(game)
        state = env.reset()
        show("loaded", state.feedback, state["extra.gamefile"], state.won, state.score, state.nothing)
        for _ in range(5):
            state, score, done = env.step(draw.choice(state.admissible_commands))
            names = [name for name in state if not name.startswith("_")]
            show(state.feedback, score, done, sorted(names), sorted(map(str, state.facts)), state.moves, state.last_command)
        show(env.render(mode="text"), str(env.unwrapped), sorted(state["_entity_infos"]))


def main():
    draw = random.Random(1)
    for game in GAMES:
        registered_game(game, draw)
        filter_inside(game, draw)
    one_environment(GAMES, draw)


main()
