"""OpenEnv: a server and a client that plays with the expert. python openenv_client.py [GAMES]     needs openenv-core"""

import socket
import sys
import tempfile
import threading
import time

import uvicorn

import hearth_world
from hearth_world.trainers.openenv import ALFWorldAction, ALFWorldClient, make_app

games = sys.argv[1] if len(sys.argv) > 1 else hearth_world.generate(tempfile.mkdtemp(), train=6)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = uvicorn.Server(uvicorn.Config(make_app(games), host="127.0.0.1", port=port, log_level="error"))
threading.Thread(target=server.run, daemon=True).start()
while not server.started:
    time.sleep(0.05)
with ALFWorldClient(base_url=f"http://127.0.0.1:{port}").sync() as client:
    result, expert = client.reset(split="train", seed=1), hearth_world.Expert()
    print(result.observation.task)
    while not result.done:
        command = expert.act(result.observation.text)
        result = client.step(ALFWorldAction(command=command))
        print(">", command, "|", result.observation.text)
    print("reward", result.reward)
server.should_exit = True
