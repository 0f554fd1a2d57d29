#!/usr/bin/env bash
# Runs a loop on a real Slurm on this machine: slurmctld and slurmd on localhost, two CPUs, started and stopped by this script.
# It submits the script that `hearth submit slurm` prints, kills one task with SIGKILL, and compares the table and the weights
# with those of one process.
#
#   tests/cluster/slurm.sh HEARTH        as root, with Debian's packages slurm-wlm and munge
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
hearth=$(realpath "${1:?missing argument: the binary}")
work=$(mktemp -d)
stop() {
    set +e
    [ -e "$work/slurmd.pid" ] && kill "$(cat "$work/slurmd.pid")"
    [ -e "$work/slurmctld.pid" ] && kill "$(cat "$work/slurmctld.pid")"
    [ -e "$work/munged.pid" ] && kill "$(cat "$work/munged.pid")"
    sleep 1
    rm -rf "$work"
}
trap stop EXIT

chmod 755 "$work"
mkdir -p "$work/state" "$work/spool" "$work/munge"
dd if=/dev/urandom of="$work/munge/key" bs=64 count=1 status=none
chmod 700 "$work/munge"; chmod 600 "$work/munge/key"
munged --force --key-file "$work/munge/key" --socket "$work/munge/socket" --pid-file "$work/munged.pid" \
    --log-file "$work/munge/log" --seed-file "$work/munge/seed"
name=$(hostname -s)
cat >"$work/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0
JobRequeue=1
MinJobAge=3600
NodeName=$name NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=test Nodes=$name Default=YES MaxTime=60 State=UP
CONF
export SLURM_CONF=$work/slurm.conf
slurmctld -c
slurmd -c
for _ in $(seq 60); do [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break; sleep 1; done
sinfo

cd "$work"
sed -n "/^pub(crate) const RECIPE/,/^\"#;/p" "$here/../it/tiny.rs" | sed -e '1d' -e '$d' >recipe.toml
"$hearth" loop recipe.toml --out alone --json >alone.json 2>/dev/null
"$hearth" submit slurm recipe.toml -n 2 --run shared --cpus 1 --memory 1 --queue test --out job.sh
job=$(sbatch --parsable job.sh)
echo "submitted job $job"
# Kill one task while it plays.
killed=
for _ in $(seq 600); do
    if [ -z "$killed" ] && pid=$(pgrep -f "^$hearth loop $work/recipe.toml --out $work/shared" | tail -1) && [ -n "$pid" ]; then
        kill -9 "$pid"; killed=$pid; echo "killed process $pid"
    fi
    [ -z "$(squeue -h -j "$job" 2>/dev/null)" ] && break
    sleep 0.2
done
[ -n "$killed" ] || { echo "error: no task was found to kill" >&2; exit 1; }
scontrol show job "$job" | grep -E "JobState|Restarts" || true
restarts=$(scontrol show job "$job" | grep -o "Restarts=[0-9]*" | cut -d= -f2 | paste -sd+ | bc)
[ "$restarts" -ge 1 ] || { echo "error: no task was started again" >&2; tail -n 20 ./*.log >&2; exit 1; }
"$hearth" loop recipe.toml --out shared --json >shared.json 2>/dev/null
python3 - <<'PY'
import json
rows = [json.load(open(name))["rows"] for name in ("alone.json", "shared.json")]
for row in rows[0] + rows[1]:
    row.pop("seconds", None)
assert rows[0] == rows[1], rows
print(f"{len(rows[0])} rows of the table are equal")
PY
count=0
while read -r file; do
    cmp "alone/$file" "shared/$file"; count=$((count + 1))
done < <(cd alone && find . -name "*.safetensors" | grep -v checkpoint | sort)
echo "$count files of weights are equal"
