#!/usr/bin/env bash
# The main job end to end on the embedded synthetic data: `make demo` runs this. Everything is written to ./demo.
# Run it again and finished work is skipped. The commands that it prints can be pasted into a shell in which the
# environment is active (source .venv/bin/activate).
set -euo pipefail
cd "$(dirname "$0")"
title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
step() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

# A small network, so that training takes minutes on 2 CPU cores.
small=(--set model.encoder=resnet10t --set "model.decoder.channels=[64,32,32,16,16]" --set loss.dice=1
    --set loss.pos_weight=3 --set augment.affine=null --set optim.lr=2e-3 --set batch_size=8)

title "1. Synthetic records in the layout of OpenContrails: 378 to train on, 162 that the model never sees"
step contrail-data synth demo/raw --records 540 --size 128 --validation 0.3 --seed 1

title "2. Build ash-RGB stores from them, and look at one"
step contrail-data build-ash demo/raw --split train --size 128 -o demo/train.zarr
step contrail-data build-ash demo/raw --split validation --size 128 -o demo/validation.zarr
step contrail-data inspect demo_train
step contrail-data verify demo_train
step contrail-data report demo_train -o demo/report.html --overwrite
step contrail-data audit demo_train demo_validation --page demo/audit.html --overwrite

title "3. Train, evaluate and predict"
step contrail-train run unet2d --out demo/runs/human --set data.train=demo_train --set epochs=12 "${small[@]}"
step contrail-train evaluate demo/runs/human demo_validation
step contrail-train predict demo/runs/human demo_validation -o demo/predictions.zarr
step contrail-data preview demo_validation --sheet positives --sheet random --count 12 \
    --prediction demo/predictions.zarr -o demo/pictures

title "4. Pseudo-label the frames next to the labelled one, and train on them too"
step contrail-data pseudo-label demo_train --model demo/runs/human --frames=-1,1 -o demo/train.pseudo.zarr
step contrail-train run unet2d --out demo/runs/both --set "data.train=[demo_train,demo_train_pseudo]" \
    --set start=demo/runs/human --set epochs=1 "${small[@]}"
step contrail-train evaluate demo/runs/both demo_validation

title "5. Detect contrails in a satellite scan, and put them on a map"
step contrail-data synth-scans demo/scans --seed 3
step contrail-train predict-scans demo/runs/human demo/scans --time 2024-03-01T12:40 --min-pixels 6 --overwrite \
    -o demo/scene/contrails.nc -o demo/scene/contrails.tif -o demo/scene/contrails.geojson -o demo/scene/contrails.png
step contrail-train export demo/runs/human -o demo/detector.pt2 --overwrite
step python docs/picture.py demo/scans demo/scene/contrails.nc demo/scene/contrails.geojson -o demo/picture.png

python - <<'END'
import json
from pathlib import Path


def dice(run: str) -> str:
    (path,) = Path(run).glob("evaluation-*.json")
    scores = json.loads(path.read_text())
    interval = f"{scores['dice_low']:.2f} to {scores['dice_high']:.2f}"
    return f"Dice {scores['dice']:.2f} (95 % interval {interval}) on {scores['records']} unseen records"


print(f"""
Done. The records are synthetic: these scores say nothing about real contrails.

Look first at
  demo/picture.png       a scan, the contrails found in it, and where they are on the map
  demo/pictures          records with labels (yellow) and predictions (magenta)
  demo/report.html       what is in the store of training records
and then at
  demo/audit.html        whether training records leak into the unseen ones
  demo/runs/human        trained on human labels:          {dice('demo/runs/human')}
  demo/runs/both         and on pseudo-labels as well:     {dice('demo/runs/both')}
                         each with evaluation-*.html: where the model is wrong
  demo/scene             the scan's contrails as NetCDF, GeoTIFF, GeoJSON and PNG
  demo/detector.pt2      the model as one file
  tensorboard --logdir demo/runs                           curves of the training""")
END
