"""What the arguments of the command line name, and the facts that it tells of it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from fastcas.engine import Engine
    from fastcas.model import Descriptor, Index, Manifest


def as_digest(text: str) -> str | None:
    """The digest that the text is; None where it may be a name.

    ``host:5000`` fits the digest grammar, so only registered algorithms make a text a digest.
    """
    from fastcas.digest import REGISTERED, Digest

    return Digest(text) if text.partition(":")[0] in REGISTERED else None


def find_entry(engine: Engine, target: str) -> Descriptor | None:
    """The entry of the index with this name or digest; a name of two contents is an error."""
    from fastcas.errors import InvalidError
    from fastcas.image.reference import find_entries

    entries = find_entries(engine, target)
    if len({entry.digest for entry in entries}) > 1:
        digests = ", ".join(entry.digest for entry in entries)
        raise InvalidError(f"{target} is the name of several: {digests}; say which digest")
    return entries[0] if entries else None


def find_digest(engine: Engine, target: str) -> str:
    """The digest that a DIGEST or NAME of the command line means."""
    from fastcas.digest import Digest
    from fastcas.errors import InvalidError, NotExistError

    digest = as_digest(target)
    if digest is not None:
        return digest
    entry = find_entry(engine, target)
    if entry is not None:
        return entry.digest
    try:
        return Digest(target)
    except InvalidError:
        raise NotExistError(f"{target}: no reference of that name") from None


def describe_document(engine: Engine, digest: str) -> Descriptor:
    """A descriptor of a stored manifest or index, its type read from the document."""
    from fastcas.errors import InvalidError
    from fastcas.model import Descriptor

    raw = engine.read_blob(digest)
    try:
        media_type = document_type(raw)
        if kind := document_class(media_type):
            kind.from_json(raw, media_type=media_type)
    except InvalidError as error:
        message = f"{digest} can't be named, it is no manifest or index: {error}"
        raise InvalidError(message, digest=digest) from error
    return Descriptor(media_type, digest, len(raw))


def document_type(raw: bytes) -> str:
    """The media type that a document states or, where it states none, has by its fields."""
    import json

    from fastcas.errors import InvalidError
    from fastcas.jsonstyle import decode_document
    from fastcas.model import MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST

    document = decode_document(raw, limit=len(raw), what="document")
    if "mediaType" in document:
        stated = json.loads(bytes(document["mediaType"]))
        if not isinstance(stated, str) or not stated:
            raise InvalidError("document: mediaType: not a media type")
        return stated
    if "manifests" in document:
        return MEDIA_TYPE_INDEX
    if "config" in document and "layers" in document:
        return MEDIA_TYPE_MANIFEST
    raise InvalidError("document: mediaType: missing")


def document_class(media_type: str) -> type[Manifest | Index] | None:
    """What reads a document of this type; None for types that aren't known."""
    from fastcas import model

    if media_type in (model.MEDIA_TYPE_INDEX, model.MEDIA_TYPE_DOCKER_LIST):
        return model.Index
    if media_type in (model.MEDIA_TYPE_MANIFEST, model.MEDIA_TYPE_DOCKER_MANIFEST):
        return model.Manifest
    return None


def split_source(text: str) -> tuple[str, str | None]:
    """LAYOUT[:NAME] in two: names have colons and so may paths; the longest directory wins."""
    if os.path.isdir(text):
        return text, None
    end = len(text)
    while (end := text.rfind(":", 0, end)) > 0:
        if os.path.isdir(text[:end]):
            return text[:end], text[end + 1 :]
    layout, colon, name = text.partition(":")
    return layout, name if colon else None


def sized(engine: Engine) -> Iterator[tuple[str, int]]:
    from fastcas.errors import NotExistError

    for digest in engine.list_blobs():
        try:
            yield digest, engine.stat_blob(digest).size
        except NotExistError:
            continue  # deleted since it was listed


def layout_facts(engine: Engine, layout: str) -> dict[str, Any]:
    entries = len(engine.get_index().manifests)
    references = len(engine.list_references())
    blobs = size = 0
    for _, length in sized(engine):
        blobs += 1
        size += length
    return {
        "path": layout,
        "blobs": blobs,
        "size": size,
        "entries": entries,
        "references": references,
    }


def image_facts(engine: Engine, entry: Descriptor, name: str) -> dict[str, Any]:
    from fastcas.model import Manifest

    facts = {"name": name, **manifest_facts(entry), "stored": entry.digest in engine}
    kind = document_class(entry.media_type)
    if kind is None or not facts["stored"]:
        return facts
    document = kind.from_json(engine.read_blob(entry.digest), media_type=entry.media_type)
    if isinstance(document, Manifest):
        facts["config"] = descriptor_facts(document.config)
        facts["layers"] = [descriptor_facts(layer) for layer in document.layers]
    else:
        facts["manifests"] = [manifest_facts(manifest) for manifest in document.manifests]
    return facts


def descriptor_facts(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "digest": descriptor.digest,
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
    }


def manifest_facts(descriptor: Descriptor) -> dict[str, Any]:
    facts = descriptor_facts(descriptor)
    if (platform := descriptor.platform) is not None:
        parts = (platform.os, platform.architecture, platform.variant)
        facts["platform"] = "/".join(part for part in parts if part)
    return facts
