"""What an image needs to be whole, in the order in which it is stored safely: children first.

Shared by whatever moves images between stores: nothing gets a name before all that it needs is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from fastcas import wire
from fastcas.digest import Digest, shorten
from fastcas.errors import (
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.image.parse import children, is_document, read_fields
from fastcas.image.reference import find_entries
from fastcas.image.walk import DEPTH_LIMIT, NODE_LIMIT
from fastcas.jsonlibrary import UNSET
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from fastcas.contract import Progress
    from fastcas.engine import Engine
    from fastcas.image.parse import Link
    from fastcas.model import Platform

__all__ = [
    "Closure",
    "Item",
    "find_closure",
    "merge_entries",
    "name_of",
    "rename",
    "select_entry",
    "shift",
]


class Item(NamedTuple):
    """A blob of an image: its digest, its size in bytes, and its content where that is embedded in
    its descriptor and not stored, else None."""

    digest: Digest
    size: int
    data: bytes | None


class Closure(NamedTuple):
    """The blobs of some images, each once, children before parents, and which of them are documents;
    what isn't stored of them; and what refers to them, without names, if that was asked for."""

    items: list[Item]
    documents: set[str]
    missing: set[str]
    referrers: list[Descriptor]

    @property
    def size(self) -> int:
        """The bytes of all items."""
        return sum(item.size for item in self.items)


def find_closure(engine: Engine, roots: Iterable[Descriptor], *, referrers: bool = False) -> Closure:
    """All blobs that are reachable from ``roots``, by (digest, media type) and through subjects too;
    with ``referrers`` also what refers to any manifest or index among them, and what refers to that.

    Left out may be the manifests of an index, as layouts needn't have every platform, subjects, and
    layers that are to be had elsewhere (``urls``, Docker's foreign ones). All else must be stored, with
    the size that its descriptor says: NotExistError and SizeMismatchError. Documents are read and
    verified, other blobs only looked at. InvalidError for what can't be read, more than DEPTH_LIMIT
    levels or NODE_LIMIT descriptors.
    """
    search = _Search(engine)
    for root in roots:
        search.add(root, True)
    found = []
    if referrers:
        known = set(search.documents)
        for digest in search.documents:  # which grows meanwhile
            for referrer in engine.referrers(digest):
                if referrer.digest not in known:
                    known.add(referrer.digest)
                    search.add(referrer, False)
                    if referrer.digest not in search.missing:
                        found.append(rename(referrer, None))
    return Closure(search.items, set(search.documents), search.missing, found)


class _Search:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.items: list[Item] = []
        self.missing: set[str] = set()
        self.documents: list[str] = []
        self._listed: set[str] = set()
        self._met: set[tuple[str, str]] = set()
        # The documents whose children are being looked at, each with those that are left.
        self._open: list[tuple[Link, Iterator[tuple[Link, bool]]]] = []

    def add(self, root: Descriptor, required: bool) -> None:
        self._enter(root, required)
        while self._open:
            link, left = self._open[-1]
            following = next(left, None)
            if following is not None:
                self._enter(*following)
            else:
                self._open.pop()
                self._list(link)

    def _enter(self, link: Link, required: bool) -> None:
        digest = link.digest
        key = (digest, link.media_type)
        # What was missing may be embedded here.
        if key not in self._met or (digest in self.missing and isinstance(link.data, bytes)):
            self._met.add(key)
            if len(self._met) > NODE_LIMIT:
                raise _too_much(digest, f"has more than {NODE_LIMIT} descriptors")
            if len(self._open) >= DEPTH_LIMIT:
                raise _too_much(digest, f"is more than {DEPTH_LIMIT} levels deep")
            try:
                if is_document(link.media_type):
                    document = read_fields(self._engine, link)
                    self._open.append((link, _edges(document)))
                    self.documents.append(digest)
                else:
                    self._list(link)
                self.missing.discard(digest)
                return
            except NotExistError:
                self.missing.add(digest)
            except UnknownAlgorithmError:
                if digest in self._engine:
                    raise
                self.missing.add(digest)
        if required and digest in self.missing:
            raise NotExistError(f"{digest} isn't stored, and the image needs it", digest=digest)

    def _list(self, link: Link) -> None:
        digest = Digest(link.digest)
        if digest in self._listed:
            return
        data = None
        try:
            found = self._engine.stat_blob(digest).size
        except NotExistError:
            if not isinstance(link.data, bytes):
                raise
            data = link.data
            found = len(data)
        if found != link.size:
            raise SizeMismatchError(
                f"{digest}: {found} bytes are stored, its descriptor says {link.size}",
                digest=digest,
                expected=int(link.size),
                actual=found,
            )
        self._listed.add(digest)
        self.items.append(Item(digest, found, data))


def _too_much(digest: str, what: str) -> InvalidError:
    return InvalidError(f"{digest}: the graph {what}", digest=digest)


def _edges(document: Any) -> Iterator[tuple[Link, bool]]:
    """The descriptors in a document, each with whether what it names must be stored."""
    is_manifest = isinstance(document, (Manifest, wire.Manifest))
    subject = getattr(document, "subject", None)
    for child in children(document):
        yield child, is_manifest and child is not subject and not _is_elsewhere(child)


def _is_elsewhere(link: Link) -> bool:
    return bool(link.urls is not UNSET and link.urls) or any(
        word in link.media_type for word in _NOT_DISTRIBUTED
    )


_NOT_DISTRIBUTED = ("image.layer.nondistributable.", "image.rootfs.foreign.")


def select_entry(engine: Engine, name: str, platform: Platform | str | None = None) -> Descriptor:
    """The one descriptor that a reference or a digest stands for, named if it was asked for by name.

    Without ``platform`` it is the entry of the index itself, be it an image's or an index's; with it,
    the manifest for that platform. NotExistError where there is none, InvalidError where different
    ones have the name.
    """
    if platform is None:
        found = find_entries(engine, name)
        # Most names stand in the index as they are; other forms are for the resolver.
        paths = [(entry,) for entry in found] or engine.resolve_reference(name)
    else:
        paths = engine.resolve_reference(name, platform=platform)
    if not paths:
        where = "" if platform is None else f" for {platform}"
        raise NotExistError(f"{shorten(name)}: no such reference{where}")
    path = paths[0]
    called = name_of(path[0])
    if called is None or not (name == called or name.startswith(f"{called}@")):
        called = None
    if platform is not None:
        return rename(path[-1], called)
    # A digest, or the beginning of one, may stand for something within an index.
    digits = name.rpartition("@")[2].rpartition(":")[2]
    by_digest = called is None or name != called
    fitting = [item for item in path if item.digest.encoded.startswith(digits)]
    chosen = fitting[0] if by_digest and fitting else path[0]
    if called is not None and len({path[0].digest for path in paths}) > 1:
        raise InvalidError(f"{shorten(name)} stands for different descriptors: ask by digest")
    return rename(chosen, called)


def rename(entry: Descriptor, name: str | None) -> Descriptor:
    """``entry`` with another reference name, or none; all else is kept."""
    annotations = dict(entry.annotations or {})
    annotations.pop(ANNOTATION_REF_NAME, None)
    if name is not None:
        annotations[ANNOTATION_REF_NAME] = name
    if annotations == dict(entry.annotations or {}):
        return entry
    return entry.replace(annotations=annotations or None)


def merge_entries(engine: Engine, entries: Iterable[Descriptor], needs: Iterable[str] = ()) -> None:
    """Adds entries to the index, in one change of it.

    Those with a reference name take the place of all that have it; one without is added where the
    index has no entry of its digest. ``needs`` are the digests that must be stored at that moment:
    NotExistError, and no change, where gc was quicker. Durable as the engine's ``update_index`` is.
    """
    entries = list(entries)
    needs = list(needs)
    named = [entry for entry in entries if name_of(entry) is not None]
    names = {name_of(entry) for entry in named}

    def change(index: Index) -> Index | None:
        # gc removes under the same lock, and only what the index that it finds then doesn't lead to.
        for _ in engine.stat_blobs(needs):
            pass
        replaced = [entry for entry in index.manifests if name_of(entry) in names]
        merged = [entry for entry in index.manifests if name_of(entry) not in names]
        digests = {entry.digest for entry in merged}
        added = 0
        for entry in entries:
            if name_of(entry) is not None or entry.digest not in digests:
                merged.append(entry)
                digests.add(entry.digest)
                added += 1
        # Where all of them stand there already, their places don't matter.
        return None if added == len(named) and replaced == named else index.replace(manifests=merged)

    engine.update_index(change)


def name_of(entry: Descriptor) -> str | None:
    """The reference name of an entry of the index."""
    return (entry.annotations or {}).get(ANNOTATION_REF_NAME)


def shift(progress: Progress | None, done: int, total: int | None) -> Progress | None:
    """``progress`` for one blob of several, behind ``done`` bytes of ``total``."""
    if progress is None:
        return None
    return lambda count, _: progress(done + count, total)
