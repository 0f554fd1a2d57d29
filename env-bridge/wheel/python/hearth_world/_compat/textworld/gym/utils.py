"""Registers games and makes environments of them."""

from textworld.gym.envs import TextworldBatchGymEnv, TextworldGymEnv

registry = {}


def make(id):
    """Returns a new environment of a registered id.

    Raises:
        ValueError: if nothing is registered under it.
    """
    if id not in registry:
        raise ValueError(f"Attempted to make an unknown environment '{id}'")
    return registry[id]["entry_point"](**registry[id]["kwargs"])


def register_games(
    gamefiles,
    request_infos=None,
    batch_size=None,
    auto_reset=False,
    max_episode_steps=50,
    asynchronous=True,
    name="",
    **kwargs,
):
    """Registers an environment that goes through a list of games, and returns its id.

    With `batch_size=None`, commands and results are single values, else lists.
    """
    env_id = f"tw-{name}-v0" if name else "tw-v0"
    if env_id in registry:
        base, _ = env_id.rsplit("-v", 1)
        versions = [int(known.rsplit("-v", 1)[-1]) for known in registry if known.startswith(base)]
        env_id = f"{base}-v{max(versions) + 1}"
    registry[env_id] = {
        "id": env_id,
        "entry_point": TextworldGymEnv if batch_size is None else TextworldBatchGymEnv,
        "kwargs": {
            "gamefiles": gamefiles,
            "request_infos": request_infos,
            "batch_size": 1 if batch_size is None else batch_size,
            "asynchronous": asynchronous,
            "auto_reset": auto_reset,
            "max_episode_steps": max_episode_steps,
            **kwargs,
        },
    }
    return env_id


def register_game(gamefile, request_infos=None, batch_size=None, auto_reset=False, *args, **kwargs):
    """Registers an environment of one game; see `register_games`. As in TextWorld, `auto_reset` is ignored."""
    return register_games([gamefile], request_infos, batch_size, False, *args, **kwargs)
