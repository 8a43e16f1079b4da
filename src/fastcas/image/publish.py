"""What is made of images gets into the store the same way: documents, times, names."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from fastcas.errors import InvalidError
from fastcas.image.closure import merge_entries, rename
from fastcas.model import DOCUMENT_LIMIT, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from fastcas.engine import Engine

__all__ = ["format_time", "put_document", "publish", "to_seconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LATEST = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc) - _EPOCH) // timedelta(seconds=1)


def put_document(
    engine: Engine, document: Manifest | Index, media_type: str | None = None
) -> Descriptor:
    """Stores a manifest or an index; returns its descriptor, of the document's own type by default.

    InvalidError for one above DOCUMENT_LIMIT, which nobody would read again.
    """
    raw = document.to_json()
    if len(raw) > DOCUMENT_LIMIT:
        raise InvalidError(
            f"the {type(document).__name__.lower()} would have {len(raw)} bytes, more than the "
            f"limit of {DOCUMENT_LIMIT}"
        )
    digest, size = engine.put_blob(raw)
    media_type = media_type or document.media_type
    assert media_type is not None
    return Descriptor(media_type, digest, size)


def publish(
    engine: Engine,
    descriptor: Descriptor,
    reference: str | None,
    needs: Iterable[str],
    *,
    anyhow: bool = False,
) -> Descriptor:
    """Makes an entry of the index, if there is a name for it, or ``anyhow``; returns ``descriptor``.

    NotExistError where ``descriptor`` or one of the digests ``needs`` isn't stored at that moment.
    """
    if reference is not None or anyhow:
        merge_entries(engine, [rename(descriptor, reference)], [*needs, descriptor.digest])
    return descriptor


def to_seconds(created: int | datetime) -> int:
    """A moment in whole seconds since the epoch, rounded down.

    It is given as such a number, as SOURCE_DATE_EPOCH has it, or as a datetime that knows its zone.
    """
    if isinstance(created, datetime):
        if created.utcoffset() is None:
            raise InvalidError(f"created: {created!r} has no time zone")
        created = (created - _EPOCH) // timedelta(seconds=1)
    if isinstance(created, bool) or not isinstance(created, int):
        raise InvalidError(f"created: must be seconds or a datetime, not {type(created).__name__}")
    if not 0 <= created <= _LATEST:
        raise InvalidError("created: not between the years 1970 and 9999")
    return created


def format_time(created: int | datetime) -> str:
    """A moment in the words of RFC 3339, in UTC and to the second."""
    moment = _EPOCH + timedelta(seconds=to_seconds(created))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
