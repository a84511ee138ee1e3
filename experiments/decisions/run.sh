#!/bin/sh
# Better decisions, and attacks that target them: an ensemble attacked as one model, accuracy by groups of classes, a planted
# shortcut and its correction. Writes evaluations to OUT/*.json. Evaluations that exist are kept, so you can run it again after
# an interruption. Run it in the root of the repository.
#
#   sh experiments/decisions/run.sh DATA OUT ensemble A.pt B.pt     # two networks trained with different seeds
#   sh experiments/decisions/run.sh DATA OUT coarse A.pt            # groups of classes, and 20 random trees to compare with
#   sh experiments/decisions/run.sh DATA OUT shortcut               # all training runs and controls, for each seed
#
# DATA: a folder, read as folder:DATA. Environment variables: N, ATTACK: samples and attack of the evaluations. SEEDS: seeds of
# the shortcut step. TRAIN: more options of `train`. DEVICE: as --device. TREE, BASE: another tree and data spec, to try the
# script on other data.
set -eu
here=$(dirname "$0")
data=$1 out=$2 step=$3
shift 3
base=${BASE:-folder:$data}
tree=${TREE:-$here/tree.toml}
on="--device ${DEVICE:-auto} --quiet"
mkdir -p "$out"

# The gradient attacks of the suite fast, for attacks on another model. Square would make all of its queries there: the loss of the
# other model still grows when the image is misclassified by it.
gradients='--attack malt(steps=20,targets=1) --attack apgd_pm --attack malt(steps=20,targets=3,skip=1,restarts=6,within=0.4)'

attack() { # NAME MODEL [options]: evaluates the model unless NAME.json exists
    file=$out/$1.json model=$2
    shift 2
    [ -f "$file" ] || robustcls attack --model "$model" $on -n "${N:-all}" ${ATTACK:---suite fast} "$@" --out "$file"
}

train() { # NAME CONFIG [options]: trains unless the run is done
    run=${out:?}/runs/$1 config=$2
    shift 2
    [ -f "$run/done" ] && return
    rm -rf "$run"
    robustcls train --config "$here/$config.toml" $on "$@" ${TRAIN:-} --out "$run"
    touch "$run/done"
}

case $step in
ensemble)
    both="ensemble($1, $2)"
    attack first "$1" --data "$base"
    attack second "$2" --data "$base"
    attack ensemble "$both" --data "$base"
    ATTACK=${ATTACK:-$gradients}
    attack by_first "$both" --data "$base" --transfer-from "$1"
    attack by_second "$both" --data "$base" --transfer-from "$2"
    ;;
coarse)
    attack fine "$1" --data "$base" --tree "$tree"
    attack coarse "coarse($1, tree=$tree)" --data "$base"
    python -m experiments.decisions.trees "$base" "$1" "$tree" "$out/trees.json" --n "${TREES_N:-1000}" ${TREES:-}
    ATTACK=${ATTACK:-$gradients}
    attack coarse_by_fine "coarse($1, tree=$tree)" --data "$base" --transfer-from "$1"
    ;;
shortcut)
    ATTACK=${SHORTCUT_ATTACK:---attack pgd(steps=10)}
    for seed in ${SEEDS:-0 1 2}; do
        for strength in 0.9 0.1; do # 0.1 is the control: with ten classes, the mark is then at chance level
            for recipe in standard n_fgsm; do
                name=shortcut_${recipe}_${strength}_$seed
                train "$name" "shortcut_$recipe" --data "shortcut($base, strength=$strength)" --seed "$seed"
                for marks in aligned absent flipped; do
                    attack "${name}_$marks" "$out/runs/$name/ckpt.pt" --data "shortcut($base, strength=$strength, test=$marks)"
                done
            done
        done
        for strength in 0.1 0.9; do # 0.9 is the control: the last layer sees the shortcut, too
            name=last_layer_${strength}_$seed
            train "$name" last_layer --data "shortcut($base, strength=$strength)" --seed "$seed" \
                --init "$out/runs/shortcut_standard_0.9_$seed/ckpt.pt"
            for marks in aligned absent flipped; do
                attack "${name}_$marks" "$out/runs/$name/last.pt" --data "shortcut($base, strength=$strength, test=$marks)"
            done
        done
    done
    ;;
*)
    echo "unknown step $step: ensemble, coarse or shortcut" >&2
    exit 2
    ;;
esac
