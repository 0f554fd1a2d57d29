"""Makes code that imports `alfworld` and `textworld` run on the native world.

    import hearth_world.compat
    hearth_world.compat.install()

`python -m hearth_world.run SCRIPT ...` does it without a change of the script.
"""

import importlib.util
import os
import sys

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_compat")
_NAMES = ("alfworld", "textworld")


def install(*, children: bool = False) -> None:
    """Puts hearth's `alfworld` and `textworld` in front of installed ones, for this process and those that
    `multiprocessing` starts.

    Args:
        children: also for every other Python that this process starts, such as Ray's workers, through `PYTHONPATH`.
            They must have hearth_world too.

    Raises:
        RuntimeError: if one of the real packages is already imported.
    """
    for name in _NAMES:
        module = sys.modules.get(name)
        origin = getattr(module, "__file__", None) or ""
        if module is not None and not os.path.abspath(origin).startswith(_FOLDER):
            raise RuntimeError(
                f"{name} is already imported from {origin or 'elsewhere'}\n"
                "hint: call hearth_world.compat.install() before anything imports alfworld or textworld"
            )
    while _FOLDER in sys.path:
        sys.path.remove(_FOLDER)
    sys.path.insert(0, _FOLDER)
    path = os.environ.get("PYTHONPATH", "")
    if children and _FOLDER not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = _FOLDER + (os.pathsep + path if path else "")


def is_installed() -> bool:
    """Returns whether `import textworld` gives, or would give, hearth's."""
    spec = importlib.util.find_spec("textworld")
    return spec is not None and os.path.abspath(spec.origin or "").startswith(_FOLDER)
