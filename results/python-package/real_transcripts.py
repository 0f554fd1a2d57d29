"""Plays `transcript.py` on the real packages for several batch sizes and seeds, and writes one file for each.

The real packages translate a game's PDDL four times whenever it is loaded and parse the same grammar texts at every
turn. Both are functions of their arguments alone. This script keeps their results between the runs, which makes it
several times as fast; everything else runs as published. Files that exist are not made again.

python real_transcripts.py FOLDER SPLIT GAMES COMMANDS OUT BATCH.SEED [BATCH.SEED ...]
"""

import copy
import gc
import os
import runpy
import sys
from pathlib import Path

TRANSCRIPT = Path(__file__).resolve().parents[2] / "env-bridge/wheel/tests/transcript.py"


def main():
    folder, split, games, commands, out = sys.argv[1:6]
    os.makedirs(out, exist_ok=True)
    remember()
    for run in sys.argv[6:]:
        path = Path(out) / f"{run}.{split}.jsonl"
        if path.exists():
            continue
        batch, seed = run.split(".")
        part = path.with_suffix(".part")
        sys.stdout.flush()
        # A process of its own, so that no run sees what another has changed. The first one fills the caches here.
        arguments = [str(TRANSCRIPT), folder, split, games, batch, seed, commands]
        if not TRANSLATED:
            play(arguments, "/dev/null")
            gc.freeze()  # else collections of the children would copy the caches
        child = os.fork()
        if child == 0:
            play(arguments, part)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"{path}: the run failed")
        part.rename(path)


def play(arguments, path):
    sys.path.insert(0, str(TRANSCRIPT.parent))
    sys.argv, before, stdout = arguments, sys.argv, sys.stdout
    with open(path, "w") as file:
        sys.stdout = file
        runpy.run_path(str(TRANSCRIPT))
        sys.stdout = stdout
    sys.argv = before


TRANSLATED = {}


def remember():
    import fast_downward
    import textworld.logic
    from textworld.envs.pddl import logic, textgen

    translate = fast_downward.pddl2sas

    def translate_once(domain, problem, **options):
        key = (domain, problem, options.get("optimize", False))
        if key not in TRANSLATED:
            TRANSLATED[key] = translate(domain, problem, **options)
        return TRANSLATED[key]

    fast_downward.pddl2sas = translate_once
    for module in (textworld.logic, logic, textgen):
        module._parse_and_convert = parses_once(module._parse_and_convert)


def parses_once(parse):
    parsed = {}

    def parse_once(text, **options):
        key = (text, *sorted(options.items()))
        if key not in parsed:
            parsed[key] = parse(text, **options)
        return copy.deepcopy(parsed[key])

    return parse_once


main()
