"""Commands that check stores and copy them between people: `verify`, `pull` and `push`."""

from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import is_store, refuse_options
from contrail_data.errors import FoundDamage


def verify(
    context: typer.Context,
    store: Annotated[str, typer.Argument(help=options.STORE_HELP, metavar="STORE")],
    repair_from: Annotated[
        str | None,
        typer.Option(
            help="Restore damaged files from a copy of the store, or from the folder of raw data it was built from.",
            metavar="COPY|RAW",
        ),
    ] = None,
    workers: options.Workers = options.CORES,
) -> None:
    """Check a store for damage.

    Every file is verified against its checksum, the store against its digest, and statistics and counts against the
    samples. The exit code is 4 if anything is damaged and was not restored.
    """
    from contrail_data.catalog.stores import find_place
    from contrail_data.storage.place import place_of
    from contrail_data.store.metadata import require_store

    from_raw = repair_from is not None and Path(place_of(repair_from).url).is_dir() and not is_store(repair_from)
    if not from_raw:
        refuse_options(context, ["workers"], "without --repair-from RAW")
    place = find_place(store)
    require_store(place)
    if repair_from is not None and not from_raw:
        require_store(find_place(repair_from))

    from contrail_data.build.repair import repair_from_raw
    from contrail_data.store.reader import open_store
    from contrail_data.store.transfer import repair
    from contrail_data.store.verify import verify as find_damage

    damage = find_damage(place)
    for item in damage:
        print(f"{place}/{item.path}: {item.reason}")
    if damage and repair_from is not None:
        if from_raw:
            restored = repair_from_raw(place, damage, options.local_path(repair_from), workers)
        else:
            restored = repair(place, damage, find_place(repair_from))
        print(f"{place}: restored {', '.join(restored) or 'nothing'}")
        damage = find_damage(place)
        for item in damage:
            print(f"{place}/{item.path}: {item.reason}, still")
    if damage:
        remedy = "" if repair_from else "; restore them with --repair-from COPY or --repair-from RAW"
        raise FoundDamage(f"{place}: {len(damage)} damaged {'files' if len(damage) > 1 else 'file'}{remedy}")
    print(f"{place}: intact, {open_store(place, times=False).attrs['digest']}")


def pull(
    address: Annotated[
        str,
        typer.Argument(
            help="A store or a model folder: a path, a URL (of a model also hf://org/name@revision) or a name in "
            "data_catalog.yaml.",
            metavar="STORE|MODEL",
        ),
    ],
    out: Annotated[
        str | None, options.output("-o", "--out", help="Where to copy it to.", show_default="the cache")
    ] = None,
) -> None:
    """Copy a store or a model to this machine and verify it.

    Commands use a copy in the cache automatically, of a model also offline. An interrupted copy continues when the
    command is run again.
    """
    from contrail_data.catalog.models import fetch_named
    from contrail_data.catalog.stores import check_store
    from contrail_data.model_folders.copies import copy_model
    from contrail_data.model_folders.manifest import verify_folder
    from contrail_data.storage.place import place_of

    if (model := fetch_named(address)) is not None:
        if out is not None:
            copy_model(model, place_of(out))
        print(f"{out or model}: intact, {verify_folder(model)['digest']}")
        return
    check_store(address)

    from contrail_data.catalog.catalog import open_named
    from contrail_data.store.cache import reserve_copy
    from contrail_data.store.manifest import read_manifest
    from contrail_data.store.transfer import copy_store

    opened = open_named(address, copies=False)
    source, digest = place_of(opened.attrs["path"]), opened.attrs["digest"]
    target = reserve_copy(digest, read_manifest(source, opened.attrs["manifest"])) if out is None else place_of(out)
    existing = copy_store(source, target)
    print(f"{target}: intact, {digest}" + (f" ({existing} files already there)" if existing else ""))


def push(
    context: typer.Context,
    store: options.Store,
    to: Annotated[
        str,
        typer.Argument(
            parser=options.store_target,
            help="Where to copy the store to: a URL (s3://...) or a new folder.",
            metavar="TO",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Add the copy to the catalog under this name.")] = None,
    text: Annotated[str | None, typer.Option(help="Description for the catalog.")] = None,
) -> None:
    """Copy a store to where the team finds it, verify it, and add it to the catalog.

    An interrupted copy continues when the command is run again.
    """
    from contrail_data.catalog.index import check_name, writable_catalog
    from contrail_data.storage.place import place_of

    if name is None:
        refuse_options(context, ["text"], "without --name")
    else:
        check_name(name)
        file = writable_catalog()
    target = place_of(to)

    from contrail_data.catalog.catalog import add_entry, open_named
    from contrail_data.store.transfer import copy_store

    opened = open_named(store, copies=False)
    copy_store(place_of(opened.attrs["path"]), target)
    print(f"{target}: intact, {opened.attrs['digest']}")
    if name is not None:
        print(f"{file}: {name}@{add_entry(file, name, target.url, opened, text)}")
