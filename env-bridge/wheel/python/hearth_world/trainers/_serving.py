"""The command line that the servers share."""

import argparse
import os
from typing import Callable, Optional, TypeVar

T = TypeVar("T")


def serving_parser(description: str, *, port: int, split: Optional[str], split_help: str) -> argparse.ArgumentParser:
    """Returns a parser of `--games`, `--split`, `--turns`, `--host` and `--port`, with these defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--games", default=os.environ.get("HEARTH_GAMES"), help="suite [default: $HEARTH_GAMES]")
    parser.add_argument("--split", default=split, help=split_help)
    parser.add_argument("--turns", type=int, default=50, help="maximum number of commands of a game [default: 50]")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port)
    return parser


def served(parser: argparse.ArgumentParser, make: "Callable[[argparse.Namespace], T]") -> "tuple[argparse.Namespace, T]":
    """Parses the command line and makes what it describes. If that fails, one line says why, and the exit code is 2."""
    options = parser.parse_args()
    if not options.games:
        parser.error("--games is missing: a folder in ALFWorld's layout, or one that hearth_world.generate wrote")
    try:
        return options, make(options)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")
