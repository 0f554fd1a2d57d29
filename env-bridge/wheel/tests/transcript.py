"""Plays games through `alfworld` and `textworld` and prints everything that comes back, one JSON line each. It runs on
the real packages and on hearth's, and the two outputs must be equal.

python transcript.py FOLDER SPLIT GAMES BATCH SEED COMMANDS [key=value ...]
"""

import contextlib
import io
import json
import random
import sys

from settings import config


def main():
    folder, split, games, batch, seed, commands = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7])
    options = dict(argument.split("=") for argument in sys.argv[7:])
    limit = int(options.get("limit", 50))
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    random.seed(seed)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(io.StringIO()):
        base = AlfredTWEnv(config(folder, games, limit, options.get("randomise") == "1", "dqn"), train_eval=split)
    show("printed", quiet.getvalue())
    show("games", base.game_files, base.num_games)
    env = base.init_env(batch_size=batch)
    show("seed", env.seed(seed))
    draw = random.Random(seed)
    for episode in range(-(-games // batch)):
        if episode == 1:
            env.skip(2)
        obs, infos = env.reset()
        show("reset", type(obs).__name__, obs, sorted(infos), infos)
        for turn in range(commands):
            chosen = []
            for place in range(batch):
                admissible = infos["admissible_commands"][place]
                kind = draw.random()
                command = draw.choice(admissible)
                if kind < 0.05:
                    command = "  " + command + "\n"
                elif kind < 0.1:
                    command = "frobnicate mug 1"
                elif kind < 0.12:
                    command = ""
                chosen.append(command)
            obs, scores, dones, infos = env.step(chosen)
            show("step", chosen, obs, scores, dones, infos)
            if turn == 0:
                show("render", env.render(mode="text"), env.render(mode="ansi").getvalue())
            infos["admissible_commands"][0].append("changed by the caller")
            infos["admissible_commands"][0].remove("changed by the caller")
    for call in (lambda: env.step("look"), lambda: env.step(["look"] * (batch + 1)), lambda: env.seed(-1), lambda: env.seed("x")):
        try:
            show("returned", call())
        except Exception as error:
            show("raised", type(error).__name__, str(error) if isinstance(error, AssertionError) else "")
    env.close()
    env.close()
    try:
        show("returned", env.reset())
    except Exception as error:
        show("raised", type(error).__name__)


def show(*parts):
    print(json.dumps(parts, sort_keys=True))


main()
