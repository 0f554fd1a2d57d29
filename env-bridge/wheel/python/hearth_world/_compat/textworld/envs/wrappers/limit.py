from textworld.core import Wrapper


class Limit(Wrapper):
    """Ends a game after a number of commands, those that do nothing included."""

    def __init__(self, env, max_episode_steps):
        super().__init__(env)
        self.max_episode_steps = max_episode_steps
        self.nb_steps = 0

    def reset(self):
        state = super().reset()
        self.nb_steps = 0
        return state

    def step(self, command):
        state, score, done = super().step(command)
        self.nb_steps += 1
        return state, score, done or self.nb_steps >= self.max_episode_steps
