"""What operations return: small named tuples (their exact types are in results.pyi)."""

from __future__ import annotations

from collections import namedtuple

__all__ = ["BlobInfo", "CopyResult", "ParsedBlob", "PutResult"]


# typing.NamedTuple would say the types here; importing typing costs half of the start-up budget.
class PutResult(namedtuple("PutResult", ("digest", "size"))):
    """What was stored: its digest, and its size in bytes."""

    __slots__ = ()


class BlobInfo(namedtuple("BlobInfo", ("digest", "size"))):
    """A stored blob: its digest, and its size in bytes."""

    __slots__ = ()


class CopyResult(namedtuple("CopyResult", ("method", "size"))):
    """How a blob was copied, and its size in bytes.

    ``method`` is "reflink", "hardlink", "copy_file_range", "sendfile" or "copy".
    """

    __slots__ = ()


class ParsedBlob(namedtuple("ParsedBlob", ("descriptor", "data", "raw"))):
    """A blob as ``Engine.read_descriptor`` reads it: its descriptor, what it says, its exact bytes."""

    __slots__ = ()
