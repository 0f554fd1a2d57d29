"""Several environments as one."""

from textworld.envs.batch.batch_env import AsyncBatchEnv, SyncBatchEnv
