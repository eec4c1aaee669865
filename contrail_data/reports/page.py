"""Self-contained HTML pages, rendered from jinja2 templates that share `base.html`, `macros.html` and `style.css`."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from contrail_data import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "contrail_data.reports"


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    bars: dict[int, list[float]] = field(default_factory=dict)
    """Shares in [0, 1] that are drawn as a bar below the text of a cell, by column."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption."""

    png: bytes
    caption: Sequence[str]
    """Lines; the first one is the record id."""

    @property
    def data(self) -> str:
        """The picture as a `data:` URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def render_page(template: str, /, *, package: str = _PACKAGE, **values: object) -> str:
    """Render a page or a text. A store may come from anywhere, so its values cannot act as HTML or control a terminal.

    Args:
        template: File name of the template: `.html`, in which values are escaped unless they are marked as HTML, or
            `.txt`, in which characters of values that cannot be printed become question marks.
        package: Package whose folder `templates` holds the template. Templates of this package can be extended.
        **values: Variables of the template.

    Returns:
        The text.
    """
    environment = _environment(package, template.endswith(".html"))
    return environment.get_template(template).render(version=__version__, **values)


@cache
def _environment(package: str, is_html: bool) -> "Environment":
    """The settings of templates, which keep those that have been compiled."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, _PACKAGE))]),
        autoescape=is_html,
        finalize=None if is_html else _printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plural": plural, "fmt": format}
    return environment


def _printable(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))


def plural(count: int, noun: str) -> str:
    """Write a count with its noun.

    Args:
        count: The number.
        noun: The noun in the singular.

    Returns:
        Such as `1 record` or `2,000 records`.
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"
