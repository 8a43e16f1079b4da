"""Descriptors, platforms, indexes and manifests: bytes to values and back.

``value`` says how a value keeps what it was read from, ``wire`` what is read at all.

Source: OCI image-spec 1.1, descriptor.md, image-index.md, manifest.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from fastcas import jsonstyle, wire
from fastcas.digest import Digest, shorten
from fastcas.errors import InvalidError
from fastcas.jsonlibrary import UNSET, UnsetType, msgspec
from fastcas.value import (
    Annotations,
    Data,
    DigestField,
    Field,
    Many,
    Nested,
    Size,
    Text,
    Texts,
    Value,
)

__all__ = [
    "Descriptor",
    "Index",
    "Manifest",
    "Platform",
    "ANNOTATION_REF_NAME",
    "DOCUMENT_LIMIT",
    "INDEX_LIMIT",
    "MEDIA_TYPE_CONFIG",
    "MEDIA_TYPE_DOCKER_CONFIG",
    "MEDIA_TYPE_DOCKER_LAYER_GZIP",
    "MEDIA_TYPE_DOCKER_LIST",
    "MEDIA_TYPE_DOCKER_MANIFEST",
    "MEDIA_TYPE_EMPTY",
    "MEDIA_TYPE_INDEX",
    "MEDIA_TYPE_LAYER",
    "MEDIA_TYPE_LAYER_GZIP",
    "MEDIA_TYPE_LAYER_ZSTD",
    "MEDIA_TYPE_MANIFEST",
    "adopt_descriptors",
]

MEDIA_TYPE_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_TYPE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_TYPE_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_TYPE_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_TYPE_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MEDIA_TYPE_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
MEDIA_TYPE_EMPTY = "application/vnd.oci.empty.v1+json"
MEDIA_TYPE_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_TYPE_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_TYPE_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MEDIA_TYPE_DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"

#: The most bytes that are parsed: of a document in a blob, and of ``index.json``.
DOCUMENT_LIMIT = 4 << 20
INDEX_LIMIT = 64 << 20


class Platform(Value, schema=wire.Platform):
    """The machine that an image is for, in Go's words (``amd64``, ``linux``)."""

    __slots__ = ()
    _what = "platform"
    _limit = DOCUMENT_LIMIT

    architecture: Field[str] = Text("Go's GOARCH.", required=True)
    os: Field[str] = Text("Go's GOOS.", required=True)
    os_version: Field[str | None] = Text("Such as a Windows build number.")
    os_features: Field[tuple[str, ...] | None] = Texts("Such as ``win32k``.")
    variant: Field[str | None] = Text("Such as ``v8`` of arm64.")

    def __init__(
        self,
        architecture: str,
        os: str,
        os_version: str | None = None,
        os_features: Iterable[str] | None = None,
        variant: str | None = None,
    ) -> None:
        self._fill(
            architecture=architecture,
            os=os,
            os_version=os_version,
            os_features=os_features,
            variant=variant,
        )


class Descriptor(Value, schema=wire.Descriptor):
    """What names content: its media type, its digest and its size in bytes.

    Any media type is valid.  ``data`` is the embedded content, decoded; it isn't checked here.
    """

    __slots__ = ()
    _what = "descriptor"
    _limit = DOCUMENT_LIMIT

    media_type: Field[str] = Text("The media type of the content.", required=True)
    digest: Field[Digest] = DigestField("The digest of the content.", required=True)
    size: Field[int] = Size("The size of the content in bytes.", required=True)
    urls: Field[tuple[str, ...] | None] = Texts("Where else the content can be had.")
    annotations: Field[Mapping[str, str] | None] = Annotations("Annotations, read-only.")
    data: Field[bytes | None] = Data("The content itself, if it is embedded.")
    platform: Field[Platform | None] = Nested(Platform, "The platform that the content is for.")
    artifact_type: Field[str | None] = Text("The type of artifact, if it is one.")

    def __init__(
        self,
        media_type: str,
        digest: str,
        size: int,
        urls: Iterable[str] | None = None,
        annotations: Mapping[str, str] | None = None,
        data: bytes | None = None,
        platform: Platform | None = None,
        artifact_type: str | None = None,
    ) -> None:
        self._fill(
            media_type=media_type,
            digest=digest,
            size=size,
            urls=urls,
            annotations=annotations,
            data=data,
            platform=platform,
            artifact_type=artifact_type,
        )


class _Document(Value):
    """What Index and Manifest have in common: each is the whole of a blob and says what it is."""

    __slots__ = ()
    is_document = True

    _fixed: ClassVar[dict[str, Any]] = {"schema_version": 2}
    # What it may call itself; the first is the specification's own.
    _media_types: ClassVar[tuple[str, ...]]

    schema_version: Field[int] = Field("Always 2.", required=True)
    media_type: Field[str | None] = Text("What the document says of itself.")
    artifact_type: Field[str | None] = Text("The type of artifact, if it is one.")
    subject: Field[Descriptor | None] = Nested(Descriptor, "The manifest that this one refers to.")
    annotations: Field[Mapping[str, str] | None] = Annotations("Annotations, read-only.")

    @classmethod
    def from_json(
        cls: type[_DocumentT],
        raw: bytes,
        *,
        media_type: str | None = None,
        limit: int | None = None,
        what: str | None = None,
    ) -> _DocumentT:
        """The document in ``raw``, which says that it is a ``media_type`` or not what it is.

        ``media_type`` is the OCI one where none is given.  At most ``limit`` bytes are parsed:
        INDEX_LIMIT of an index, DOCUMENT_LIMIT of a manifest.  ``what`` names it in messages.
        Raises InvalidError naming the field for anything else, and for what could be another document.
        """
        return cls._read(
            raw,
            what=cls._what if what is None else what,
            limit=cls._limit if limit is None else limit,
            media_type=cls._media_types[0] if media_type is None else media_type,
        )

    @classmethod
    def _check_further(cls, name: str, value: Any) -> None:
        if name == "media_type" and value not in cls._media_types:
            raise InvalidError(f"media_type: {shorten(value)} isn't of a {cls.__name__}")


_DocumentT = TypeVar("_DocumentT", bound=_Document)


class Index(_Document, schema=wire.Index):
    """An image index: ``index.json`` of a layout, or a list of an image's platforms.

    A new one has the OCI media type; ``media_type=None`` leaves it out.
    """

    __slots__ = ()
    _what = "index"
    _limit = INDEX_LIMIT
    _media_types = (MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST)

    manifests: Field[tuple[Descriptor, ...]] = Many(Descriptor, "The entries, in order.", required=True)

    def __init__(
        self,
        manifests: Iterable[Descriptor] = (),
        *,
        media_type: str | None = MEDIA_TYPE_INDEX,
        artifact_type: str | None = None,
        subject: Descriptor | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self._fill(
            manifests=manifests,
            media_type=media_type,
            artifact_type=artifact_type,
            subject=subject,
            annotations=annotations,
        )

    def reread_entries(self, before: Index) -> Index | None:
        """What ``from_json`` reads from this index's own JSON, if it is ``before`` with other
        ``manifests``, all of which can be read again; else None.

        Read, and written, are only the entries that aren't ``before``'s own: of thousands, most are.
        """
        if self._source is not before._source or self._changed != {"manifests"} or before._changed:
            return None
        known = set(map(id, before.manifests))
        entries = list(self.manifests)
        places = [at for at, entry in enumerate(entries) if id(entry) not in known]
        # As deep as in the whole.
        new = b",".join([entries[at].to_json() for at in places])
        try:
            read = Index.from_json(b'{"schemaVersion":2,"manifests":[%s]}' % new).manifests
        except InvalidError:
            return None
        for at, entry in zip(places, read, strict=True):
            entries[at] = entry
        reread = self.replace(manifests=entries)
        return reread._as_read(reread.to_json())


class Manifest(_Document, schema=wire.Manifest):
    """An image manifest: the config and the layers of one image, or of an artifact."""

    __slots__ = ()
    _what = "manifest"
    _limit = DOCUMENT_LIMIT
    _media_types = (MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST)

    config: Field[Descriptor] = Nested(Descriptor, "The image's configuration.", required=True)
    layers: Field[tuple[Descriptor, ...]] = Many(
        Descriptor, "The layers, the base first.", required=True
    )

    def __init__(
        self,
        config: Descriptor,
        layers: Iterable[Descriptor] = (),
        *,
        media_type: str | None = MEDIA_TYPE_MANIFEST,
        artifact_type: str | None = None,
        subject: Descriptor | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self._fill(
            config=config,
            layers=layers,
            media_type=media_type,
            artifact_type=artifact_type,
            subject=subject,
            annotations=annotations,
        )


class _Sources(msgspec.Struct, gc=False):
    """Where the descriptors stand in a document, an Index or a Manifest."""

    config: msgspec.Raw | UnsetType = UNSET
    layers: list[msgspec.Raw] | UnsetType | None = UNSET
    manifests: list[msgspec.Raw] | UnsetType | None = UNSET
    subject: msgspec.Raw | UnsetType = UNSET


_SOURCES = msgspec.json.Decoder(_Sources)


def adopt_descriptors(found: list[wire.Descriptor], raw: bytes) -> list[Descriptor]:
    """The values of ``found``: all structs of descriptors in the document ``raw``, which was checked,
    in the order of manifests, or config and layers, then subject."""
    sources = jsonstyle.decode(_SOURCES, raw, what="document")
    raws = list(sources.manifests or ())
    if sources.config is not UNSET:
        raws.append(sources.config)
    raws += sources.layers or ()
    if len(raws) < len(found) and sources.subject is not UNSET:
        raws.append(sources.subject)
    return Descriptor._adopt_all(found, raws)
