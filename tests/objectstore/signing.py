"""AWS signature version 4, done again for a request whose headers the proxy has changed."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from messages import Head


def sign_again(head: Head, access_key: str, secret_key: str) -> None:
    """Puts the signature into ``head`` that its headers have now. The date, the region and the hash of
    the content are as the client said; of the headers that it signed, those that are left are."""
    words = head.get("authorization").removeprefix("AWS4-HMAC-SHA256").split(",")
    said = dict(word.strip().split("=", 1) for word in words)
    signer, _, scope = said["Credential"].partition("/")
    if signer != access_key:
        return  # a stranger's stays wrong
    signed = [name for name in said["SignedHeaders"].split(";") if head.get(name) is not None]
    canonical = [
        head.method,
        head.path,
        "&".join(sorted(_canonical(parameter) for parameter in head.query.split("&") if parameter)),
        *(f"{name}:{' '.join(head.get(name).split())}" for name in signed),
        "",
        ";".join(signed),
        head.get("x-amz-content-sha256"),
    ]
    hashed = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", head.get("x-amz-date"), scope, hashed])
    key = b"AWS4" + secret_key.encode()
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    head.set(
        "authorization",
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
        f"SignedHeaders={';'.join(signed)}, Signature={key.hex()}",
    )


def _canonical(parameter: str) -> str:
    name, _, value = parameter.partition("=")
    return "=".join(quote(unquote(part), safe="-_.~") for part in (name, value))
