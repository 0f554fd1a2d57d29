"""Environments by id, as in gym."""

from textworld.gym.core import Agent
from textworld.gym.utils import make, register_game, register_games, registry
