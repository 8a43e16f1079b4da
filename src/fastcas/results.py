"""What operations return: small named tuples (their exact types are in results.pyi)."""

from __future__ import annotations

from collections import namedtuple

__all__ = [
    "BlobInfo",
    "CompressedPutResult",
    "CopyResult",
    "GCReport",
    "ParsedBlob",
    "Problem",
    "PutResult",
    "ScrubReport",
    "StoredBlob",
    "Swept",
]


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

    ``method`` is "reflink", "hardlink", "copy_file_range", "sendfile" or "copy"; of ``put_copy`` also
    "exists", and "server-copy" within one bucket.
    """

    __slots__ = ()


class StoredBlob(namedtuple("StoredBlob", ("place", "digest", "size", "modified", "changed", "kind"))):
    """What an engine finds where it keeps blobs.

    ``kind`` is "blob"; "bad-name" for what is called like no digest (``digest`` is None then);
    "non-regular" for what stands in a blob's place and is no file. ``path`` says where it is, for
    messages; ``place`` is the same without the digest, as it is of all the blobs beside. ``size`` is in
    bytes. ``modified`` is when it was last put, be it a dedupe hit;
    ``changed`` when anything about it changed last, its name included; both in nanoseconds of the
    clock of ``Engine.read_clock``.
    """

    __slots__ = ()

    @property
    def path(self):
        """Where it is."""
        return self.place if self.digest is None else f"{self.place}/{self.digest.encoded}"

    def is_unused(self, start: int, grace: int) -> bool:
        """See ``is_unused``."""
        return is_unused(self.modified, self.changed, start, grace)


def is_unused(modified: int, changed: int, start: int, grace: int) -> bool:
    """Whether nothing about a blob changed since ``start``, and its last put was ``grace`` before
    that, or earlier; all in nanoseconds. A time in the future counts as young."""
    return changed < start and modified <= start - grace


class Swept(namedtuple("Swept", ("removed", "left"))):
    """What one sweep did: the blobs that it removed, a list of BlobInfo, and the digests that it didn't
    come to because the index changed, a list."""

    __slots__ = ()


class GCReport(namedtuple("GCReport", ("deleted", "freed", "kept", "dry_run"))):
    """What a garbage collection did, or would do where ``dry_run`` is true.

    ``deleted`` is a list of BlobInfo, ``freed`` the sum of their sizes in bytes, ``kept`` the number of
    stored blobs that stay.
    """

    __slots__ = ()


class Problem(namedtuple("Problem", ("digest", "path", "kind", "detail"))):
    """What scrub found wrong.

    ``kind`` is "corrupt", "wrong-size", "unreadable", "bad-name", "non-regular", "missing" or
    "dangling": see ``Engine.scrub``. ``digest`` is None where there is none, ``detail`` a sentence for
    people.
    """

    __slots__ = ()


class ScrubReport(namedtuple("ScrubReport", ("checked", "bytes", "problems"))):
    """What a scrub did: the number of blobs whose content was read, their bytes, and the Problems
    found, a list. Besides these three ``by_checksum``: how many of the blobs a quick scrub found
    right by the checksum that was recorded of them, and not by their digest."""

    def __new__(cls, checked, bytes, problems, by_checksum=0):
        self = super().__new__(cls, checked, bytes, problems)
        self.__dict__["by_checksum"] = by_checksum
        return self

    def __setattr__(self, name, value):
        raise AttributeError(f"{name!r} can't be set: a result doesn't change")

    def __getnewargs__(self):
        return *self, self.by_checksum


class ParsedBlob(namedtuple("ParsedBlob", ("descriptor", "data", "raw"))):
    """A blob as ``Engine.read_descriptor`` reads it: its descriptor, what it says, its exact bytes."""

    __slots__ = ()
