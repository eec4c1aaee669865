"""Model folders whose files mean nothing, for tests of copies."""

from __future__ import annotations

from pathlib import Path

from contrail_data.model_folders.manifest import ModelDescription, seal_folder

ABOUT: ModelDescription = {
    "kind": "run",
    "preset": "unet2d",
    "composite": "ash",
    "bands": [11, 13, 14, 15],
    "channels": ["R", "G", "B"],
    "frames": [0],
    "size": 256,
    "label_shift": [0.5, 0.5],
    "parameters": 6,
    "precision": "float32",
    "stores": {"train.zarr": f"sha256:{'0' * 64}"},
    "holdout": {"records": 9, "dice": 0.5, "dice_low": 0.25, "dice_high": 0.75},
    "contrail": "0.1.0",
}


def sealed_files(folder: Path) -> Path:
    """Write a folder of small files, except for those that exist, and seal it."""
    folder.mkdir(parents=True, exist_ok=True)
    for key in ("best.safetensors", "config.yaml", "calibration.json", "README.md"):
        if not (folder / key).exists():
            (folder / key).write_text(f"---\n---\nthe file {key}")
    seal_folder(folder, ABOUT)
    return folder
