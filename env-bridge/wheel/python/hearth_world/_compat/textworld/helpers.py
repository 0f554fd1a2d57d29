"""Starts and plays single games."""

import os

import textworld.envs
from textworld.agents import HumanAgent


def start(path, request_infos=None, wrappers=[]):
    """Returns an environment that has loaded the game at `path`, inside the wrappers.

    Raises:
        IOError: if there is no such file.
    """
    if not os.path.isfile(path):
        raise IOError("Unable to find game '{}'.".format(os.path.abspath(path)))
    env = textworld.envs._guess_backend(path)(request_infos)
    for wrapper in wrappers:
        env = wrapper(env)
    env.load(path)
    return env


def play(game_file, agent=None, max_nb_steps=1000, wrappers=[], silent=False):
    """Lets an agent, by default the person at the keyboard, play a game."""
    agent = agent or HumanAgent()
    env = start(game_file, wrappers=list(wrappers) + agent.wrappers)
    agent.reset(env)
    state, reward, done = env.reset(), 0, False
    if not silent:
        env.render(mode="human")
    try:
        for _ in range(max_nb_steps):
            state, reward, done = env.step(agent.act(state, reward, done))
            if not silent:
                env.render(mode="human")
            if done:
                break
    except KeyboardInterrupt:
        pass
    finally:
        env.close()
    if not silent:
        print(f"Done after {state.moves} steps. Score {state.score}/{state.max_score}.")
