"""Descriptors, platforms, indexes and manifests: bytes to values and back.

Reading is strict where the image specification says MUST.  A value remembers the JSON that it came
from: unread, unknown and untouched fields keep their exact bytes through ``replace``, and what
wasn't changed is written as it was read, since its digest depends on that.

Source: OCI image-spec 1.1, descriptor.md, image-index.md, manifest.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NoReturn, TypeVar, cast, overload

import msgspec
from msgspec import UNSET, UnsetType

from fastcas import jsonstyle
from fastcas.digest import Digest, shorten
from fastcas.errors import InvalidError

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

_SIZE_LIMIT = (1 << 63) - 1

# What the decoder fills.  Numbers are "int | float" because msgspec
# takes 5.0 for an int.  gc=False: none of these can be part of a cycle.


class _Platform(msgspec.Struct, gc=False):
    architecture: str
    os: str
    os_version: str | UnsetType | None = msgspec.field(default=UNSET, name="os.version")
    os_features: tuple[str, ...] | UnsetType | None = msgspec.field(default=UNSET, name="os.features")
    variant: str | UnsetType | None = UNSET


class _Descriptor(msgspec.Struct, gc=False, rename="camel"):
    media_type: str
    digest: str
    size: int | float
    urls: tuple[str, ...] | UnsetType | None = UNSET
    annotations: dict[str, str] | UnsetType | None = UNSET
    data: bytes | UnsetType | None = UNSET
    platform: _Platform | UnsetType | None = UNSET
    artifact_type: str | UnsetType | None = UNSET


class _Index(msgspec.Struct, gc=False, rename="camel"):
    schema_version: int | float
    manifests: list[_Descriptor] | None
    media_type: str | UnsetType = UNSET
    artifact_type: str | UnsetType | None = UNSET
    subject: _Descriptor | UnsetType | None = UNSET
    annotations: dict[str, str] | UnsetType | None = UNSET
    # Of another document: one that has these too could be taken for either (CVE-2021-41190).
    config: Any = UNSET
    layers: Any = UNSET
    fs_layers: Any = UNSET


class _Manifest(msgspec.Struct, gc=False, rename="camel"):
    schema_version: int | float
    config: _Descriptor
    layers: list[_Descriptor] | None
    media_type: str | UnsetType = UNSET
    artifact_type: str | UnsetType | None = UNSET
    subject: _Descriptor | UnsetType | None = UNSET
    annotations: dict[str, str] | UnsetType | None = UNSET
    manifests: Any = UNSET
    fs_layers: Any = UNSET


_PLATFORM = msgspec.json.Decoder(_Platform)
_DESCRIPTOR = msgspec.json.Decoder(_Descriptor)
_INDEX = msgspec.json.Decoder(_Index)
_MANIFEST = msgspec.json.Decoder(_Manifest)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])

_T = TypeVar("_T")
_ValueT = TypeVar("_ValueT", bound="_Value")


class _Field(Generic[_T]):
    """A read-only attribute that reads the decoded field of its name; absent is None."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, value: None, owner: type) -> _Field[_T]: ...
    @overload
    def __get__(self, value: _Value, owner: type) -> _T: ...
    def __get__(self, value: _Value | None, owner: type) -> Any:
        return self if value is None else self.read(value)

    def read(self, value: _Value) -> Any:
        found = getattr(value._fields, self.name)
        return None if found is UNSET else found


class _DigestField(_Field[Digest]):
    def read(self, value: _Value) -> Digest:
        # Checked when it was read, as the bare str that the decoder makes.
        return str.__new__(Digest, value._fields.digest)


class _Annotations(_Field["Mapping[str, str] | None"]):
    def read(self, value: _Value) -> Mapping[str, str] | None:
        found = super().read(value)
        return None if found is None else MappingProxyType(found)


class _Nested(_Field[_T]):
    """A value in a value; it is made when it is first asked for, from its own raw bytes."""

    def read(self, value: _Value) -> Any:
        found = super().read(value)
        if isinstance(found, msgspec.Struct):
            found = _make(_CLASSES[type(found)], found, value._member(self.name), _NOTHING)
            setattr(value._fields, self.name, found)
        return found


class _Descriptors(_Field["tuple[Descriptor, ...]"]):
    def read(self, value: _Value) -> tuple[Descriptor, ...]:
        found = super().read(value)
        if type(found) is not tuple:
            found = _make_descriptors(found, value, self.name) if found else ()
            setattr(value._fields, self.name, found)
        return cast("tuple[Descriptor, ...]", found)


def _wire_names(struct: Any, names: str) -> dict[str, str]:
    wire = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    return {name: wire[name] for name in names.split()}


class _Value(jsonstyle.Encodable):
    """A frozen value: decoded fields, the JSON that they were read from, and what changed since."""

    __slots__ = ("_changed", "_fields", "_source")

    # Attribute to wire name, in the order in which Go writes them.
    _names: ClassVar[dict[str, str]]
    _required: ClassVar[frozenset[str]]
    _struct: ClassVar[Any]
    # What a document may call itself; empty for what isn't a document.
    _media_types: ClassVar[tuple[str, ...]] = ()

    _fields: Any
    _source: bytes | msgspec.Raw | None
    _changed: frozenset[str]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen; use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    @property
    def raw(self) -> bytes | None:
        """The exact bytes that this was read from; None if it was made or changed since."""
        return None if self._source is None or self._changed else bytes(self._source)

    @property
    def extra(self) -> dict[str, bytes]:
        """The fields that this class doesn't know: name to the raw JSON of the value."""
        if self._source is None:
            return {}
        known = set(self._names.values())
        found = jsonstyle.members(self._source, what=type(self).__name__)
        return {name: bytes(raw) for name, raw in found.items() if name not in known}

    def replace(self: _ValueT, **changes: Any) -> _ValueT:
        """A copy with these attributes changed; None removes an optional one.

        All else keeps its exact bytes, unknown fields too.  Raises InvalidError naming the field,
        TypeError for an attribute that doesn't exist.
        """
        if not changes:
            return self
        fields = msgspec.structs.replace(self._fields, **self._check(changes))
        changed = self._changed.union(changes) if self._source is not None else _NOTHING
        return _make(type(self), fields, self._source, changed)

    def to_json(self) -> bytes:
        """The exact bytes that were read, if nothing was changed; else Go's compact style.

        A document (Index, Manifest) that was made or changed ends with a newline.
        """
        if self._source is None:
            members: dict[str, Any] = {}
            for name in self._names:
                self._put(members, name)
        elif not self._changed:
            return bytes(self._source)
        else:
            members = dict(jsonstyle.members(self._source, what=type(self).__name__))
            for name in self._names:
                if name in self._changed:
                    members = self._edit(members, name)
        parts = [b"%s:%s" % (jsonstyle.encode_string(key), raw) for key, raw in members.items()]
        return b"{%s}%s" % (b",".join(parts), b"\n" if self.is_document else b"")

    def _put(self, members: dict[str, Any], name: str) -> bool:
        value = getattr(self._fields, name)
        # Go's omitempty; but empty embedded data isn't absent data.
        if value is UNSET or (not value and name not in self._required and name != "data"):
            return False
        if name in ("manifests", "layers"):
            # As item.to_json(), without a call and a copy for each of thousands.
            text = b"[%s]" % b",".join(
                [
                    item.to_json() if item._source is None or item._changed else item._source
                    for item in value
                ]
            )
        else:
            text = jsonstyle.encode_value(value)
        members[self._names[name]] = text
        return True

    def _edit(self, members: dict[str, Any], name: str) -> dict[str, Any]:
        wire = self._names[name]
        if wire in members:
            if not self._put(members, name):
                del members[wire]
            return members
        new: dict[str, Any] = {}
        if not self._put(new, name):
            return members
        # Behind the nearest field that stands before it in Go's order.
        order = list(self._names.values())
        before = [key for key in order[: order.index(wire)] if key in members]
        items = list(members.items())
        place = list(members).index(before[-1]) + 1 if before else 0
        return dict([*items[:place], *new.items(), *items[place:]])

    @classmethod
    def _check(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        checked = {}
        for name, value in values.items():
            if name not in cls._names or name == "schema_version":
                raise TypeError(f"{cls.__name__} has no attribute {name!r} to set")
            if value is not None:
                checked[name] = _CHECKS[name](value, name)
                if name == "media_type" and cls._media_types and value not in cls._media_types:
                    raise InvalidError(f"media_type: {shorten(value)} isn't of a {cls.__name__}")
            elif name in cls._required:
                raise InvalidError(f"{name}: missing")
            else:
                checked[name] = UNSET
        return checked

    def _member(self, name: str) -> msgspec.Raw:
        assert self._source is not None
        return jsonstyle.members(self._source, what=type(self).__name__)[self._names[name]]

    def _key(self) -> tuple[Any, ...]:
        values = [getattr(self, name) for name in self._names]
        return (*[None if value in ("", (), {}) else value for value in values], self.extra)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        if self is other:
            return True
        assert isinstance(other, _Value)
        if self._source is not None and not self._changed and not other._changed:
            same = other._source is not None and bytes(self._source) == bytes(other._source)
            if same:
                return True
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self._names if name in self._required))

    def __repr__(self) -> str:
        shown = [(name, getattr(self, name)) for name in self._names if name != "schema_version"]
        text = ", ".join(f"{name}={_show(value)}" for name, value in shown if value is not None)
        return f"{type(self).__name__}({text})"

    def __copy__(self: _ValueT) -> _ValueT:
        return self

    def __deepcopy__(self: _ValueT, memo: object) -> _ValueT:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        names = self._names if self._source is None else self._changed
        values = {name: getattr(self, name) for name in names if name != "schema_version"}
        plain = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
        source = None if self._source is None else bytes(self._source)
        return _restore, (type(self), source, plain)

    @classmethod
    def _read(cls, raw: bytes, *, what: str, limit: int, media_type: str | None = None) -> Any:
        raise NotImplementedError


_NOTHING: frozenset[str] = frozenset()
_set_fields: Callable[[Any, Any], None] = vars(_Value)["_fields"].__set__
_set_source: Callable[[Any, Any], None] = vars(_Value)["_source"].__set__
_set_changed: Callable[[Any, Any], None] = vars(_Value)["_changed"].__set__


def _make(cls: type[_ValueT], fields: Any, source: Any, changed: frozenset[str]) -> _ValueT:
    value = object.__new__(cls)
    _set_fields(value, fields)
    _set_source(value, source)
    _set_changed(value, changed)
    return value


def _fill(value: _Value, values: dict[str, Any], **fixed: Any) -> None:
    _set_fields(value, value._struct(**fixed, **value._check(values)))
    _set_source(value, None)
    _set_changed(value, _NOTHING)


def _restore(cls: type[_Value], source: bytes | None, values: dict[str, Any]) -> _Value:
    if source is None:
        return cls(**values)
    value: _Value = cls._read(source, what=cls.__name__, limit=len(source))
    return value.replace(**values)


def _show(value: Any) -> str:
    if isinstance(value, Digest):
        return str.__repr__(value)
    if isinstance(value, Mapping):
        return repr(dict(value))
    if isinstance(value, tuple) and len(value) > 4:
        return f"({', '.join(map(repr, value[:2]))}, ... {len(value) - 2} more)"
    return repr(value)


class Platform(_Value):
    """The machine that an image is for, in Go's words (``amd64``, ``linux``)."""

    __slots__ = ()

    _struct = _Platform
    _names = _wire_names(_Platform, "architecture os os_version os_features variant")
    _required = frozenset({"architecture", "os"})

    architecture = _Field[str]("Go's GOARCH.")
    os = _Field[str]("Go's GOOS.")
    os_version = _Field["str | None"]("Such as a Windows build number.")
    os_features = _Field["tuple[str, ...] | None"]("Such as ``win32k``.")
    variant = _Field["str | None"]("Such as ``v8`` of arm64.")

    def __init__(
        self,
        architecture: str,
        os: str,
        os_version: str | None = None,
        os_features: Iterable[str] | None = None,
        variant: str | None = None,
    ) -> None:
        values = {
            "architecture": architecture,
            "os": os,
            "os_version": os_version,
            "os_features": os_features,
            "variant": variant,
        }
        _fill(self, values)

    @classmethod
    def from_json(cls, raw: bytes) -> Platform:
        """The platform in ``raw``; InvalidError naming the field where it isn't one."""
        return cls._read(raw, what="platform", limit=DOCUMENT_LIMIT)

    @classmethod
    def _read(cls, raw: bytes, *, what: str, limit: int, media_type: str | None = None) -> Platform:
        raw = jsonstyle.check_bytes(raw, limit=limit, what=what)
        fields = jsonstyle.decode(_PLATFORM, raw, what=what)
        _check_keys(raw, _count_platform_keys([fields]), what)
        return _make(cls, fields, raw, _NOTHING)


class Descriptor(_Value):
    """What names content: its media type, its digest and its size in bytes.

    Any media type is valid.  ``data`` is the embedded content, decoded; it isn't checked here.
    """

    __slots__ = ()

    _struct = _Descriptor
    _names = _wire_names(
        _Descriptor, "media_type digest size urls annotations data platform artifact_type"
    )
    _required = frozenset({"media_type", "digest", "size"})

    media_type = _Field[str]("The media type of the content.")
    digest = _DigestField("The digest of the content.")
    size = _Field[int]("The size of the content in bytes.")
    urls = _Field["tuple[str, ...] | None"]("Where else the content can be had.")
    annotations = _Annotations("Annotations, read-only.")
    data = _Field["bytes | None"]("The content itself, if it is embedded.")
    platform = _Nested["Platform | None"]("The platform that the content is for.")
    artifact_type = _Field["str | None"]("The type of artifact, if it is one.")

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
        values = {
            "media_type": media_type,
            "digest": digest,
            "size": size,
            "urls": urls,
            "annotations": annotations,
            "data": data,
            "platform": platform,
            "artifact_type": artifact_type,
        }
        _fill(self, values)

    @classmethod
    def from_json(cls, raw: bytes) -> Descriptor:
        """The descriptor in ``raw``; InvalidError naming the field where it isn't one."""
        return cls._read(raw, what="descriptor", limit=DOCUMENT_LIMIT)

    @classmethod
    def _read(cls, raw: bytes, *, what: str, limit: int, media_type: str | None = None) -> Descriptor:
        raw = jsonstyle.check_bytes(raw, limit=limit, what=what)
        fields = jsonstyle.decode(_DESCRIPTOR, raw, what=what)
        _check_descriptor(fields, what)
        _check_keys(raw, _count_descriptor_keys([fields]), what)
        return _make(cls, fields, raw, _NOTHING)


class Index(_Value):
    """An image index: ``index.json`` of a layout, or a list of an image's platforms.

    A new one has the OCI media type; ``media_type=None`` leaves it out.
    """

    __slots__ = ()
    is_document = True

    _struct = _Index
    _names = _wire_names(
        _Index, "schema_version media_type artifact_type manifests subject annotations"
    )
    _required = frozenset({"schema_version", "manifests"})
    _media_types = (MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST)
    _not_beside = ("config", "layers", "fs_layers")

    schema_version = _Field[int]("Always 2.")
    media_type = _Field["str | None"]("What the document says of itself.")
    artifact_type = _Field["str | None"]("The type of artifact, if it is one.")
    manifests = _Descriptors("The entries, in order.")
    subject = _Nested["Descriptor | None"]("The manifest that this one refers to.")
    annotations = _Annotations("Annotations, read-only.")

    def __init__(
        self,
        manifests: Iterable[Descriptor] = (),
        *,
        media_type: str | None = MEDIA_TYPE_INDEX,
        artifact_type: str | None = None,
        subject: Descriptor | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        values = {
            "manifests": manifests,
            "media_type": media_type,
            "artifact_type": artifact_type,
            "subject": subject,
            "annotations": annotations,
        }
        _fill(self, values, schema_version=2)

    @classmethod
    def from_json(
        cls,
        raw: bytes,
        *,
        media_type: str = MEDIA_TYPE_INDEX,
        limit: int = INDEX_LIMIT,
        what: str = "index",
    ) -> Index:
        """The index in ``raw``, which says that it is a ``media_type`` or doesn't say what it is.

        At most ``limit`` bytes are parsed; ``what`` names the document in messages.  Raises
        InvalidError naming the field for anything else, and for what could be another document.
        """
        return cls._read(raw, what=what, limit=limit, media_type=media_type)

    @classmethod
    def _read(cls, raw: bytes, *, what: str, limit: int, media_type: str | None = None) -> Index:
        raw = jsonstyle.check_bytes(raw, limit=limit, what=what)
        fields = jsonstyle.decode(_INDEX, raw, what=what)
        _check_document(cls, fields, what, media_type)
        entries = fields.manifests or []
        _check_descriptors(entries, f"{what}: manifests")
        keys = _count_descriptor_keys(entries) + _count_document_keys(fields)
        _check_keys(raw, keys + 1, what)
        return _make(cls, fields, raw, _NOTHING)


class Manifest(_Value):
    """An image manifest: the config and the layers of one image, or of an artifact."""

    __slots__ = ()
    is_document = True

    _struct = _Manifest
    _names = _wire_names(
        _Manifest, "schema_version media_type artifact_type config layers subject annotations"
    )
    _required = frozenset({"schema_version", "config", "layers"})
    _media_types = (MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST)
    _not_beside = ("manifests", "fs_layers")

    schema_version = _Field[int]("Always 2.")
    media_type = _Field["str | None"]("What the document says of itself.")
    artifact_type = _Field["str | None"]("The type of artifact, if it is one.")
    config = _Nested["Descriptor"]("The image's configuration.")
    layers = _Descriptors("The layers, the base first.")
    subject = _Nested["Descriptor | None"]("The manifest that this one refers to.")
    annotations = _Annotations("Annotations, read-only.")

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
        values = {
            "config": config,
            "layers": layers,
            "media_type": media_type,
            "artifact_type": artifact_type,
            "subject": subject,
            "annotations": annotations,
        }
        _fill(self, values, schema_version=2)

    @classmethod
    def from_json(
        cls,
        raw: bytes,
        *,
        media_type: str = MEDIA_TYPE_MANIFEST,
        limit: int = DOCUMENT_LIMIT,
        what: str = "manifest",
    ) -> Manifest:
        """The manifest in ``raw``, which says that it is a ``media_type`` or not what it is.

        At most ``limit`` bytes are parsed; ``what`` names the document in messages.  Raises
        InvalidError naming the field for anything else, and for what could be another document.
        """
        return cls._read(raw, what=what, limit=limit, media_type=media_type)

    @classmethod
    def _read(cls, raw: bytes, *, what: str, limit: int, media_type: str | None = None) -> Manifest:
        raw = jsonstyle.check_bytes(raw, limit=limit, what=what)
        fields = jsonstyle.decode(_MANIFEST, raw, what=what)
        _check_document(cls, fields, what, media_type)
        _check_descriptor(fields.config, f"{what}: config")
        layers = fields.layers or []
        _check_descriptors(layers, f"{what}: layers")
        keys = _count_descriptor_keys([fields.config, *layers]) + _count_document_keys(fields)
        _check_keys(raw, keys + 2, what)
        return _make(cls, fields, raw, _NOTHING)


_CLASSES: dict[type, Any] = {_Platform: Platform, _Descriptor: Descriptor}


def _make_descriptors(fields: list[_Descriptor], value: _Value, name: str) -> tuple[Descriptor, ...]:
    raws = jsonstyle.decode(_LIST, value._member(name), what=name)
    return tuple([_make(Descriptor, *pair, _NOTHING) for pair in zip(fields, raws, strict=True)])


# Checks of what was read, beyond the types.


def _check_document(cls: Any, fields: Any, what: str, media_type: str | None) -> None:
    version = fields.schema_version
    if type(version) is not int or version != 2:
        raise InvalidError(f"{what}: schemaVersion: {version!r} isn't 2")
    found = fields.media_type
    if media_type is not None and found is not UNSET and found != media_type:
        raise InvalidError(f"{what}: mediaType: {shorten(found)} isn't {media_type!r}")
    for name in cls._not_beside:
        if getattr(fields, name) is not UNSET:
            wire = "fsLayers" if name == "fs_layers" else name
            raise InvalidError(f"{what}: {wire}: ambiguous, doesn't belong in this document")
    if fields.subject is not UNSET and fields.subject is not None:
        _check_descriptor(fields.subject, f"{what}: subject")


def _check_descriptor(fields: _Descriptor, where: str) -> None:
    try:
        _check_size(fields.size, "size")
        Digest(fields.digest)
    except InvalidError as error:
        text = str(error)
        dot = "." if "[" in where or ": " in where else ": "
        field = "" if text.startswith("size: ") else "digest: "
        raise InvalidError(f"{where}{dot}{field}{text}") from None


def _check_descriptors(all_fields: list[_Descriptor], where: str) -> None:
    if len(all_fields) > 16 and _are_plain(all_fields):
        return
    for position, fields in enumerate(all_fields):
        _check_descriptor(fields, f"{where}[{position}]")


def _are_plain(all_fields: list[_Descriptor]) -> bool:
    """Whether all sizes are right and all digests sha256's: a tenth of the cost of one by one."""
    sizes = [fields.size for fields in all_fields]
    if set(map(type, sizes)) != {int} or min(sizes) < 0 or max(sizes) > _SIZE_LIMIT:
        return False
    digests = [fields.digest for fields in all_fields]
    if set(map(len, digests)) != {71} or {digest[:7] for digest in digests} != {"sha256:"}:
        return False
    text = "".join(digests)
    # Of every digest, all that is left of prefix and hexadecimal digits is the prefix's "sh:".
    left = text.encode().translate(None, b"0123456789abcdef") if text.isascii() else b""
    return left == b"sh:" * len(digests)


# The number of keys that were parsed; the raw JSON has more if any is unknown or there twice.


def _check_keys(raw: bytes, keys: int, what: str) -> None:
    if not jsonstyle.has_distinct_keys(raw, keys):
        jsonstyle.check_exactly(raw, what=what)


def _count_platform_keys(platforms: list[_Platform]) -> int:
    count = 2 * len(platforms)
    for platform in platforms:
        if platform.os_version is not UNSET:
            count += 1
        if platform.os_features is not UNSET:
            count += 1
        if platform.variant is not UNSET:
            count += 1
    return count


def _count_descriptor_keys(all_fields: list[_Descriptor]) -> int:
    count = 3 * len(all_fields)
    count += len([1 for fields in all_fields if fields.urls is not UNSET])
    count += len([1 for fields in all_fields if fields.data is not UNSET])
    count += len([1 for fields in all_fields if fields.artifact_type is not UNSET])
    notes = [found for fields in all_fields if (found := fields.annotations) is not UNSET]
    count += len(notes) + sum([len(found) for found in notes if found])
    platforms = [fields.platform for fields in all_fields if fields.platform is not UNSET]
    return count + len(platforms) + _count_platform_keys([p for p in platforms if p is not None])


def _count_document_keys(fields: _Index | _Manifest) -> int:
    optional = (fields.media_type, fields.artifact_type, fields.subject, fields.annotations)
    count = 1 + len([item for item in optional if item is not UNSET])
    if isinstance(fields.subject, _Descriptor):
        count += _count_descriptor_keys([fields.subject])
    if isinstance(fields.annotations, dict):
        count += len(fields.annotations)
    return count


# Checks of what the caller gives; each returns what is kept.


def _check_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidError(f"{name}: must be a str, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidError(f"{name}: lone surrogate in {shorten(value)}") from None
    return value if type(value) is str else str.__str__(value)


def _check_texts(value: Any, name: str) -> tuple[str, ...]:
    items = _check_iterable(value, name)
    return tuple([_check_text(item, f"{name}[{i}]") for i, item in enumerate(items)])


def _check_iterable(value: Any, name: str) -> Iterable[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidError(f"{name}: must be a sequence, not {type(value).__name__}")
    return value


def _check_digest(value: Any, name: str) -> Digest:
    try:
        return Digest(value)
    except InvalidError as error:
        raise InvalidError(f"{name}: {error}") from None


def _check_size(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _SIZE_LIMIT:
        raise InvalidError(f"{name}: {shorten(value)} isn't an integer of 0 to 2**63-1")
    return value


def _check_annotations(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidError(f"{name}: must be a mapping, not {type(value).__name__}")
    return {_check_text(k, f"{name} key"): _check_text(v, name) for k, v in value.items()}


def _check_data(value: Any, name: str) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidError(f"{name}: must be bytes, not {type(value).__name__}")
    return bytes(value)


def _check_platform(value: Any, name: str) -> Platform:
    if not isinstance(value, Platform):
        raise InvalidError(f"{name}: must be a Platform, not {type(value).__name__}")
    return value


def _check_one(value: Any, name: str) -> Descriptor:
    if not isinstance(value, Descriptor):
        raise InvalidError(f"{name}: must be a Descriptor, not {type(value).__name__}")
    return value


def _check_many(value: Any, name: str) -> tuple[Descriptor, ...]:
    items = tuple(_check_iterable(value, name))
    for position, item in enumerate(items):
        if not isinstance(item, Descriptor):
            _check_one(item, f"{name}[{position}]")
    return items


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "architecture": _check_text,
    "os": _check_text,
    "os_version": _check_text,
    "os_features": _check_texts,
    "variant": _check_text,
    "media_type": _check_text,
    "digest": _check_digest,
    "size": _check_size,
    "urls": _check_texts,
    "annotations": _check_annotations,
    "data": _check_data,
    "platform": _check_platform,
    "artifact_type": _check_text,
    "manifests": _check_many,
    "config": _check_one,
    "layers": _check_many,
    "subject": _check_one,
}
