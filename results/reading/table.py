"""Writes the tables of this folder from the runs of remake.sh: python3 table.py RUNS OUT

OUT/table.csv has one row for each variant and seed: the reading score of the last update, the update from which nine of ten pairs are
right, and the success rate on valid_train. OUT/curves.csv has the reading score during training, one column for each update. The
means over the seeds are printed as Markdown. Standard library only.
"""

import csv
import pathlib
import statistics
import sys

MEASURES = ("there", "absent", "pairs", "exact", "induction")
HEADER = ["variant", "seed", *MEASURES, "reads_from_update", "valid_train_percent", "mean_turns"]


def read_run(folder):
    """Returns the row of one run, as text, and its curve: pairs right after each tested share of the updates."""
    variant, seed = folder.name.rsplit("-", 1)
    with open(folder / "reading.csv") as file:
        reading = {row["measure"]: float(row["value"]) for row in csv.DictReader(file)}
    with open(folder / "metrics.csv") as file:
        curve = [(int(row["update"]) + 1, float(row["reading/pairs"])) for row in csv.DictReader(file) if row["reading/pairs"]]
    reads = next((update for update, pairs in curve if pairs >= 0.9), "")
    with open(folder / "eval" / "eval.csv") as file:
        whole = next(row for row in csv.DictReader(file) if not row["task_type"])
    success = f"{100 * int(whole['successes']) / int(whole['n']):.1f}"
    measures = [f"{reading[name]:.3f}" for name in MEASURES]
    return [variant, seed, *measures, reads, success, f"{float(whole['mean_turns']):.1f}"], curve


def print_means(rows):
    """Prints one Markdown row for each variant: the means over its seeds."""
    groups = {}
    for row in rows:
        groups.setdefault(row[0], []).append(dict(zip(HEADER, row)))

    def mean(group, name):
        return statistics.mean(float(row[name]) for row in group)

    print("| variant | seeds | success %, mean | each seed | pairs right | whole command right | reads from update |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for variant, group in sorted(groups.items(), key=lambda item: -mean(item[1], "valid_train_percent")):
        each = " / ".join(row["valid_train_percent"] for row in group)
        reads = " / ".join(str(row["reads_from_update"] or "-") for row in group)
        success, pairs, exact = (mean(group, name) for name in ("valid_train_percent", "pairs", "exact"))
        print(f"| {variant} | {len(group)} | {success:.1f} | {each} | {pairs:.2f} | {exact:.2f} | {reads} |")


def main():
    runs, out = map(pathlib.Path, sys.argv[1:3])
    results = [read_run(done.parent) for done in sorted(runs.glob("*/done"))]
    rows = [row for row, _ in results]
    with open(out / "table.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows)
    with open(out / "curves.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["variant", "seed", "pairs_right_by_update"])
        for row, curve in results:
            writer.writerow([*row[:2], " ".join(f"{update}:{pairs:.2f}" for update, pairs in curve)])
    print_means(rows)


main()
