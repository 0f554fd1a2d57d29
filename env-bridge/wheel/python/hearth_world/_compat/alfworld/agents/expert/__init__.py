"""hearth's expert with the interface of ALFWorld's hand-coded one. It is another policy: it reads only texts, and draws
nothing at random."""

import textworld
from hearth_world import Expert


class HandCodedAgentTimeout(NameError):
    """The expert has made too many commands."""


class HandCodedAgentFailed(NameError):
    """ALFWorld's expert raises this; hearth's never does."""


class HandCodedTWAgent(textworld.Agent):
    """Plays household games.

    Args:
        max_steps: commands after which `act` raises `HandCodedAgentTimeout`.
    """

    def __init__(self, max_steps=150):
        self.max_steps = max_steps
        self._steps = 0
        self._expert = Expert()
        self._next = "look"

    def reset(self, game_file):
        self._steps = 0
        self._expert = Expert()

    def observe(self, observation):
        """Reads the opening text."""
        self._next = self._expert.act(observation, None)

    def act(self, game_state, reward, done, prev_command=""):
        """Returns the next command after `prev_command` led to `game_state`.

        Raises:
            HandCodedAgentTimeout: after `max_steps` commands.
        """
        if self._steps >= self.max_steps:
            raise HandCodedAgentTimeout()
        self._steps += 1
        self._next = self._expert.act(game_state["feedback"], prev_command)
        return self._next
