"""The content of a descriptor: never more than it says, never other than it says.

Content that is embedded in the descriptor is checked at once and served without the store; all else
comes from the store, once its size was found to be the descriptor's.

Source: OCI image-spec 1.1, descriptor.md, "Embedded Content", "Verification"; manifest.md, "Guidance
for an Empty Descriptor".
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fastcas import _core
from fastcas.digest import Digest
from fastcas.errors import (
    DigestMismatchError,
    InvalidError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.jsonlibrary import UNSET
from fastcas.model import DOCUMENT_LIMIT, MEDIA_TYPE_EMPTY, Descriptor

if TYPE_CHECKING:
    from fastcas import wire
    from fastcas.engine import Engine
    from fastcas.reader import BlobReader

__all__ = ["EmbeddedReader", "check_descriptor", "get_verified_blob", "read_content"]

_EMPTY = b"{}"


class EmbeddedReader(io.RawIOBase):
    """The content that a descriptor embeds, as a reader with the attributes of a BlobReader.

    It was verified before: ``verified`` is True from the beginning. It has no ``fileno``.
    """

    def __init__(self, digest: Digest, data: bytes) -> None:
        self.digest = digest
        self.size = len(data)
        self._data = io.BytesIO(data)

    @property
    def verified(self) -> bool:
        """Always True."""
        return True

    def verify(self) -> None:
        """Does nothing; ValueError once closed."""
        self._data.tell()

    def readable(self) -> bool:
        return self._data.readable()

    def seekable(self) -> bool:
        return self._data.seekable()

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(buffer)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._data.read(size)

    def readall(self) -> bytes:
        return self._data.read()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._data.seek(offset, whence)

    def tell(self) -> int:
        return self._data.tell()

    def close(self) -> None:
        self._data.close()
        super().close()


def check_descriptor(descriptor: Any) -> Descriptor:
    """``descriptor``, found to be one; TypeError where it isn't."""
    if not isinstance(descriptor, Descriptor):
        raise TypeError(f"expected a Descriptor, not {type(descriptor).__name__}")
    return descriptor


def get_verified_blob(engine: Engine, descriptor: Descriptor) -> BlobReader | EmbeddedReader:
    """A reader of what ``descriptor`` stands for, and of nothing else; the caller closes it.

    Embedded ``data`` is checked now, and the store isn't asked. Otherwise it is the store's
    verifying reader, and a stored size that isn't the descriptor's raises SizeMismatchError now,
    before a byte is handed out. The empty media type admits only ``{}``.
    """
    check_descriptor(descriptor)
    _check_empty(descriptor)
    data = descriptor.data
    if data is not None:
        _check_embedded(descriptor, data)
        return EmbeddedReader(descriptor.digest, data)
    reader = engine.get_blob(descriptor.digest)
    if reader.size != descriptor.size:
        reader.close()
        raise _size_mismatch(descriptor, reader.size, "the stored content")
    return reader


def read_content(
    engine: Engine, link: Descriptor | wire.Descriptor, *, limit: int = DOCUMENT_LIMIT
) -> bytes:
    """The whole of what a descriptor stands for, verified, at most ``limit`` bytes.

    InvalidError before reading where it is larger; else the errors of ``get_verified_blob``.
    """
    data = link.data
    size = link.size
    if size > limit:
        if data is None or data is UNSET:
            engine.stat_blob(link.digest)  # what isn't stored isn't too large
        message = f"{link.digest} has {size} bytes, more than the limit of {limit}"
        raise InvalidError(message, digest=link.digest)
    if link.media_type == MEDIA_TYPE_EMPTY:
        _check_empty(link)
    if isinstance(data, bytes):
        _check_embedded(link, data)
        return data
    # Checked when it was decoded: as a Digest it isn't checked again.
    raw = engine.read_blob(str.__new__(Digest, link.digest), limit=limit)
    if len(raw) != size:
        raise _size_mismatch(link, len(raw), "the stored content")
    return raw


def _check_empty(link: Descriptor | wire.Descriptor) -> None:
    if link.media_type == MEDIA_TYPE_EMPTY and (
        link.size != len(_EMPTY) or link.digest != _digest_of(link, _EMPTY)
    ):
        raise InvalidError(
            f"{link.digest}: content of type {MEDIA_TYPE_EMPTY} can only be {{}}", digest=link.digest
        )


def _check_embedded(link: Descriptor | wire.Descriptor, data: bytes) -> None:
    if len(data) != link.size:
        raise _size_mismatch(link, len(data), "the embedded data")
    actual = _digest_of(link, data)
    if actual != link.digest:
        raise DigestMismatchError(
            f"{link.digest}: the embedded data's digest is {actual}",
            digest=link.digest,
            expected=link.digest,
            actual=actual,
        )


def _digest_of(link: Descriptor | wire.Descriptor, data: bytes) -> Digest:
    algorithm = link.digest.partition(":")[0]
    if algorithm not in _core.algorithms():
        raise UnknownAlgorithmError(
            f"{link.digest}: its algorithm can't be computed here, so it can't be verified",
            algorithm=algorithm,
            digest=link.digest,
        )
    digester = _core.Digester(algorithm)
    digester.update(data)
    return Digest.of(algorithm, digester.hexdigest())


def _size_mismatch(link: Descriptor | wire.Descriptor, actual: int, what: str) -> SizeMismatchError:
    return SizeMismatchError(
        f"{link.digest}: {what} has {actual} bytes, its descriptor says {link.size}",
        digest=link.digest,
        expected=link.size,
        actual=actual,
    )
