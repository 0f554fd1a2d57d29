"""Measures the package hearth_world against the real alfworld and textworld, in one run.

python bench.py GAMES REAL [WHEEL]     GAMES: a folder in ALFWorld's layout; REAL: a Python environment with alfworld and
textworld (`hearth doctor --install` makes one); WHEEL: the built wheel, for its size and the time of its installation

Prints a Markdown table. Runs on the interpreter that has hearth_world. Standard library only.
"""

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import hearth_world
from hearth_world import Batch, Env, Game, VecEnv, World

REAL_STEPS = 200
PEER = """
import random, sys, time, textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
count, paths = int(sys.argv[1]), sys.argv[2:]  # fast_downward changes sys.argv
infos = textworld.EnvInfos(won=True, admissible_commands=True)
draw, resets, steps = random.Random(0), [], 0
env = textworld.start(paths[0], infos, wrappers=[AlfredDemangler(), AlfredInfos])
for path in paths:
    started = time.perf_counter()
    env.load(path)
    state = env.reset()
    resets.append(time.perf_counter() - started)
env = textworld.start(paths[0], infos, wrappers=[AlfredDemangler(), AlfredInfos])
state = env.reset()
started = time.perf_counter()
for _ in range(count):
    state, score, done = env.step(draw.choice(state.admissible_commands))
print((time.perf_counter() - started) / count, sorted(resets)[len(resets) // 2])
"""


def best(measure, rounds=3):
    """Returns the least of several measurements, in seconds."""
    return min(measure() for _ in range(rounds))


def steps(path, count=100_000):
    env, draw = Env(Game(path)), random.Random(0)
    env.reset()
    numbers = [draw.random() for _ in range(count)]
    started = time.perf_counter()
    for number in numbers:
        commands = env.admissible()
        env.step(commands[int(number * len(commands))])
    return (time.perf_counter() - started) / count


def batches(path, size=64, count=1500):
    batch, draw = Batch([Game(path)] * size), random.Random(0)
    batch.reset()
    commands = batch.admissible()
    numbers = [draw.random() for _ in range(size)]
    started = time.perf_counter()
    for _ in range(count):
        batch.step([own[int(number * len(own))] for own, number in zip(commands, numbers)])
        commands = batch.admissible()
    return (time.perf_counter() - started) / (count * size)


def vec_envs(paths, limit=50, size=64, count=1500):
    """The same through the class VecEnv, with rewards, ends and infos."""
    vec, draw = VecEnv(paths, size, seed=0, turn_limit=limit, autoreset="next_step"), random.Random(0)
    _, infos = vec.reset()
    numbers = [draw.random() for _ in range(size)]
    started = time.perf_counter()
    for _ in range(count):
        commands = infos["admissible_commands"]
        _, _, _, _, infos = vec.step([own[int(number * len(own))] for own, number in zip(commands, numbers)])
    return (time.perf_counter() - started) / (count * size)


def clones(path, count=100_000):
    env = Env(Game(path))
    env.reset()
    started = time.perf_counter()
    for _ in range(count):
        env.clone()
    return (time.perf_counter() - started) / count


def resets(paths):
    times = []
    for path in paths:
        started = time.perf_counter()
        Env(Game(path)).reset()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def memory(paths, count):
    for number in range(count):
        Env(Game(paths[number % len(paths)])).reset()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def import_seconds():
    code = "import time; t = time.perf_counter(); import hearth_world; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def install_seconds(wheel):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        started = time.perf_counter()
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "--no-index", wheel], check=True)
        return time.perf_counter() - started


def main():
    games, real, *wheel = sys.argv[1:]
    started = time.perf_counter()
    world = World(games)
    scan = time.perf_counter() - started
    paths = [game.path for game in world.split("valid_seen") + world.split("valid_unseen")]
    path = paths[0]
    peer = subprocess.run(
        [f"{real}/bin/python", "-c", PEER, str(REAL_STEPS), *paths[:10]], capture_output=True, text=True, check=True
    )
    real_step, real_reset = map(float, peer.stdout.split()[-2:])
    step, batch, clone, reset = best(lambda: steps(path)), best(lambda: batches(path)), best(lambda: clones(path)), resets(paths)
    vec, vec_long = best(lambda: vec_envs(paths)), best(lambda: vec_envs(paths, limit=None))
    first, last = memory(paths, 1000), memory(paths, 9000)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, hearth_world {hearth_world.__version__}\n")
    print("| what | hearth_world | alfworld and textworld | ratio |")
    print("| --- | --- | --- | --- |")
    print(f"| step with the admissible list, one thread | {1 / step:,.0f} a second | {1 / real_step:,.1f} a second | {real_step / step:,.0f} |")
    print(f"| the same in a `Batch` of 64 | {1 / batch:,.0f} a second | - | - |")
    print(f"| `VecEnv(64)` without limit | {1 / vec_long:,.0f} a second | - | - |")
    print(f"| `VecEnv(64)`, a new game every 50 turns | {1 / vec:,.0f} a second | - | - |")
    print(f"| load and reset, median | {1e3 * reset:.2f} ms | {1e3 * real_reset:,.0f} ms | {real_reset / reset:,.0f} |")
    print(f"| clone | {1e6 * clone:.2f} µs | not possible | - |")
    print(f"| find {len(world)} games | {scan:.2f} s | - | - |")
    print(f"| memory after 1000 and 10 000 resets | {first:.0f} and {last:.0f} MiB | - | - |")
    print(f"| import | {1e3 * best(import_seconds):.1f} ms | - | - |")
    if wheel:
        print(f"| size and installation of the wheel | {os.path.getsize(wheel[0]) / 1e6:.2f} MB, {install_seconds(wheel[0]):.1f} s | - | - |")


main()
