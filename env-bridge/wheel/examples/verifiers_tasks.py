"""verifiers: the tasks of a suite, and how a reply becomes a command. python verifiers_tasks.py [GAMES]     needs verifiers"""

import sys
import tempfile

import hearth_world
from hearth_world.trainers.verifiers import ALFWorldConfig, ALFWorldTaskset, command_of

games = sys.argv[1] if len(sys.argv) > 1 else hearth_world.generate(tempfile.mkdtemp(), train=6).path
taskset = ALFWorldTaskset(ALFWorldConfig(id="hearth_world.trainers.verifiers", games=games, split="train"))
for task in list(taskset)[:3]:
    env, expert = hearth_world.Env(hearth_world.Game(task.data.game)), hearth_world.Expert()
    env.reset()
    text, won = task.data.prompt, False
    while not won:
        reply = f"I know what to do.\n\nAction: {expert.act(text)}"
        text, won = env.step(command_of(reply))
    print(task.data.name, "won in", env.moves, "turns")
