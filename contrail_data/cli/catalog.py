"""Commands of `contrail-data catalog`: the team's index of stores and models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrail_data.cli import options
from contrail_data.cli.common import add_command, new_group
from contrail_data.cli.examples import EXAMPLES
from contrail_data.errors import ContrailError, FoundDamage

if TYPE_CHECKING:
    from contrail_data.catalog.entries import Catalog, Entry

Name = Annotated[
    str, typer.Argument(help="NAME for the newest version, or NAME@VERSION for an older one.", metavar="NAME")
]
CatalogAddress = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        help="The catalog file: a path, or a URL (https://, s3:// ...), which is only read.",
        show_default="$CONTRAIL_CATALOG, or the nearest data_catalog.yaml here or in a parent folder",
        metavar="FILE",
    ),
]


STORE_COLUMNS = ("kind", "composite", "samples", "positives")
MODEL_COLUMNS = ("kind", "preset", "composite", "frames", "parameters")


def list_entries(catalog_file: CatalogAddress = None, as_json: options.AsJson = False) -> None:
    """List the entries of the catalog: stores, then models."""
    entries = list(_read(catalog_file).entries.values())
    if as_json:
        print(json.dumps([describe_entry(entry) for entry in entries], indent=1, default=str))
        return
    stores = [entry for entry in entries if not entry.is_model]
    models = [entry for entry in entries if entry.is_model]
    if stores or not models:
        _print_columns(["name", "version", *STORE_COLUMNS[:3], "positive", "time", "digest", "where"], stores)
    if models:
        if stores:
            print()
        _print_columns(["model", "version", *MODEL_COLUMNS, "hold-out Dice", "digest", "where"], models)


def _print_columns(header: list[str], entries: list[Entry]) -> None:
    rows = [header, *map(entry_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # lines are never cut or folded, so that they can be searched with grep
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def show(name: Name, catalog_file: CatalogAddress = None, as_json: options.AsJson = False) -> None:
    """Print an entry in full."""
    from contrail_data.catalog.file import as_yaml

    entry = _read(catalog_file).find(name)
    description = describe_entry(entry)
    if as_json:
        print(json.dumps(description, indent=1, default=str))
        return
    print(f"{entry.key}, version {description['version']}, in {entry.catalog}")
    print(f"{'model' if entry.is_model else 'store'}: {_printable(description['where'])}")
    print(*map(_printable, as_yaml(entry.content).splitlines()), sep="\n")


def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, '_', '-' and '.'.", metavar="NAME")],
    address: Annotated[str, typer.Argument(help="A store or a model folder: path or URL.", metavar="STORE|MODEL")],
    text: Annotated[str | None, typer.Option(help="Description for people.")] = None,
    catalog_file: CatalogAddress = None,
) -> None:
    """Add a store or a model folder to the catalog under a name.

    If the name exists, a store with another digest becomes its next version, and so does a model. A model of the hub is
    added with its commit. If there is no catalog, ./data_catalog.yaml is created.
    """
    from contrail_data.catalog.entries import catalog_file as parse_address
    from contrail_data.catalog.file import read_catalog
    from contrail_data.catalog.index import check_name, writable_catalog
    from contrail_data.catalog.models import add_model
    from contrail_data.catalog.stores import check_store
    from contrail_data.model_folders.copies import inspect_model

    check_name(name)
    path = writable_catalog(None if catalog_file is None else parse_address(catalog_file))
    before = read_catalog(path).entries if path.is_file() and path.stat().st_size else {}
    if (model := inspect_model(address)) is not None:
        kind, version = "model", add_model(path, name, model.address, model.manifest, text)
    else:
        check_store(address)

        from contrail_data.catalog.catalog import add_entry, open_named

        opened = open_named(address, copies=False)
        kind, version = "store", add_entry(path, name, str(opened.attrs["path"]), opened, text)
    entry = read_catalog(path).find(f"{name}@{version}")
    if entry == before.get(entry.key):
        print(f"{path}: unchanged; {name}@{version} is this {kind} already, at {entry.location}")
    else:
        print(f"{path}: added {name}, version {version}")


def remove(name: Name, catalog_file: CatalogAddress = None) -> None:
    """Remove an entry from the catalog. The store or model itself is kept.

    If the newest version is removed, the next newest takes its place, and the version number becomes free.
    """
    from contrail_data.catalog.index import remove_entry, writable_catalog

    path = writable_catalog(_read(catalog_file).path)
    removed, promoted = remove_entry(path, name)
    print(f"{path}: removed the entry {removed}; its data stays where it is")
    if promoted is not None:
        base, _, version = promoted.partition("@")
        print(f"{path}: {base} is now version {version}")


def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Entries to check.", show_default="all", metavar="NAME")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every byte of the stores.")] = False,
    catalog_file: CatalogAddress = None,
) -> None:
    """Check entries against their stores and models.

    A store or model must be reachable, and have the digest and the properties that the entry states. The exit code is 4
    if any entry is bad.
    """
    catalog = _read(catalog_file)
    names = names or list(catalog.entries)
    bad = 0
    for name in names:
        try:
            entry = catalog.find(name)

            from contrail_data.catalog.check import check_entry  # which imports xarray, after the name is known

            notes = check_entry(entry, deep=deep)
            print(f"ok   {_printable(entry.key)}{''.join(f' ({note})' for note in notes)}", flush=True)
        except ContrailError as error:
            bad += 1
            print(f"bad  {_printable(error)}", flush=True)
    if bad:
        raise FoundDamage(f"{catalog.path}: {bad} of {len(names)} entries are bad")


app = new_group("Find stores and models by name, in data_catalog.yaml.")
for command, command_name in ((list_entries, "ls"), (show, "show"), (add, "add"), (remove, "rm"), (check, "check")):
    add_command(app, command, name=command_name, examples=EXAMPLES.get(f"catalog {command_name}", ()))


def describe_entry(entry: Entry) -> dict[str, Any]:
    """Describe an entry for JSON.

    Args:
        entry: The entry.

    Returns:
        name, kind (store or model), version, where (path or URL) and entry (its content). If it cannot be used, version
        or where is None, and error says why.
    """
    kind = "model" if entry.is_model else "store"
    description: dict[str, Any] = {"name": entry.key, "kind": kind, "version": None, "where": None}
    description["entry"] = entry.content
    try:
        description["version"] = entry.version
        description["where"] = entry.location
    except ContrailError as error:
        description["error"] = str(error)
    return description


def entry_row(entry: Entry) -> list[str]:
    """Format an entry for the list.

    Args:
        entry: The entry.

    Returns:
        The cells, in printable characters.
    """
    description = describe_entry(entry)
    content = entry.content if isinstance(entry.content, dict) else {}
    metadata = content["metadata"] if isinstance(content.get("metadata"), dict) else {}
    digest = metadata.get("digest")
    cells = [
        entry.key,
        description["version"],
        *(metadata.get(name) for name in (MODEL_COLUMNS if entry.is_model else STORE_COLUMNS)),
        _dice(metadata.get("holdout")) if entry.is_model else _days(metadata.get("time")),
        None if digest is None else str(digest).removeprefix("sha256:")[:8],
        description["where"] or "unknown (see contrail-data catalog check)",
    ]
    return ["-" if cell is None else _printable(cell)[:200] for cell in cells]


def _days(time: object) -> str | None:
    return "/".join(str(t)[:10] for t in time[:2]) if isinstance(time, list) else None


def _dice(scores: object) -> str | None:
    if not isinstance(scores, dict) or not isinstance(scores.get("dice"), float):
        return None
    low, high = scores.get("dice_low"), scores.get("dice_high")
    interval = f" ({low:.3f} to {high:.3f})" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{scores['dice']:.3f}{interval}"


def _read(catalog_file: str | None) -> Catalog:
    from contrail_data.catalog.entries import catalog_file as parse_address
    from contrail_data.catalog.file import read_catalog
    from contrail_data.catalog.index import CATALOG, find_catalog

    path = find_catalog() if catalog_file is None else parse_address(catalog_file)
    if path is None:
        raise ContrailError(
            f"no {CATALOG} here or in a parent folder; `contrail-data catalog add NAME STORE` makes one"
        )
    return read_catalog(path)


def _printable(value: object) -> str:
    """Text that cannot control the terminal: a catalog comes from others."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))
