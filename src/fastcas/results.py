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
def _fields(name, /, **meanings):
    """A named tuple with these fields, whose meanings ``help`` shows."""
    base = namedtuple(name, meanings)
    for field, meaning in meanings.items():
        getattr(base, field).__doc__ = meaning
    return base


class PutResult(
    _fields(
        "PutResult",
        digest="The digest under which the content is stored, a Digest.",
        size="The size of what is stored, in bytes.",
    )
):
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


class BlobInfo(
    _fields("BlobInfo", digest="The digest of the blob, a Digest.", size="Its size in bytes.")
):
    """A stored blob: its digest, and its size in bytes."""

    __slots__ = ()


class CopyResult(
    _fields(
        "CopyResult",
        method='"reflink", "hardlink", "copy_file_range", "sendfile" or "copy"; of ``put_copy`` also '
        '"exists", and "server-copy" within one bucket.',
        size="The size of the blob in bytes.",
    )
):
    """How a blob was copied, and its size in bytes."""

    __slots__ = ()


class StoredBlob(
    _fields(
        "StoredBlob",
        place="``path`` without the digest, as it is of all the blobs beside.",
        digest="Its digest, a Digest; None for what is called like no digest.",
        size="Its size in bytes.",
        modified="When it was last put, be it a dedupe hit: nanoseconds of ``Engine.read_clock``.",
        changed="When anything about it changed last, its name included, by the same clock.",
        kind='"blob"; "bad-name" for what is called like no digest; "non-regular" for what stands in a '
        "blob's place and is no file.",
    )
):
    """What an engine finds where it keeps blobs."""

    __slots__ = ()

    @property
    def path(self):
        """Where it is, for messages."""
        return self.place if self.digest is None else f"{self.place}/{self.digest.encoded}"

    def is_unused(self, start: int, grace: int) -> bool:
        """See ``is_unused``."""
        return is_unused(self.modified, self.changed, start, grace)


def is_unused(modified: int, changed: int, start: int, grace: int) -> bool:
    """Whether nothing about a blob changed since ``start``, and its last put was ``grace`` before
    that, or earlier; all in nanoseconds. A time in the future counts as young."""
    return changed < start and modified <= start - grace


class Swept(
    _fields(
        "Swept",
        removed="The blobs that were removed, a list of BlobInfo.",
        left="The digests that weren't come to because the index changed, a list.",
    )
):
    """What one sweep did."""

    __slots__ = ()


class GCReport(
    _fields(
        "GCReport",
        deleted="The blobs that were deleted, a list of BlobInfo.",
        freed="The sum of their sizes in bytes.",
        kept="The number of stored blobs that stay.",
        dry_run="Whether nothing was deleted, and this is what would be.",
    )
):
    """What a garbage collection did, or would do where ``dry_run`` is true."""

    __slots__ = ()


class Problem(
    _fields(
        "Problem",
        digest="The digest of the blob, a Digest; None for what is called like no digest.",
        path="Where in the store it is, was before it went into quarantine, or would be if it were "
        "stored: an absolute path, a str; in an object store, a URL.",
        kind='"corrupt", "wrong-size", "unreadable", "bad-name", "non-regular", "missing" or '
        '"dangling": see ``Engine.scrub``.',
        detail="A sentence for people, which also says where in the quarantine it is.",
    )
):
    """What scrub found wrong."""

    __slots__ = ()


class ScrubReport(
    _fields(
        "ScrubReport",
        checked="The number of blobs whose content was read.",
        bytes="The sum of their sizes in bytes.",
        problems="What was found wrong, a list of Problem.",
    )
):
    """What a scrub did. Besides the three fields ``by_checksum``: how many of the blobs a quick scrub
    found right by the checksum that was recorded of them, and not by their digest."""

    def __new__(cls, checked, bytes, problems, by_checksum=0):
        self = super().__new__(cls, checked, bytes, problems)
        self.__dict__["by_checksum"] = by_checksum
        return self

    def __setattr__(self, name, value):
        raise AttributeError(f"{name!r} can't be set: a result doesn't change")

    def __getnewargs__(self):
        return *self, self.by_checksum


class ParsedBlob(
    _fields(
        "ParsedBlob",
        descriptor="The Descriptor that was read.",
        data="What the content says, by its media type: an Index, Manifest, Config, ….",
        raw="The exact content, bytes.",
    )
):
    """A blob as ``Engine.read_descriptor`` reads it: its descriptor, what it says, its exact bytes."""

    __slots__ = ()
