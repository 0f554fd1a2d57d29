#!/usr/bin/env bash
# Measures stores of 10^4, 10^5 and 10^6 episodes: bytes, compaction, scan beside `zstd -d | wc`, selection by the index, and
# the memory of `hearth train` and `hearth verify`. Needs zstd, GNU time, python3 and about 25 GB for the largest.
#
#   results/store/measure.sh [HEARTH [COUNT...]]      e.g. results/store/measure.sh target/release/hearth 10000 100000 1000000
set -euo pipefail
hearth=$(realpath "${1:-target/release/hearth}")
shift || true
counts=("${@:-10000 100000 1000000}")
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-$(mktemp -d)}
cd "$work"
echo "work folder: $work" >&2

# Seconds and peak MiB of a command; its stdout is dropped.
measured() {
    /usr/bin/time -f '%e %M' -o time.txt "$@" > /dev/null 2> errors.txt || { cat errors.txt >&2; exit 1; }
    read -r seconds kib < time.txt
    echo "$seconds,$((kib / 1024))"
}

if [ ! -e source.jsonl ]; then
    "$hearth" scenarios generate games --train 300 --valid-train 4 --seen 4 --unseen 4 > /dev/null
    "$hearth" collect --policy expert --expert-noise 0.1 --suite games --split train --repetitions 4 --turns 40 --out played.jsonl > /dev/null
    cat > tokenize.toml <<'TOML'
name = "sft"
from = "fresh"
data = ["demonstrations"]
[algorithm]
kind = "sft"
targets = "actions"
[optimizer]
batch = 8
updates = 3
TOML
    "$hearth" train tokenize.toml --data played.jsonl --out model > /dev/null
    "$hearth" collect --policy model --suite games --split train --repetitions 4 --turns 12 --out source.jsonl > /dev/null
    cat played.jsonl >> source.jsonl
fi
sed 's/^from = .*/from = "collector"/' tokenize.toml > job.toml

echo "episodes,what,seconds,peak_mib,bytes"
for count in ${counts[*]}; do
    [ -e "$count.jsonl" ] || python3 "$here/synthetic.py" source.jsonl "$count" > "$count.jsonl"
    [ -d "$count" ] || echo "$count,compact,$(measured "$hearth" store compact "$count.jsonl" --out "$count"),$(du -sb "$count" | cut -f1)"
    lines=$(stat -c %s "$count.jsonl")
    echo "$count,lines,,,$lines"
    echo "$count,zstd -d and wc,$(measured bash -c "cat $count/*.zst | zstd -dc | wc -lc"),$lines"
    echo "$count,verify compacted,$(measured "$hearth" store verify "$count"),$lines"
    echo "$count,verify lines,$(measured "$hearth" store verify "$count.jsonl"),$lines"
    echo "$count,info by index,$(measured "$hearth" store info "$count" --outcome success --game 00042),"
    echo "$count,info of lines,$(measured "$hearth" store info "$count.jsonl" --outcome success --game 00042),"
    echo "$count,select one game,$(measured "$hearth" store select "$count" --outcome success --game 00042),"
    for data in "$count" "$count.jsonl"; do
        rm -rf out
        echo "$count,train 3 updates on $data,$(measured "$hearth" train job.toml --from model --data "$data" --out out),"
    done
done
