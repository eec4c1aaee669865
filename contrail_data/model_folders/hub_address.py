"""Addresses of the Hugging Face hub, `hf://org/name[@revision]`, parsed without its library, which imports slowly."""

import re
from dataclasses import dataclass

from contrail_data.errors import UsageError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,200}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """A revision of a repository of the hub."""

    repository: str
    """`org/name`."""
    revision: str | None = None
    """Branch, tag or commit; None for the main branch."""

    @property
    def commit(self) -> str | None:
        """The commit, if the revision is one."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    def __str__(self) -> str:
        """Return the address.

        Returns:
            The URL.
        """
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_address(address: str) -> HubAddress:
    """Parse an address of the hub.

    Args:
        address: The address.

    Returns:
        Its parts.

    Raises:
        UsageError: If it is not one.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise UsageError(f"{address}: not an address of the hub; write hf://ORG/NAME or hf://ORG/NAME@REVISION")
    return HubAddress(match[1], match[2])
