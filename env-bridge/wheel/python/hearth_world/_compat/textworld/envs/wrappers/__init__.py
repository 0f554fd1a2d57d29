"""Wrappers around environments."""

from textworld.envs.wrappers.filter import Filter
from textworld.envs.wrappers.generic import GenericEnvironment
from textworld.envs.wrappers.limit import Limit
