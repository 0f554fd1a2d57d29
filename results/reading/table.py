"""Prints the table of this folder from the runs of remake.sh: python3 table.py RUNS > table.csv

One row for each variant and seed: the reading score of the last update, the update from which nine of ten pairs are right, and the
success rate on valid_train. Standard library only.
"""

import csv
import pathlib
import sys

runs = pathlib.Path(sys.argv[1])
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(["variant", "seed", "there", "absent", "pairs", "exact", "induction", "reads_from_update", "valid_train_percent", "mean_turns"])
for done in sorted(runs.glob("*/done")):
    folder = done.parent
    variant, seed = folder.name.rsplit("-", 1)
    with open(folder / "reading.csv") as file:
        reading = {row["measure"]: float(row["value"]) for row in csv.DictReader(file)}
    with open(folder / "metrics.csv") as file:
        curve = [(int(row["update"]) + 1, float(row["reading/pairs"])) for row in csv.DictReader(file) if row["reading/pairs"]]
    reads = next((update for update, pairs in curve if pairs >= 0.9), "")
    with open(folder / "eval" / "eval.csv") as file:
        whole = next(row for row in csv.DictReader(file) if not row["task_type"])
    measures = [f"{reading[name]:.3f}" for name in ("there", "absent", "pairs", "exact", "induction")]
    success = f"{100 * int(whole['successes']) / int(whole['n']):.1f}"
    writer.writerow([variant, seed, *measures, reads, success, f"{float(whole['mean_turns']):.1f}"])
