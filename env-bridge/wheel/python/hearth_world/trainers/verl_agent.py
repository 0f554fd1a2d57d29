"""verl-agent's ALFWorld environments as one native object, without Ray.

In verl-agent's `env_manager.py`, import `build_alfworld_envs` from here instead of from
`agent_system.environments.env_package.alfworld`. Everything else stays. If the package alfworld is not installed, start
the trainer with `python -m hearth_world.run`, because that package's other imports need the name.
"""

from typing import Any, Optional

from .._game_files import find_games, no_games
from .._native import Batch, Game, GameOrder


class AlfworldEnvs:
    """`env_num * group_n` environments; those of a group play the same games. Lists have one entry per environment,
    group after group. The signatures are verl-agent's.

    Args:
        alf_config_path: ALFWorld's YAML file.
        resources_per_worker: ignored: there are no workers.
        env_kwargs: `eval_dataset` is the split if `is_train` is False, by default `eval_in_distribution`.
    """

    def __init__(
        self,
        alf_config_path: str,
        seed: int,
        env_num: int,
        group_n: int,
        resources_per_worker: Any = None,
        is_train: bool = True,
        env_kwargs: "Optional[dict[str, Any]]" = None,
    ):
        import yaml

        with open(alf_config_path) as file:
            config = yaml.safe_load(file)
        if config["env"]["type"] != "AlfredTWEnv":
            raise NotImplementedError(
                f"{alf_config_path}: env.type is {config['env']['type']!r}; hearth_world plays text games, AlfredTWEnv"
            )
        split = "train" if is_train else (env_kwargs or {}).get("eval_dataset", "eval_in_distribution")
        games = find_games(config, split)
        if not games:
            raise no_games(config, split)
        limit = config["dataset"]["num_train_games" if split == "train" else "num_eval_games"]
        method = config["general"]["training_method"]
        section = {"dqn": "rl", "dagger": "dagger"}.get(method)
        if section is None:
            raise NotImplementedError(f"{alf_config_path}: general.training_method {method!r}")
        self.multi_modal = False
        self.num_processes = env_num * group_n
        self.group_n = group_n
        self.turn_limit = config[section]["training"]["max_nb_steps_per_episode"]
        self._games = games[:limit] if limit > 0 else games
        # As in verl-agent: one order per environment, seeded by its group.
        self._orders = [GameOrder(len(self._games), seed + place // group_n) for place in range(self.num_processes)]
        self._batch: "Optional[Batch]" = None
        self.prev_admissible_commands: "list[Any]" = [None] * self.num_processes

    def reset(self) -> "tuple[list[str], None, list[dict[str, Any]]]":
        paths = [self._games[next(order)] for order in self._orders]
        self._batch = Batch(Game.load_many(paths), self.turn_limit)
        texts = self._batch.reset()
        return texts, None, self._infos(texts, [False] * self.num_processes, paths)

    def step(
        self, actions: "list[str]"
    ) -> "tuple[list[str], None, list[float], list[bool], list[dict[str, Any]]]":
        assert len(actions) == self.num_processes, "The num of actions must be equal to the num of processes"
        if self._batch is None:
            raise RuntimeError("call reset() before step()")
        texts, won, done = self._batch.step(actions)
        infos = self._infos(texts, won, [None] * self.num_processes)
        return texts, None, [10.0 * float(is_won) for is_won in won], done, infos

    def _infos(self, texts: "list[str]", won: "list[bool]", paths: "list[Any]") -> "list[dict[str, Any]]":
        assert self._batch is not None
        self.prev_admissible_commands = self._batch.admissible()
        rows = zip(texts, won, paths, self.prev_admissible_commands)
        return [
            {
                "won": is_won,
                "admissible_commands": commands,
                "extra.gamefile": path,
                "observation_text": text,
            }
            for text, is_won, path, commands in rows
        ]

    @property
    def get_admissible_commands(self) -> "list[list[str]]":
        return self.prev_admissible_commands

    def getobs(self) -> None:
        raise NotImplementedError("hearth_world has no images; verl-agent asks for them only with AlfredThorEnv")

    def close(self) -> None:
        self._batch = None


build_alfworld_envs = AlfworldEnvs
