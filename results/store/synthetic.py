"""Writes a store of many episodes from a store of few, for measurements.

usage: synthetic.py SOURCE COUNT > STORE

Each line is an episode of SOURCE, chosen at random, with another game id, seed and repetition, so that no two are the same
record. Games: 3 553, as many as ALFWorld has for training.
"""

import json
import random
import sys

GAMES = 3553


def main():
    source, count = sys.argv[1], int(sys.argv[2])
    draw = random.Random(1)
    lines = []
    for line in open(source):
        episode = json.loads(line)
        del episode["game"], episode["game_hash"], episode["repetition"], episode["seed"]
        rest = json.dumps(episode, ensure_ascii=False, separators=(",", ":"))
        lines.append(rest[1:])
    for index in range(count):
        game = draw.randrange(GAMES)
        key = {
            "game": f"train/synthetic/{game:05}",
            "game_hash": f"{game:064x}",
            "repetition": index // GAMES,
            "seed": index,
        }
        sys.stdout.write(json.dumps(key, separators=(",", ":"))[:-1] + "," + draw.choice(lines) + "\n")


if __name__ == "__main__":
    main()
