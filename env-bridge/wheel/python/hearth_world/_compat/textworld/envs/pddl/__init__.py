from textworld.envs.pddl.pddl import PddlEnv
