"""Command lines that `--help` shows below the options of each command of `contrail-data`."""

EXAMPLES = {
    "build-ash": (
        "contrail-data build-ash data/raw -o data/train.zarr",
        "contrail-data build-ash data/tf --split validation -o data/tf.zarr",
        "contrail-data build-ash data/abi -o data/gulf.zarr --time 2024-03-01T12:40 --at 29.5,-90",
        "contrail-data build-ash data/abi -o data/own.zarr --labels labels.geojson --label-area scan",
    ),
    "build": (
        "contrail-data build recipe.yaml -o data/again.zarr",
        "contrail-data build recipe.yaml -o data/small.zarr --set size=128",
    ),
    "recipe": ("contrail-data recipe data/train.zarr -o recipe.yaml",),
    "append": ("contrail-data append data/train.zarr data/new -o data/train-2.zarr",),
    "subset": ("contrail-data subset data/train.zarr -o data/positive.zarr --label positive",),
    "merge": ("contrail-data merge data/train.zarr data/validation.zarr -o data/all.zarr",),
    "synth": (
        "contrail-data synth data/raw --records 64",
        "contrail-data synth data/tf --records 64 --format tfrecords",
    ),
    "synth-scans": ("contrail-data synth-scans data/abi",),
    "inspect": ("contrail-data inspect data/train.zarr",),
    "stats": ("contrail-data stats data/train.zarr data/train-2.zarr",),
    "report": ("contrail-data report data/train.zarr -o train.html",),
    "preview": (
        "contrail-data preview data/train.zarr",
        "contrail-data preview data/train.zarr --sheet positives --count 12",
    ),
    "diff": ("contrail-data diff data/train.zarr data/train-2.zarr",),
    "verify": (
        "contrail-data verify data/train.zarr",
        "contrail-data verify data/train.zarr --repair-from s3://team/train.zarr",
    ),
    "audit": ("contrail-data audit data/train.zarr data/validation.zarr --out pairs.csv",),
    "splits": ("contrail-data splits data/train.zarr -k 5 -o folds.csv",),
    "pseudo-label": ("contrail-data pseudo-label data/train.zarr --model runs/a -o data/pseudo.zarr",),
    "propagate": ("contrail-data propagate data/train.zarr -o data/carried.zarr",),
    "compare-labels": ("contrail-data compare-labels data/pseudo.zarr data/carried.zarr",),
    "pull": ("contrail-data pull s3://team/train.zarr", "contrail-data pull hf://team/detector"),
    "push": ("contrail-data push data/train.zarr s3://team/train.zarr --name train",),
    "composites ls": ("contrail-data composites ls",),
    "composites show": (
        "contrail-data composites show ash",
        "contrail-data composites show ash --picture ash.png --scan data/abi",
    ),
    "cache ls": ("contrail-data cache ls",),
    "cache clear": ("contrail-data cache clear", "contrail-data cache clear 3fd2a1c0"),
    "catalog ls": ("contrail-data catalog ls",),
    "catalog show": ("contrail-data catalog show train",),
    "catalog add": (
        "contrail-data catalog add train s3://team/train.zarr",
        "contrail-data catalog add detector hf://team/detector",
    ),
    "catalog rm": ("contrail-data catalog rm train@2",),
    "catalog check": ("contrail-data catalog check",),
}
