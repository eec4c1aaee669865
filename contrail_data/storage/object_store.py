"""Connections to object storage by URL.

Credentials and endpoints come from the usual environment variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...) and from nowhere else.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlparse

from contrail_data.errors import ContrailError
from contrail_data.storage.files import first_line

_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def object_store(url: str) -> Any:
    """Connect to a bucket, or to a prefix in it. Connections are reused, but never across a fork.

    Args:
        url: URL of the bucket or prefix.

    Returns:
        The store, as obstore's functions take it.
    """
    return _connect(url, os.getpid())


@lru_cache(maxsize=256)
def _connect(url: str, process: int) -> Any:
    """Connect to object storage; a connection belongs to one process.

    Raises:
        ContrailError: If the URL cannot be used.
    """
    import obstore.store

    from_url: Any = obstore.store.from_url  # its overloads tell apart options of schemes, which are not given here
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or url
    client_options: dict[str, Any] = {"timeout": "300s", "connect_timeout": "10s"}
    if endpoint.startswith("http://"):
        client_options["allow_http"] = True
    # Without credentials in the environment requests are anonymous: none are looked up elsewhere.
    anonymous = url.startswith("s3") and not any(os.environ.get(name) for name in _CREDENTIALS)
    try:
        return from_url(
            url,
            client_options=client_options,
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
            **({"skip_signature": True} if anonymous else {}),
        )
    except Exception as error:
        raise ContrailError(f"{url}: cannot be reached ({first_line(error)}); check the address") from None


def bucket_of(url: str) -> str:
    """Return the bucket that a URL lies in.

    Args:
        url: URL of an object or prefix.

    Returns:
        URL of the bucket.
    """
    parsed = urlparse(url)
    return f"{parsed.scheme}://{parsed.netloc}"
