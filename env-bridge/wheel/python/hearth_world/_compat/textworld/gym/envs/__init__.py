from textworld.gym.envs.textworld import TextworldGymEnv
from textworld.gym.envs.textworld_batch import TextworldBatchGymEnv
