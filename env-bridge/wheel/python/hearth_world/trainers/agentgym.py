"""AgentGym's ALFWorld server, without its dependencies: the same routes, plus `/close`.

    python -m hearth_world.trainers.agentgym --games json_2.1.1 --port 36001

AgentGym's own client (`agentenv.envs.alfworld`) works with it unchanged.
"""

import itertools
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional
from urllib.parse import parse_qs, urlsplit

from .._native import Env, Game
from .._world import World
from ._serving import served, serving_parser


def _games_of_mappings(world: World, files: "list[str]") -> "list[str]":
    """Returns the paths of the games that AgentGym's `mappings_*.json` list, in their order. If the suite lacks a
    game, the path is where it would be, and a reset reports it."""
    known = {tuple(info.path.replace(os.sep, "/").split("/")[-3:-1]): info.path for info in world.games}
    paths = []
    for name in files:
        with open(name) as file:
            rows = json.load(file)
        for row in rows:
            key = (row["task_type"], row["task_id"])
            missing = os.path.join(world.path, "train", *key, "game.tw-pddl")
            paths.append(known.get(key, missing))
    return paths


class GameServer:
    """The games in progress, by number. All methods may be called from several threads.

    Args:
        world: the suite.
        split: the split whose games are numbered, or None for all; ignored with `mappings`.
        mappings: AgentGym's `mappings_train.json` and `mappings_test.json`, which number the games.
        turn_limit: commands after which a game is done.
    """

    def __init__(
        self,
        world: World,
        split: Optional[str] = None,
        mappings: "list[str] | None" = None,
        turn_limit: int = 50,
    ):
        if mappings:
            self._games = _games_of_mappings(world, mappings)
        else:
            self._games = [info.path for info in world.split(split)]
        if not self._games:
            raise ValueError(f"there are no games of split {split!r}")
        self._limit = turn_limit
        self._envs: "dict[int, dict[str, Any]]" = {}
        self._ids = itertools.count()
        self._lock = threading.Lock()

    def create(self) -> "dict[str, Any]":
        with self._lock:
            number = next(self._ids)
            self._envs[number] = {}
        return {"id": number}

    def reset(self, id: int, game: int, world_type: str) -> "dict[str, Any]":
        if world_type not in ("Text", "Embody", "Hybrid"):
            raise ValueError('world_type must be one of "Text", "Embody" and "Hybrid"')
        slot = self._slot(id)
        if not isinstance(game, int) or not -len(self._games) <= game < len(self._games):
            raise ValueError(f"game is {game!r} and must be from 0 to {len(self._games) - 1}")
        path = self._games[game]
        env = Env(Game(path))
        text = "\n".join(env.reset().split("\n\n")[1:])
        info = {
            "world_type": world_type,
            "game": game,
            "observation": text,
            "available_actions": env.admissible(),
            "done": False,
            "reward": 0,
            "deleted": False,
        }
        slot.update(env=env, turns=0, info=info)
        return {
            "id": id,
            "observation": text,
            "available_actions": info["available_actions"],
            "task_type": "/".join(path.replace(os.sep, "/").split("/")[-3:-1]),
        }

    def step(self, id: int, action: str) -> "dict[str, Any]":
        slot = self._slot(id, started=True)
        if not isinstance(action, str):
            raise ValueError("action must be a text")
        text, won = slot["env"].step(action)
        slot["turns"] += 1
        if text.startswith("You arrive at loc "):
            text = text[text.find(". ") + 2 :]
        answer = {
            "observation": text,
            "reward": float(won),
            "available_actions": slot["env"].admissible(),
            "done": won or slot["turns"] >= self._limit,
        }
        slot["info"].update(answer)
        return answer

    def available_actions(self, id: int) -> "list[str]":
        return self._slot(id, started=True)["info"]["available_actions"]  # type: ignore[no-any-return]

    def observation(self, id: int) -> str:
        return self._slot(id, started=True)["info"]["observation"]  # type: ignore[no-any-return]

    def detail(self, id: int) -> "dict[str, Any]":
        return self._slot(id, started=True)["info"]  # type: ignore[no-any-return]

    def close(self, id: int) -> bool:
        self._slot(id)
        with self._lock:
            del self._envs[id]
        return True

    def _slot(self, id: Any, started: bool = False) -> "dict[str, Any]":
        with self._lock:
            slot = self._envs.get(id)
        if slot is None:
            raise ValueError(f"The id {id} is not valid.")
        if started and "env" not in slot:
            raise ValueError(f"The task with environment {id} has not been reset.")
        if started and slot["info"]["done"]:
            raise ValueError(f"The task with environment {id} has finished.")
        return slot


def _handler(server: GameServer) -> "type[BaseHTTPRequestHandler]":
    posts = {"/create": server.create, "/step": server.step, "/reset": server.reset, "/close": server.close}
    gets = {
        "/available_actions": server.available_actions,
        "/observation": server.observation,
        "/detail": server.detail,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else an answer waits 40 ms for the client's acknowledgement

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == "/":
                return self._answer("This is environment AlfWorld.")
            act = gets.get(url.path)
            if act is None:
                return self._answer({"error": f"there is no route {url.path}"}, 404)
            query = parse_qs(url.query)
            self._call(lambda: act(int(query["id"][0])))

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            act: Any = posts.get(urlsplit(self.path).path)
            if act is None:
                return self._answer({"error": f"there is no route {self.path}"}, 404)
            self._call(lambda: act(**(json.loads(body) if body.strip() else {})))

        def _call(self, act: Any) -> None:
            # As in AgentGym, an error is an answer with the key `error`.
            try:
                self._answer(act())
            except KeyError as error:
                self._answer({"error": f"{error} is missing"})
            except TypeError as error:
                self._answer({"error": f"the body does not fit this route: {error}"})
            except Exception as error:
                self._answer({"error": str(error)})

        def _answer(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


def make_server(
    games: "str | os.PathLike[str] | World", *, host: str = "127.0.0.1", port: int = 36001, **options: Any
) -> ThreadingHTTPServer:
    """Returns a server that `serve_forever` runs. Port 0 takes a free one. `options` are those of `GameServer`."""
    world = World.of(games)
    return ThreadingHTTPServer((host, port), _handler(GameServer(world, **options)))


def main() -> None:
    parser = serving_parser(
        "Serve ALFWorld with the routes of AgentGym.", port=36001, split=None, split_help="split of the suite [default: all]"
    )
    parser.add_argument("--mappings", nargs="+", help="AgentGym's mappings_train.json and mappings_test.json")
    options, server = served(
        parser,
        lambda options: make_server(
            options.games,
            split=options.split,
            mappings=options.mappings,
            turn_limit=options.turns,
            host=options.host,
            port=options.port,
        ),
    )
    print(f"serving on http://{options.host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
