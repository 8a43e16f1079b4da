"""Retention: which entries of the index are to go, by age, by name and number, by size.

A plan first, which can be shown; then one change of the index; the blobs go with the next ``gc``:

    plan = plan_retention(engine, keep_newest=3, keep_tags=["v*"], older_than=30 * 86400)
    apply_retention(engine, plan)
    engine.gc()

``drop_older``, ``drop_beyond_newest`` and ``drop_beyond_size`` are the rules by themselves: functions
of a list of Images that return those to drop.

Source: OCI image-spec, annotations.md (org.opencontainers.image.created); distribution-spec,
"Referrers Tag Schema".
"""

from __future__ import annotations

import re
import time
from collections import Counter, namedtuple
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from fastcas.errors import InvalidError, NotExistError
from fastcas.image.parse import is_index, is_manifest, read_descriptor
from fastcas.image.walk import mark
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from fastcas.digest import Digest
    from fastcas.engine import Engine

__all__ = [
    "Image",
    "RetentionPlan",
    "apply_retention",
    "drop_beyond_newest",
    "drop_beyond_size",
    "drop_older",
    "list_images",
    "plan_retention",
]

ANNOTATION_CREATED = "org.opencontainers.image.created"

# What reproducible builds say instead of a time: the epochs of Unix, of ZIP, and of buildpacks.
_NOT_SAID = 315_532_801  # 1980-01-01T00:00:01Z

# RFC 3339.
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,30})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# The referrers of an image, where a registry has no API for them: the digest, cut to what fits a tag;
# signatures of cosign are called so with ``.sig`` behind it.
_FALLBACK_TAG = re.compile(r"([a-z0-9]+)-([0-9a-f]{64,})(?:\..*)?")


class Image(namedtuple("Image", ("entry", "name", "created", "subject"))):
    """An entry of the index: its Descriptor; its reference name or None; when it was created, in
    seconds since 1970; the digest of the entry that it only says something about (a signature, an
    attestation), or None."""

    __slots__ = ()


class RetentionPlan(namedtuple("RetentionPlan", ("dropped", "kept"))):
    """The Images that are to go, the oldest first, and those that stay, in the order of the index."""

    __slots__ = ()


def list_images(engine: Engine) -> list[Image]:
    """The entries of the index, in its order.

    An image was created when the annotation ``org.opencontainers.image.created`` of its entry says, or
    that of its manifest or index, else its config's ``created`` (the newest of several platforms), else
    when its blob was put last. A time up to 1980-01-01T00:00:01Z, which reproducible builds use,
    counts as none, and so does what is no RFC 3339 time. What isn't stored, and says nothing
    in its entry, was created now.

    Raises InvalidError for documents that can't be read, like gc.
    """
    entries = engine.get_index().manifests
    there = {entry.digest for entry in entries}
    # By the names of their referrers' tags, which have at most 64 digits.
    cut = {(digest.algorithm, digest.encoded[:64]): digest for digest in there}
    put: dict[str, float] | None = None
    images = []
    for entry in entries:
        document = _read(engine, entry)
        created = _created_of(engine, entry, document)
        if created is None:
            if put is None:
                put = {b.digest: b.modified / 1e9 for b in engine.scan_blobs() if b.digest}
            created = put.get(entry.digest, time.time())
        name = (entry.annotations or {}).get(ANNOTATION_REF_NAME)
        subject = _subject_of(name, document, cut)
        if subject == entry.digest or subject not in there:
            subject = None
        images.append(Image(entry, name, created, subject))
    return images


def drop_older(images: Iterable[Image], seconds: float, *, now: float | None = None) -> list[Image]:
    """Those created more than ``seconds`` before ``now``."""
    limit = (time.time() if now is None else now) - seconds
    return [image for image in images if image.created < limit]


def drop_beyond_newest(images: Iterable[Image], count: int, pattern: str = "*") -> list[Image]:
    """All but the ``count`` newest of those whose name matches the glob ``pattern``; an entry without a
    name matches "*" alone. Of equal age, those further back in the index are newer."""
    matching = [image for image in images if _matches(image, pattern) or pattern == "*"]
    newest = sorted(range(len(matching)), key=lambda i: (matching[i].created, i), reverse=True)
    kept = set(newest[: max(0, count)])
    return [image for i, image in enumerate(matching) if i not in kept]


def drop_beyond_size(
    engine: Engine, images: Sequence[Image], limit: int, *, protected: Iterable[Image] = ()
) -> list[Image]:
    """The oldest, one after the other, until what the rest leads to has at most ``limit`` bytes stored.

    A blob counts once, and as long as one of the rest leads to it; so do those of the ``protected``,
    which stay. What is about another of the ``images`` goes with that, and not before. Only stored
    blobs count.
    """
    sizes: dict[str, int] = {
        blob.digest: blob.size for blob in engine.scan_blobs() if blob.kind == "blob" and blob.digest
    }
    spared = {id(image) for image in protected}
    users: Counter[str] = Counter()
    reached: dict[str, set[str]] = {}
    for image in images:
        digest = image.entry.digest
        if digest not in reached:
            reached[digest] = {d for d in mark(engine, [image.entry]).digests if d in sizes}
        users.update(reached[digest])
    total = sum(sizes[digest] for digest in users)
    left = Counter(image.entry.digest for image in images)
    about: dict[str, list[Image]] = {}
    for image in images:
        if image.subject in left:
            about.setdefault(image.subject, []).append(image)
    dropped = []
    for oldest in sorted(images, key=lambda image: image.created):
        if total <= limit:
            break
        if id(oldest) in spared or oldest.subject in left:
            continue
        going = [oldest]
        while going:
            image = going.pop()
            digest = image.entry.digest
            dropped.append(image)
            for blob in reached[digest]:
                users[blob] -= 1
                if not users[blob]:
                    total -= sizes[blob]
            left[digest] -= 1
            if not left[digest]:
                going += [other for other in about.get(digest, ()) if id(other) not in spared]
    return dropped


def plan_retention(
    engine: Engine,
    *,
    older_than: float | None = None,
    keep_newest: int | None = None,
    keep_tags: Iterable[str] = (),
    max_size: int | None = None,
    now: float | None = None,
) -> RetentionPlan:
    """Which entries of the index are to go; changes nothing.

    ``keep_tags``: names that match one of these globs stay, whatever else is said. ``keep_newest``: so
    do that many of the newest others. Of the rest go those created more than ``older_than``
    seconds ago, then the oldest until no more than ``max_size`` bytes are reachable, if what must stay
    allows it; with neither of the two, all of them. Without ``keep_newest``, ``older_than`` and
    ``max_size`` nothing goes.

    What is about another entry (it has that as its subject, or is tagged ``sha256-…`` after it)
    counts for no number and no age: it goes and stays with that one.

    Raises InvalidError for a number that makes no sense, and for a document that can't be read.
    """
    numbers = {"older_than": older_than, "keep_newest": keep_newest, "max_size": max_size}
    for what, number in numbers.items():
        if number is None:
            continue
        if type(number) not in (int, float) or not number >= 0:
            raise InvalidError(f"{what} must be a number of 0 or more, not {number!r}")
    patterns = [keep_tags] if isinstance(keep_tags, str) else list(keep_tags)
    images = list_images(engine)
    candidates = [
        image
        for image in images
        if image.subject is None and not any(_matches(image, pattern) for pattern in patterns)
    ]
    doomed: list[Image] = []
    if keep_newest is not None:
        candidates = drop_beyond_newest(candidates, keep_newest)
    if older_than is not None:
        doomed = drop_older(candidates, older_than, now=now)
    elif keep_newest is not None and max_size is None:
        doomed = candidates
    doomed = _with_referrers(images, doomed, patterns)
    if max_size is not None:
        gone = {id(image) for image in doomed}
        rest = [image for image in images if id(image) not in gone]
        free = {id(image) for image in candidates}
        protected = [
            image
            for image in rest
            if id(image) not in free
            and (image.subject is None or any(_matches(image, pattern) for pattern in patterns))
        ]
        doomed += drop_beyond_size(engine, rest, max_size, protected=protected)
        doomed = _with_referrers(images, doomed, patterns)
    gone = {id(image) for image in doomed}
    kept = [image for image in images if id(image) not in gone]
    return RetentionPlan(sorted(doomed, key=lambda image: image.created), kept)


def apply_retention(engine: Engine, plan: RetentionPlan) -> list[Descriptor]:
    """Removes the dropped entries of ``plan`` in one change of the index; returns those removed.

    An entry that was changed since, or moved to another image, stays. Durable like ``update_index``.
    """
    removed: list[Descriptor] = []

    def change(index: Index) -> Index | None:
        removed.clear()
        doomed = Counter(image.entry.to_json() for image in plan.dropped)
        kept = []
        for entry in index.manifests:
            raw = entry.to_json()
            if doomed[raw]:
                doomed[raw] -= 1
                removed.append(entry)
            else:
                kept.append(entry)
        return index.replace(manifests=kept) if removed else None

    engine.update_index(change)
    return removed


def _matches(image: Image, pattern: str) -> bool:
    return image.name is not None and fnmatchcase(image.name, pattern)


def _with_referrers(images: list[Image], doomed: list[Image], patterns: list[str]) -> list[Image]:
    """``doomed``, and what is about nothing else than that; chains of them included."""
    gone = {id(image) for image in doomed}
    result = list(doomed)
    while True:
        left = {image.entry.digest for image in images if id(image) not in gone}
        found = [
            image
            for image in images
            if id(image) not in gone
            and image.subject is not None
            and image.subject not in left
            and not any(_matches(image, pattern) for pattern in patterns)
        ]
        if not found:
            return result
        gone.update(map(id, found))
        result += found


def _read(engine: Engine, descriptor: Descriptor) -> Any:
    if not (is_index(descriptor.media_type) or is_manifest(descriptor.media_type)):
        return None
    try:
        return read_descriptor(engine, descriptor).data
    except NotExistError:
        return None


def _subject_of(name: str | None, document: Any, cut: dict[tuple[str, str], Digest]) -> str | None:
    match = _FALLBACK_TAG.fullmatch(name or "")
    if match is not None:
        algorithm, encoded = match.groups()
        digest = cut.get((algorithm, encoded[:64]))
        return digest if digest is not None and digest.encoded.startswith(encoded) else None
    subject = getattr(document, "subject", None)
    return None if subject is None else str(subject.digest)


def _created_of(engine: Engine, entry: Descriptor, document: Any) -> float | None:
    found = _parse_time((entry.annotations or {}).get(ANNOTATION_CREATED))
    if found is None and document is not None:
        found = _parse_time((document.annotations or {}).get(ANNOTATION_CREATED))
    if found is not None:
        return found
    if isinstance(document, Manifest):
        return _created_in_config(engine, document)
    if isinstance(document, Index):
        children = [_read(engine, child) for child in document.manifests]
        times = [_created_in_config(engine, c) for c in children if isinstance(c, Manifest)]
        return max((when for when in times if when is not None), default=None)
    return None


def _created_in_config(engine: Engine, manifest: Manifest) -> float | None:
    try:
        config = read_descriptor(engine, manifest.config).data
    except (NotExistError, InvalidError):
        return None  # the config of an artifact may be anything
    return _parse_time(getattr(config, "created", None))


def _parse_time(text: object) -> float | None:
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    offset = "+00:00" if zone in "Zz" else zone
    try:
        when = datetime.fromisoformat(f"{day}T{clock}{offset}")
        seconds = (when - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
    seconds += float(fraction or 0)
    return seconds if seconds > _NOT_SAID else None
