"""Stores that tests add to catalogs."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail_data.labels.predictor import Decision, Labeller
from contrail_data.labels.write import write_labels
from contrail_data.store.reader import open_store
from contrail_data.store.schema import Kind, PixelDtype
from contrail_data.store.settings import StoreSettings
from helpers.labels import mean_red
from helpers.records import write_train_split
from helpers.stores import SMALL, build_small


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build `ash.zarr`, `float.zarr` with another digest and `pseudo.zarr` with pseudo-labels of `ash.zarr`."""

    folder = tmp_path_factory.mktemp("stores")
    records = write_train_split(folder)
    build_small(records, folder / "ash.zarr")
    build_small(records, folder / "float.zarr", settings=StoreSettings(SMALL.composite, PixelDtype.FLOAT16, size=32))
    labeller = Labeller(predict=mean_red, decision=Decision(0.3, 0.0, 100, "sha256:test"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["/bin/contrail-data", "pseudo-label", "with blank"])
        write_labels(open_store(folder / "ash.zarr"), labeller, folder / "pseudo.zarr", kind=Kind.PSEUDO_LABELS)
    return folder
