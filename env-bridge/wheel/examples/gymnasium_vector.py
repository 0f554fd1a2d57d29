"""gymnasium: a random policy in 16 environments at once. python gymnasium_vector.py [GAMES]"""

import random
import sys
import tempfile

import gymnasium

import hearth_world
import hearth_world.gym  # registers hearth/ALFWorld-v0

games = sys.argv[1] if len(sys.argv) > 1 else hearth_world.generate(tempfile.mkdtemp(), train=20)
envs = gymnasium.make_vec("hearth/ALFWorld-v0", num_envs=16, games=games, split="train", turn_limit=30)
texts, infos = envs.reset(seed=0)
draw, won, over = random.Random(0), 0, 0
for _ in range(200):
    actions = [draw.choice(commands) for commands in infos["admissible_commands"]]
    texts, rewards, terminated, truncated, infos = envs.step(actions)
    won += int(terminated.sum())
    over += int((terminated | truncated).sum())
print(f"a random policy won {won} of {over} games")
