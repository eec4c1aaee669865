"""Build small stores, read their bytes, and damage them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import xarray as xr
import xxhash

from contrail_data.build.build import build
from contrail_data.composites import COMPOSITES
from contrail_data.labels.predictor import ALL_FRAMES, LABELLED_FRAME, Decision, Labeller, Predicted
from contrail_data.labels.write import write_labels
from contrail_data.sources.open import open_source
from contrail_data.storage.place import Place
from contrail_data.store.manifest import store_digest
from contrail_data.store.reader import open_store
from contrail_data.store.schema import PROVENANCE, Kind
from contrail_data.store.settings import StoreSettings

ASH = COMPOSITES["ash"]
SMALL = StoreSettings(ASH, size=32)


def build_small(root: Path, out: Path, split: str = "train", settings: StoreSettings = SMALL, **options):
    options = {"workers": 2, **options}
    return build(open_source(root, split, settings.composite), settings, out, **options)


def contents(store: Path) -> dict[str, bytes]:
    """Return every file except the provenance, the only one that may differ between builds."""
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    files.pop(PROVENANCE)
    return files


def remote_contents(place: Place) -> dict[str, bytes]:
    return {key: place.read(key) for key in place.sizes() if key != "provenance.json"}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def build_composite(root: Path, out: Path, composite: str = "ash", size: int = 32) -> xr.Dataset:
    recipe = COMPOSITES[composite]
    build(open_source(root, "train", recipe), StoreSettings(recipe, size=size), out, workers=2)
    return open_store(out)


def predict_square(store: xr.Dataset, out: Path, *, pseudo: bool) -> xr.Dataset:
    def predict(samples: list[int], x_btchw: np.ndarray, valid_bhw: np.ndarray | None) -> Predicted:
        p_bhw = np.zeros(x_btchw[:, 0, 0].shape, np.float32)
        p_bhw[..., 20:24, 20:24] = 0.9
        return Predicted(p_bhw, np.full(len(p_bhw), 0.9, np.float32), np.ones(len(p_bhw), np.float32))

    labeller = Labeller(predict=predict, decision=Decision(0.5, 0.1, 16, "sha256:00"))
    kind, frames = (Kind.PSEUDO_LABELS, ALL_FRAMES) if pseudo else (Kind.PREDICTIONS, LABELLED_FRAME)
    write_labels(store, labeller, out, kind=kind, frames=frames)
    return open_store(out)


def reseal(store: Path) -> None:
    """Write a manifest and a digest that fit the current files, as an attacker would after changing a store."""
    lines = []
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        key = path.relative_to(store).as_posix()
        if key not in ("zarr.json", "manifest.txt", "provenance.json"):
            content = path.read_bytes()
            lines.append(f"{xxhash.xxh3_64_hexdigest(content)} {len(content)} {key}\n")
    (store / "manifest.txt").write_text("".join(lines))
    restate(store)


def restate(store: Path) -> None:
    """Write a digest that fits the current manifest and attributes."""
    tree = json.loads((store / "zarr.json").read_text())
    if isinstance(tree, dict) and isinstance(tree.get("attributes"), dict):
        digest = hashlib.sha256((store / "manifest.txt").read_bytes()).hexdigest()
        tree["attributes"]["manifest"] = f"sha256:{digest}"
        tree["attributes"]["digest"] = store_digest(tree["attributes"])
        (store / "zarr.json").write_text(json.dumps(tree))


def copy_as_predictions(store: Path, out: Path) -> None:
    """Copy a store, and let it state that it holds predictions."""
    shutil.copytree(store, out)
    group = json.loads((out / "zarr.json").read_text())
    attributes = group["attributes"] | {"kind": "predictions", "format_version": 3, "parent": "", "model": ""}
    attributes |= {"digest": store_digest(attributes)}
    (out / "zarr.json").write_text(json.dumps(group | {"attributes": attributes}))
