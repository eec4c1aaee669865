"""Times as people and programs write them, in UTC."""

from datetime import UTC, date, datetime, time

_FIRST_YEAR, _END_YEAR = 1970, 2200
EXAMPLE = "2024-03-01T12:40"


def utc_time(value: object) -> datetime:
    """Read a time of settings, of an option or of a label file.

    Args:
        value: ISO 8601 text, as in our own output files; with slashes, as QGIS writes it; a date, which is its
            midnight; or a datetime. What states no offset is UTC.

    Returns:
        The time in UTC, without a time zone.

    Raises:
        ValueError: If it is not a time of 1970 to 2199.
    """
    moment = value
    if isinstance(value, date) and not isinstance(value, datetime):
        moment = datetime.combine(value, time())
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip().replace("/", "-"))
        except ValueError:
            moment = None
    if not isinstance(moment, datetime):
        raise ValueError(f"{str(value)[:40]!r} is not a time; give it in UTC, as in {EXAMPLE}")
    if not _FIRST_YEAR <= moment.year < _END_YEAR:
        raise ValueError(f"{str(value)[:40]!r} is not in {_FIRST_YEAR} to {_END_YEAR - 1}; correct it")
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo is not None else moment
