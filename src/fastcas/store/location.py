"""Where an object store's layout is: a URL, and the client of ``obstore`` for it.

Credentials and endpoints come from the environment variables that the stores' own tools read, and from
``config``; neither is ever shown.
"""

from __future__ import annotations

import os
import re
import threading
from collections import namedtuple
from datetime import timedelta

from fastcas.errors import InvalidError
from fastcas.layout import SCHEMES, is_url
from fastcas.store.client import exceptions, require, stores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

# The stores that the schemes of fastcas.layout mean.
_STORES = {"s3": "S3Store", "az": "AzureStore", "gs": "GCSStore", "memory": "MemoryStore"}

#: Options of ours in a config: whether index updates are made on a store that may lose them.
UNSAFE_INDEX = "unsafe_index"

# A whole body may take long; a connection that gives nothing for a minute is dead.
_CLIENT = {"timeout": "24h", "read_timeout": "60s", "connect_timeout": "10s"}
# A server that isn't there is told after some seconds.
_RETRY = {"max_retries": 10, "retry_timeout": timedelta(seconds=60)}

# Parts of names of settings, in upper case, whose values must not be seen.
_SECRET = (
    "PROXY_URL",
    "HEADERS",
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "SAS",
    "KEY",
    "CREDENTIAL",
    "ACCOUNT_BASE64",
)
_NOT_SECRET = ("TOKEN_FILE", "SSE_KMS_KEY_ID", "BUCKET_KEY_ENABLED")
_TOO_SHORT = 4  # to be recognized in a message

_memory: dict[str, Any] = {}
_memory_lock = threading.Lock()


class Location(namedtuple("Location", ("scheme", "bucket", "prefix"))):
    """The parts of a URL; ``prefix`` has no slash at either end."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def join(self, key: str) -> str:
        """The URL of a key of the layout."""
        return f"{self}/{key}"


def parse(url: str) -> Location:
    """Takes a URL apart; InvalidError for one that names no bucket, or has more than a prefix."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not is_url(url):
        raise InvalidError(f"{url[:100]!r} is no URL of an object store: {', '.join(SCHEMES)}")
    if "@" in rest:  # what stands before it may be a secret
        raise InvalidError(f"{scheme}://: credentials don't go into a URL, but into the environment")
    if not bucket or any(char in bucket for char in "?#:"):
        raise InvalidError(f"{url!r} names no bucket: {scheme}://BUCKET/PREFIX")
    prefix = prefix.removesuffix("/")
    if any(char in prefix for char in "?#\\") or not prefix.isprintable():
        raise InvalidError(f"{url!r}: a prefix can't have '?', '#', '\\' or control characters in it")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise InvalidError(f"{url!r}: '', '.' and '..' can't be parts of a prefix")
    return Location(scheme, bucket, prefix)


def connect(location: Location, config: Mapping[str, Any]) -> Any:
    """The ``obstore`` client of the bucket; makes no request. UnsupportedError without ``obstore``."""
    require(location.scheme)
    if location.scheme == "memory":
        with _memory_lock:
            return _memory.setdefault(location.bucket, stores.MemoryStore())
    if not all(isinstance(key, str) for key in config):
        raise InvalidError(f"{location}: the keys of a config are str")
    settings = {key: value for key, value in config.items() if key != UNSAFE_INDEX}
    client = {**_CLIENT, **(settings.pop("client_options", None) or {})}
    retry = {**_RETRY, **(settings.pop("retry_config", None) or {})}
    endpoint = find_endpoint(location, settings)
    if endpoint is not None and "@" in endpoint:
        raise InvalidError(f"{location}: credentials don't go into the URL of an endpoint")
    if endpoint is not None and endpoint.startswith("http://"):
        client.setdefault("allow_http", True)  # somebody has written it so
    elif location.scheme == "s3":
        # TLS protects the body already; digesting it once more takes up to half of the time.
        settings.setdefault("unsigned_payload", True)
    kind = getattr(stores, _STORES[location.scheme])
    try:
        return kind(location.bucket, config=settings, client_options=client, retry_config=retry)
    except (exceptions.BaseError, TypeError, ValueError) as error:
        text = hide(explain(error), secrets(config))
        raise InvalidError(f"{location}: this configuration isn't understood: {text}") from None


_ENDPOINTS = {
    "s3": ("aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"),
    "az": ("azure_storage_endpoint", "azure_endpoint"),
    "gs": (),
}


def find_endpoint(location: Location, config: Mapping[str, Any]) -> str | None:
    """The server that was named by the configuration or the environment; None for the store's own."""
    names = _ENDPOINTS.get(location.scheme, ())
    given = {key.lower(): value for key, value in config.items()}
    for name in names:
        for key in (name, name.partition("_")[2]):
            if key in given:
                return str(given[key])
    return next((os.environ[n.upper()] for n in names if os.environ.get(n.upper())), None)


# Variables of these names are settings of the client.
_VARIABLES = {"s3": "AWS_", "az": "AZURE_", "gs": "GOOGLE_"}


def read_environment(location: Location) -> dict[str, str]:
    """What a client that is made now takes from the environment, its server among it. Clients are equal
    where what they were given is, which is less."""
    prefix = _VARIABLES.get(location.scheme)
    if prefix is None:
        return {}
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def secrets(config: Mapping[str, Any]) -> list[str]:
    """The values that must be in no message: those of the configuration and of the environment."""
    named = [*_settings(config), *os.environ.items()]
    found = [value for key, value in named if is_secret(key)]
    return [os.fsdecode(value) if isinstance(value, bytes) else str(value) for value in found]


def secret_names(config: Mapping[str, Any]) -> list[str]:
    """The settings whose values must not be seen."""
    return [name for name, _ in _settings(config) if is_secret(name)]


def _settings(config: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """All settings, also those within others, as ``outer.inner``."""
    for key, value in config.items():
        name = f"{outer}{key}"
        if isinstance(value, dict):
            yield from _settings(value, f"{name}.")
        else:
            yield name, value


def is_secret(key: str) -> bool:
    """Whether a setting of this name has a value that must not be seen."""
    name = key.upper()
    return any(part in name for part in _SECRET) and not any(part in name for part in _NOT_SECRET)


def hide(text: str, hidden: list[str]) -> str:
    for value in sorted(hidden, key=len, reverse=True):
        if len(value) >= _TOO_SHORT:
            text = text.replace(value, "***")
    return text


# As the server writes it, and as the client does of one key of many.
_CODE = re.compile(r"(?:<Code>|\(code: )([A-Za-z0-9]{1,60})(?:</Code>|\))")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")


def error_code(error: BaseException) -> str | None:
    """What the server calls the error; None where it doesn't say, as in an answer to HEAD."""
    found = _CODE.search(str(error))
    return found and found[1]


def explain(error: BaseException) -> str:
    """What the server says, or else the client, without the structure that it appends."""
    code, message = error_code(error), _MESSAGE.search(str(error))
    if code is None:
        return re.sub(r"^Generic \w+ error: ", "", str(error).partition("\n")[0])
    return f"{code}: {message[1]}" if message else code
