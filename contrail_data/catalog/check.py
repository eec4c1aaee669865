"""Entries of a catalog against what they lead to."""

from typing import Any

from contrail_data.catalog.catalog import open_entry
from contrail_data.catalog.entries import Entry
from contrail_data.catalog.metadata import describe
from contrail_data.catalog.models import open_model_entry
from contrail_data.errors import ContrailError
from contrail_data.model_folders.manifest import read_manifest
from contrail_data.storage.place import Place, place_of
from contrail_data.store.verify import verify


def check_entry(entry: Entry, *, deep: bool = False) -> list[str]:
    """Compare a catalog entry with its store or model.

    Args:
        entry: The entry.
        deep: Whether to verify every byte of the store, too. Those of a model are always verified.

    Returns:
        Notes on what could not be checked.

    Raises:
        ContrailError: If the store cannot be opened, differs from what the entry states, or is damaged.
    """
    if not entry.is_model and isinstance(entry.content, dict) and entry.content.get("driver", "zarr") != "zarr":
        return [f"driver {str(entry.content['driver'])[:40]!r} is not supported, not checked"]
    stated = entry.metadata | {"version": entry.version}
    if entry.is_model:
        actual: dict[str, Any] = {**read_manifest(Place(str(open_model_entry(entry))))["about"]}
    else:
        store = open_entry(entry)
        actual = describe(store)
    for key, value in actual.items():
        # Two builds with the same digest may come from different commands and versions.
        if key in stated and key not in ("command", "contrail") and stated[key] != value:
            kind = "model" if entry.is_model else "store"
            raise ContrailError(
                f"{entry}: {key} is {str(stated[key])[:60]!r}, that of the {kind} {str(value)[:60]!r}; correct the "
                "entry"
            )
    if deep and not entry.is_model:
        _check_bytes(entry, place_of(store.attrs["path"]))
    return [] if entry.digest is not None else ["it states no digest"]


def _check_bytes(entry: Entry, place: Place) -> None:
    if damage := verify(place):
        raise ContrailError(
            f"{entry}: {len(damage)} damaged files, such as {place.file(damage[0].path)} ({damage[0].reason}); "
            "repair them with contrail-data verify --repair-from"
        )
