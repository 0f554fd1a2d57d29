"""Makes `import alfworld` and `import textworld` find hearth's, in every process of this environment.

Python imports this module at its start. Beside the real packages it does nothing and says so, because a mixture of
both would be neither.
"""

import importlib.util
import os
import sys
from importlib import metadata

REAL = ("alfworld", "textworld")


def installed():
    """Returns the real packages of this environment."""
    found = []
    for name in REAL:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            pass
    return found


def activate():
    """Adds hearth's modules to the end of the search path, unless a real package is installed."""
    found = installed()
    if found:
        print(
            f"hearth-world-alfworld is not active, because {' and '.join(found)} is installed\n"
            "hint: uninstall one of the two; `python -m hearth_world.run` needs neither to be uninstalled",
            file=sys.stderr,
        )
        return
    spec = importlib.util.find_spec("hearth_world")
    if spec is not None and spec.origin:
        sys.path.append(os.path.join(os.path.dirname(spec.origin), "_compat"))


activate()
