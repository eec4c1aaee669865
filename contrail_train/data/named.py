"""The stores that settings name, before they are opened: whether they are there, and fit together by what they state.

It needs neither torch nor xarray, so that a command is refused before either is imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from contrail_data.catalog.stores import read_header
from contrail_data.errors import ContrailError
from contrail_data.storage.documents import read_table
from contrail_data.store.schema import Kind, Stated, kind_of, require_kind
from contrail_train.config.data import DataConfig

S = TypeVar("S", bound=Stated)


def check_stores(config: DataConfig) -> None:
    """Refuse settings whose stores cannot be used together, as far as that can be said without a request.

    Args:
        config: The settings.

    Raises:
        ContrailError: As `contrail_train.data.training_data.open_training_data`.
    """
    check_names(config)
    if config.folds is not None and not config.validation:
        read_folds(config.folds)
    headers = {name: read_header(name) for name in (*config.train, *config.validation, *config.unlabelled)}
    stated = {name: header for name, header in headers.items() if header is not None}
    if len(stated) == len(headers):
        train, validation, _ = divide(config, stated)
        check_stated(train | validation | unlabelled_of(config, stated), config)


def check_names(config: DataConfig) -> None:
    """Refuse settings that name no store to train on, or one twice.

    Args:
        config: The settings.

    Raises:
        ContrailError: If they do.
    """
    names = [*config.train, *config.validation]
    if not config.train:
        raise ContrailError("data.train: is empty; name stores, such as --set data.train=[data/train.zarr]")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ContrailError(f"{twice[0]}: is named twice in data.train and data.validation; name it once")


def divide(config: DataConfig, stores: Mapping[str, S]) -> tuple[dict[str, S], dict[str, S], dict[str, S]]:
    """Divide stores by what they are for, and refuse those of another kind.

    Args:
        config: The settings.
        stores: The stores of `data.train` and `data.validation`, or their headers, by name.

    Returns:
        Those of samples to train on, those that are held out, and those of pseudo-labels.

    Raises:
        ContrailError: If one holds something else, or there is none to train on.
    """
    for name in config.validation:
        require_kind(stores[name], Kind.SAMPLES, remedy="data.validation takes only stores of samples")
    for name in config.train:
        require_kind(stores[name], Kind.SAMPLES, Kind.PSEUDO_LABELS, remedy="train on samples and pseudo-labels only")
    train = {name: stores[name] for name in config.train if kind_of(stores[name]) is Kind.SAMPLES}
    pseudo = {name: stores[name] for name in config.train if kind_of(stores[name]) is Kind.PSEUDO_LABELS}
    if not train:
        raise ContrailError(
            "data.train: names no store with images; add the one from which the pseudo-labels were made"
        )
    return train, {name: stores[name] for name in config.validation}, pseudo


def unlabelled_of(config: DataConfig, stores: Mapping[str, S]) -> dict[str, S]:
    """Select the stores that are learnt from without labels.

    Args:
        config: The settings.
        stores: The stores of `data.unlabelled`, or their headers, by name.

    Returns:
        These stores.
    """
    for name in config.unlabelled:
        require_kind(stores[name], Kind.SAMPLES, remedy="data.unlabelled takes only stores of samples")
    return {name: stores[name] for name in config.unlabelled}


def check_stated(stores: Mapping[str, Stated], config: DataConfig) -> None:
    """Refuse stores of samples that cannot be used together, or lack what the settings ask for, by their attributes.

    Args:
        stores: The stores, or their headers, by name.
        config: The settings.

    Raises:
        ContrailError: If they cannot; the message names the store that differs from the first one.
    """
    first_name, first = next(iter(stores.items()))
    for name, store in stores.items():
        if config.composite not in (None, composite := store.attrs["composite"]["name"]):
            raise ContrailError(
                f"{name}: has composite {composite!r}, not {config.composite!r}; build it with that one, or correct "
                "data.composite"
            )
        for key, remedy in (
            ("composite", "train on stores of one kind"),
            ("label_shift", "build one with --label-shift"),
        ):
            if store.attrs[key] != first.attrs[key]:
                raise ContrailError(f"{name}: {key} differs from that of {first_name}; {remedy}")
    check_normalisation(config, len(first.attrs["composite"]["channels"]))


def check_normalisation(config: DataConfig, channels: int) -> None:
    """Refuse the statistics of coloured photographs for anything but three channels.

    Args:
        config: The settings.
        channels: Number of channels of the composite.

    Raises:
        ContrailError: If they are asked for and do not fit.
    """
    if config.normalise == "imagenet" and channels != 3:
        raise ContrailError(
            f"data.normalise=imagenet: is for three channels, and the composite has {channels}; set statistics or image"
        )


def read_folds(path: str) -> dict[str, int]:
    """Read a file that `contrail-data splits` wrote.

    Args:
        path: The file.

    Returns:
        Fold by record id.

    Raises:
        ContrailError: If it cannot be read, or is not such a file.
    """
    fold_of: dict[str, int] = {}
    remedy = "write it with contrail-data splits"
    for record_id, fold in read_table(Path(path), "record_id", "fold"):
        if not fold.isdecimal() or len(fold) > 4:
            raise ContrailError(f"{path}: record {record_id:.100}: {fold!r:.40} is not a fold; {remedy}")
        if fold_of.setdefault(record_id, int(fold)) != int(fold):
            raise ContrailError(f"{path}: record {record_id:.100} is in another fold too; {remedy}")
    return fold_of
