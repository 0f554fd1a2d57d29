"""Simulates a loop whose episodes are played by many collectors and whose jobs are trained by one process.

usage: simulate.py RUN [--collectors 1,2,4,8,16,32,64] [--episodes N] [--slower 30] [--stopped 0.05]

The service times are measured ones, read from a finished run folder of `hearth loop`:

- Seconds per episode of a collector: the distribution over the episodes of RUN/1/rollouts.jsonl, from `seconds`, divided by the
  number of episodes that were played at the same time (--slots), because `seconds` of an episode includes the time in which
  the collector served the others. `--slower 30` multiplies them, as for a larger policy or longer thoughts.
- Seconds per episode of training: the sum of `seconds` in RUN/*/JOB/metrics.csv, divided by the episodes that were read.
- Seconds to merge the stores of a phase: --merge. An evaluation plays --evaluations episodes.

What is simulated is the loop as it is: an iteration plays all rollouts, then one process trains, then all play the evaluation.
Shares are static (game index modulo the number of collectors). With a lease, a collector that has finished its share plays
games of one that has stopped; `--stopped 0.05` lets 5 % of the collectors stop at a random time of their share.

The output is CSV: for each number of collectors the seconds of an iteration by phase, the share of its time that the trainer
and the collectors wait, and the speedup over one collector.
"""

import argparse
import csv
import json
import pathlib
import random
import statistics
import sys


def read_run(run, slots):
    """Returns the collector's seconds of each episode, and the trainer's seconds per episode that it read."""
    seconds = []
    for line in (run / "1" / "rollouts.jsonl").open():
        seconds.append(json.loads(line)["seconds"] / slots)
    training, read = 0.0, 0
    for metrics in sorted(run.glob("[0-9]*/*/metrics.csv")):
        for row in csv.DictReader(metrics.open()):
            training += float(row["seconds"])
            read += int(row["trajectories"])
    if not read:
        sys.exit(f"{run}: no metrics.csv of a training job\nhint: name the folder of a finished `hearth loop`")
    return seconds, training / read


def phase(seconds, episodes, collectors, stopped, lease, source):
    """Returns the length of a phase that plays `episodes`, and the collectors' seconds of work."""
    shares = [0.0] * collectors
    for episode in range(episodes):
        shares[episode % collectors] += source.choice(seconds)
    work = sum(shares)
    gone = [c for c in range(collectors) if source.random() < stopped and collectors > 1]
    if len(gone) == collectors:
        gone.pop()
    left = 0.0
    for collector in gone:
        done = source.random() * shares[collector]
        left += shares[collector] - done
        shares[collector] = done
    present = [shares[c] for c in range(collectors) if c not in gone]
    end = max(present)
    if left:
        # The rest is divided among those that are there, once the lease has run out.
        end = max(end, max(shares[c] for c in gone) + lease) + left / len(present)
    return end, work


def iteration(arguments, seconds, per_episode, collectors, source):
    collect, collected = phase(
        seconds, arguments.episodes, collectors, arguments.stopped, arguments.lease, source
    )
    evaluate, evaluated = phase(
        seconds, arguments.evaluations, collectors, arguments.stopped, arguments.lease, source
    )
    train = per_episode * arguments.episodes * arguments.epochs
    pause = arguments.poll * 2  # each phase begins when a collector next looks
    total = collect + train + evaluate + 2 * arguments.merge + pause
    return {
        "collect": collect,
        "train": train,
        "evaluate": evaluate,
        "wait": 2 * arguments.merge + pause,
        "total": total,
        "trainer_idle": 1 - train / total,
        "collectors_idle": 1 - (collected + evaluated) / (collectors * total),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--collectors", default="1,2,4,8,16,32,64")
    parser.add_argument("--episodes", type=int, default=4096, help="rollouts of an iteration")
    parser.add_argument("--evaluations", type=int, default=274, help="episodes of an evaluation")
    parser.add_argument("--epochs", type=float, default=1, help="how often the trainer reads an episode")
    parser.add_argument("--slower", type=float, default=1, help="factor of the collectors' seconds")
    parser.add_argument("--slots", type=int, default=64, help="episodes that a collector plays at once")
    parser.add_argument("--poll", type=float, default=2.5, help="mean seconds until a waiting process looks again")
    parser.add_argument("--merge", type=float, default=1.0, help="seconds to merge the stores of a phase")
    parser.add_argument("--stopped", type=float, default=0.0, help="share of collectors that stop in a phase")
    parser.add_argument("--lease", type=float, default=600.0, help="seconds of a lease")
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    seconds, per_episode = read_run(arguments.run, arguments.slots)
    seconds = [arguments.slower * one for one in seconds]
    print(
        f"# {len(seconds)} measured episodes, {statistics.mean(seconds):.4f} s of a collector each; "
        f"training {per_episode:.4f} s an episode and epoch"
    )
    fields = ["collect", "train", "evaluate", "wait", "total", "trainer_idle", "collectors_idle"]
    print("collectors," + ",".join(fields) + ",speedup")
    first = None
    for collectors in map(int, arguments.collectors.split(",")):
        source = random.Random(arguments.seed)
        runs = [iteration(arguments, seconds, per_episode, collectors, source) for _ in range(arguments.repetitions)]
        means = {field: statistics.mean(run[field] for run in runs) for field in fields}
        first = first or means["total"]
        cells = [f"{means[field]:.3f}" if "idle" in field else f"{means[field]:.1f}" for field in fields]
        print(f"{collectors}," + ",".join(cells) + f",{first / means['total']:.2f}")


if __name__ == "__main__":
    main()
