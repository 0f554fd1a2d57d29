"""An agent that asks the person at the keyboard."""

from textworld.core import Agent


class HumanAgent(Agent):
    def __init__(self, autocompletion=True, oracle=False):
        self.autocompletion = autocompletion
        self.oracle = oracle

    def reset(self, env):
        env.display_command_during_render = False
        if self.autocompletion:
            env.request_infos.admissible_commands = True
        if self.oracle:
            env.request_infos.policy_commands = True

    def act(self, game_state, reward, done):
        if self.oracle and game_state["policy_commands"] and not done:
            print(f"Oracle: {' > '.join(game_state['policy_commands'])}\n")
        if self.autocompletion and game_state["admissible_commands"]:
            print(f"Available actions: {game_state['admissible_commands']}\n")
        return input("> ")
