"""ALFWorld's text environment on the native world."""

import os
import random

import textworld
import textworld.agents
import textworld.gym
from alfworld.agents.expert import HandCodedAgentTimeout, HandCodedTWAgent
from alfworld.agents.utils.misc import Demangler
from hearth_world._game_files import TASK_TYPES, find_games, no_games


class AlfredDemangler(textworld.core.Wrapper):
    """Gives objects names such as `mug 2`."""

    def __init__(self, *args, shuffle=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.shuffle = shuffle

    def load(self, *args, **kwargs):
        super().load(*args, **kwargs)
        demangler = Demangler(game_infos=self._entity_infos, shuffle=self.shuffle)
        for info in self._entity_infos.values():
            info.name = demangler.demangle_alfred_name(info.id)


class AlfredInfos(textworld.core.Wrapper):
    """Reports the game's file as `extra.gamefile`, at a reset only."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._gamefile = None

    def load(self, *args, **kwargs):
        super().load(*args, **kwargs)
        self._gamefile = args[0]

    def reset(self, *args, **kwargs):
        state = super().reset(*args, **kwargs)
        state["extra.gamefile"] = self._gamefile
        return state


class AlfredExpertType:
    """The kinds of experts."""

    HANDCODED = "handcoded"
    PLANNER = "planner"


class AlfredExpert(textworld.core.Wrapper):
    """Reports the next command of an expert as `extra.expert_plan`.

    `handcoded` is hearth's own expert, which is another policy than ALFWorld's; `planner` is a plan to the goal.
    """

    def __init__(self, env=None, expert_type=AlfredExpertType.HANDCODED):
        super().__init__(env=env)
        self.expert_type = expert_type
        self.prev_command = None
        if expert_type not in (AlfredExpertType.HANDCODED, AlfredExpertType.PLANNER):
            raise ValueError(
                f"Unknown type of AlfredExpert: {expert_type}.\n"
                f"Expecting either '{AlfredExpertType.HANDCODED}' or '{AlfredExpertType.PLANNER}'."
            )

    def load(self, gamefile):
        super().load(gamefile)
        self.gamefile = gamefile
        infos = self.request_infos
        infos.policy_commands = infos.policy_commands or self.expert_type == AlfredExpertType.PLANNER
        infos.facts = infos.facts or self.expert_type == AlfredExpertType.HANDCODED
        self._expert = HandCodedTWAgent(max_steps=200)

    def _add_plan(self):
        if self.expert_type == AlfredExpertType.PLANNER:
            self.state["extra.expert_plan"] = self.state["policy_commands"]
            return
        if self.prev_command is None:
            # ALFWorld's expert looks first, and so the plan after a reset is always this.
            self._expert.observe(self.state["feedback"])
            self.state["extra.expert_plan"] = ["look"]
            return
        try:
            command = self._expert.act(self.state, 0, self.state["won"], self.prev_command)
        except HandCodedAgentTimeout:
            raise Exception("Timeout")
        if not self.prev_command:
            command = "look"  # as ALFWorld's after an empty command
        is_possible = command in self.state["admissible_commands"]
        self.state["extra.expert_plan"] = [command if is_possible else "look"]

    def step(self, command):
        self.state, reward, done = super().step(command)
        self.prev_command = str(command)
        self._add_plan()
        return self.state, reward, done

    def reset(self):
        self.state = super().reset()
        self._expert.reset(self.gamefile)
        self.prev_command = None
        self._add_plan()
        return self.state


class AlfredTWEnv:
    """The games of one split, as in ALFWorld."""

    def __init__(self, config, train_eval="train"):
        print("Initializing AlfredTWEnv...")
        self.config = config
        self.train_eval = train_eval
        if config["env"]["goal_desc_human_anns_prob"] > 0:
            print(
                "Warning! Changing `goal_desc_human_anns_prob` should be done with"
                " the script `alfworld-generate`. Ignoring it and loading games as they are."
            )
        self.collect_game_files()

    def collect_game_files(self, verbose=False):
        log = print if verbose else lambda text: None
        log("Collecting solvable games...")
        self.game_files = find_games(self.config, self.train_eval, log)
        dataset = self.config["dataset"]
        print(f"Overall we have {len(self.game_files)} games in split={self.train_eval}")
        verb, key = ("Training", "num_train_games") if self.train_eval == "train" else ("Evaluating", "num_eval_games")
        if dataset[key] > 0:
            self.game_files = self.game_files[: dataset[key]]
        self.num_games = len(self.game_files)
        print(f"{verb} with {self.num_games} games")

    def get_game_logic(self):
        logic = self.config["logic"]
        self.game_logic = {}
        for name, key in (("pddl_domain", "domain"), ("grammar", "grammar")):
            with open(os.path.expandvars(logic[key])) as file:
                self.game_logic[name] = file.read()

    def is_solvable(self, env, game_file_path, random_perturb=True, random_start=10, random_prob_after_state=0.15):
        """Returns the commands with which the expert wins after some random ones, or None."""
        trajectory = []
        try:
            env.load(game_file_path)
            state, done, steps = env.reset(), False, 0
            if env.expert_type == AlfredExpertType.PLANNER:
                return state["extra.expert_plan"]
            while not done:
                command = state["extra.expert_plan"][0]
                drawn = random.choice(state.admissible_commands)
                if random_perturb and (steps <= random_start or random.random() < random_prob_after_state):
                    command = drawn
                state, _, done = env.step(command)
                trajectory.append(command)
                steps += 1
        except Exception as error:
            print(f"Unsolvable: {error} ({game_file_path})")
            return None
        return trajectory

    def init_env(self, batch_size):
        """Returns a batch of `batch_size` games that goes through `game_files` in TextWorld's order."""
        if not self.game_files:
            raise no_games(self.config, self.train_eval)
        shuffle = self.config["env"]["domain_randomization"] if self.train_eval == "train" else False
        wrappers = [AlfredDemangler(shuffle=shuffle), AlfredInfos]
        request_infos = textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"])
        method = self.config["general"]["training_method"]
        if method == "dqn":
            limit = self.config["rl"]["training"]["max_nb_steps_per_episode"]
        elif method == "dagger":
            limit = self.config["dagger"]["training"]["max_nb_steps_per_episode"]
            if self.train_eval == "train":
                # ALFWorld passes the type of the expert where the environment belongs, so it always gets the
                # hand-coded one. The same here.
                wrappers.append(AlfredExpert(self.config["env"]["expert_type"]))
                request_infos.extras.append("expert_plan")
        else:
            raise NotImplementedError
        env_id = textworld.gym.register_games(
            self.game_files,
            request_infos,
            batch_size=batch_size,
            asynchronous=True,
            max_episode_steps=limit,
            wrappers=wrappers,
        )
        return textworld.gym.make(env_id)
