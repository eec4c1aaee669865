"""Commands of `contrail-data cache`: what is kept on this machine of remote data, and removing it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contrail_data.cli import options
from contrail_data.cli.common import add_command, new_group, print_note, print_table
from contrail_data.cli.examples import EXAMPLES
from contrail_data.errors import ContrailError

if TYPE_CHECKING:
    from contrail_data.storage.cache import CacheEntry


def list_copies(as_json: options.AsJson = False) -> None:
    """List what the cache holds, the least recently used first.

    These are copies of remote stores and models, by the beginning of their digest, complete or in part, indexes of
    TFRecord files, and predictions of scans by an interrupted command, which continues with them. The cache lies in
    $CONTRAIL_CACHE, else in the user's cache folder. $CONTRAIL_CACHE_LIMIT, such as 20GB, limits all copies together;
    without it they may take all of the disk but 1 GiB. When there is no room for another copy, the least recently used
    ones are removed, but never one that is in use.
    """
    from contrail_data.storage.cache import COPIES, cache_entries, cache_folder, cache_limit, format_bytes

    entries, limit = cache_entries(), cache_limit()
    rows: list[dict[str, Any]] = [
        {
            "kind": entry.kind.value,
            "name": entry.path.stem,
            "bytes": entry.size,
            "used": f"{datetime.fromtimestamp(entry.used, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "state": _state(entry.in_use, entry.is_partial),
        }
        for entry in entries
    ]
    if as_json:
        print(json.dumps({"folder": str(cache_folder("")), "limit_bytes": limit, "entries": rows}, indent=1))
        return
    copies = sum(entry.size for entry in entries if entry.kind in COPIES)
    bound = "all of the disk but 1 GiB" if limit is None else format_bytes(limit)
    title = f"{cache_folder('')}: copies take {format_bytes(copies)} of {bound}"
    if not entries:
        print(title)
        return
    sizes = [format_bytes(entry.size) for entry in entries]
    cells = [[r["kind"], r["name"], size, r["used"], r["state"]] for r, size in zip(rows, sizes, strict=True)]
    print_table(title, ["kind", "name", "size", "last used (UTC)", "state"], cells, (0, 1, 3, 4))


def _state(in_use: bool, is_partial: bool) -> str:
    return ", ".join(word for word, applies in (("in use", in_use), ("partial", is_partial)) if applies)


def _matching(name: str, entries: Sequence[CacheEntry]) -> list[CacheEntry]:
    """Return the one entry that a name means.

    Raises:
        ContrailError: If it means none, or several.
    """
    prefix = name.removeprefix("sha256:")[:32]
    matches = [entry for entry in entries if prefix and entry.path.stem.startswith(prefix)]
    if len(matches) != 1:
        reason = f"means {len(matches)} entries" if matches else "not in the cache"
        raise ContrailError(f"{name[:80]}: {reason}; see contrail-data cache ls")
    return matches


def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Entries to remove: names as `cache ls` shows them, digests, or the beginning of one.",
            show_default="all",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Remove what the cache holds, except for copies that a process is using.

    Everything in the cache can be fetched or computed again.
    """
    from contrail_data.storage.cache import cache_entries, format_bytes, remove_entry

    entries = cache_entries()
    if names:
        entries = [entry for name in names for entry in _matching(name, entries)]
    removed = [entry for entry in dict.fromkeys(entries) if remove_entry(entry)]
    kept = [entry.path.stem for entry in dict.fromkeys(entries) if entry not in removed]
    if names and kept:
        raise ContrailError(f"{kept[0]}: is in use; wait for the process that uses it, or stop it")
    print(f"removed {len(removed)} of {len(removed) + len(kept)} entries, {format_bytes(sum(e.size for e in removed))}")
    print_note(*(f"{name}: kept, a process is using it" for name in kept))


app = new_group("Look at local copies of remote data, and remove them.")
for command, command_name in ((list_copies, "ls"), (clear, "clear")):
    add_command(app, command, name=command_name, examples=EXAMPLES[f"cache {command_name}"])
