"""AgentGym: the server and its routes. python agentgym_server.py [GAMES]"""

import json
import sys
import tempfile
import threading
import urllib.request

import hearth_world
from hearth_world.trainers.agentgym import make_server

games = sys.argv[1] if len(sys.argv) > 1 else hearth_world.generate(tempfile.mkdtemp(), train=6)
server = make_server(games, split="train", port=0)
threading.Thread(target=server.serve_forever, daemon=True).start()


def post(route, **body):
    url = f"http://127.0.0.1:{server.server_address[1]}/{route}"
    with urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(body).encode())) as answer:
        return json.loads(answer.read())


number = post("create")["id"]
answer, expert = post("reset", id=number, game=0, world_type="Text"), hearth_world.Expert()
while not answer.get("done"):
    command = expert.act(answer["observation"])
    answer = post("step", id=number, action=command)
    print(">", command, "|", answer["observation"])
print("reward", answer["reward"])
server.shutdown()
