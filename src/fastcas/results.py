"""What operations return: small named tuples (their exact types are in results.pyi)."""

from __future__ import annotations

from collections import namedtuple

__all__ = ["BlobInfo", "CompressedPutResult", "CopyResult", "ParsedBlob", "PutResult"]


# typing.NamedTuple would say the types here; importing typing costs half of the start-up budget.
class PutResult(namedtuple("PutResult", ("digest", "size"))):
    """What was stored: its digest, and its size in bytes."""

    __slots__ = ()


class CompressedPutResult(PutResult):
    """What was stored compressed: digest and size of the blob, as a PutResult has them, and besides
    ``diff_id``, the digest of the plain content, and ``plain_size``, its size in bytes."""

    def __new__(cls, digest, size, diff_id, plain_size):
        self = super().__new__(cls, digest, size)
        self.__dict__.update(diff_id=diff_id, plain_size=plain_size)
        return self

    def __setattr__(self, name, value):
        raise AttributeError(f"{name!r} can't be set: a result doesn't change")

    def __getnewargs__(self):
        return self.digest, self.size, self.diff_id, self.plain_size

    def __repr__(self):
        fields = ("digest", "size", "diff_id", "plain_size")
        text = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return f"CompressedPutResult({text})"


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
