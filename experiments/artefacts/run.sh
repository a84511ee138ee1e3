#!/bin/sh
# Exports the two networks of this folder in 8 bits, and the first one pruned but not trained again, and attacks each of them.
# Needs runs/pgd and runs/half (see pgd.toml, half.toml) and CIFAR-10 as folder:cifar. Writes artefacts/.
set -eu
data="--data folder:cifar"
attack="--suite fast -n 1000"
mkdir -p artefacts
robustcls export --model runs/pgd/ckpt.pt $data --out artefacts/int8 --quantize "int8(calibrate=512)"
robustcls export --model runs/half/ckpt.pt $data --out artefacts/half8 --quantize "int8(calibrate=512)"
robustcls export --model runs/pgd/ckpt.pt $data --out artefacts/once --prune "channels(ratio=0.5, criterion=taylor, multiple=16)"
robustcls attack --model runs/half/ckpt.pt $data $attack --out artefacts/half.json
robustcls attack --model artefacts/once $data $attack --out artefacts/once.json
for pair in "runs/pgd/ckpt.pt artefacts/int8" "runs/half/ckpt.pt artefacts/half8"; do # the model and its exported file
    set -- $pair
    robustcls report --model "$1" --model "$2" $data $attack --profile quick --minutes 60 --artefact-n 1000 \
        --examples 4 --maps-n 20 --out "$2.html"
done
