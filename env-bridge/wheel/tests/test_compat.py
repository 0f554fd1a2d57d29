"""The drop-in modules: equal to the real packages, byte for byte, and the traps of code that uses them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent


def shim(*arguments, code=None):
    """Runs a script, or code, with hearth's alfworld and textworld in a fresh process; returns its output."""
    if code is not None:
        prefix = (
            f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
            "import hearth_world.compat; hearth_world.compat.install()\n"
        )
        command = [sys.executable, "-c", prefix + code, *arguments]
    else:
        command = [sys.executable, "-m", "hearth_world.run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


CASES = [
    ("eval_in_distribution", 2, 1, 3, 15),
    ("eval_out_of_distribution", 2, 2, 0, 12, "limit=7"),
    ("train", 3, 1, 5, 8, "randomise=1"),
]


def both(script, *arguments):
    """Runs a script on the real packages and on hearth's; returns both outputs, a list of JSON values each."""
    python = os.environ.get("HEARTH_PYTHON")
    if not python:
        if os.environ.get("HEARTH_REQUIRE_ALL"):
            pytest.fail("HEARTH_PYTHON is not set")
        pytest.skip("HEARTH_PYTHON, a Python environment with alfworld and textworld, is not set")
    command = [str(TESTS / script), *arguments]
    real = subprocess.run([f"{python}/bin/python", *command], capture_output=True, text=True)
    assert real.returncode == 0, real.stderr
    return [[json.loads(line) for line in text.splitlines()] for text in (real.stdout, shim(*command))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_everything_that_comes_back_equals_the_real_packages(world, case):
    real, ours = both("transcript.py", world.path, *map(str, case))
    for number, (expected, found) in enumerate(zip(real, ours, strict=True)):
        assert found == expected, f"line {number}"


def test_the_calls_of_published_code_give_the_same(world):
    real, ours = both("calls.py", *[info.path for info in world.games[:3]])
    for number, (expected, found) in enumerate(zip(real, ours, strict=True)):
        assert found == expected, f"line {number}"


def test_the_names_of_objects_without_a_demangler(world):
    code = f"""
import json, textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
for wrappers in ([], [AlfredDemangler(), AlfredInfos]):
    env = textworld.start({world.games[0].path!r}, textworld.EnvInfos(facts=True, moves=True), wrappers=wrappers)
    state = env.reset()
    print(json.dumps([state.feedback, state.moves, state.score, state.inventory, sorted(map(str, state.facts))]))
"""
    raw, named = map(json.loads, shim(code=code).splitlines())
    assert "_bar_" in raw[0] and "_bar_" not in named[0].replace("_bar_", "", 0)
    assert raw[1:4] == named[1:4] == [0, None, None] and len(raw[4]) == len(named[4])


def test_old_and_wrong_names(world):
    code = """
import importlib, json, alfworld, textworld, textworld.gym, alfworld.agents.environment as environment
importlib.reload(alfworld); importlib.reload(environment)
assert environment.AlfredTWEnv is environment.get_environment("AlfredTWEnv")
def raised(act):
    try:
        act()
    except Exception as error:
        return [type(error).__name__, str(error)]
print(json.dumps([
    raised(lambda: environment.get_environment("AlfredThorEnv")),
    raised(lambda: environment.get_environment("Chess")),
    raised(lambda: textworld.EnvInfos(colour=True)),
    raised(lambda: textworld.gym.make("tw-none-v0")),
    raised(lambda: textworld.start("/nowhere/game.tw-pddl")),
    raised(lambda: textworld.make(None)),
]))
a = textworld.gym.register_games([], name="x"); b = textworld.gym.register_games([], name="x")
assert (a, b) == ("tw-x-v0", "tw-x-v1")
infos = textworld.EnvInfos(won=True, facts=True, extras=["gamefile"])
assert infos.basics == ["facts", "won"] and len(infos) == 3 and infos == infos.copy()
assert "torch" not in __import__("sys").modules
"""
    thor, chess, info, unknown, missing, make = json.loads(shim(code=code))
    assert thor[0] == "NotImplementedError" and "THOR" in thor[1]
    assert chess == ["NotImplementedError", "Environment Chess is not implemented."]
    assert info[0] == "ValueError" and info[1].startswith("Unknown information requested: ['colour'].")
    assert unknown == ["ValueError", "Attempted to make an unknown environment 'tw-none-v0'"]
    assert missing == ["OSError", "Unable to find game '/nowhere/game.tw-pddl'."]
    assert make[0] == "NotImplementedError" and "hearth_world.generate" in make[1]


def test_the_expert_wins_and_planner_is_handcoded_in_init_env(world):
    code = f"""
import contextlib, io
from settings import config
from alfworld.agents.environment import get_environment
for expert_type in ("handcoded", "planner"):
    settings = config({world.path!r}, 0, 50, False, "dagger")
    settings["env"]["expert_type"] = expert_type
    with contextlib.redirect_stdout(io.StringIO()):
        env = get_environment("AlfredTWEnv")(settings).init_env(batch_size=3)
    obs, infos = env.reset()
    assert sorted(infos) == ["admissible_commands", "extra.expert_plan", "extra.gamefile", "facts", "won"]
    for _ in range(50):
        plans = infos["extra.expert_plan"]
        assert all(isinstance(plan, list) and len(plan) == 1 for plan in plans)
        obs, scores, dones, infos = env.step([plan[0] for plan in plans])
        assert infos["extra.gamefile"] == [None] * 3
        if all(dones):
            break
    assert infos["won"] == [True] * 3 and scores == (1, 1, 1)
print("won")
"""
    assert shim(code=code) == "won\n"


def test_install_refuses_when_the_real_package_is_imported(tmp_path):
    (tmp_path / "textworld.py").write_text("")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import textworld, hearth_world.compat
try:
    hearth_world.compat.install()
except RuntimeError as error:
    print("before anything imports" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_an_environment_is_pickled_as_ray_does(world):
    code = f"""
import sys, io, contextlib, pickle
from settings import config
from alfworld.agents.environment import get_environment
with contextlib.redirect_stdout(io.StringIO()):
    base = get_environment("AlfredTWEnv")(config({world.path!r}, 0, 50, False, "dqn"))
base = pickle.loads(pickle.dumps(base))
base.game_files = base.game_files[:1]; base.num_games = 1
env = base.init_env(batch_size=1)
obs, infos = env.reset()
print(infos["extra.gamefile"] == base.game_files)
"""
    assert shim(code=code) == "True\n"


def test_a_script_finds_the_modules_beside_it(tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "beside.py").write_text("value = 7")
    (folder / "main.py").write_text("import sys, beside, textworld; print(beside.value, textworld.IS_HEARTH, sys.argv[1:])")
    assert shim(str(folder / "main.py"), "-x") == "7 True ['-x']\n"
    done = subprocess.run([sys.executable, "-m", "hearth_world.run", "-m"], capture_output=True, text=True)
    assert done.returncode != 0 and "needs the name of a module" in done.stderr


def test_no_games_and_unknown_splits_say_so(world):
    code = f"""
import sys, io, contextlib
from settings import config
from alfworld.agents.environment import get_environment
AlfredTWEnv = get_environment("AlfredTWEnv")
with contextlib.redirect_stdout(io.StringIO()):
    base = AlfredTWEnv(config("/nowhere", 0, 50, False, "dqn"))
for act in (lambda: base.init_env(1), lambda: AlfredTWEnv(config({world.path!r}, 0, 50, False, "dqn"), train_eval="test")):
    try:
        act()
    except ValueError as error:
        print("alfworld-download" in str(error) or "eval_in_distribution" in str(error))
"""
    assert [line for line in shim(code=code).splitlines() if line in ("True", "False")] == ["True", "True"]


def test_an_empty_command_does_not_mislead_the_expert(world):
    code = f"""
import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredExpert
won = 0
for game in {[info.path for info in world.games]!r}:
    env = textworld.start(game, textworld.EnvInfos(admissible_commands=True), wrappers=[AlfredDemangler(), AlfredExpert()])
    state = env.reset()
    for turn in range(100):
        command = "" if turn % 5 == 1 else state["extra.expert_plan"][0]
        state, score, done = env.step(command)
        if done:
            won += 1
            break
print(won)
"""
    assert shim(code=code) == f"{len(world.games)}\n"


def test_wrappers_that_cannot_be_copied_are_shared(world):
    code = f"""
import threading, textworld.gym
class Locked(textworld.core.Wrapper):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
env = textworld.gym.make(textworld.gym.register_games([{world.games[0].path!r}], batch_size=1, wrappers=[Locked()]))
print(len(env.reset()[0]))
"""
    assert shim(code=code) == "1\n"
