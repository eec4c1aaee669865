#!/usr/bin/env bash
# The main job end to end on the embedded synthetic data: `make demo` runs this. Everything lands in ./demo;
# run it again and it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")"
step() { printf '\n$ %s\n' "$*"; "$@"; }

# Small, so that it takes minutes on 2 CPU cores: 128-pixel records, a narrow decoder, flips and quarter turns only.
small=(--set "model.decoder_channels=[128,64,32,32,16]" --set loss.pos_weight=3 --set augment.affine=0
    --set optim.lr=2e-3 --set batch_size=8)

step contrail-data synth demo/raw --records 400 --size 128
step contrail-data build-ash demo/raw --split train --size 128 -o demo/train.zarr
step contrail-data build-ash demo/raw --split validation --size 128 -o demo/validation.zarr
step contrail-data stats demo_train
step contrail-data inspect demo_train
step contrail-data verify demo_train
step contrail-data report demo_train -o demo/report.html --overwrite
step contrail-data audit demo_train demo_validation --page demo/audit.html --overwrite

step contrail-train run unet2d --out demo/runs/a --set data.train=demo_train --set epochs=16 "${small[@]}"
step contrail-train evaluate demo/runs/a demo_validation
step contrail-train predict demo/runs/a demo_validation -o demo/predictions.zarr

step contrail-train export demo/runs/a -o demo/detector.pt2 --overwrite

step contrail-data pseudo-label demo_train --model demo/runs/a -o demo/train.pseudo.zarr
step contrail-train run unet2d --out demo/runs/b --set "data.train=[demo_train,demo_train_pseudo]" \
    --set epochs=2 "${small[@]}"
step contrail-train evaluate demo/runs/b demo_validation

record=$(python - <<'END'
from contrail_data.catalog import open_named
store = open_named("demo_validation")
print(store["record_id"].values[int(store["positive_pixels"].values.argmax())])
END
)
step contrail-data preview demo_validation --record "$record" --prediction demo/predictions.zarr -o demo/pictures

step contrail-data synth-scans demo/scans --seed 3
step contrail-train predict demo/runs/a demo/scans --time 2024-03-01T12:40 --min-pixels 6 --overwrite \
    -o demo/scene/contrails.nc -o demo/scene/contrails.tif -o demo/scene/contrails.geojson -o demo/scene/contrails.png

python - <<'END'
import json
from pathlib import Path

def dice(run):
    (path,) = Path(run).glob("evaluation-*.json")
    r = json.loads(path.read_text())
    return f"Dice {r['dice']:.3f} ({r['dice_low']:.3f} to {r['dice_high']:.3f}) on {r['records']} unseen records"

print(f"""
Done, on synthetic records: these scores say nothing about real contrails.
  pictures  demo/pictures
  report    demo/report.html  demo/audit.html
  errors    demo/runs/a/evaluation-*.html
  one file  demo/detector.pt2
  a scan    demo/scene       on a map: NetCDF, GeoTIFF, GeoJSON, PNG
  stores    demo/train.zarr  demo/validation.zarr  demo/train.pseudo.zarr  demo/predictions.zarr
  run a     demo/runs/a      human labels alone: {dice('demo/runs/a')}
  run b     demo/runs/b      and pseudo-labels:  {dice('demo/runs/b')}
  curves    tensorboard --logdir demo/runs""")
END
