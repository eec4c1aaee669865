"""Commands of recipes: `build` builds a store by one, `recipe` prints that of a store."""

from pathlib import Path
from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.building import build_recipe
from contrail_data.cli.common import refuse_options


def build(
    context: typer.Context,
    recipe: Annotated[
        Path,
        typer.Argument(
            parser=options.local_path,
            help="A YAML file with raw data, composite, size and so on, as `recipe` prints it.",
            metavar="RECIPE",
        ),
    ],
    out: options.Out,
    settings: options.Settings = None,
    overwrite: options.Overwrite = False,
    workers: options.Workers = options.CORES,
    scheduler: options.Scheduler = "threads",
    strict: options.Strict = False,
) -> None:
    """Build a store by a recipe: a file that states everything that defines the store.

    It does what `build-ash` does with the same settings, and gives the same digest. If the recipe states a digest, and
    the store has another one, the exit code is 4. Where a message names an option of `build-ash`, such as --split, the
    recipe has a key of that name.
    """
    from contrail_data.storage.documents import read_document

    read_document(recipe)  # whether it is one is reported before xarray is imported

    from contrail_data.build.recipe import read_recipe

    build_recipe(
        context,
        read_recipe(recipe, settings or ()),
        out,
        workers=workers,
        scheduler=scheduler,
        strict=strict,
        overwrite=overwrite,
    )


def recipe(
    context: typer.Context,
    store: options.Samples,
    out: Annotated[
        Path | None, options.local_output("-o", "--out", help="The YAML file to write.", show_default="print it")
    ] = None,
    overwrite: options.OverwriteFile = False,
) -> None:
    """Print the recipe of a store, by which anyone who has the same raw data can build it again.

    Paths are those of the machine that built it; --set sources.0.path=PATH states where the data lies on another one.
    """
    from contrail_data.storage.files import check_new, write_atomically

    if out is None:
        refuse_options(context, ["overwrite"], "without --out")
    else:
        check_new(out, overwrite, ".yaml", ".yml")

    from contrail_data.build.recipe import recipe_of, to_yaml
    from contrail_data.catalog.catalog import open_named

    text = to_yaml(recipe_of(open_named(store)))
    text = f"# If the raw data lies elsewhere: contrail-data build FILE -o STORE --set sources.0.path=PATH\n{text}"
    if out is None:
        print(text, end="")
    else:
        write_atomically(out, [text.encode()])
        print(out)
