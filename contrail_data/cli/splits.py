"""`contrail-data splits` and `audit`: folds that do not leak, and what leaks. Commands parse, call and print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import common as command
from contrail_data.errors import ContrailError

if TYPE_CHECKING:
    import xarray as xr


Minutes = Annotated[float, typer.Option(min=0.0, help="That sequences of overlapping tiles may lie apart.")]
Overlap = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Of the smaller tile: up to this share is no overlap.", metavar="SHARE")
]

Size = Annotated[
    int, typer.Option(min=1, help="Pixels of a tile's side in metadata files, which do not tell.", metavar="PIXELS")
]


def splits(
    stores: Annotated[
        list[str], typer.Argument(help="Stores (paths, URLs, catalog names), or metadata files.", metavar="STORE...")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The CSV to write.")] = Path("folds.csv"),
    k: Annotated[int, typer.Option("-k", "--folds", min=2, help="How many folds.")] = 5,
    minutes: Minutes = 70.0,
    overlap: Overlap = 0.001,
    size: Size = 256,
    overwrite: command.OverwriteFile = False,
) -> None:
    """Put records into folds that share no scene: a record's fold stays when others are added, but for a few.

    Records stay together that are of one site and day, that overlap in space within --minutes, or that have the same
    id or raw data. Also takes metadata files alone, such as validation_metadata.json. Writes record_id, store, group,
    fold, positive.
    """
    import numpy as np

    from contrail_data.splits.folds import between_folds, folds, folds_csv
    from contrail_data.splits.groups import described, groups_together
    from contrail_data.storage.files import check_new, write_atomically
    from contrail_data.store.samples import label_of

    if twice := [name for name in stores if stores.count(name) > 1]:
        raise ContrailError(f"{twice[0]}: is named twice: name each store once")
    check_new(out, overwrite)
    records = [_records(name, size)[1] for name in stores]
    group = groups_together(records, minutes, overlap)
    every = np.concatenate(group)
    label = np.concatenate([label_of(r) for r in records])
    ends = np.cumsum([len(g) for g in group])[:-1]
    fold = np.split(folds(every, label > 0, k), ends)
    write_atomically(out, [folds_csv(stores, records, group, fold)])
    rows, together = [], np.concatenate(fold)
    for part in [*range(k), None]:
        mine = together == part if part is not None else np.ones(len(together), bool)
        chosen = [r.isel(sample=np.flatnonzero(m)) for r, m in zip(records, np.split(mine, ends), strict=True)]
        told = described(chosen)
        in_group = np.unique(every[mine], return_counts=True)[1]
        name = "all" if part is None else str(part)
        rows.append([name, *told.values(), f"{len(in_group):,}", f"{in_group.max(initial=0):,}"])
    header = ["fold", *told, "groups", "largest group"]
    command.table(f"{out}: {len(together):,} records in {k} folds", header, rows, text=(0, 4, 5))
    print(f"pairs between folds that share id, raw data, or footprint and time: "
          f"{between_folds(records, fold, minutes, overlap)}")  # fmt: skip


def audit(
    a: Annotated[str, typer.Argument(help="A store, or a metadata file.", metavar="A")],
    b: Annotated[str | None, typer.Argument(help="Another; none: pairs within A.", metavar="[B]")] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write the pairs as CSV: what both are, how they overlap and differ."),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write one HTML page: map, histograms, leaks.")] = None,
    minutes: Minutes = 70.0,
    overlap: Overlap = 0.001,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Also look for images that look alike.")] = True,
    size: Size = 256,
    overwrite: command.OverwriteFile = False,
) -> None:
    """Tell which records of one store leak into another: by id, raw data, place and time, image; and labels that
    contradict. Exit code 1 when any do.

    Also takes metadata files alone, such as validation_metadata.json, which have no raw data, images or labels.
    """
    import sys

    import numpy as np

    from contrail_data.splits import audit as pairs
    from contrail_data.splits.groups import described
    from contrail_data.splits.leaks import KINDS, leaking
    from contrail_data.storage.files import check_new, write_atomically
    from contrail_data.store.samples import site_of

    if out is not None and out == page:
        command.fail(f"{out}: is named as -o and as --page: give two names", code=2)
    for path in (out, page):
        if path is not None:
            check_new(path, overwrite)
    store_a, records_a = _records(a, size)
    store_b, records_b = (store_a, records_a) if b is None else _records(b, size)
    kinds: tuple[str, ...] = KINDS
    if store_a is None or store_b is None:
        kinds = ("id", "footprint")
        found = leaking(records_a, None if b is None else records_b, minutes, overlap)
        print("note: a metadata file tells no raw data, images and labels: they are not compared", file=sys.stderr)
    else:
        if images and store_a.attrs["composite"]["channels"] != store_b.attrs["composite"]["channels"]:
            print("note: the stores hold different composites: images are not compared", file=sys.stderr)
            images = False
        if not images:
            kinds = ("id", "data", "footprint", "label")
        other = (None, None) if b is None else (store_b, records_b)
        found = pairs.audit(store_a, records_a, *other, minutes=minutes, overlap=overlap, images=images)
    if out is not None:
        write_atomically(out, [pairs.leaks_csv(found, records_a, records_b)])
    if page is not None:
        from contrail_data.reports.audit_page import audit_page

        names = (a,) if b is None else (a, b)
        sets = (records_a,) if b is None else (records_a, records_b)
        write_atomically(page, [audit_page(names, sets, found, kinds).encode()])
    header, rows = pairs.tally_table(found, b is None, kinds)
    command.table(f"leaks within {a}" if b is None else f"leaks between A, {a}, and B, {b}", header, rows)
    about = [(a, records_a)] if b is None else [(a, records_a), (b, records_b)]
    told = [described([records]) for _, records in about]
    lines = [[name, *facts.values()] for (name, _), facts in zip(about, told, strict=True)]
    command.table("what they are", ["set", *told[0]], lines, text=(0, 4, 5))
    if b is not None:
        sites = [set(np.unique(site_of(records))) - {""} for _, records in about]
        print(f"sites: {len(sites[0] & sites[1])} in both, {len(sites[0] - sites[1])} only in A, "
              f"{len(sites[1] - sites[0])} only in B")  # fmt: skip
    for path in (out, page):
        if path is not None:
            print(path)
    if len(found):
        raise typer.Exit(1)


def _records(name: str, size: int) -> tuple[xr.Dataset | None, xr.Dataset]:
    """A store and its per-sample variables; no store of a metadata file."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.records import metadata_records
    from contrail_data.store.reader import read_scalars
    from contrail_data.store.schema import Kind, require_kind

    if name.endswith(".json"):
        if not Path(name).is_file():
            raise ContrailError(f"{name}: no such file: check the path")
        return None, metadata_records(Path(name), size)
    store = open_named(name)
    require_kind(store, Kind.SAMPLES, remedy="give the store of samples that they were made from")
    return store, read_scalars(store)
