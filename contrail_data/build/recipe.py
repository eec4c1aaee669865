"""Recipes: everything that defines a store of samples, in one file that people review and share.

A recipe names raw data, composite, size, pixel type and so on. `contrail-data build` reads one from YAML, `build-ash`
makes one of its options, and both build by it. The store keeps the recipe in its provenance, outside of the digest, so
that anyone with the same raw data can build the same store again, wherever the data lies.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import xarray as xr
import yaml
from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from contrail_data.build.inputs import AnyInput
from contrail_data.composites import COMPOSITES, LARGEST_BOUND, Composite, from_dict, get_composite
from contrail_data.errors import ContrailError, FoundDifference
from contrail_data.settings.fields import Takes
from contrail_data.settings.parse import assigned, parse_assignment, validated
from contrail_data.settings.strict import Strict
from contrail_data.sources.base import Source
from contrail_data.sources.joined import joined
from contrail_data.storage.documents import read_document
from contrail_data.storage.place import place_of
from contrail_data.store.manifest import Damaged, read_provenance, read_verified_provenance
from contrail_data.store.schema import Codec, PixelDtype, require_samples
from contrail_data.store.settings import StoreSettings

ADDRESSES = {"path", "like", "labels"}
"""Parts of the keys that say where raw data lies, which changes nothing in a store."""

_BAND = {"type": "integer", "minimum": 8, "maximum": 16}
_KELVIN = {"type": "number", "minimum": -LARGEST_BOUND, "maximum": LARGEST_BOUND}
_CHANNEL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "band": _BAND,
        "minus": {"anyOf": [_BAND, {"type": "null"}]},
        "low": _KELVIN,
        "high": _KELVIN,
    },
    "required": ["name", "band", "low", "high"],
    "additionalProperties": False,
}
_COMPOSITE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "reference": {"type": "string"},
        "dtype": {"enum": [*PixelDtype]},
        "channels": {"type": "array", "items": _CHANNEL, "minItems": 1},
    },
    "required": ["channels"],
    "additionalProperties": False,
}


def _composite(value: Any) -> Composite:
    """Take a composite, its declaration, its name, or a file."""
    try:
        if isinstance(value, Composite):
            return value
        return get_composite(value) if isinstance(value, str) else from_dict(value)
    except ContrailError as error:
        raise ValueError(f"composite: {str(error).removeprefix('composite ')}") from None


def _declaration(composite: Composite) -> dict[str, Any]:
    """Declare a composite in full, so that it stays what it is if a later version changes one of that name."""
    declaration = composite.to_dict()
    channels = [{k: v for k, v in channel.items() if v is not None} for channel in declaration["channels"]]
    return declaration | {"channels": channels}


Shift = Annotated[float, Field(ge=-8, le=8)]


class Recipe(Strict):
    """Everything that defines a store of samples."""

    shown_by: ClassVar[str] = "contrail-data recipe STORE"

    sources: list[AnyInput] = Field(min_length=1)
    """Raw data, in the order in which the store holds it. Each is a group of settings with a `kind`."""
    composite: Annotated[
        Composite,
        PlainValidator(_composite),
        PlainSerializer(_declaration),
        WithJsonSchema({"anyOf": [{"type": "string"}, _COMPOSITE]}),
        Takes("the name of a composite, a .yaml file, several joined by +, or a declaration with name and channels"),
    ] = COMPOSITES["ash"]
    """Channels of the images."""
    dtype: Annotated[PixelDtype, Field(strict=False)] | None = None
    """Pixel type. uint8 is exact to 1/510 of a channel's range. null: the composite's own."""
    codec: Annotated[Codec, Field(strict=False)] = Codec.NONE
    """Compression of the images."""
    size: int = Field(256, ge=32, le=4096)
    """Rows and columns of a sample, in pixels. Records of another size are resized."""
    label_shift: Annotated[tuple[Shift, Shift], Field(strict=False)] | None = None
    """Pixels (down, right) by which the labels are shifted against the image, in pixels of the source. null: 0.5, 0.5
    as in OpenContrails; 0, 0 if all labels are drawn on scans. Those are drawn that far off the image."""
    digest: (
        Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$"), Takes("sha256: and 64 hexadecimal digits")] | None
    ) = None
    """Digest of the store that this recipe gave. A build that gives another one says so. null: any."""

    @property
    def settings(self) -> StoreSettings:
        """The settings of the store."""
        dtype = self.dtype or PixelDtype(self.composite.dtype)
        usual = (0.0, 0.0) if all(source.draws_labels for source in self.sources) else (0.5, 0.5)
        return StoreSettings(self.composite, dtype, self.codec, self.size, self.label_shift or usual)

    def open(self) -> Source:
        """Open the raw data.

        Returns:
            A source of the samples.
        """
        return joined([source.open(self.settings) for source in self.sources])

    def located(self) -> Self:
        """State the same recipe so that it holds in any working folder and any later version.

        Returns:
            The recipe with absolute paths, a pixel type and a label shift.
        """
        settings = self.settings
        stated = {"dtype": settings.dtype, "label_shift": settings.label_shift, "digest": None}
        return self.model_copy(update={"sources": [source.located() for source in self.sources], **stated})

    def to_json(self) -> dict[str, Any]:
        """Convert to plain data; `Recipe.model_validate` is the inverse.

        Returns:
            JSON values, without those that are null.
        """
        return self.model_dump(mode="json", exclude_none=True)


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: The file.
        settings: Assignments `key=value`, the value as YAML. A recipe with other settings than in the file, addresses
            of raw data aside, is not expected to give the digest that the file states.

    Returns:
        The recipe.

    Raises:
        ContrailError: If the file cannot be read, or a setting is not valid.
    """
    where = " --set ".join([str(path), *settings])
    return with_keys(read_document(path), map(parse_assignment, settings), where)


def with_keys(tree: Any, values: Iterable[tuple[str, Any]], where: str) -> Recipe:
    """Make a recipe of plain data, with some of its keys changed.

    Args:
        tree: Plain data, as read from YAML or as `Recipe.to_json` returns them.
        values: Dotted keys and plain values. A recipe with other values than in the data, addresses of raw data aside,
            is not expected to give the digest that the data state.
        where: Name of their origin, for messages.

    Returns:
        The recipe.
    """
    values = list(values)
    if isinstance(tree, dict) and not all(
        ADDRESSES.intersection(key.split(".")) or key == "digest" for key, _ in values
    ):
        tree = {key: value for key, value in tree.items() if key != "digest"}
    return validated(Recipe, assigned(tree, values) if isinstance(tree, dict) else tree, where)


def require_digest(out: str | Path, digest: str, expected: str | None) -> None:
    """Check that the store that a recipe gave is the one that it states.

    Args:
        out: Path or URL of the store.
        digest: Its digest.
        expected: The digest that the recipe states; None for any.

    Raises:
        FoundDifference: If the store has another digest.
    """
    if expected not in (None, digest):
        remedy = "see contrail-data diff, or set digest=null"
        raise FoundDifference(
            f"{out}: is not the store of the recipe ({expected}): the raw data, or this version, differs; {remedy}"
        )


def recipe_of(store: xr.Dataset) -> Recipe:
    """Read the recipe of a store.

    Args:
        store: An open store.

    Returns:
        The recipe, with the digest of the store.

    Raises:
        ContrailError: If the store holds none, because an earlier version built it, or because it was made from other
            stores; or if the provenance is damaged.
    """
    path = store.attrs["path"]
    require_samples(store)
    if "parents" in store.attrs:
        parents = ", ".join(digest[:15] for digest in store.attrs["parents"])
        remedy = "print the recipes of those; its provenance.json states the command"
        raise ContrailError(f"{path}: has no recipe: it was made from the stores {parents}; {remedy}")
    try:
        read_verified_provenance(place_of(path))
    except Damaged as error:
        raise ContrailError(f"{error}; repair the store") from None
    recorded = read_provenance(place_of(path)).get("recipe")
    if recorded is None:
        remedy = "build it again with build-ash, as its provenance.json states"
        raise ContrailError(f"{path}: has no recipe: an earlier version built it; {remedy}")
    if not isinstance(recorded, Mapping):
        raise ContrailError(f"{path}: its recipe is not one; restore the store")
    return validated(Recipe, {**recorded, "digest": store.attrs["digest"]}, f"{path}: recipe")


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe as YAML that `read_recipe` reads.

    Args:
        recipe: The recipe.

    Returns:
        All of its settings, except those that are null.
    """
    return yaml.safe_dump(recipe.to_json(), sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
