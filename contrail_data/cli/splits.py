"""Commands that find leaks and make splits without any: `splits` and `audit`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_note, print_table, refuse_options
from contrail_data.errors import ContrailError, ExitCode, UsageError

if TYPE_CHECKING:
    import xarray as xr


def _records_address(text: str) -> str:
    """Parse the address of a store or of a metadata file."""
    return text if _is_metadata(text) else options.samples_address(text)


records_argument = partial(typer.Argument, parser=_records_address)

Minutes = Annotated[
    float,
    options.selection(
        min=0.0,
        max=525_600.0,
        help="Maximum time between two sequences of overlapping tiles for them to count as related, in minutes.",
    ),
]
Overlap = Annotated[
    float,
    options.selection(
        min=0.0,
        max=1.0,
        help="Two tiles overlap if they have more than this share of the smaller one in common.",
        metavar="SHARE",
    ),
]
Size = Annotated[
    int,
    options.selection(
        min=1, max=4096, help="Side of a tile in pixels, for metadata files, which do not state it.", metavar="PIXELS"
    ),
]


def splits(
    context: typer.Context,
    stores: Annotated[
        list[str], records_argument(help="Stores (paths, URLs, catalog names) or metadata files.", metavar="STORE")
    ],
    out: Annotated[Path, options.local_output("-o", "--out", help="The CSV file to write.")] = Path("folds.csv"),
    k: Annotated[int, typer.Option("-k", "--folds", min=2, max=1000, help="Number of folds.")] = 5,
    minutes: Minutes = 70.0,
    overlap: Overlap = 0.001,
    size: Size = 256,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Put records into folds that share no scene.

    Records stay together if they have the same site and day, overlap in space within --minutes, have the same id or
    raw data or, where the place or time of one is unknown, if their images show one scene. Most records keep their fold
    when others are added. The CSV has the columns record_id, store, group, fold and positive. Metadata files, such as
    validation_metadata.json, can be given in place of stores.
    """
    from contrail_data.storage.files import check_new

    if repeated := [name for name in stores if stores.count(name) > 1]:
        raise ContrailError(f"{repeated[0]}: is given twice; name each store once")
    if not any(map(_is_metadata, stores)):
        refuse_options(context, ["size"], "without a metadata file")
    check_new(out, overwrite, ".csv")

    import numpy as np

    from contrail_data.splits.folds import make_folds, pairs_between_folds, write_folds
    from contrail_data.splits.groups import SUMMARY_HEADER, group_records, summary_row
    from contrail_data.splits.images import similar_records
    from contrail_data.splits.leaks import Checked
    from contrail_data.splits.pairs import LISTED
    from contrail_data.store.samples import label_of

    opened = [_open_records(name, size) for name in stores]
    records = [scalars for _, scalars in opened]
    similar = similar_records([store for store, _ in opened], records, listed=LISTED)
    images = [similar.joined()]
    group = np.concatenate(group_records(records, minutes, overlap, images))
    fold = make_folds(group, np.concatenate([label_of(r) for r in records]) > 0, k)
    write_folds(out, stores, records, group, fold)
    ends = np.cumsum([r.sizes["sample"] for r in records])[:-1]
    rows = []
    for name in [*map(str, range(k)), "all"]:
        in_fold = np.ones(len(fold), bool) if name == "all" else fold == int(name)
        members = [r.isel(sample=np.flatnonzero(m)) for r, m in zip(records, np.split(in_fold, ends), strict=True)]
        group_sizes = np.unique(group[in_fold], return_counts=True)[1]
        rows.append([name, *summary_row(members), f"{len(group_sizes):,}", f"{group_sizes.max(initial=0):,}"])
    header = ["fold", *SUMMARY_HEADER, "groups", "largest group"]
    print_table(f"{out}: {len(fold):,} records in {k} folds", header, rows, text_columns=(0, 4, 5))
    checked = [Checked.of(*of_set) for of_set in zip(records, similar.compared, strict=True)]
    counts = [(c.records, c.id, c.data, c.footprint, c.image) for c in checked]
    rows = [[name, *map("{:,}".format, cells)] for name, cells in zip(stores, counts, strict=True)]
    header = ["store", "records", "by id", "by raw data", "by place and time", "by image"]
    print_table("how many records were compared", header, rows)
    print_note(*(of_store.note(name) for name, of_store in zip(stores, checked, strict=True)))
    pairs = pairs_between_folds(records, fold, minutes, overlap, images)
    print(f"pairs between folds that share id, raw data, footprint and time, or image: {pairs}")


def audit(
    context: typer.Context,
    a: Annotated[str, records_argument(help="A store or a metadata file.", metavar="A")],
    b: Annotated[
        str | None,
        records_argument(help="Another store or metadata file. Without it, pairs within A are reported.", metavar="B"),
    ] = None,
    out: Annotated[
        Path | None,
        options.local_output("-o", "--out", help="Write the pairs, and how they overlap and differ, as CSV."),
    ] = None,
    page: Annotated[
        Path | None, options.local_output(help="Write an HTML report with a map, histograms and the leaks.")
    ] = None,
    minutes: Minutes = 70.0,
    overlap: Overlap = 0.001,
    images: Annotated[bool, options.selection("--images/--no-images", help="Also find similar images.")] = True,
    size: Size = 256,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Report which records of one store leak into another, and labels that contradict each other.

    Records leak by id, raw data, place and time, or image. The exit code is 4 if there are any leaks. How many records
    were compared by each is printed. Of more than 100 records with one id, raw data, place and time, or image, only
    pairs with the first one are listed. Metadata files, such as validation_metadata.json, can be given in place of
    stores; they have no raw data, images or labels.
    """
    from contrail_data.storage.files import check_new, write_atomically

    if out is not None and out == page:
        raise UsageError(f"{out}: is given for --out and for --page; give two names")
    names = [a] if b is None else [a, b]
    if any(map(_is_metadata, names)):
        refuse_options(context, ["images"], "on metadata files, which have none")
    else:
        refuse_options(context, ["size"], "without a metadata file")
    files = {path: suffix for path, suffix in ((out, ".csv"), (page, ".html")) if path is not None}
    if not files:
        refuse_options(context, ["overwrite"], "without --out or --page")
    for path, suffix in files.items():
        check_new(path, overwrite, suffix)

    import numpy as np

    from contrail_data.splits.audit import audit as audit_records
    from contrail_data.splits.audit import leak_table, write_leaks
    from contrail_data.splits.groups import SUMMARY_HEADER, summary_row
    from contrail_data.store.samples import site_of

    opened = [_open_records(name, size) for name in names]
    records = [scalars for _, scalars in opened]
    audited = audit_records([store for store, _ in opened], records, minutes=minutes, overlap=overlap, images=images)
    leaks = audited.leaks
    if out is not None:
        write_leaks(out, leaks, records[0], records[-1])
    if page is not None:
        from contrail_data.reports.audit_page import audit_page

        write_atomically(page, [audit_page(names, records, audited).encode()])
    title = f"leaks within {a}" if b is None else f"leaks between A, {a}, and B, {b}"
    print_table(title, *leak_table(audited))
    print_note(*(of_set.note(name) for name, of_set in zip(names, audited.checked, strict=True)))
    print_note(*audited.notes(records))
    rows = [[name, *summary_row([scalars])] for name, scalars in zip(names, records, strict=True)]
    print_table("records", ["set", *SUMMARY_HEADER], rows, text_columns=(0, 4, 5))
    if b is not None:
        sites_a, sites_b = ({str(site) for site in np.unique(site_of(scalars))} - {""} for scalars in records)
        print(
            f"sites: {len(sites_a & sites_b)} in both, {len(sites_a - sites_b)} only in A, {len(sites_b - sites_a)} "
            "only in B"
        )
    for path in files:
        print(path)
    if len(leaks):
        raise typer.Exit(ExitCode.FOUND)


def _is_metadata(name: str) -> bool:
    """Whether a name leads to a metadata file rather than to a store, which is a folder."""
    return Path(name).is_file()


def _open_records(name: str, size: int) -> tuple[xr.Dataset | None, xr.Dataset]:
    """A store and its scalars; for a metadata file no store."""
    from contrail_data.catalog.catalog import open_named
    from contrail_data.sources.metadata import metadata_records
    from contrail_data.store.reader import read_scalars
    from contrail_data.store.schema import require_samples

    if _is_metadata(name):
        return None, metadata_records(Path(name), size)
    store = open_named(name)
    require_samples(store)
    return store, read_scalars(store)
