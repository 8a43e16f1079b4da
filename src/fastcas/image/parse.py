"""Blobs to values, by the media type of their descriptor.

The descriptor's media type decides what a blob is read as; what its content says of itself may only
agree (CVE-2021-41190). A type that nobody has a parser for is opaque, never an error.

Source: OCI image-spec 1.1, media-types.md; Docker's image manifest v2, schema 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastcas import model, wire
from fastcas.digest import shorten
from fastcas.errors import ClobberError, InvalidError
from fastcas.image.config import Config
from fastcas.image.verified import check_descriptor, read_content
from fastcas.jsonlibrary import UNSET
from fastcas.model import DOCUMENT_LIMIT, Descriptor, Index, Manifest, adopt_descriptors
from fastcas.results import ParsedBlob

if TYPE_CHECKING:
    from fastcas.engine import Engine

__all__ = [
    "children",
    "decode_fields",
    "decode_plain",
    "document_types",
    "has_fields",
    "is_document",
    "is_index",
    "is_manifest",
    "read_descriptor",
    "read_document",
    "OLDER_MANIFESTS",
    "read_children",
    "read_fields",
    "read_source",
    "register_parser",
]

Parser = Callable[[bytes, Descriptor], Any]
Link = Descriptor | wire.Descriptor

MEDIA_TYPE_DESCRIPTOR = "application/vnd.oci.descriptor.v1+json"

_INDEXES = frozenset({model.MEDIA_TYPE_INDEX, model.MEDIA_TYPE_DOCKER_LIST})
_MANIFESTS = frozenset({model.MEDIA_TYPE_MANIFEST, model.MEDIA_TYPE_DOCKER_MANIFEST})

# What has descriptors in it, and what the decoder makes of it.
_SCHEMAS: dict[str, type[wire.Index] | type[wire.Manifest] | type[wire.Descriptor]] = {
    **dict.fromkeys(_INDEXES, wire.Index),
    **dict.fromkeys(_MANIFESTS, wire.Manifest),
    MEDIA_TYPE_DESCRIPTOR: wire.Descriptor,
}


# Manifests of withdrawn specifications: nothing here knows what blobs they name.
OLDER_MANIFESTS = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.oci.artifact.manifest.v1+json",
    }
)


def _parse_index(raw: bytes, descriptor: Descriptor) -> Index:
    media_type, what = descriptor.media_type, f"index {descriptor.digest}"
    return Index.from_json(raw, media_type=media_type, limit=DOCUMENT_LIMIT, what=what)


def _parse_manifest(raw: bytes, descriptor: Descriptor) -> Manifest:
    media_type, what = descriptor.media_type, f"manifest {descriptor.digest}"
    return Manifest.from_json(raw, media_type=media_type, what=what)


def _parse_descriptor(raw: bytes, descriptor: Descriptor) -> Descriptor:
    return Descriptor.from_json(raw)


def _parse_config(raw: bytes, descriptor: Descriptor) -> Config:
    return Config.from_json(raw)


def _parse_empty(raw: bytes, descriptor: Descriptor) -> dict[str, Any]:
    return {}  # nothing else has its digest


_BUILT_IN: dict[str, Parser] = {
    **dict.fromkeys(_INDEXES, _parse_index),
    **dict.fromkeys(_MANIFESTS, _parse_manifest),
    MEDIA_TYPE_DESCRIPTOR: _parse_descriptor,
    model.MEDIA_TYPE_CONFIG: _parse_config,
    model.MEDIA_TYPE_DOCKER_CONFIG: _parse_config,
    model.MEDIA_TYPE_EMPTY: _parse_empty,
}

_registered: dict[str, Parser] = {}


def register_parser(media_type: str, parser: Parser) -> None:
    """Lets ``parser(raw, descriptor)`` say what blobs of ``media_type`` are, in this process.

    It is given the whole verified content, at most 4 MiB, and its descriptor; what it returns is the
    ``data`` of ``read_descriptor``. Should that be an Index, a Manifest or a Descriptor, then
    ``walk`` and garbage collection follow it. It raises InvalidError for content that is wrong.
    ClobberError for a type that has a parser.
    """
    if not isinstance(media_type, str) or not media_type:
        raise InvalidError(f"a media type must be a str, not {shorten(media_type)}")
    if not callable(parser):
        raise TypeError(f"a parser must be callable, not {type(parser).__name__}")
    if media_type in _BUILT_IN or media_type in _registered:
        raise ClobberError(f"{media_type!r} has a parser already")
    _registered[media_type] = parser


def read_descriptor(engine: Engine, descriptor: Descriptor) -> ParsedBlob:
    """What ``descriptor`` stands for, read whole, verified and parsed by its media type.

    Returns ParsedBlob(descriptor, data, raw): ``raw`` is the exact content; ``data`` an Index (also
    of a Docker manifest list), Manifest (Docker v2s2 too), Config (Docker's too), Descriptor, ``{}``
    for the empty type, what a registered parser returned, and for any other type ``raw`` itself.

    Raises InvalidError, naming the digest, for content above 4 MiB and what isn't of that type;
    NotExistError, DigestMismatchError, SizeMismatchError, UnknownAlgorithmError.
    """
    raw = read_content(engine, check_descriptor(descriptor), limit=DOCUMENT_LIMIT)
    media_type = descriptor.media_type
    parser = _BUILT_IN.get(media_type) or _registered.get(media_type)
    return ParsedBlob(descriptor, raw if parser is None else _run(parser, raw, descriptor), raw)


def _run(parser: Parser, raw: bytes, descriptor: Descriptor) -> Any:
    try:
        return parser(raw, descriptor)
    except InvalidError as error:
        raise _about(error, descriptor.digest) from error.__cause__


def _about(error: InvalidError, digest: str) -> InvalidError:
    """``error``, saying which blob it is about."""
    error.digest = digest
    text = str(error)
    if digest not in text:
        error.args = (f"{digest}: {text}", *error.args[1:])
    return error


def is_index(media_type: str) -> bool:
    """Whether it is that of an index or of a Docker manifest list."""
    return media_type in _INDEXES


def is_manifest(media_type: str) -> bool:
    """Whether it is that of an image manifest, OCI's or Docker's."""
    return media_type in _MANIFESTS


def is_document(media_type: str) -> bool:
    """Whether content of this type may have descriptors in it: the rest is never opened."""
    return media_type in _SCHEMAS or media_type in _registered


def document_types() -> set[str]:
    """The types of which ``is_document`` is true now."""
    return {*_SCHEMAS, *_registered}


def read_document(engine: Engine, descriptor: Descriptor) -> Any:
    """The ``data`` of ``read_descriptor``."""
    return read_descriptor(engine, descriptor).data


def read_fields(engine: Engine, link: Link) -> Any:
    """What ``read_document`` finds, as the decoder's own struct where there is one: as strict, and
    at a fraction of the cost."""
    return read_source(engine, link)[0]


def read_source(engine: Engine, link: Link) -> tuple[Any, bytes | None]:
    """The same, and the exact content that a struct was decoded from; with a value, None."""
    media_type = link.media_type
    if media_type not in _SCHEMAS:
        if not isinstance(link, Descriptor):
            data = link.data if isinstance(link.data, bytes) else None
            link = Descriptor(media_type, link.digest, int(link.size), data=data)
        return read_document(engine, link), None
    raw = read_content(engine, link, limit=DOCUMENT_LIMIT)
    return decode_fields(link, raw), raw


def decode_fields(link: Link, raw: bytes) -> Any:
    """The struct of ``raw``, the content of ``link``, whose type has one."""
    schema, what = _SCHEMAS[link.media_type], link.digest
    try:
        return wire.read(schema, raw, limit=DOCUMENT_LIMIT, what=what, media_type=link.media_type)[1]
    except InvalidError as error:
        raise _about(error, link.digest) from error.__cause__


def decode_plain(media_type: str, raws: list[bytes]) -> list[Any] | None:
    """What ``decode_fields`` makes of many documents of one type; None where any is unusual."""
    schema = _SCHEMAS[media_type]
    if issubclass(schema, wire.Descriptor):
        return None
    return wire.read_plain(schema, raws, media_type=media_type)


def has_fields(media_type: str) -> bool:
    """Whether content of this type is decoded to a struct."""
    return media_type in _SCHEMAS


def read_children(document: Any, raw: bytes | None) -> list[Descriptor]:
    """``children`` of what ``read_source`` returned, as values."""
    found = children(document)
    if raw is None:
        return found
    if isinstance(document, wire.Descriptor):
        return Descriptor._adopt_all(found, [raw])
    return adopt_descriptors(found, raw)


def children(document: Any) -> list[Any]:
    """The descriptors in a document, in the order in which they are walked: manifests, or config and
    layers, then the subject; none of anything else. Of a value values, of a struct structs."""
    if isinstance(document, (wire.Index, Index)):
        found = list(document.manifests or ())
    elif isinstance(document, (wire.Manifest, Manifest)):
        found = [document.config, *(document.layers or ())]
    elif isinstance(document, (wire.Descriptor, Descriptor)):
        return [document]
    else:
        return []
    if document.subject is not None and document.subject is not UNSET:
        found.append(document.subject)
    return found
