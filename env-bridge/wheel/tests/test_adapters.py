"""The adapters for trainers, and the recorder."""

import json
import pathlib
import random

import pytest

import hearth_world
from hearth_world import Env, Expert, Game
from hearth_world.recorder import Recorder


def test_gymnasium_accepts_the_environment(world):
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    import hearth_world.gym  # noqa: F401
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("hearth/ALFWorld-v0", games=world, split="train", turn_limit=4)
    check_env(env.unwrapped, skip_render_check=True)
    obs, info = env.reset(seed=1)
    again, _ = env.reset(seed=1)
    assert obs == again
    for turn in range(4):
        obs, reward, terminated, truncated, info = env.step("look")
        assert (reward, terminated, truncated) == (0.0, False, turn == 3)
    path = world.split("valid_seen")[0].path
    obs, info = env.reset(options={"game": path})
    assert str(info["game"]) == path
    expert, total = Expert(), 0.0
    env = gymnasium.make("hearth/ALFWorld-v0", games=[path])
    obs, info = env.reset()
    for _ in range(50):
        obs, reward, terminated, truncated, info = env.step(expert.act(obs))
        total += reward
        if terminated:
            break
    assert terminated and info["won"] and total == 1.0


def test_the_vectorised_environment(world):
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    import hearth_world.gym  # noqa: F401

    env = gymnasium.make_vec("hearth/ALFWorld-v0", num_envs=4, games=world, turn_limit=2)
    obs, infos = env.reset(seed=2)
    assert len(obs) == 4 and infos["_won"].all()
    draw = random.Random(1)
    for turn in range(6):
        obs, rewards, terminated, truncated, infos = env.step(
            [draw.choice(commands) for commands in infos["admissible_commands"]]
        )
        assert rewards.shape == terminated.shape == truncated.shape == (4,)
        assert truncated.all() == (turn % 3 == 1)
        assert all(("Your task" in text) == (turn % 3 == 2) for text in obs)


def test_verl_agent_gets_its_groups(world, tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    from hearth_world.trainers.verl_agent import build_alfworld_envs

    config = {
        "dataset": {
            "data_path": f"{world.path}/train", "eval_id_data_path": f"{world.path}/valid_seen",
            "eval_ood_data_path": f"{world.path}/valid_unseen", "num_train_games": 0, "num_eval_games": 0,
        },
        "env": {
            "type": "AlfredTWEnv", "task_types": [1, 2, 3, 4, 5, 6], "domain_randomization": False,
            "expert_type": "handcoded", "goal_desc_human_anns_prob": 0,
        },
        "general": {"training_method": "dqn"},
        "rl": {"training": {"max_nb_steps_per_episode": 3}},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    envs = build_alfworld_envs(str(path), 1, 2, 3, {"num_cpus": 0.1})
    texts, images, infos = envs.reset()
    assert images is None and len(texts) == 6
    assert texts[0] == texts[1] == texts[2] and texts[3] == texts[4] == texts[5]
    assert {info["extra.gamefile"] for info in infos[:3]} == {infos[0]["extra.gamefile"]}
    for turn in range(3):
        commands = [pool[turn] for pool in envs.get_admissible_commands]
        texts, images, rewards, dones, infos = envs.step(commands)
        assert rewards == [0.0] * 6 and dones == [turn == 2] * 6
        assert infos[0]["observation_text"] == texts[0] and infos[0]["extra.gamefile"] is None
    with pytest.raises(AssertionError):
        envs.step(["look"])


def test_the_recorder_writes_episodes(world, tmp_path):
    path = tmp_path / "episodes.jsonl"
    for _ in range(2):
        with Recorder(path, policy="expert", turn_limit=50) as recorder:
            for info in world.split("valid_seen"):
                env, expert = Env(Game(info.path)), Expert()
                text, won, episode = env.reset(), False, recorder.start(info.path, seed=3)
                while not won:
                    command = expert.act(text)
                    episode.turn(text, command, action=command, state=env.state_hash())
                    text, won = env.step(command)
                episode.end(text, won=won)
                with pytest.raises(ValueError, match="over"):
                    episode.end(text, won=won)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == 4
    assert {record["game"] for record in records} == {info.id for info in world.split("valid_seen")}
    assert all(record["outcome"] == "success" and record["reward"] == 1.0 for record in records)
    assert all(record["task_type"] == record["game"].split("/")[1].split("-")[0] for record in records)


def test_the_recorder_refuses_what_hearth_could_not_read(world, tmp_path):
    path = tmp_path / "episodes.jsonl"
    with Recorder(path, policy="x", turn_limit=1) as recorder:
        with pytest.raises(ValueError, match="split"):
            recorder.start(tmp_path / "game.tw-pddl")
        episode = recorder.start(world.games[0].path)
        with pytest.raises(ValueError, match="logprobs"):
            episode.turn("a", "b", action=None, completion_tokens=[1], logprobs=[0.0, 0.0])
        episode.turn("a", "b", action=None)
        with pytest.raises(ValueError, match="turn limit"):
            episode.turn("a", "b", action=None)
        episode.end("c", won=False)
    assert json.loads(path.read_text())["outcome"] == "turn_limit"
    path.write_text('{"torn')
    with pytest.raises(ValueError, match="not complete"):
        Recorder(path, policy="x", turn_limit=1)


def test_agentgym_routes(world):
    import threading
    import urllib.request

    from hearth_world.trainers.agentgym import make_server

    server = make_server(world, split="valid_seen", port=0, turn_limit=40)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"

    def call(path, **body):
        data = json.dumps(body).encode() if body or path in ("/create",) else None
        with urllib.request.urlopen(urllib.request.Request(base + path, data=data)) as answer:
            return json.loads(answer.read())

    assert call("/") == "This is environment AlfWorld."
    number = call("/create")["id"]
    assert call("/step", id=number, action="look") == {"error": f"The task with environment {number} has not been reset."}
    start = call("/reset", id=number, game=1, world_type="Text")
    assert start["task_type"] == "/".join(pathlib.Path(world.split("valid_seen")[1].path).parts[-3:-1])
    assert "Welcome" not in start["observation"]
    expert, text = Expert(), start["observation"]
    for _ in range(40):
        answer = call("/step", id=number, action=expert.act(text))
        text = answer["observation"]
        if answer["done"]:
            break
        assert call(f"/available_actions?id={number}") == answer["available_actions"]
    assert answer["reward"] == 1.0 and call(f"/detail?id={number}")["error"].endswith("has finished.")
    assert "error" in call("/reset", id=number, game=99, world_type="Text")
    assert call("/close", id=number) is True
    assert "error" in call("/close", id=number)
    server.shutdown()


def test_openenv_server_and_client(world):
    pytest.importorskip("openenv.core", reason="openenv-core is not installed")
    import socket
    import threading
    import time

    import uvicorn

    from hearth_world.trainers.openenv import ALFWorldAction, ALFWorldClient, make_app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(world), host="127.0.0.1", port=port, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    for _ in range(100):
        if server.started:
            break
        time.sleep(0.1)
    game = world.split("valid_unseen")[0]
    with ALFWorldClient(base_url=f"http://127.0.0.1:{port}").sync() as client:
        result = client.reset(game=game.id)
        assert result.observation.game == game.id and not result.done
        expert = Expert()
        for _ in range(50):
            result = client.step(ALFWorldAction(command=expert.act(result.observation.text)))
            if result.done:
                break
        assert result.observation.won and result.reward == 1.0
        assert client.state().step_count == result.observation.turn
        first = client.reset(split="train", seed=4).observation.game
        assert client.reset(split="train", seed=4).observation.game == first
        games = {client.reset(split="train").observation.game for _ in range(6)}
        assert len(games) == 6
    server.should_exit = True


def test_trl_environment(world):
    import inspect
    import pickle

    from hearth_world.trainers.trl import environment_factory, reward, rows

    make = environment_factory(world.path, turn_limit=50)
    make = pickle.loads(pickle.dumps(make))
    tools = [make() for _ in range(2)]
    public = [name for name, _ in inspect.getmembers(tools[0], predicate=inspect.ismethod) if not name.startswith("_")]
    assert public == ["act", "reset"]
    assert "Args:" in inspect.getdoc(tools[0].act) and inspect.signature(tools[0].act).parameters["command"].annotation
    expert = Expert()
    text = tools[0].reset(prompt="ignored", game=world.split("valid_seen")[0].id)
    tools[1].reset(game=world.split("valid_seen")[1].path)
    with pytest.raises(ValueError, match="column `game`"):
        tools[1].reset()
    assert [row["game"] for row in rows(world, split="valid_seen")] == [info.id for info in world.split("valid_seen")]
    while not tools[0].won:
        text = tools[0].act(expert.act(text))
    with pytest.raises(ValueError, match="Game over"):
        tools[0].act("look")
    assert reward(environments=tools, prompts=None, completions=None) == [1.0, 0.0]


def test_verifiers_taskset(world):
    pytest.importorskip("verifiers.v1", reason="verifiers is not installed")
    import asyncio
    import contextlib
    import types

    from hearth_world.trainers.verifiers import ALFWorldConfig, ALFWorldTaskset, ALFWorldVerifiersEnv, command_of

    assert command_of('I think.\n\nAction: go to desk 1\n') == "go to desk 1"
    assert command_of("`look`") == "look" and command_of(" \n") == ""
    tasks = list(ALFWorldTaskset(ALFWorldConfig(id="hearth", games=world.path, split="valid_seen")))
    assert [task.data.id for task in tasks] == [info.id for info in world.split("valid_seen")]

    class Player:
        """A scripted player that asks the expert, with the interface of an interaction."""

        def __init__(self, opening):
            self.expert, self.opening = Expert(), opening
            self.trace = types.SimpleNamespace(info={}, rewards={})
            self.trace.record_reward = lambda name, reward, weight: self.trace.rewards.update({name: reward * weight})

        @contextlib.asynccontextmanager
        async def interaction(self, task):
            yield self

        async def turn(self, text=None):
            reply = "Action: " + self.expert.act(self.opening if text is None else text)
            return types.SimpleNamespace(terminated=False, last_reply=reply)

    for task in tasks:
        player = Player(task.data.prompt)
        asyncio.run(ALFWorldVerifiersEnv.run(None, task, types.SimpleNamespace(player=player)))
        assert player.trace.rewards == {"won": 1.0} and player.trace.info["turns"] > 2


def test_a_continued_store_goes_on_counting(world, tmp_path):
    path, game = tmp_path / "episodes.jsonl", world.games[0].path
    for _ in range(2):
        with Recorder(path, policy="x", turn_limit=2) as recorder:
            episode = recorder.start(game)
            for wrong in ({"state": -1}, {"logprobs": [float("-inf")]}):
                with pytest.raises(ValueError):
                    episode.turn("a", "b", action=None, **wrong)
            episode.end("c", won=False)
    assert [json.loads(line)["repetition"] for line in path.read_text().splitlines()] == [0, 1]
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=":1: not an episode"):
        Recorder(path, policy="x", turn_limit=2)
