#!/usr/bin/env bash
# Runs the experiments for a CUDA machine, most important first: one call does as many steps as fit in twelve minutes.
#
#   experiments/cuda/run.sh ARCHIVE OUT [STEP ...]
#   experiments/cuda/run.sh --list
#
# ARCHIVE: CIFAR-10 as a tar of train/ and test/, each with one folder of images per class. OUT: receives the JSON and the log
# of every step, summary.json, and results.tar.gz with all of these but no weights, written anew after each step.
# Needs neither network nor installation: the package is used from the repository of this script.
#
# A step whose result is already in OUT is skipped, so a second call continues. Each step has its own (estimated) time limit in
# seconds, and starts only if the minimum time that it needs is left of MINUTES since the call. If a step fails or reaches its
# limit, its log is kept and the next step starts, unless it needs the missing result.
#
# PYTHON=python3   the interpreter        DEVICE=cuda   or cpu, to try the script
# MINUTES=12       for a whole call       SCALE=full    or tiny: the same steps with tiny models and data
# LIMIT=530        upper limit of every step, in seconds; with ten seconds to stop, nine minutes
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
MINUTES=${MINUTES:-12}
SCALE=${SCALE:-full}
LIMIT=${LIMIT:-530}

# Name, minimum seconds, limit, the file that the step needs, the file that it writes, what it does. The limits of the first
# four, with the time to start and stop them, add up to twelve minutes.
STEPS='
correctness      40  110 -                correctness.xml       the tests marked gpu, and the output of robustcls doctor
bench_vgg16      90  190 -                bench_vgg16.json      PGD-10 training and the suite fast of VGG16 beside a plain loop
record_first     90  250 -                record/last.pt        the ten-minute record run, up to the limit; its state is saved
record_part      30  90  record/ckpt.pt   record_part.json      the suite fast on the best epoch so far
record_rest      90  530 record/last.pt   record/ckpt.done      the rest of the record run
record_fast      30  120 record/ckpt.done record_fast.json      the suite fast on 1,000 samples of the finished run
record_standard  90  530 record/ckpt.done record_standard.json  the standard composition of AutoAttack on the same samples
bench_more       300 530 -                bench_more.json       all training and evaluation workloads of VGG16, and other libraries
autoattack       300 530 record/ckpt.done autoattack.json       standard and fast beside the code of AutoAttack
bench_resnet18   300 530 -                bench_resnet18.json   the same for ResNet-18
pgd10            500 530 -                pgd10.json            PGD-10 training of VGG16 for seven minutes, then fast
idbh             500 530 -                idbh.json             record/vgg16_idbh.toml for seven minutes, then fast
trades           500 530 -                trades.json           record/vgg16_trades.toml, likewise
modern           500 530 -                modern.json           experiments/seed/modern.toml for seven minutes, then PGD-20
as_written       500 530 -                as_written.json       experiments/seed/as_written.toml, likewise
'

if [ "$SCALE" = tiny ]; then
    SMALL=(--arch "vgg16(width=0.05)" --limit-train 200 --val-n 20 --batch-size 20 --epochs 2 --minutes 0)
    BENCH=(--updates 4 --n 10 --batch-size 10 --arch "vgg16(width=0.05)")
    N=10 CONTEST_N=10 FIRST_N=10
else
    SMALL=() BENCH=() N=1000 CONTEST_N=2000 FIRST_N=1000
fi

robustcls() { "$PYTHON" -m robustcls "$@"; }

train() { # run folder, configuration, further options
    robustcls train --config "$ROOT/experiments/$2" --data folder:data --device "$DEVICE" --out "$1" "${@:3}" \
        ${SMALL[@]+"${SMALL[@]}"}
}

attack() { # run folder, result, attacks
    robustcls attack --model "$1/ckpt.pt" --data folder:data --device "$DEVICE" --n "$N" --out "$2" \
        --data-note "CIFAR-10, from $(basename "$ARCHIVE")" "${@:3}"
}

contest() { # result, suite, further options; an interrupted contest leaves its measurements in the partial file
    local part=${1%.json}_partial.json
    "$PYTHON" -m experiments.contests --suite "$2" --data folder:data --device "$DEVICE" --out "$part" "${@:3}"
    mv "$part" "$1"
}

step_correctness() {
    robustcls doctor >doctor.txt
    local files status=0
    "$PYTHON" -c "import torch; torch.empty(1, device='$DEVICE')" # fails without a GPU, where every test below would be skipped
    mapfile -t files < <(grep -rl --include='*.py' 'mark\.gpu' "$ROOT/tests")
    "$PYTHON" -m pytest "${files[@]}" -c "$ROOT/pyproject.toml" --rootdir "$ROOT" -m gpu -p no:cacheprovider \
        --junitxml=correctness.xml || status=$?
    [ "$status" -eq 0 ] || { mv correctness.xml correctness_failed.xml && return "$status"; }
}
step_bench_vgg16() {
    contest bench_vgg16.json cuda --arch vgg16 --workload pgd10 --workload fast --n "$FIRST_N" ${BENCH[@]+"${BENCH[@]}"}
}
step_bench_more() { contest bench_more.json cuda --arch vgg16 ${BENCH[@]+"${BENCH[@]}"}; }
step_bench_resnet18() { contest bench_resnet18.json cuda --arch resnet18 ${BENCH[@]+"${BENCH[@]}"}; }
step_record_first() { train record record/vgg16.toml; }
step_record_part() { attack record record_part.json --suite fast; }
step_record_rest() { robustcls train --resume record && touch record/ckpt.done; }
step_record_fast() { attack record record_fast.json --suite fast; }
step_record_standard() { attack record record_standard.json --suite standard; }
step_autoattack() { contest autoattack.json attack --contest autoattack --model record/ckpt.pt --n "$CONTEST_N"; }
step_pgd10() { train_then_attack pgd10 record/vgg16_pgd10.toml --suite fast; }
step_idbh() { train_then_attack idbh record/vgg16_idbh.toml --suite fast; }
step_trades() { train_then_attack trades record/vgg16_trades.toml --suite fast; }
step_modern() { train_then_attack modern seed/modern.toml --attack "pgd(steps=20)"; }
step_as_written() { train_then_attack as_written seed/as_written.toml --attack "pgd(steps=20)"; }

train_then_attack() { # name, configuration, attacks
    rm -rf "$1"
    train "$1" "$2" --minutes 7
    attack "$1" "$1.json" "${@:3}"
}

unpack() {
    [ -d data/train ] && return
    rm -rf data.part && mkdir data.part
    tar -xf "$ARCHIVE" -C data.part
    local train
    train=$(find data.part -maxdepth 2 -type d -name train | head -n 1)
    [ -n "$train" ] || { echo "$ARCHIVE holds no train/ and test/: give a tar of image folders" >&2 && return 2; }
    mv "$(dirname "$train")" data
}

run() { # name, result file, limit, remaining seconds
    local name=$1 limit=$3 started status=0
    limit=$((limit < LIMIT ? limit : LIMIT))
    limit=$((limit < $4 ? limit : $4))
    started=$(date +%s)
    (
        export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
        export PYTHON DEVICE SCALE ARCHIVE
        timeout --signal TERM --kill-after 10 "$limit" "$BASH" "$ROOT/experiments/cuda/run.sh" --step "$name"
    ) >"$name.log" 2>&1 || status=$?
    case $name:$status in
    *:0) status='done' ;;
    record_first:124 | record_rest:124) status="cut at $limit s, record_rest goes on" ;;
    *:124 | *:137) status="cut at $limit s" ;;
    *) status="failed with status $status" ;;
    esac
    tell "$name" "$status" $(($(date +%s) - started)) "$2"
}

tell() { # name, status, seconds, file
    echo "$1: $2, $3 s"
    printf '%s\t%s\t%s\t%s\n' "$@" >>steps.tsv
}

summarise() {
    "$PYTHON" - "$ROOT" "$DEVICE" <<'PY'
import json, platform, subprocess, sys
from importlib.metadata import version
from pathlib import Path

root, device = sys.argv[1:]
summary = {"steps": {}, "python": platform.python_version(), "torch": version("torch"), "device": "cpu"}
for line in Path("steps.tsv").read_text().splitlines():
    name, status, seconds, file = line.split("\t")
    summary["steps"][name] = {"status": status, "seconds": int(seconds), "file": file if Path(file).exists() else None}
if device != "cpu":
    import torch

    summary["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
summary["commit"] = commit.stdout.strip()
Path("summary.json").write_text(json.dumps(summary, indent=1) + "\n")
PY
    find . \( -name '*.json' -o -name '*.jsonl' -o -name '*.log' -o -name '*.xml' -o -name '*.txt' -o -name 'config.toml' \) \
        -not -path './data/*' -print0 | tar -czf results.part --null -T - && mv results.part results.tar.gz
}

main() {
    [ $# -ge 2 ] || { sed -n '2,19s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
    ARCHIVE=$(realpath "$1")
    mkdir -p "$2" && cd "$2"
    [ -f "$ARCHIVE" ] || { echo "no archive $1: give CIFAR-10 as a tar of train/ and test/" >&2 && exit 2; }
    local wanted=" ${*:3} " end left name least limit needs result
    for name in "${@:3}"; do
        grep -q "^$name " <<<"$STEPS" || { echo "no step $name: $0 --list names them" >&2 && exit 2; }
    done
    end=$(($(date +%s) + MINUTES * 60))
    touch steps.tsv
    unpack
    while read -r name least limit needs result _; do
        [ -n "$name" ] || continue
        [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || continue
        left=$((end - $(date +%s)))
        if [ -e "$result" ]; then
            echo "$name: in OUT already"
        elif [ "$needs" != - ] && [ ! -e "$needs" ]; then
            tell "$name" "skipped, needs $needs" 0 "$result"
        elif [ "$left" -lt "$least" ]; then
            tell "$name" "left for another call, needs $least s" 0 "$result"
        else
            run "$name" "$result" "$limit" "$left"
            summarise
        fi
    done <<<"$STEPS"
    summarise
}

case ${1:-} in
--list) sed '/^$/d' <<<"$STEPS" ;;
--step)
    trap : TERM # bash waits for the command below, which saves its state
    "step_$2"
    ;;
*) main "$@" ;;
esac
