"""The native classes: what they return, and what a wrong call raises."""

import copy
import json
import multiprocessing
import os
import pathlib
import pickle
import random
import subprocess
import sys
import threading

import pytest

import hearth_world
from hearth_world import Batch, Env, Expert, Game, GameError, GameOrder, VecEnv, World


def play(env, count, seed=0):
    """Plays random admissible commands; returns everything that came back."""
    draw = random.Random(seed)
    seen = []
    for _ in range(count):
        command = draw.choice(env.admissible())
        seen.append((command, *env.step(command), env.admissible(), env.state_hash(), env.moves))
    return seen


def test_an_episode_of_the_expert_is_won(world):
    for info in world.games:
        env, expert = world.env(info), Expert()
        text, won = env.reset(), False
        assert "Your task is to:" in text
        for _ in range(50):
            if won:
                break
            assert env.remaining() > 0
            text, won = env.step(expert.act(text))
        assert won and env.won and env.remaining() == 0


def test_a_command_that_is_not_admissible_changes_nothing(env):
    before = env.state_hash(), env.admissible(), env.moves
    for command in ("", "frobnicate", "go to nowhere 1", "\x00", "take" * 10_000):
        assert env.step(command) == ("Nothing happens.", False)
    assert (env.state_hash(), env.admissible(), env.moves) == before


def test_why_names_the_reason(env):
    admissible = env.admissible()
    assert env.why(admissible[0]) == [] and env.why(f"  {admissible[0]}\n") == []
    assert "the forms are" in env.why("frobnicate")[0]
    goto = next(command for command in admissible if command.startswith("go to "))
    assert env.why(goto + "99") == [f'there is no "{goto[6:]}99" in this game']
    assert env.why(goto.replace("go to", "examine")) == [f"you must be at {goto[6:]}"]
    possible = [command for command in env.game.commands if command not in admissible]
    for command in random.Random(0).sample(possible, min(200, len(possible))):
        reasons = env.why(command)
        assert reasons and all(" must " in reason and "loc " not in reason for reason in reasons), (command, reasons)


def sentences(env, changed):
    """What `why` says if one of these facts is needed. `changed` has facts as (predicate, names)."""
    at = {}
    for predicate, objects in env.facts():
        if predicate == "receptacleatlocation":
            at.setdefault(objects[1][0], []).append(objects[0][0].rstrip())
    for predicate, names in changed:
        yield {
            "atlocation": lambda: f"you must be at {' or '.join(sorted(at.get(names[1], [names[1]])))}",
            "not_atlocation": lambda: f"you must not be at {' or '.join(sorted(at.get(names[1], [names[1]])))}",
            "holds": lambda: f"you must hold {names[1]}",
            "not_holdsany": lambda: "your hands must be empty",
            "holdsany": lambda: "you must hold something",
            "inreceptacle": lambda: f"{names[0]} must be in/on {names[1]}",
            "opened": lambda: f"{names[0]} must be open",
            "not_opened": lambda: f"{names[0]} must be closed",
        }.get(predicate, lambda: "")()


def test_the_reasons_are_complete(env):
    """A command becomes admissible only if a fact that `why` asked for has changed."""

    def facts():
        return {(name, tuple(object.rstrip() for object, _ in objects)) for name, objects in env.facts()}

    became = 0
    for turn in range(40):
        before, then = {command: env.why(command) for command in env.game.commands}, facts()
        play(env, 1, seed=turn)
        now = facts()
        changed = now - then | {("not_" + name, names) for name, names in then - now}
        said = set(sentences(env, changed))
        for command in env.admissible():
            if before[command]:
                became += 1
                assert set(before[command]) <= said, (command, before[command], said)
    assert became > 20


def test_a_clone_and_a_snapshot_continue_alike(env):
    play(env, 10)
    clone, snapshot = env.clone(), env.snapshot()
    expected = play(env, 30, seed=1)
    assert play(clone, 30, seed=1) == expected
    other = Env(Game(env.game.path))
    other.reset()
    other.restore(snapshot)
    assert play(other, 30, seed=1) == expected


def test_pickle_and_copy_keep_the_state(env):
    play(env, 10)
    copies = [pickle.loads(pickle.dumps(env)), copy.copy(env), copy.deepcopy(env)]
    expected = play(env, 20, seed=2)
    for other in copies:
        assert play(other, 20, seed=2) == expected
    game = Game.from_bytes(pathlib.Path(env.game.path).read_bytes())
    assert game.path is None and pickle.loads(pickle.dumps(game)).objects == game.objects


def test_a_damaged_snapshot_is_refused(env, world):
    play(env, 5)
    snapshot = env.snapshot()
    before = env.state_hash()
    for index in range(4, len(snapshot)):
        for bit in (0, 7):
            damaged = bytearray(snapshot)
            damaged[index] ^= 1 << bit
            try:
                env.restore(bytes(damaged))
            except ValueError:
                assert env.state_hash() == before
            else:
                # Another state of the same game: it can be played on.
                play(env, 1)
                env.restore(snapshot)
    for wrong in (b"", b"abc", snapshot[:-1], snapshot + b"\x00"):
        with pytest.raises(ValueError):
            env.restore(wrong)
    other = world.env(world.games[-1])
    other.reset()
    with pytest.raises(ValueError, match="not of this game"):
        other.restore(snapshot)


def test_names_can_be_given(env):
    game = env.game
    raw = Game(game.path, names={id: id for id, _ in game.entities})
    assert set(raw.entity_names) == {id for id, _ in game.entities}
    ours = Env(raw)
    assert game.entities[0][0].split("_bar_")[0] in " ".join(raw.objects)
    assert len(ours.admissible()) == len(env.admissible())


def test_a_file_that_is_no_game(tmp_path, world):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Game(tmp_path / "missing.tw-pddl")
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "traj_data.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="alfworld-download"):
        Game(folder / "game.tw-pddl")
    with pytest.raises(OSError):
        Game(tmp_path)
    good = json.loads(pathlib.Path(world.games[0].path).read_text())
    for key in ("pddl_domain", "pddl_problem", "grammar"):
        for text in ("", "(", "x" * 1000, good[key][:-40], good[key].replace("(", "", 1)):
            bad = tmp_path / "bad.tw-pddl"
            bad.write_text(json.dumps({**good, key: text}))
            with pytest.raises(GameError, match="bad.tw-pddl"):
                Game(bad)
    for data in (b"", b"{", b"[]", b"\xff\xfe", b"null"):
        with pytest.raises(GameError):
            Game.from_bytes(data)


def test_random_bytes_never_crash(world):
    data = pathlib.Path(world.games[0].path).read_bytes()
    draw = random.Random(5)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            env = Env(Game.from_bytes(bytes(damaged)))
        except GameError:
            continue
        try:
            env.reset()
            for command in env.admissible()[:3]:
                env.step(command)
        except RuntimeError as error:
            assert "no text" in str(error)


WRONG = (None, 1, -1, 1.5, "x", b"x", [], [None], ["look"], {}, object(), True, "\ud800", 2**70, [[]], [-1], [2**70])


def test_wrong_calls_raise(world, game):
    """10 000 calls with wrong arguments: each returns or raises an `Exception`, and nothing aborts."""
    draw = random.Random(1)
    batch = Batch([game] * 3, 5)
    batch.reset()
    env = Env(game)
    env.reset()
    vec = world.vec(2)
    methods = [
        getattr(owner, name)
        for owner in (env, batch, vec, Expert(), GameOrder(3, 1), world)
        for name in dir(owner)
        if not name.startswith("_") and callable(getattr(owner, name))
    ]
    methods += [Env, Batch, Game, GameOrder, Expert, World, VecEnv, Game.from_bytes, hearth_world.generate]
    calls = 0
    while calls < 10_000:
        method = draw.choice(methods)
        arguments = [draw.choice(WRONG) for _ in range(draw.randint(0, 3))]
        if method is hearth_world.generate and arguments and isinstance(arguments[0], (str, bytes)):
            continue  # a name of a folder is right
        calls += 1
        try:
            method(*arguments)
        except Exception as error:
            assert str(error) or isinstance(error, StopIteration), (method, arguments)


def test_a_batch_equals_single_games(world):
    games = [Game(info.path) for info in world.games] * 8
    batch = Batch(games, 20)
    envs = [Env(game) for game in games]
    assert batch.reset() == [env.reset() for env in envs]
    draw = random.Random(3)
    done = [False] * len(games)
    for turn in range(25):
        commands = [draw.choice(env.admissible()) for env in envs]
        texts, won, over = batch.step(commands)
        for place, (env, command) in enumerate(zip(envs, commands)):
            if done[place]:
                continue
            assert env.step(command) == (texts[place], won[place])
            done[place] = env.won or turn == 19
        assert over == done
        assert batch.state_hashes() == [env.state_hash() for env in envs]
        assert batch.admissible() == [env.admissible() for env in envs]
    assert batch.env(0).state_hash() == envs[0].state_hash()


def test_wrong_lengths_and_indices(game):
    batch = Batch([game] * 2)
    batch.reset()
    with pytest.raises(ValueError, match="3 commands for 2 games"):
        batch.step(["look"] * 3)
    with pytest.raises(IndexError):
        batch.reset([2])
    with pytest.raises(ValueError, match="twice"):
        batch.reset([0, 0])
    with pytest.raises(ValueError):
        Batch([])


@pytest.mark.parametrize("autoreset", [None, "next_step", "same_step"])
def test_autoreset(world, autoreset):
    vec = world.vec(3, "train", seed=1, turn_limit=2, autoreset=autoreset)
    texts, infos = vec.reset()
    first = infos["game"]
    looks = ["look"] * 3
    assert vec.step(looks)[3] == [False] * 3
    texts, rewards, terminated, truncated, infos = vec.step(looks)
    assert truncated == [True] * 3 and rewards == [0.0] * 3 and terminated == [False] * 3
    if autoreset == "same_step":
        assert all("Your task" in text for text in texts) and infos["game"] != first
        assert all("Your task" not in text for text in infos["final_text"])
        return
    assert infos["game"] == first
    texts, _, _, truncated, infos = vec.step(looks)
    restarted = ["Your task" in text for text in texts]
    assert restarted == [autoreset == "next_step"] * 3
    assert truncated == [autoreset is None] * 3


@pytest.mark.parametrize("autoreset", [None, "next_step", "same_step"])
def test_a_group_plays_the_same_games(world, autoreset):
    """The members of a group end their games at different times, and still play the same games in the same order."""
    options = {"seed": 1, "turn_limit": 30, "autoreset": autoreset, "group_size": 3}
    vec = world.vec(6, "train", **options)
    order, games, experts = GameOrder(len(world.split("train")), 1), [[] for _ in range(6)], [Expert(1) for _ in range(6)]
    texts, infos = vec.reset()
    draw = random.Random(2)
    opening = [True] * 6
    for _ in range(120):
        for place in range(6):
            if opening[place]:
                games[place].append(infos["game"][place])
                experts[place] = Expert(place)
        # The first member of a group plays well and ends early, the others wait for their turn limit.
        commands = [
            experts[place].act(texts[place]) if place % 3 == 0 else draw.choice(infos["admissible_commands"][place])
            for place in range(6)
        ]
        before = list(infos["game"])
        texts, _, won, truncated, infos = vec.step(commands)
        opening = [was != now or "Your task" in text for was, now, text in zip(before, infos["game"], texts)]
    for group in (games[:3], games[3:]):
        shortest = min(len(played) for played in group)
        assert len({tuple(played[:shortest]) for played in group}) == 1
        assert autoreset is None or len(group[0]) > len(group[1]) > 1
    if autoreset is None:
        paths = [info.path for info in world.split("train")]
        assert [games[0][0], games[3][0]] == [paths[next(order)] for _ in range(2)]
        assert vec.reset()[1]["game"] == [paths[index] for index in (next(order), next(order)) for _ in range(3)]
    for wrong in (0, 4, 7):
        with pytest.raises(ValueError, match="group_size"):
            world.vec(6, group_size=wrong)


def test_games_are_chosen_by_task_type(world):
    kind = world.games[0].task_type
    chosen = world.split(None, kind)
    assert chosen and all(info.task_type == kind for info in chosen) and len(chosen) < len(world.games)
    vec = world.vec(4, task_types=[kind])
    assert set(vec.reset()[1]["game"]) <= {info.path for info in chosen}
    with pytest.raises(ValueError, match="unknown task type 'juggle'; the suite has"):
        world.split("train", ["juggle"])


@pytest.mark.parametrize("seed", [None, 7])
def test_many_games_continue_after_a_pickle(world, seed):
    vec = world.vec(4, "train", seed=seed, turn_limit=4, autoreset="next_step", group_size=2)
    vec.reset()
    for _ in range(6):
        vec.step(["look"] * 4)
    other = pickle.loads(pickle.dumps(vec))
    for turn in range(30):
        commands = ["inventory" if turn % 3 else "look"] * 4
        assert vec.step(commands) == other.step(commands)
        assert vec.batch.state_hashes() == other.batch.state_hashes() and vec.batch.turns == other.batch.turns
    assert pickle.loads(pickle.dumps(world.vec(2))).reset()[0] == world.vec(2).reset()[0]
    order = GameOrder(5, seed)
    for _ in range(7):
        next(order)
    copied = pickle.loads(pickle.dumps(order))
    assert [next(copied) for _ in range(20)] == [next(order) for _ in range(20)]
    for damaged in ((([0], 0), [0], 0), (None, [], 0), (None, [1], 0), (None, [0], 2)):
        with pytest.raises(ValueError, match="damaged"):
            GameOrder._restored(*damaged)


def test_many_games_are_loaded_at_once(world, tmp_path):
    paths = [info.path for info in world.games] * 3
    games = Game.load_many(paths)
    assert [str(game.path) for game in games] == paths
    assert games[0] is games[len(world.games)] and games[0] is not games[1]
    assert Game.load_many([]) == []
    (tmp_path / "bad.tw-pddl").write_text("{}")
    with pytest.raises(GameError, match="bad.tw-pddl"):
        Game.load_many([paths[0], tmp_path / "bad.tw-pddl", tmp_path / "missing.tw-pddl"])
    with pytest.raises(FileNotFoundError, match="missing.tw-pddl"):
        Game.load_many([tmp_path / "missing.tw-pddl", paths[0]])


def test_a_thread_that_plays_does_not_keep_the_process(game):
    """The interpreter ends while daemon threads are inside the module."""
    script = """
import sys, threading
from hearth_world import Batch, Env, Game
game = Game(sys.argv[1])
started = threading.Barrier(3)
def many():
    batch = Batch([game] * 256); batch.reset(); started.wait()
    while True: batch.step(["look"] * 256)
def one():
    env = Env(game); env.reset(); started.wait()
    while True: env.step("look"); Game.load_many([sys.argv[1]])
for target in (many, one): threading.Thread(target=target, daemon=True).start()
started.wait()
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", script, str(game.path)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_order_of_games_is_that_of_numpy():
    """From numpy 2.4.6: RandomState(1234).shuffle(list(range(140)))."""
    order = GameOrder(140, 1234)
    assert [next(order) for _ in range(6)] == [6, 96, 91, 94, 29, 36]
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    for seed, count in ((0, 1), (1, 2), (7, 33), (2**32 - 1, 140)):
        generator, expected = numpy.random.RandomState(seed), list(range(count))
        order = GameOrder(count, seed)
        for _ in range(3):
            generator.shuffle(expected)
            assert [next(order) for _ in range(count)] == expected


def _episode(queue, env):
    queue.put((os.getpid(), play(env, 20, seed=4)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_environments_go_to_other_processes(env, game, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available here")
    batch = Batch([game] * 64)
    batch.reset()
    batch.step(["look"] * 64)  # the thread pool runs before the fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_episode, args=(queue, env))
    child.start()
    pid, found = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0 and pid != os.getpid()
    assert found == play(env, 20, seed=4)


def _batch_in_child(queue, game):
    batch = Batch([game] * 64)
    batch.reset()
    queue.put(batch.step(["look"] * 64)[0][0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_batch_works_after_a_fork(game):
    batch = Batch([game] * 64)
    batch.reset()
    expected = batch.step(["look"] * 64)[0][0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_batch_in_child, args=(queue, game))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


def test_threads_share_a_game(game):
    """Each thread has its own environment; one that two threads share raises or works, and never crashes."""
    results, errors = [], []

    def own():
        env = Env(game)
        env.reset()
        results.append(play(env, 200, seed=6))

    batch = Batch([game] * 64)
    batch.reset()

    def shared():
        for _ in range(50):
            try:
                batch.step(["look"] * 64)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=target) for target in (own, own, own, shared, shared)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == results[2]
    assert all("borrowed" in error for error in errors)


def test_memory_is_flat_over_resets(world):
    resource = pytest.importorskip("resource", reason="there is no resource module here")

    def resets(count):
        for number in range(count):
            Env(Game(world.games[number % len(world.games)].path)).reset()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = resets(300)
    assert resets(900) < first * 1.1 + 4096


def test_a_text_that_is_not_unicode_is_no_command(env, game):
    assert env.step("go to \ud800") == ("Nothing happens.", False)
    batch = Batch([game] * 2)
    batch.reset()
    assert batch.step(["\ud800", "look"])[0][0] == "Nothing happens."


def test_a_pickle_does_not_depend_on_the_current_folder(world, monkeypatch, tmp_path):
    path = pathlib.Path(world.games[0].path)
    monkeypatch.chdir(path.parent)
    data = pickle.dumps(Game(path.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(data).objects


def test_a_game_is_found_by_id_path_and_index(world):
    info = world.games[1]
    for name in (info, info.id, info.path, pathlib.Path(info.path), 1):
        assert world.find(name) == info
    with pytest.raises(ValueError, match="ids look like"):
        world.find("nothing")


def test_a_folder_without_text_games_says_how_to_get_them(tmp_path):
    trial = tmp_path / "train" / "pick_and_place_simple-Mug-None-Desk-1" / "trial_1"
    trial.mkdir(parents=True)
    (trial / "traj_data.json").write_text('{"task_type": "pick_and_place_simple"}')
    with pytest.raises(ValueError, match="alfworld-download"):
        World(tmp_path)


def test_a_wrong_step_of_many_games_uses_up_no_game(world):
    vec = world.vec(2, "train", seed=1, turn_limit=1, autoreset="next_step")
    vec.reset()
    vec.step(["look"] * 2)
    for wrong in ("look", ["look"], ["look"] * 3):
        with pytest.raises(ValueError, match="list of 2 texts"):
            vec.step(wrong)
    other = world.vec(2, "train", seed=1, turn_limit=1, autoreset="next_step")
    other.reset()
    other.step(["look"] * 2)
    assert vec.step(["look"] * 2)[0] == other.step(["look"] * 2)[0]
    with pytest.raises(ValueError, match="seed is -1"):
        world.vec(2, seed=-1)
    with pytest.raises(ValueError, match="at most"):
        GameOrder(2**32 - 1, 0)
