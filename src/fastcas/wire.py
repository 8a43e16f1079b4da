"""What the image specification's JSON has to be: its fields, their types and the strict reading.

The structs here are what msgspec decodes into.  A field that wasn't there is UNSET, one that was
null is None.  Nobody but the models sees them: they drop unknown fields, and don't know their bytes.

Source: OCI image-spec 1.1, descriptor.md, image-index.md, manifest.md, config.md.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from fastcas import _core, jsonstyle
from fastcas.digest import Digest, shorten
from fastcas.errors import InvalidError
from fastcas.jsonlibrary import UNSET, UnsetType, msgspec

__all__ = [
    "Config",
    "Descriptor",
    "History",
    "Index",
    "Manifest",
    "Platform",
    "RootFS",
    "Schema",
    "check_size",
    "read",
    "read_plain",
]

_SIZE_LIMIT = (1 << 63) - 1
_is_sha256 = re.compile("sha256:[0-9a-f]{64}").fullmatch

_SchemaT = TypeVar("_SchemaT", bound="Schema")


def read(
    schema: type[_SchemaT], raw: bytes, *, limit: int, what: str, media_type: str | None = None
) -> tuple[bytes, _SchemaT]:
    """``raw`` as bytes, at most ``limit`` of them, and what they say, all of it checked.

    ``what`` names the value in messages; a document mustn't say that it isn't a ``media_type``.
    Raises InvalidError naming the field.
    """
    raw = jsonstyle.check_bytes(raw, limit=limit, what=what)
    fields = jsonstyle.decode(_DECODERS[schema], raw, what=what)
    fields.check(what, media_type)
    if not jsonstyle.has_distinct_keys(raw, fields.count_keys()):
        jsonstyle.check_exactly(raw, what=what)
        if schema.foreign:
            _check_spelling(schema, raw, what)
    return raw, fields


def read_plain(
    schema: type[Index] | type[Manifest], raws: list[bytes], *, media_type: str
) -> list[Index] | list[Manifest] | None:
    """What ``read`` makes of each of ``raws``, some hundred documents that are short enough, if nothing
    about any of them is unusual; else None: ``read`` says which is wrong, and how.

    Looks at a field of all of them at a time: a third of the cost.
    """
    text = b"\n".join(raws)
    # So it is UTF-8, and has no byte order mark.
    found = jsonstyle.decode_all(_DECODERS[schema], raws) if text.isascii() else None
    if found is None:
        return None
    descriptors = schema.collect(found)
    if descriptors and not _are_plain(descriptors):
        return None
    for fields in found:
        if fields.media_type != media_type and fields.media_type is not UNSET:
            return None
    # A float is equal, and isn't right.
    if {repr(fields.schema_version) for fields in found} != {"2"}:
        return None
    # Of no document are fewer keys found in the text than were decoded: the sums are equal if all are.
    # Foreign fields aren't counted as decoded.
    count = _count_document_keys(found) + _count_descriptor_keys(descriptors)
    return found if jsonstyle.has_distinct_keys(text, count) else None


def _check_spelling(schema: type[Schema], raw: bytes, what: str) -> None:
    # Go's decoder ignores case: of "Manifests" beside "manifests" it takes what comes last, and what
    # is empty for us may lead it to blobs.
    known = schema.__struct_encode_fields__
    spelt = {name.lower(): name for name in known}
    for key in jsonstyle.members(raw, what=what):
        name = spelt.get(key.lower(), key)
        if name != key:
            raise InvalidError(f"{what}: {shorten(key)}: ambiguous, some readers take it for {name!r}")


# gc=False: none of these can be part of a cycle.
class Schema(msgspec.Struct, gc=False, rename="camel"):
    """A JSON object; its fields stand in the order in which Go writes them."""

    # Fields of another document: one that has these too could be taken for either (CVE-2021-41190).
    # Without an annotation, which msgspec would evaluate for each subclass when it is imported.
    foreign = tuple[str, ...]()

    def check(self, what: str, media_type: str | None) -> None:
        """Raises InvalidError for what the types alone let through."""

    def count_keys(self) -> int:
        """The number of keys that were decoded; the JSON has more if any is unknown or twice there.

        A number that can't be right, such as -1, has the JSON looked at key by key.
        """
        return -1


class Platform(Schema):
    architecture: str
    os: str
    os_version: str | UnsetType | None = msgspec.field(default=UNSET, name="os.version")
    os_features: tuple[str, ...] | UnsetType | None = msgspec.field(default=UNSET, name="os.features")
    variant: str | UnsetType | None = UNSET

    def count_keys(self) -> int:
        return _count_platform_keys([self])


class Descriptor(Schema):
    media_type: str
    digest: str
    # "int | float" because msgspec takes 5.0 for an int.
    size: int | float
    urls: tuple[str, ...] | UnsetType | None = UNSET
    annotations: dict[str, str] | UnsetType | None = UNSET
    data: bytes | UnsetType | None = UNSET
    platform: Platform | UnsetType | None = UNSET
    artifact_type: str | UnsetType | None = UNSET

    def check(self, what: str, media_type: str | None) -> None:
        _check_descriptor(self, what)

    def count_keys(self) -> int:
        return _count_descriptor_keys([self])


class Index(Schema, kw_only=True):
    schema_version: int | float
    media_type: str | UnsetType = UNSET
    artifact_type: str | UnsetType | None = UNSET
    manifests: list[Descriptor] | None
    subject: Descriptor | UnsetType | None = UNSET
    annotations: dict[str, str] | UnsetType | None = UNSET

    required_keys = 2
    foreign = ("config", "layers", "fs_layers")
    config: Any = UNSET
    layers: Any = UNSET
    fs_layers: Any = UNSET

    def check(self, what: str, media_type: str | None) -> None:
        _check_document(self, what, media_type)
        _check_descriptors(self.manifests or [], what, "manifests")

    def count_keys(self) -> int:
        return _count_document_keys([self]) + _count_descriptor_keys(self.collect([self]))

    @staticmethod
    def collect(all_fields: list[Index]) -> list[Descriptor]:
        """The descriptors in all of them, in no order."""
        found = [entry for fields in all_fields for entry in fields.manifests or ()]
        return found + _collect_subjects(all_fields)


class Manifest(Schema, kw_only=True):
    schema_version: int | float
    media_type: str | UnsetType = UNSET
    artifact_type: str | UnsetType | None = UNSET
    config: Descriptor
    layers: list[Descriptor] | None
    subject: Descriptor | UnsetType | None = UNSET
    annotations: dict[str, str] | UnsetType | None = UNSET

    required_keys = 3
    foreign = ("manifests", "fs_layers")
    manifests: Any = UNSET
    fs_layers: Any = UNSET

    def check(self, what: str, media_type: str | None) -> None:
        _check_document(self, what, media_type)
        if not _is_plain(self.config):
            _check_descriptor(self.config, f"{what}: config")
        _check_descriptors(self.layers or [], what, "layers")

    def count_keys(self) -> int:
        return _count_document_keys([self]) + _count_descriptor_keys(self.collect([self]))

    @staticmethod
    def collect(all_fields: list[Manifest]) -> list[Descriptor]:
        """The descriptors in all of them, in no order."""
        found = [fields.config for fields in all_fields]
        found += [layer for fields in all_fields for layer in fields.layers or ()]
        return found + _collect_subjects(all_fields)


class RootFS(Schema):
    type: str
    diff_ids: tuple[str, ...] | None = msgspec.field(name="diff_ids")

    def check(self, what: str, media_type: str | None) -> None:
        for position, digest in enumerate(self.diff_ids or ()):
            try:
                Digest(digest)
            except InvalidError as error:
                raise InvalidError(f"{what}.diff_ids[{position}]: {error}") from None


class History(Schema):
    created: str | UnsetType | None = UNSET
    created_by: str | UnsetType | None = msgspec.field(default=UNSET, name="created_by")
    author: str | UnsetType | None = UNSET
    comment: str | UnsetType | None = UNSET
    empty_layer: bool | UnsetType | None = msgspec.field(default=UNSET, name="empty_layer")


class Config(Schema, kw_only=True):
    created: str | UnsetType | None = UNSET
    author: str | UnsetType | None = UNSET
    architecture: str
    os: str
    os_version: str | UnsetType | None = msgspec.field(default=UNSET, name="os.version")
    os_features: tuple[str, ...] | UnsetType | None = msgspec.field(default=UNSET, name="os.features")
    variant: str | UnsetType | None = UNSET
    config: dict[str, Any] | UnsetType | None = UNSET
    rootfs: RootFS
    history: list[History] | UnsetType | None = UNSET

    def check(self, what: str, media_type: str | None) -> None:
        self.rootfs.check(f"{what}: rootfs", None)


_DECODERS: dict[type[Schema], Any] = {
    schema: msgspec.json.Decoder(schema)
    for schema in (Platform, Descriptor, Index, Manifest, RootFS, History, Config)
}


def _check_document(fields: Index | Manifest, what: str, media_type: str | None) -> None:
    version = fields.schema_version
    if type(version) is not int or version != 2:
        raise InvalidError(f"{what}: schemaVersion: {version!r} isn't 2")
    found = fields.media_type
    if media_type is not None and found is not UNSET and found != media_type:
        raise InvalidError(f"{what}: mediaType: {shorten(found)} isn't {media_type!r}")
    for name in fields.foreign:
        if getattr(fields, name) is not UNSET:
            key = fields.__struct_encode_fields__[fields.__struct_fields__.index(name)]
            raise InvalidError(f"{what}: {key}: ambiguous, doesn't belong in this document")
    subject = fields.subject
    if isinstance(subject, Descriptor) and not _is_plain(subject):
        _check_descriptor(subject, f"{what}: subject")


def _check_descriptors(all_fields: list[Descriptor], what: str, name: str) -> None:
    if len(all_fields) > 16 and _are_plain(all_fields):
        return
    for position, fields in enumerate(all_fields):
        if not _is_plain(fields):
            _check_descriptor(fields, f"{what}: {name}[{position}]")


def _is_plain(fields: Descriptor) -> bool:
    """Whether size and digest are right, the digest a sha256 as most are: a third of the full check."""
    size = fields.size
    return type(size) is int and 0 <= size <= _SIZE_LIMIT and _is_sha256(fields.digest) is not None


def _check_descriptor(fields: Descriptor, where: str) -> None:
    try:
        check_size(fields.size, "size")
        Digest(fields.digest)
    except InvalidError as error:
        text = str(error)
        dot = "." if "[" in where or ": " in where else ": "
        field = "" if text.startswith("size: ") else "digest: "
        raise InvalidError(f"{where}{dot}{field}{text}") from None


def check_size(value: Any, name: str) -> int:
    """``value``, found to be a size in bytes; InvalidError naming the field where it isn't."""
    if type(value) is not int or not 0 <= value <= _SIZE_LIMIT:
        raise InvalidError(f"{name}: {shorten(value)} isn't an integer of 0 to 2**63-1")
    return value


def _are_plain(all_fields: list[Descriptor]) -> bool:
    """Whether all sizes are right and all digests sha256's: a tenth of the cost of one by one."""
    sizes = [fields.size for fields in all_fields]
    if set(map(type, sizes)) != {int} or min(sizes) < 0 or max(sizes) > _SIZE_LIMIT:
        return False
    return _core.are_digests([fields.digest for fields in all_fields], "sha256:", 64)


def _collect_subjects(all_fields: list[Any]) -> list[Descriptor]:
    return [found for fields in all_fields if isinstance(found := fields.subject, Descriptor)]


def _count_document_keys(all_fields: list[Any]) -> int:
    """Those of many documents of one type, but for what their descriptors have."""
    count = 0
    for fields in all_fields:
        count += fields.required_keys
        if fields.media_type is not UNSET:
            count += 1
        if fields.artifact_type is not UNSET:
            count += 1
        if fields.subject is not UNSET:
            count += 1
        if fields.annotations is not UNSET:
            count += 1 + len(fields.annotations or ())
    return count


def _count_descriptor_keys(all_fields: list[Descriptor]) -> int:
    count = 3 * len(all_fields)
    if len(all_fields) > 16:
        return count + _count_optional_keys(all_fields)
    for fields in all_fields:
        if fields.annotations is not UNSET:
            count += 1 + len(fields.annotations or ())
        if fields.platform is not UNSET:
            count += 1
            if fields.platform is not None:
                count += _count_platform_keys([fields.platform])
        if fields.urls is not UNSET:
            count += 1
        if fields.data is not UNSET:
            count += 1
        if fields.artifact_type is not UNSET:
            count += 1
    return count


def _count_optional_keys(all_fields: list[Descriptor]) -> int:
    """Of many, a field at a time: half the cost of a descriptor at a time."""
    count = 0
    count += len([1 for fields in all_fields if fields.urls is not UNSET])
    count += len([1 for fields in all_fields if fields.data is not UNSET])
    count += len([1 for fields in all_fields if fields.artifact_type is not UNSET])
    notes = [found for fields in all_fields if (found := fields.annotations) is not UNSET]
    count += len(notes) + sum([len(found) for found in notes if found])
    platforms = [fields.platform for fields in all_fields if fields.platform is not UNSET]
    return count + len(platforms) + _count_platform_keys([p for p in platforms if p is not None])


def _count_platform_keys(platforms: list[Platform]) -> int:
    count = 2 * len(platforms)
    for platform in platforms:
        if platform.os_version is not UNSET:
            count += 1
        if platform.os_features is not UNSET:
            count += 1
        if platform.variant is not UNSET:
            count += 1
    return count
