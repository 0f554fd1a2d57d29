"""Several environments as one, each of which may end on its own."""

import copy
import random

from textworld.core import Environment


def _dict_of_lists(infos):
    names = {name for info in infos for name in info}
    return {name: [info.get(name) for info in infos] for name in names}


class SyncBatchEnv(Environment):
    """Plays one command per environment. An environment that is done repeats its last result, or starts again if
    `auto_reset` is True."""

    def __init__(self, env_fns, auto_reset=False):
        self.env_fns = env_fns
        self.batch_size = len(env_fns)
        self.auto_reset = auto_reset
        self.envs = [make() for make in env_fns]

    def load(self, game_files):
        assert len(game_files) == len(self.envs)
        for env, game_file in zip(self.envs, game_files):
            env.load(game_file)

    def reset(self):
        self.last = [None] * self.batch_size
        obs, infos = zip(*[env.reset() for env in self.envs])
        return obs, _dict_of_lists(infos)

    def step(self, actions):
        assert isinstance(actions, (list, tuple)), "Expected a list of actions."
        assert len(actions) == len(self.envs), "Expected one action per environment."
        results = []
        for last, env, action in zip(self.last, self.envs, actions):
            if last is None or not last[2]:
                results.append(env.step(action))
            elif self.auto_reset:
                obs, infos = env.reset()
                results.append((obs, 0.0, False, infos))
            else:
                results.append(last)
        self.last = results
        obs, rewards, dones, infos = zip(*results)
        return obs, rewards, dones, _dict_of_lists(infos)

    def render(self, mode="human"):
        return [env.render(mode=mode) for env in self.envs]

    def close(self):
        for env in self.envs:
            env.close()


def _own_copy(make):
    """Returns a copy of a function that makes an environment, with wrappers of its own. What cannot be copied is shared."""
    try:
        return copy.deepcopy(make)
    except TypeError:
        return copy.copy(make)


class AsyncBatchEnv(SyncBatchEnv):
    """Replaces TextWorld's one process per environment. Each environment gets its own copy of the wrappers and its own
    state of Python's `random`, which Python would seed anew in every process."""

    def __init__(self, env_fns, auto_reset=False):
        super().__init__([_own_copy(make) for make in env_fns], auto_reset)
        self._random = [random.Random().getstate() for _ in env_fns]

    def load(self, game_files):
        assert len(game_files) == len(self.envs)
        own = random.getstate()
        for index, (env, game_file) in enumerate(zip(self.envs, game_files)):
            random.setstate(self._random[index])
            env.load(game_file)
            self._random[index] = random.getstate()
        random.setstate(own)
