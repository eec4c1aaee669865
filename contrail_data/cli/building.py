"""What commands that build stores of samples share: refused options, and what is printed of a built store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from contrail_data.cli.common import print_note, print_set_aside, print_written_store, refuse_options
from contrail_data.errors import ExitCode

if TYPE_CHECKING:
    from contrail_data.build.recipe import Recipe
    from contrail_data.sources.base import Source
    from contrail_data.store.settings import StoreSettings


def build_recipe(context: typer.Context, recipe: Recipe, out: str, **execution: Any) -> None:
    """Build a store by a recipe and print what was done.

    Args:
        context: The command as it was called.
        recipe: The recipe.
        out: Path or URL of the store.
        **execution: Options of `build` that do not change the store.
    """
    refuse_workers(context, execution["scheduler"])
    execution["recipe"] = recipe.located().to_json()
    build_source(recipe.open(), recipe.settings, out, expected=recipe.digest, **execution)


def refuse_workers(context: typer.Context, scheduler: str) -> None:
    """End the command if a number of workers is given for a cluster.

    Args:
        context: The command as it was called.
        scheduler: The option `--scheduler`.
    """
    if "://" in scheduler:
        refuse_options(context, ["workers"], "with --scheduler, which has workers of its own")


def build_source(
    source: Source, settings: StoreSettings, out: str, *, expected: str | None = None, **execution: Any
) -> None:
    """Build a store and print what was done.

    Args:
        source: The samples.
        settings: Settings of the store.
        out: Path or URL of the store.
        expected: The digest that the store should have; None for any.
        **execution: Options of `build` that do not change the store.

    Raises:
        Exit: If records were set aside.
    """
    from contrail_data.build.build import build
    from contrail_data.build.recipe import require_digest

    print_note(source.note)
    built = build(source, settings, out, **execution)
    print_set_aside(*built.set_aside)
    print_written_store(out, built.samples, built.resumed, built.digest, set_aside=len(built.set_aside))
    print_note(built.note)
    if built.existed:
        print_note("the store already exists; --overwrite rebuilds it if records have changed")
    require_digest(out, built.digest, expected)
    if built.set_aside:
        raise typer.Exit(ExitCode.SET_ASIDE)
