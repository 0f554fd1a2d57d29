from textworld.gym.envs.textworld_batch import TextworldBatchGymEnv


class TextworldGymEnv(TextworldBatchGymEnv):
    """One game at a time, with single values instead of lists."""

    def __init__(self, gamefiles, request_infos=None, max_episode_steps=None, **kwargs):
        super().__init__(
            gamefiles=gamefiles, request_infos=request_infos, max_episode_steps=max_episode_steps, **kwargs
        )

    def reset(self):
        obs, infos = super().reset()
        return obs[0], {name: values[0] for name, values in infos.items()}

    def step(self, command):
        obs, scores, dones, infos = super().step([command])
        return obs[0], scores[0], dones[0], {name: values[0] for name, values in infos.items()}
