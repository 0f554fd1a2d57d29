"""A .tw-pddl game on the native world."""

import json

from hearth_world import Env, Game
from textworld.core import Environment, GameState
from textworld.logic import Proposition, Variable


class EntityInfo:
    """An object of a game: its id in the file, its type, and the name that texts use."""

    def __init__(self, id, type):
        self.id = id
        self.type = type
        self.name = id
        self.definite = "the"
        self.indefinite = "a"


class PddlEnv(Environment):
    """Plays a .tw-pddl game. Without ALFWorld's demangler, objects have the ids of the file as names."""

    def __init__(self, infos=None):
        super().__init__(infos)
        self._env = None

    def load(self, filename_or_data):
        if isinstance(filename_or_data, (str, bytes)) or hasattr(filename_or_data, "__fspath__"):
            with open(filename_or_data, "rb") as file:
                self._bytes = file.read()
            self._game_file = filename_or_data
        else:
            self._bytes = json.dumps(filename_or_data).encode()
            self._game_file = None
        # A demangler sets names after loading. They are usually ALFWorld's, so the game is loaded with those, and
        # loaded again at a reset only if they differ.
        self._game = Game.from_bytes(self._bytes)
        self._entity_infos = {id: EntityInfo(id, type) for id, type in self._game.entities}
        self._names = dict(zip(self._entity_infos, self._game.entity_names))
        self.walkthrough = self._game.walkthrough
        self._env = None

    def reset(self):
        names = {id: info.name for id, info in self._entity_infos.items()}
        if names != self._names:
            self._names = names
            self._game = Game.from_bytes(self._bytes, names=self._names)
            self._env = None
        if self._env is None:
            self._env = Env(self._game)
            self._templates = self._game.command_templates
        self.state = GameState()
        self.state.feedback = self.state.raw = self._env.reset()
        self._last_action = None
        self._gather_infos(False)
        if "walkthrough" in self.request_infos.extras:
            self.state["extra.walkthrough"] = self.walkthrough or self._env.plan() or []
        return self.state

    def step(self, command):
        if self._env is None:
            raise RuntimeError("the game has not been started; call load() and reset() before step()")
        command = command.strip()
        previous, self.state = self.state, GameState()
        self.state.last_command = command
        text, won = self._env.step(command)
        self.state.feedback = self.state.raw = text
        self._gather_infos(won)
        if "walkthrough" in self.request_infos.extras:
            self.state["extra.walkthrough"] = previous["extra.walkthrough"]
        self.state["score"] = 1 if won else 0
        self.state["done"] = won
        return self.state, self.state["score"], won

    def _gather_infos(self, won):
        state, wanted = self.state, self.request_infos
        state["command_templates"] = list(self._templates)
        state["won"] = won
        state["lost"] = False
        state["_entity_infos"] = self._entity_infos
        state["last_action"] = None
        state["admissible_commands"] = self._env.admissible()
        if wanted.facts:
            state["facts"] = [
                Proposition(name, [Variable(*argument) for argument in arguments])
                for name, arguments in self._env.facts()
            ]
        if wanted.moves:
            state["moves"] = self._env.moves
        if wanted.policy_commands:
            state["policy_commands"] = self._env.plan() or []

    def copy(self):
        """Returns a copy of this environment in the same state. TextWorld has none for these games."""
        env = PddlEnv(self.request_infos)
        env.__dict__.update(self.__dict__)
        env.state = self.state.copy()
        env._env = self._env.clone() if self._env is not None else None
        return env
