"""What the arguments of the command line name."""

from __future__ import annotations

import os

from fastcas.layout import is_url

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def find_descriptor(engine: Engine, target: str, platform: str | None = None) -> Descriptor:
    """What a name, ``name@digest``, digest or beginning of one stands for in the index or below it: an
    image or an index; with ``platform`` the image for it. NotExistError where there is none."""
    from fastcas.image.closure import select_entry

    if platform is None and (entry := find_entry(engine, target)):
        return entry
    return select_entry(engine, target, platform)


def find_digest(engine: Engine, target: str, platform: str | None = None) -> str:
    """The digest that a DIGEST or NAME of the command line means: a whole digest, which needn't be
    stored, else what the index knows by the name or beginning, else the blob that begins so."""
    from fastcas.digest import Digest
    from fastcas.errors import InvalidError, NotExistError

    wrong = None
    if platform is None:
        try:
            digest = as_digest(target)
        except InvalidError as error:
            wrong = error  # unless it is the beginning of one
        else:
            if digest is not None:
                return digest
    try:
        return find_descriptor(engine, target, platform).digest
    except NotExistError:
        if platform is not None:
            raise
        from fastcas.image.resolve import find_stored, is_short

        if (stored := find_stored(engine, target)) is not None:
            return stored
        if wrong is not None and not is_short(target):
            raise wrong from None
        try:
            return Digest(target)
        except InvalidError:
            pass
        raise


def find_blob(engine: Engine, target: str) -> str:
    """The digest that a DIGEST of the command line means where only a blob can be meant: a whole one,
    which needn't be stored, or the beginning of one that is. A reference is refused."""
    from fastcas.digest import Digest
    from fastcas.errors import InvalidError, NotExistError

    wrong = None
    try:
        if (digest := as_digest(target)) is not None:
            return digest
        if (digest := Digest(target)) in engine:
            return digest
    except InvalidError as error:
        wrong = error  # unless it is the beginning of one
    if target in engine.list_references():
        raise InvalidError(f"{target} is a reference and no digest: untag removes it")
    from fastcas.image.resolve import find_stored, is_short

    if (stored := find_stored(engine, target)) is not None:
        return stored
    if wrong is not None and not is_short(target):
        raise wrong
    raise NotExistError(f"{target}: no such blob")


def find_document(engine: Engine, target: str, platform: str | None = None) -> Descriptor:
    """Like ``find_descriptor``, also of a manifest or index that is stored and not in the index."""
    from fastcas.errors import NotExistError

    try:
        return find_descriptor(engine, target, platform)
    except NotExistError:
        if platform is not None:
            raise
    return describe_document(engine, find_digest(engine, target))


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


def split_place(text: str) -> tuple[str, str | None]:
    """PATH[:NAME] in two: names have colons and so may paths; the longest that exists wins. A URL has
    none behind its scheme's."""
    if is_url(text):
        start = text.index("://") + len("://")
        path, colon, name = text[start:].partition(":")
        return text[:start] + path, name if colon else None
    if os.path.exists(text):
        return text, None
    end = len(text)
    while (end := text.rfind(":", 0, end)) > 0:
        if os.path.exists(text[:end]):
            return text[:end], text[end + 1 :]
    path, colon, name = text.partition(":")
    return path, name if colon else None


def is_layout(path: str) -> bool:
    """Whether it is a directory that means to be a layout, or the URL of one."""
    return is_url(path) or (os.path.isdir(path) and os.path.lexists(os.path.join(path, "oci-layout")))
