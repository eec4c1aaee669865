"""Command lines that `--help` shows below the options of each command of `contrail-train`."""

EXAMPLES = {
    "run": (
        "contrail-train run unet2d --out runs/a --set data.train=data/train.zarr",
        "contrail-train run ours --dry-run --set data.train=data/train.zarr --set batch_size=16",
    ),
    "pipeline": ("contrail-train pipeline unet2d_v2 --out runs/p --set data.train=data/train.zarr",),
    "rounds": ("contrail-train rounds unet2d --out runs/r --set data.train=data/train.zarr",),
    "soup": ("contrail-train soup runs/a runs/b --out runs/soup",),
    "sweep": ("contrail-train sweep space.yaml --out runs/sweep",),
    "runs ls": ("contrail-train runs ls runs",),
    "runs show": ("contrail-train runs show runs/a",),
    "presets ls": ("contrail-train presets ls", "contrail-train presets ls unet2d"),
    "presets pipelines": ("contrail-train presets pipelines unet2d",),
    "presets show": ("contrail-train presets show unet2d",),
    "evaluate": ("contrail-train evaluate runs/a data/validation.zarr",),
    "compare": ("contrail-train compare runs/a runs/b data/validation.zarr",),
    "compare-masks": ("contrail-train compare-masks contrails.nc google.nc",),
    "predict": (
        "contrail-train predict runs/a data/validation.zarr -o data/predicted.zarr",
        "contrail-train predict runs/a data/validation.zarr -o data/cleaned.zarr --min-pixels 10 --tta flips",
        "contrail-train predict runs/a data/validation.zarr -o data/contrails.zarr --instances",
        "contrail-train predict hf://team/detector data/validation.zarr -o data/predicted.zarr",
    ),
    "predict-scans": (
        "contrail-train predict-scans builtin:starter data/abi --min-pixels fit -o map.png",
        "contrail-train predict-scans runs/a data/abi -o contrails.nc -o contrails.png",
        "contrail-train predict-scans runs/a data/abi --tracks -o tracks.geojson --qgis-style -o tracks.gif",
        "contrail-train predict-scans runs/a data/ahi --reader auto -o contrails.geojson --altitude 11000",
    ),
    "submit": ("contrail-train submit data/predicted.zarr -o submission.csv --like sample_submission.csv",),
    "publish": (
        "contrail-train publish runs/a hf://team/detector --licence apache-2.0",
        "contrail-train publish runs/a s3://team/models/a --half --name detector",
    ),
    "export": ("contrail-train export runs/a -o detector.onnx --check data/validation.zarr",),
}
