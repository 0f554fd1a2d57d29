#!/bin/bash
# alfworld: hearth's loop in 8 processes, which share the folder of the run. The first also merges, trains and evaluates.
# What is played or trained is never lost: submitted again, the script continues. Written by `hearth submit`, hearth 0.1.0.
#SBATCH --job-name=hearth-alfworld
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --gres=gpu:1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=hearth-alfworld-%A-%a.log
set -u
again() { # start this task again, from where it stopped
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then scontrol requeue "$SLURM_JOB_ID"; sleep 60; fi
}
trap again USR1 # two minutes before the time limit
/opt/hearth/bin/hearth loop /shared/alfworld.toml --out /shared/runs/alfworld --device cuda --shard auto --wait 604800 &
wait $!
status=$?
if [ $status -eq 137 ]; then again; fi # it was killed, for example because memory ran out
exit $status
