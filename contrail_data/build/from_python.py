"""Stores built from Python: what the commands `build-ash` and `build` do, without printing."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrail_data.build.build import Built, build
from contrail_data.build.recipe import Recipe, require_digest, with_keys
from contrail_data.errors import UsageError
from contrail_data.scans.abi_files import is_archive
from contrail_data.settings.fields import fields_of
from contrail_data.settings.parse import as_plain
from contrail_data.sources.recognise import recognise
from contrail_data.storage.documents import read_document
from contrail_data.storage.place import place_of


def build_store(
    source: str | Path | Recipe,
    out: str | Path,
    *,
    workers: int | None = None,
    scheduler: str = "threads",
    strict: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Built:
    """Build a store from raw satellite bands, or finish an interrupted build. Nothing is done if it exists already.

    Bad records are set aside, see `Built.set_aside`; the rest is built.

    Args:
        source: Raw data: a folder of records, ash frames, TFRecords or ABI files, a glob, a URL or the name of an
            archive. Or a recipe, as a .yaml file or in memory.
        out: Path or URL of the store.
        workers: Number of threads or processes; None for one per core.
        scheduler: `threads`, `processes`, or the address of a dask scheduler such as `tcp://host:8786`.
        strict: Whether to stop at the first bad record.
        overwrite: Whether to replace a store at `out`.
        **settings: Keys of a recipe, such as `composite`, `dtype` and `size`. With raw data also those of its source,
            such as `split`, `frames`, `time` and `at`, and `kind`, which is otherwise recognised.

    Returns:
        Place, digest and number of samples of the store, and what was set aside.

    Raises:
        ContrailError: If the raw data cannot be used, a setting is not valid, or `out` holds another store.
        UsageError: If settings contradict each other or have no effect.
        FoundDifference: If the recipe states another digest than that of the store that was built.

    Examples:
        >>> import contrail_data
        >>> built = contrail_data.build_store("data/records", "data/small.zarr", split="train", size=32)
        >>> built.samples, built.set_aside
        (9, [])
        >>> contrail_data.open_store("data/small.zarr").sizes["y"]
        32
    """
    recipe = _recipe(source, as_plain(settings))
    raw = recipe.open()
    if raw.note:
        warnings.warn(raw.note, stacklevel=2)
    if workers is not None and "://" in scheduler:
        raise UsageError(f"workers={workers}: has no effect with a cluster, which has workers of its own; omit it")
    built = build(
        raw,
        recipe.settings,
        out,
        workers=workers or os.cpu_count() or 1,
        scheduler=scheduler,
        strict=strict,
        overwrite=overwrite,
        recipe=recipe.located().to_json(),
    )
    require_digest(out, built.digest, recipe.digest)
    return built


def _recipe(source: str | Path | Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe that raw data and settings make, or the one that is given, with some of its keys changed."""
    if isinstance(source, Recipe):
        return with_keys(source.to_json(), settings.items(), "recipe")
    if Path(source).suffix in {".yaml", ".yml"}:
        return with_keys(read_document(Path(source)), settings.items(), str(source))
    where = str(source)
    if "://" in where or not is_archive(where):
        where = place_of(where).url
    of_recipe = {key: value for key, value in settings.items() if key in fields_of(Recipe)}
    described = {key: value for key, value in settings.items() if key not in of_recipe}
    if "kind" not in described:
        split = str(described.get("split", "train"))
        described["kind"] = "satpy" if "reader" in described else recognise(where, split).value
    return with_keys({"sources": [described | {"path": where}]}, of_recipe.items(), where)
