#!/bin/bash
# alfworld: hearth's loop in 8 processes, which share the folder of the run. The first also merges, trains and evaluates.
# What is played or trained is never lost: submitted again, the script continues. Written by `hearth submit`, hearth 0.1.0.
#PBS -N hearth-alfworld
#PBS -J 0-7
#PBS -l select=1:ncpus=16:mem=64gb:ngpus=1
#PBS -l walltime=12:00:00
#PBS -r y
#PBS -j oe
export HEARTH_SHARDS=8
exec /opt/hearth/bin/hearth loop /shared/alfworld.toml --out /shared/runs/alfworld --device cuda --shard auto --wait 604800
