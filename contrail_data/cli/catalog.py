"""`contrail-data catalog`: the team's index of stores. Commands parse, call and print; nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrail_data.errors import ContrailError

if TYPE_CHECKING:
    from contrail_data.catalog.entries import Catalog as CatalogFile
    from contrail_data.catalog.entries import Entry

app = typer.Typer(no_args_is_help=True, help="Stores by name, in data_catalog.yaml.")

Name = Annotated[str, typer.Argument(help="A name, for its newest version, or name@version.", metavar="NAME")]
Catalog = Annotated[
    Path | None,
    typer.Option(help="Instead of $CONTRAIL_CATALOG or the nearest data_catalog.yaml here or above.", metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ls")
def list_entries(catalog: Catalog = None, as_json: AsJson = False) -> None:
    """List what is in the catalog."""
    listed = [_facts(entry) for entry in _read(catalog).entries.values()]
    if as_json:
        print(json.dumps(listed, indent=1, default=str))
        return
    rows = [["name", "version", "kind", "composite", "samples", "positive", "time", "digest", "where"]]
    rows += map(_row, listed)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # never cut nor folded: lines are for grep too
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def show(name: Name, catalog: Catalog = None, as_json: AsJson = False) -> None:
    """Show an entry whole."""
    from contrail_data.catalog.file import as_yaml

    entry = _read(catalog).find(name)
    facts = _facts(entry)
    if as_json:
        print(json.dumps(facts, indent=1, default=str))
        return
    print(f"{entry.key}, version {facts['version']}, in {entry.catalog}")
    print(f"store: {_plain(facts['where'])}")
    print(*map(_plain, as_yaml(entry.content).splitlines()), sep="\n")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, '_', '-' and '.'.", metavar="NAME")],
    store: Annotated[str, typer.Argument(help="A store: path or URL.", metavar="STORE")],
    text: Annotated[str | None, typer.Option(help="What it is, for people.")] = None,
    catalog: Catalog = None,
) -> None:
    """Enter a store under a name; a store with another digest under a name that is there is its next version.

    Without a catalog anywhere, makes ./data_catalog.yaml.
    """
    from contrail_data.catalog.catalog import CATALOG, add_entry, check_name, find_catalog, open_named
    from contrail_data.catalog.file import read_catalog

    check_name(name)
    opened = open_named(store, copies=False)
    path = catalog or find_catalog() or Path(CATALOG)
    before = read_catalog(path).entries if path.is_file() and path.stat().st_size else {}
    version = add_entry(path, name, str(opened.attrs["path"]), opened, text)
    entry = read_catalog(path).find(f"{name}@{version}")
    if entry == before.get(entry.key):
        print(f"{path}: unchanged, {name}@{version} is this store already, at {entry.location}")
    else:
        print(f"{path}: added {name}, version {version}")


@app.command()
def rm(name: Name, catalog: Catalog = None) -> None:
    """Remove an entry, never its data. The next newest version takes the place of the newest, whose number is free."""
    from contrail_data.catalog.catalog import remove_entry

    path = _read(catalog).path
    removed, promoted = remove_entry(path, name)
    print(f"{path}: removed the entry {removed}; its data stays where it is")
    if promoted is not None:
        base, _, version = promoted.partition("@")
        print(f"{path}: {base} is now version {version}")


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="All, if none is given.", metavar="[NAME]...")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every byte of the stores.")] = False,
    catalog: Catalog = None,
) -> None:
    """Hold entries to their stores: reachable, digest and facts as stated. Exit code 1 if any is bad."""
    from contrail_data.catalog.catalog import check_entry

    read = _read(catalog)
    names = names or list(read.entries)
    bad = 0
    for name in names:
        try:
            entry = read.find(name)
            notes = check_entry(entry, deep=deep)
            print(f"ok   {_plain(entry.key)}{''.join(f' ({note})' for note in notes)}", flush=True)
        except ContrailError as error:
            bad += 1
            print(f"bad  {_plain(error)}", flush=True)
    if bad:
        raise ContrailError(f"{read.path}: {bad} of {len(names)} entries are bad")


def _read(catalog: Path | None) -> CatalogFile:
    from contrail_data.catalog.catalog import CATALOG, find_catalog
    from contrail_data.catalog.file import read_catalog

    path = catalog or find_catalog()
    if path is None:
        raise ContrailError(f"no {CATALOG} here or above: `contrail-data catalog add NAME STORE` makes one")
    return read_catalog(path)


def _facts(entry: Entry) -> dict[str, Any]:
    """An entry with its name, version and place; of one that cannot be used, why not."""
    facts: dict[str, Any] = {"name": entry.key, "version": None, "where": None, "entry": entry.content}
    try:
        facts["version"] = entry.version
        facts["where"] = entry.location
    except ContrailError as error:
        facts["error"] = str(error)
    return facts


def _row(facts: dict[str, Any]) -> list[str]:
    entry = facts["entry"] if isinstance(facts["entry"], dict) else {}
    metadata = entry["metadata"] if isinstance(entry.get("metadata"), dict) else {}
    time = metadata.get("time")
    span = "/".join(str(t)[:10] for t in time[:2]) if isinstance(time, list) else None
    digest = metadata.get("digest")
    cells = [
        facts["name"],
        facts["version"],
        *(metadata.get(k) for k in ("kind", "composite", "samples", "positives")),
        span,
        None if digest is None else str(digest).removeprefix("sha256:")[:8],
        facts["where"] or "unknown: contrail-data catalog check tells why",
    ]
    return ["-" if cell is None else _plain(cell)[:200] for cell in cells]


def _plain(value: object) -> str:
    """Text that does not drive the terminal: a catalog comes from others."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))
