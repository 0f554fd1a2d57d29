"""The loop of the bridge in plain Python, for `hearth bench world`: no hearth code, one process, one
game at a time. Reads {"game": PATH, "commands": [...]} lines. For each line it prints the seconds for
load, reset and all commands."""

import json
import sys
import time

import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld.envs.pddl import PddlEnv

env = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, lost=True, admissible_commands=True)), shuffle=False)
out = sys.stdout
print("ready", file=out, flush=True)
for line in sys.stdin:
    job = json.loads(line)
    times = [time.perf_counter()]
    env.load(job["game"])
    times.append(time.perf_counter())
    state = env.reset()
    times.append(time.perf_counter())
    for command in job["commands"]:
        state, _, _ = env.step(command)
        state["feedback"], state["won"], state["admissible_commands"]
    times.append(time.perf_counter())
    spans = [after - before for before, after in zip(times, times[1:])]
    print(json.dumps({"load": spans[0], "reset": spans[1], "steps": spans[2]}), file=out, flush=True)
