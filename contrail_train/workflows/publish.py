"""Sharing a model: a finished run or pipeline becomes a model folder with a card, at a path, a URL or on the hub."""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from contrail_data.errors import ContrailError, UsageError
from contrail_data.model_folders import hub
from contrail_data.model_folders.copies import AnotherModel, copy_model
from contrail_data.model_folders.hub_address import HubAddress
from contrail_data.model_folders.manifest import CARD, DOCUMENTS, MANIFEST, PICTURE, Manifest, file_keys, verify_folder
from contrail_data.model_folders.target import find_target
from contrail_data.storage.files import make_folder, partial_path, publish, write_atomically
from contrail_data.storage.place import Place
from contrail_train.config.settings import read_config
from contrail_train.evaluation.card import CardContent, draw_held_out, evaluations_of, write_card
from contrail_train.inference.load import load_model, runs_of
from contrail_train.inference.model_folder import write_model_folder
from contrail_train.runs.address import local_model
from contrail_train.runs.calibration import read_calibration
from contrail_train.runs.names import CONFIG, ENVIRONMENT


@dataclass(frozen=True, kw_only=True)
class PublishRequest:
    """How a model is published."""

    half: bool = False
    """Whether weights are stored in half precision."""
    licence: str | None = None
    """Identifier of their licence."""
    overwrite: bool = False
    """Whether to replace another model at the place."""


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model that was published."""

    address: str
    """Path or URL; of the hub, with the commit."""
    manifest: Manifest
    notes: list[str] = field(default_factory=list)
    """What is missing on its card, and why."""


def publish_model(address: str, to: str, request: PublishRequest) -> PublishedModel:
    """Write the model folder of a finished run or pipeline, and put it where others find it.

    A model folder is published as it is, with its card.

    Args:
        address: The run, pipeline or model folder, see `runs.address.local_model`.
        to: A new folder, a URL of object storage, or `hf://org/name[@branch]`.
        request: How it is published.

    Returns:
        What was published.

    Raises:
        ContrailError: If the model is not finished or damaged, or the place holds something else or cannot be written.
        UsageError: If nothing can be written to the place, or an option has no effect on a model folder.
    """
    target = find_target(to)
    model = local_model(address)
    is_folder = (model / MANIFEST).is_file()
    for option, given in (("--half", request.half), ("--licence", request.licence is not None)):
        if is_folder and given:
            raise UsageError(
                f"{option}: has no effect on {address}, a model folder, which is published as it is; omit it"
            )
    if isinstance(target, HubAddress) and request.overwrite:
        raise UsageError("--overwrite: has no effect on the hub, where each commit stays; omit it")
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary, "model")
        if is_folder:
            _copy_files(model, staged)
        else:
            write_model_folder(model, staged, half=request.half)
            notes = _write_documents(model, staged, str(target), request.licence)
        manifest = verify_folder(staged)
        if isinstance(target, HubAddress):
            keys = file_keys(staged, manifest)
            commit, is_new = hub.upload(staged, keys, target, f"Publish model {manifest['digest'][:19]}")
            if is_new:
                notes.append(f"{target.repository}: created as a private repository; its settings on the hub open it")
            where = str(HubAddress(target.repository, commit))
        else:
            _put(staged, target, request.overwrite)
            where = target.url
    return PublishedModel(address=where, manifest=manifest, notes=notes)


def _put(staged: Path, target: Place, overwrite: bool) -> None:
    """Put a folder at a place; a local one appears whole."""
    if target.remote:
        try:
            copy_model(staged, target, overwrite=overwrite)
        except AnotherModel as error:
            raise ContrailError(f"{error}, or add --overwrite") from None
        return
    if (target.path / MANIFEST).is_file():
        if verify_folder(target.path)["digest"] == verify_folder(staged)["digest"]:
            for name in DOCUMENTS:
                if (staged / name).is_file():
                    write_atomically(target.path / name, [(staged / name).read_bytes()])
            return
        if not overwrite:
            raise ContrailError(f"{target}: holds another model; choose another place, or add --overwrite")
    make_folder(target.path.parent)
    beside = partial_path(target.path)
    try:
        shutil.copytree(staged, beside)
        publish(beside, target.path)
    except OSError as error:
        raise ContrailError(f"{target}: cannot be written ({error.strerror}); make room or check permissions") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _copy_files(model: Path, staged: Path) -> None:
    """Copy the files of a model folder, without what else lies in it."""
    for key in file_keys(model, verify_folder(model)):
        (staged / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / key, staged / key)


def _write_documents(model: Path, staged: Path, address: str, licence: str | None) -> list[str]:
    """Write card and picture; returns notes on what they lack."""
    predictor, notes = load_model(model, "cpu"), []
    evaluations = evaluations_of(predictor)
    if not evaluations:
        notes.append(f"the card has no scores on other records: run contrail-train evaluate {model} STORE before")
    png, lines = b"", list[str]()
    try:
        png, lines = draw_held_out(predictor)
    except ContrailError as error:
        notes.append(f"the card has no picture: {error}")
    if png:
        (staged / PICTURE).write_bytes(png)
    runs = runs_of(staged)
    content = CardContent(
        name=PurePosixPath(address.partition("@")[0]).name,
        address=address,
        about=verify_folder(staged)["about"],
        calibration=read_calibration(staged),
        configs={name: read_config(run / CONFIG) for name, run in runs.items()},
        environment=json.loads((next(iter(runs.values())) / ENVIRONMENT).read_text()),
        evaluations=evaluations,
        licence=licence,
        picture=lines,
    )
    (staged / CARD).write_text(write_card(content))
    return notes
