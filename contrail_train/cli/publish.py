"""The command `publish`: a model, for others to use."""

from typing import Annotated

import typer

from contrail_data.cli import options
from contrail_data.cli.common import print_note, refuse_options
from contrail_train.cli.common import TrainedModel


def publish(
    context: typer.Context,
    model: TrainedModel,
    to: Annotated[
        str,
        typer.Argument(
            help="Where to put it: hf://ORG/NAME, or a branch hf://ORG/NAME@BRANCH; s3://..., gs://..., az://...; or a "
            "new folder.",
            metavar="TO",
        ),
    ],
    half: Annotated[
        bool,
        options.output("--half", help="Store weights in half precision: half the size, slightly other probabilities."),
    ] = False,
    licence: Annotated[
        str | None,
        options.output(help="Licence of the weights, as the hub names it: apache-2.0, cc-by-4.0 ...", metavar="ID"),
    ] = None,
    name: Annotated[str | None, options.output(help="Add the model to the catalog under this name.")] = None,
    text: Annotated[str | None, options.output(help="Description for the catalog.")] = None,
    overwrite: Annotated[bool, options.output("--overwrite", help="Replace another model at TO.")] = False,
) -> None:
    """Write a model folder for others: weights, settings, thresholds and a card with scores and known failures.

    The folder is used wherever a run is: predict, predict-scans, evaluate, pseudo-label, export, start=..., by its
    path, its URL, its address on the hub or its name in the catalog. The card takes scores and failures from the
    evaluations in the model's directory, so run evaluate before. Absolute paths of this machine, logs and checkpoints
    are left out. HF_TOKEN must allow to write to the hub, where a new repository is private at first.
    """
    from contrail_data.catalog.index import check_name, writable_catalog
    from contrail_data.model_folders.target import find_target

    find_target(to)
    if name is None:
        refuse_options(context, ["text"], "without --name")
    else:
        check_name(name)
        catalog = writable_catalog()

    from contrail_data.catalog.models import add_model
    from contrail_train.workflows.publish import PublishRequest, publish_model

    published = publish_model(model, to, PublishRequest(half=half, licence=licence, overwrite=overwrite))
    print_note(*published.notes)
    size = sum(entry["bytes"] for entry in published.manifest["files"].values())
    print(f"{published.address}: {size / 1e6:.1f} MB, {published.manifest['digest']}")
    if name is not None:
        print(f"{catalog}: {name}@{add_model(catalog, name, published.address, published.manifest, text)}")
