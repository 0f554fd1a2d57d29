"""The part of ALFWorld that text games need, on hearth's native world."""

from alfworld.info import *
from alfworld.info import __version__
