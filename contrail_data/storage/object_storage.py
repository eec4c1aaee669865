"""Requests to object storage: connections, how long each may take, and repeating those that fail.

Credentials and endpoints come from the usual environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_BASE_URL, ...) and from nowhere else.
"""

import os
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from contrail_data.errors import ContrailError
from contrail_data.storage.files import first_line

_CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    "gs": (
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BEARER_TOKEN"),
        *("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    ),
}
"""Variables of which one is set where there are credentials, by scheme."""
PAUSE_S = 0.3
"""Before the second try of a request, in seconds; longer before each further one."""
READ_TIMEOUTS_S = (5.0, 5.0, 10.0)
"""How long each try to read waits while nothing arrives, in seconds."""
WRITE_TIMEOUTS_S = (5.0, 10.0, 20.0, 60.0)
"""How long each try to write may take until the service has received the file, or 5 MiB of a larger one."""
_REFUSED = r"status code: 4(?!08|29)"  # the service has understood the request, and refuses it

T = TypeVar("T")


def request(url: str, send: Callable[[Any], T], *, writes: bool = False) -> T:
    """Send a request, and again while the service does not answer or is overloaded.

    Args:
        url: URL of the bucket, or of a prefix in it.
        send: Receives the connection. It may be called after an earlier call was carried out unnoticed.
        writes: Whether something is written, for which the service gets more time.

    Returns:
        What `send` returns.

    Raises:
        GenericError: If the service refuses, or the last try fails.
    """
    timeouts_s = WRITE_TIMEOUTS_S if writes else READ_TIMEOUTS_S
    from obstore.exceptions import GenericError

    *first, last = timeouts_s
    for attempt, timeout_s in enumerate(first):
        try:
            return send(_connect(url, os.getpid(), timeout_s))
        except GenericError as error:
            if re.search(_REFUSED, str(error)):
                raise
        time.sleep(PAUSE_S * 3**attempt)
    return send(_connect(url, os.getpid(), last))


@lru_cache(maxsize=256)
def _connect(url: str, process: int, timeout_s: float) -> Any:
    """Connect to a bucket, or to a prefix in it. Connections are reused, but never across a fork.

    Args:
        url: URL of the prefix.
        process: Id of this process.
        timeout_s: How long the service may be silent, or take to receive a request.

    Raises:
        ContrailError: If the URL cannot be used.
    """
    import obstore.store

    scheme = url.partition("://")[0].replace("gcs", "gs")
    names = {"s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "gs": ("GOOGLE_BASE_URL",)}.get(scheme, ())
    endpoint = next(filter(None, map(os.environ.get, names)), url)
    silence = timedelta(seconds=timeout_s)
    options: dict[str, Any] = {
        "client_options": {
            "timeout": timedelta(days=1),  # a large file over a slow line
            "read_timeout": silence,
            "connect_timeout": silence,
            "allow_http": endpoint.startswith("http://"),
        },
        "retry_config": {"max_retries": 1, "retry_timeout": timedelta(minutes=5)},  # for the parts of an upload
    }
    # Without credentials in the environment requests are anonymous: none are looked up elsewhere.
    if scheme in _CREDENTIALS and not any(map(os.environ.get, _CREDENTIALS[scheme])):
        options["skip_signature"] = True
    try:
        return obstore.store.from_url(url, **options)
    except Exception as error:
        raise ContrailError(f"{url}: cannot be reached ({first_line(error)}); check the address") from None
