"""The graph of an image: descriptors, the documents behind them, the descriptors in those.

Followed are the manifests and the subject of an index, the config, the layers and the subject of a
manifest. Other content isn't opened, configs neither. Each (digest, media type) is opened once,
however many ways lead to it: a digest that is first met under an unknown type is opened when it is
met under its own. Nothing here recurses.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from fastcas import wire
from fastcas.digest import Digest
from fastcas.errors import InvalidError, NotExistError, UnknownAlgorithmError
from fastcas.image.ahead import WAVE, WAVE_BYTES, Ahead
from fastcas.image.parse import (
    OLDER_MANIFESTS,
    children,
    document_types,
    is_document,
    is_index,
    is_manifest,
    read_children,
    read_document,
    read_fields,
)
from fastcas.image.verified import check_descriptor
from fastcas.jsonlibrary import UNSET
from fastcas.model import ANNOTATION_REF_NAME, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from fastcas.engine import Engine
    from fastcas.image.parse import Link

__all__ = ["DEPTH_LIMIT", "NODE_LIMIT", "Marked", "map_descriptors", "mark", "referrers", "walk"]

#: How long a path may be, in descriptors.
DEPTH_LIMIT = 16_384
#: How many different descriptors one walk may meet.
NODE_LIMIT = 10_000_000


class Marked:
    """What ``mark`` has met: ``digest in marked``, and ``digests``, the set of them.

    One that ``mark`` has failed on is incomplete, and can't be used for another call.
    """

    __slots__ = ("_missing", "_opened", "_whole", "digests")

    def __init__(self) -> None:
        self.digests: set[str] = set()
        self._opened: set[tuple[str, str]] = set()
        # Documents that weren't stored.
        self._missing: dict[tuple[str, str], Link] = {}
        self._whole = True

    def _add(self, links: list[Link]) -> None:
        self.digests.update([link.digest for link in links])
        if len(self.digests) > NODE_LIMIT:
            raise _too_many(links[-1].digest)

    def _has_done(self, key: tuple[str, str], link: Link) -> bool:
        # What is missing may be embedded in another descriptor.
        return key in self._opened or (key in self._missing and not isinstance(link.data, bytes))

    def _open(self, key: tuple[str, str], link: Link, engine: Engine, ahead: Ahead) -> Any:
        """What is in the document behind ``link``; None if it isn't stored."""
        try:
            document, _ = ahead.read(link)
        except NotExistError:
            self._missing[key] = link
            return None
        except UnknownAlgorithmError:
            if link.digest in engine:
                raise
            self._missing[key] = link
            return None
        self._opened.add(key)
        self._missing.pop(key, None)
        return document

    def __contains__(self, digest: object) -> bool:
        return digest in self.digests

    def __len__(self) -> int:
        return len(self.digests)


def mark(engine: Engine, roots: Iterable[Link], marked: Marked | None = None) -> Marked:
    """Marks all that is reachable from ``roots``: their digests, and those of every descriptor in
    the documents behind them, subjects and embedded content included.

    With ``marked`` goes on from there: opened is only what is new, and what wasn't stored before.
    A document that isn't stored is marked and passed over, as platforms may be left out of a layout.
    One that can't be read, is damaged, too large (4 MiB) or ambiguous fails the call: InvalidError,
    CorruptError or UnknownAlgorithmError, with its digest, or OSError. InvalidError also above
    NODE_LIMIT descriptors, and for a stored manifest of a withdrawn type (Docker's schema 1, the OCI
    artifact manifest), which names blobs that can't be followed unless a parser is registered for it.
    """
    marked = Marked() if marked is None else marked
    if not marked._whole:
        raise InvalidError("the marking failed before, so what it has is incomplete")
    marked._whole = False
    again = list(marked._missing.values())
    marked._missing.clear()
    _mark_all(engine, _links_of(chain(again, roots)), marked)
    marked._whole = True
    return marked


def _mark_all(engine: Engine, links: list[Link], marked: Marked) -> None:
    """In no order, but in waves of documents that are read together."""
    documents = document_types()
    leading_on = documents | OLDER_MANIFESTS
    ahead = Ahead(engine, WAVE)
    stack: list[Link] = []
    while True:
        marked._add(links)
        # Most have nothing behind them.
        stack += [link for link in links if link.media_type in leading_on]
        if not stack:
            return
        wave = _take_wave(stack, marked)
        ahead.fetch(wave.values(), islice(reversed(stack), WAVE))
        links = []
        for key, link in wave.items():
            if link.media_type in documents:
                links += children(marked._open(key, link, engine, ahead))
            elif link.digest in engine:
                raise _not_followed(link)


def _take_wave(stack: list[Link], marked: Marked) -> dict[tuple[str, str], Link]:
    """What comes next and wasn't opened, off the stack."""
    wave: dict[tuple[str, str], Link] = {}
    again = []
    room = WAVE_BYTES
    while stack and room > 0 and len(wave) < WAVE:
        link = stack.pop()
        key = (link.digest, link.media_type)
        if key in wave:
            again.append(link)  # it may be the one of two that embeds what isn't stored
        elif not marked._has_done(key, link):
            wave[key] = link
            room -= int(link.size)
    stack += again
    return wave


def walk(
    engine: Engine,
    descriptor: Descriptor | Iterable[Descriptor],
    visit: Callable[[tuple[Descriptor, ...]], object] | None = None,
) -> Iterator[tuple[Descriptor, ...]]:
    """The paths of descriptors from ``descriptor`` down, itself first, pre-order, as an iterator. Of
    several descriptors, those of each in turn.

    Each (digest, media type) is visited once, on the first path that leads to it. ``visit(path)`` is
    called right before a path is handed out; where it returns False, nothing below is visited. A
    document is opened when the next path is asked for; without ``visit``, siblings with it. One that
    isn't stored has its path and nothing below, as a layout may lack platforms and subjects; only if
    it is one of those given, NotExistError is raised.

    Raises InvalidError, CorruptError and so on, with its digest, for a document that can't be read;
    InvalidError for paths of more than DEPTH_LIMIT and for more than NODE_LIMIT descriptors.
    """
    roots = [descriptor] if isinstance(descriptor, Descriptor) else list(descriptor)
    return _walk(engine, [check_descriptor(root) for root in roots], visit)


def _walk(
    engine: Engine,
    roots: list[Descriptor],
    visit: Callable[[tuple[Descriptor, ...]], object] | None,
) -> Iterator[tuple[Descriptor, ...]]:
    seen: set[tuple[str, str]] = set()
    ahead = Ahead(engine)
    # The way down to where the walk is, and at each level what comes next, the last first.
    path: list[Descriptor] = []
    levels = [list(reversed(roots))]
    while levels:
        if not levels[-1]:
            levels.pop()
            if path:
                path.pop()
            continue
        node = levels[-1].pop()
        fields = node._fields
        key = (fields.digest, fields.media_type)
        if key in seen:
            continue
        seen.add(key)
        if len(seen) > NODE_LIMIT:
            raise _too_many(fields.digest)
        if len(path) == DEPTH_LIMIT:
            message = f"{fields.digest}: nested more than {DEPTH_LIMIT} descriptors deep"
            raise InvalidError(message, digest=fields.digest)
        path.append(node)
        whole = tuple(path)
        wanted = visit is None or visit(whole) is not False
        yield whole
        if not wanted or not is_document(fields.media_type):
            path.pop()
            continue
        if visit is None and key not in ahead:  # of whoever chooses isn't known what comes
            ahead.fetch((), _unseen(levels[-1], seen))
        try:
            below = read_children(*ahead.read(fields))
        except NotExistError:
            if len(path) == 1:
                raise
            below = []
        below.reverse()
        levels.append(below)


def _unseen(nodes: list[Descriptor], seen: set[tuple[str, str]]) -> Iterator[Link]:
    for node in islice(reversed(nodes), 2 * WAVE):
        fields = node._fields
        if (fields.digest, fields.media_type) not in seen:
            yield fields


def map_descriptors(document: Any, function: Callable[[Descriptor], Descriptor]) -> Any:
    """A new document with ``function(descriptor)`` in the place of each descriptor.

    Of an Index the manifests and the subject, of a Manifest the config, the layers and the subject;
    a Descriptor is one itself; anything else is returned as it is. All else keeps its exact bytes,
    unknown fields too. TypeError where ``function`` doesn't return a Descriptor.
    """

    def apply(descriptor: Descriptor) -> Descriptor:
        return check_descriptor(function(descriptor))

    if isinstance(document, Descriptor):
        return apply(document)
    changes: dict[str, Any] = {}
    if isinstance(document, Index):
        changes["manifests"] = tuple([apply(entry) for entry in document.manifests])
    elif isinstance(document, Manifest):
        changes["config"] = apply(document.config)
        changes["layers"] = tuple([apply(layer) for layer in document.layers])
    else:
        return document
    if document.subject is not None:
        changes["subject"] = apply(document.subject)
    changes = {name: new for name, new in changes.items() if getattr(document, name) != new}
    return document.replace(**changes)


def referrers(engine: Engine, digest: str, *, artifact_type: str | None = None) -> list[Descriptor]:
    """The manifests and indexes that refer to ``digest``, of one artifact type or of any.

    They are those that are reachable from the index, tagged or not, and have it as their subject;
    then those that are listed by an index under the name that registries without a referrers API
    use (``sha256-<hex>``). In this order, each digest once. The descriptors are such as a registry
    gives: with the annotations of the manifest and its artifact type, which is its config's media
    type where it states none. Documents that aren't stored are passed over.

    Raises like ``mark``. Source: OCI distribution-spec 1.1, "Listing Referrers".
    """
    digest = Digest(digest)
    entries = engine.get_index().manifests
    found: dict[str, Descriptor] = {}
    for link, document in _open_all(engine, entries):
        subject = document.subject if _has_subject(link) else None
        if subject is not None and subject is not UNSET and subject.digest == digest:
            found.setdefault(link.digest, _as_referrer(link, document))
    for entry in entries:
        if (entry.annotations or {}).get(ANNOTATION_REF_NAME) != _fallback_name(digest):
            continue
        for listed in _listed_by(engine, entry):
            found.setdefault(listed.digest, listed)
    return [
        descriptor
        for descriptor in found.values()
        if artifact_type is None or descriptor.artifact_type == artifact_type
    ]


def _has_subject(link: Link) -> bool:
    return is_index(link.media_type) or is_manifest(link.media_type)


def _fallback_name(digest: Digest) -> str:
    # A tag has at most 128 characters.
    return f"{digest.algorithm[:32]}-{digest.encoded[:64]}"


def _listed_by(engine: Engine, entry: Descriptor) -> Iterator[Descriptor]:
    if not is_index(entry.media_type):
        return
    try:
        index = read_document(engine, entry)
    except NotExistError:
        return
    for listed in index.manifests:
        if _has_subject(listed) and listed.artifact_type is None:
            try:
                yield _as_referrer(listed, read_fields(engine, listed))
                continue
            except NotExistError:
                pass
        yield listed


def _as_referrer(link: Link, document: Any) -> Descriptor:
    kind = document.artifact_type
    if not kind or kind is UNSET:
        kind = document.config.media_type if is_manifest(link.media_type) else None
    notes = None if document.annotations is UNSET else document.annotations
    size = int(link.size)
    return Descriptor(link.media_type, link.digest, size, annotations=notes, artifact_type=kind)


def _links_of(roots: Iterable[Link]) -> list[Link]:
    # The struct behind the value, whose attributes cost a tenth.
    return [root if type(root) is wire.Descriptor else check_descriptor(root)._fields for root in roots]


def _open_all(engine: Engine, roots: Iterable[Descriptor]) -> Iterator[tuple[Link, Any]]:
    """Every document that is reachable, once for each type that it is met under, pre-order: what
    leads to it, and its struct or value."""
    marked = Marked()
    ahead = Ahead(engine)
    stack = list(reversed(_links_of(roots)))
    while stack:
        link = stack.pop()
        key = (link.digest, link.media_type)
        if not is_document(link.media_type) or marked._has_done(key, link):
            continue
        if key not in ahead:
            ahead.fetch((), islice(reversed(stack), 2 * WAVE))
        document = marked._open(key, link, engine, ahead)
        if document is None:
            continue
        if len(marked._opened) > NODE_LIMIT:
            raise _too_many(link.digest)
        yield link, document
        stack += reversed(children(document))


def _not_followed(link: Link) -> InvalidError:
    message = f"{link.digest}: a {link.media_type}, whose blobs can't be followed"
    return InvalidError(f"{message} (see fastcas.register_parser)", digest=link.digest)


def _too_many(digest: str) -> InvalidError:
    message = f"{digest}: the graph has more than {NODE_LIMIT} descriptors"
    return InvalidError(message, digest=digest)
