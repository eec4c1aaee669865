"""MISSING DOCSTRING."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli.common import CORES, Store, Workers
from contrail_data.errors import ContrailError


def verify(
    store: Annotated[str, typer.Argument(help="A store: path, URL or catalog name.", metavar="STORE")],
    repair_from: Annotated[
        str | None, typer.Option(help="Restore what is damaged from a copy of the store, or from the raw data.")
    ] = None,
    workers: Workers = CORES,
) -> None:
    """Check every file of a store against its checksum, the whole against its digest, statistics and counts."""
    from contrail_data.catalog.catalog import find_place
    from contrail_data.storage.place import place_of
    from contrail_data.store.reader import open_store
    from contrail_data.store.verify import verify as find_damage

    place = find_place(store)
    damage = find_damage(place)
    for item in damage:
        print(f"{place}/{item.path}: {item.reason}")
    if damage and repair_from is not None:
        from contrail_data.build.repair import repair_from_raw
        from contrail_data.store.transfer import repair

        raw = Path(repair_from)
        if "://" not in repair_from and raw.is_dir() and not (raw / "zarr.json").exists():
            restored = repair_from_raw(place, damage, raw, workers)
        else:
            restored = repair(place, damage, place_of(repair_from))
        print(f"{place}: restored {', '.join(restored) or 'nothing'}")
        damage = find_damage(place)
        for item in damage:
            print(f"{place}/{item.path}: {item.reason}, still")
    if damage:
        remedy = "" if repair_from else ": restore with --repair-from COPY or RAW"
        raise ContrailError(f"{place}: {len(damage)} of its files {'are' if len(damage) > 1 else 'is'} damaged{remedy}")
    print(f"{place}: whole, {open_store(place, times=False).attrs['digest']}")


def pull(
    store: Store,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Where to; default: the cache, found by name.")] = None,
) -> None:
    """Copy a store here, verified. Interrupted, it goes on. Commands then use the copy in the cache by themselves."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.storage.place import place_of
    from contrail_data.store.cache import cache_place
    from contrail_data.store.transfer import copy_store

    opened = open_named(store, copies=False)
    source, digest = place_of(opened.attrs["path"]), opened.attrs["digest"]
    target = cache_place(digest) if out is None else place_of(out)
    before = copy_store(source, target)
    print(f"{target}: whole, {digest}" + (f", {before} files were there" if before else ""))


def push(
    store: Store,
    to: Annotated[str, typer.Argument(help="Where to: URL (s3://...) or folder of the new copy.", metavar="TO")],
    name: Annotated[str | None, typer.Option(help="Enter the copy under this name in the catalog.")] = None,
    text: Annotated[str | None, typer.Option(help="What the catalog should say of it.")] = None,
) -> None:
    """Copy a store to where the team finds it, verified, and enter it in the catalog. Interrupted, it goes on."""
    from contrail_data.catalog.catalog import CATALOG, add_entry, check_name, find_catalog, open_named
    from contrail_data.storage.place import place_of
    from contrail_data.store.transfer import copy_store

    if name is not None:
        check_name(name)
    opened, target = open_named(store, copies=False), place_of(to)
    copy_store(place_of(opened.attrs["path"]), target)
    print(f"{target}: whole, {opened.attrs['digest']}")
    if name is not None:
        file = find_catalog() or Path(CATALOG)
        print(f"{file}: {name}@{add_entry(file, name, target.url, opened, text)}")
