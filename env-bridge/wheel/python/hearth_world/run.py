"""Runs a script with hearth's `alfworld` and `textworld`: python -m hearth_world.run SCRIPT [ARGUMENTS]"""

import os
import runpy
import sys

from hearth_world import compat


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) > 1 else 2)
    if sys.argv[1:] == ["-m"]:
        sys.exit("python -m hearth_world.run -m needs the name of a module")
    if sys.argv[1] == "-m":
        compat.install(children=True)
        sys.argv = sys.argv[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        # As for `python SCRIPT`, the folder of the script takes the place of the current folder.
        sys.argv = sys.argv[1:]
        sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0]))
        compat.install(children=True)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
