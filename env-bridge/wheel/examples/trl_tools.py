"""TRL: what `GRPOTrainer(environment_factory=...)` does with the environment, with a scripted model in its place.

python trl_tools.py [GAMES]
"""

import sys
import tempfile

import hearth_world
from hearth_world.trainers.trl import environment_factory, reward, rows

games = sys.argv[1] if len(sys.argv) > 1 else hearth_world.generate(tempfile.mkdtemp(), train=6)
make = environment_factory(games, turn_limit=40)
row = rows(games, split="train")[0]  # GRPO gives all completions of a group the same row
environments = [make() for _ in range(4)]
for number, environment in enumerate(environments):
    text, expert, calls = environment.reset(**row), hearth_world.Expert(), 0
    try:
        while True:
            # Every second completion gives up after three calls of the tool.
            if number % 2 == 1 and calls == 3:
                break
            text, calls = environment.act(expert.act(text)), calls + 1
    except ValueError as end:
        print(f"completion {number}: {end}")
print("rewards", reward(environments=environments))
