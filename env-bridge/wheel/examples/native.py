"""Native classes: an expert plays, and a search asks copies of the game. python native.py [GAMES]"""

import sys
import tempfile

from hearth_world import Expert, World, generate


def best_command(env):
    """Tries every command in a copy of the game and returns the one that leaves the fewest to the goal."""

    def left(command):
        copy = env.clone()
        copy.step(command)
        remaining = copy.remaining()
        return 1000 if remaining is None else remaining

    return min(env.admissible(), key=left)


def main():
    if len(sys.argv) > 1:
        world = World(sys.argv[1])
    else:
        world = generate(tempfile.mkdtemp(), train=4, valid_train=0, valid_seen=2, valid_unseen=2)
    for name, policy in (("expert", None), ("search in copies", best_command)):
        turns = []
        for info in world.split("valid_seen"):
            env, expert = world.env(info), Expert()
            text, won = env.reset(), False
            while not won:
                command = expert.act(text) if policy is None else policy(env)
                text, won = env.step(command)
            turns.append(env.moves)
        print(f"{name}: won {len(turns)} games in {sum(turns) / len(turns):.1f} turns on average")
    env = world.env(0)
    env.reset()
    print("open fridge 99:", *env.why("open fridge 99"))


main()
