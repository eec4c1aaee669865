"""A strict group of settings, and how it refuses a setting that has no effect."""

import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
Rate = Annotated[float, Field(gt=0.0, le=10.0)]


def plain(value: Any) -> str:
    """Format a value of a setting the way that `--set` reads it.

    Args:
        value: A value of a setting, or a group.

    Returns:
        One line of YAML in flow style.
    """
    value = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(value, separators=(",", ": "), default=str).replace('"', "")


class Strict(BaseModel):
    """A group of settings that refuses unknown keys, and values of another type: true is not 1, nor is "1" or 1.0."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        strict=True,
        serialize_by_alias=True,
    )
    shown_by: ClassVar[str] = ""
    """The command that prints all keys of settings of this kind, for messages."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_combination()
        return self

    def _check_combination(self) -> None:
        """Raise ValueError if settings contradict each other or have no effect."""


def needs(is_met: bool, what: str, group: Strict, keys: str) -> None:
    """Raise ValueError if a setting differs from its default but lacks what it needs to have an effect.

    Args:
        is_met: Whether the settings have what they need.
        what: What they need, for messages.
        group: The group of the settings.
        keys: Their dotted keys, separated by blanks.

    Raises:
        ValueError: If there is such a setting.
    """
    for key in () if is_met else keys.split():
        name = key.rpartition(".")[2]
        value, field = getattr(group, name), type(group).model_fields[name]
        if value != (default := field.get_default(call_default_factory=True)):
            raise ValueError(
                f"{key}={plain(value)} has no effect: it needs {what}; set that, or {key}={plain(default)}"
            )
