"""What every layout has, wherever it lies: the names of its parts, and the file that says it is one.

Source: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

from fastcas.errors import InvalidError

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
BLOBS = "blobs"

#: How the URL of an object store can begin.
SCHEMES = ("s3", "az", "gs", "memory")

#: What a new layout has in them.
LAYOUT_BYTES = b'{"imageLayoutVersion":"1.0.0"}\n'
INDEX_BYTES = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}\n'
)

#: The most that an oci-layout file may have, in bytes.
LAYOUT_LIMIT = 64 << 10

_COMMON_SPELLINGS = (LAYOUT_BYTES.rstrip(), b'{"imageLayoutVersion": "1.0.0"}')


def is_url(path: object) -> bool:
    """Whether a path is the URL of an object store; InvalidError for a URL of another scheme, which
    nobody means who says it of a directory."""
    if not isinstance(path, str):
        return False
    scheme, separator, _ = path.partition("://")
    if not separator:
        return False
    if scheme not in SCHEMES and _is_scheme(scheme):
        # The rest may have a password in it.
        known = ", ".join(SCHEMES)
        raise InvalidError(
            f"unknown scheme {scheme!r}: {known}; for a directory of that name ./{scheme}://..."
        )
    return scheme in SCHEMES


def _is_scheme(text: str) -> bool:
    """By RFC 3986, section 3.1."""
    return text[:1].isalpha() and text.isascii() and all(c.isalnum() or c in "+-." for c in text)


def check_version(raw: bytes, root: str, path: str) -> None:
    """Raises InvalidError unless ``raw``, the content of the file ``path``, is of version 1.0.0."""
    if raw.strip() in _COMMON_SPELLINGS:  # most need no JSON parser, whose import takes a while
        return
    from fastcas.jsonlibrary import msgspec
    from fastcas.jsonstyle import decode_document

    document = decode_document(raw, limit=LAYOUT_LIMIT, what=LAYOUT_FILE)
    version = msgspec.json.decode(document.get("imageLayoutVersion", b"null"))
    if version != "1.0.0":
        message = f"{root!r}: imageLayoutVersion must be 1.0.0, not {repr(version)[:40]}"
        raise InvalidError(message, path=path)
