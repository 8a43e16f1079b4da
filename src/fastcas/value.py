"""Values read from JSON: frozen, and they remember the bytes that they came from.

A ``Value`` is a decoded struct of ``wire``, the JSON that it was read from, and the names of what was
changed since.  Unread, unknown and untouched fields keep their exact bytes through ``replace``, and
what wasn't changed is written as it was read, since its digest depends on that.  A ``Field`` is one
attribute of it: how it is read, checked when a caller gives it, and written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, overload

from fastcas import jsonstyle, wire
from fastcas.digest import Digest, shorten
from fastcas.errors import InvalidError
from fastcas.jsonlibrary import UNSET, msgspec

if TYPE_CHECKING:
    from typing_extensions import Never

__all__ = [
    "Annotations",
    "Data",
    "DigestField",
    "Field",
    "Many",
    "Nested",
    "Size",
    "Text",
    "Texts",
    "Value",
]

_NOTHING: frozenset[str] = frozenset()

_T = TypeVar("_T")
_ValueT = TypeVar("_ValueT", bound="Value")


class Field(Generic[_T]):
    """A read-only attribute of a Value, after the field of its name in the schema; absent is None."""

    name: str
    #: What the JSON calls it.
    key: str

    def __init__(self, doc: str, *, required: bool = False) -> None:
        self.__doc__ = doc
        self.required = required

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, value: None, owner: type) -> Field[_T]: ...
    @overload
    def __get__(self, value: Value, owner: type) -> _T: ...
    def __get__(self, value: Value | None, owner: type) -> Any:
        return self if value is None else self.read(value)

    if TYPE_CHECKING:
        # Values refuse it themselves.
        def __set__(self, value: Value, given: Never) -> None: ...

    def read(self, value: Value) -> Any:
        found = getattr(value._fields, self.name)
        return None if found is UNSET else found

    def check(self, given: Any) -> Any:
        """What is kept of what a caller gives; InvalidError naming the field where it is wrong."""
        raise NotImplementedError

    def encode(self, kept: Any) -> bytes | None:
        """The JSON of what ``check`` returned; None where it is left out: Go's omitempty."""
        if kept is UNSET or (not kept and not self.required):
            return None
        return jsonstyle.encode_value(kept)


class Text(Field[Any]):
    def check(self, given: Any) -> str:
        return _check_text(given, self.name)


class Texts(Field[Any]):
    def check(self, given: Any) -> tuple[str, ...]:
        items = _check_iterable(given, self.name)
        return tuple([_check_text(item, f"{self.name}[{i}]") for i, item in enumerate(items)])


class Annotations(Field[Any]):
    def read(self, value: Value) -> Mapping[str, str] | None:
        found = super().read(value)
        return None if found is None else MappingProxyType(found)

    def check(self, given: Any) -> dict[str, str]:
        if not isinstance(given, Mapping):
            raise InvalidError(f"{self.name}: must be a mapping, not {type(given).__name__}")
        name = self.name
        return {_check_text(k, f"{name} key"): _check_text(v, name) for k, v in given.items()}


class DigestField(Field[Any]):
    def read(self, value: Value) -> Digest:
        # Checked when it was read, as the bare str that the decoder makes.
        return str.__new__(Digest, value._fields.digest)

    def check(self, given: Any) -> Digest:
        try:
            return Digest(given)
        except InvalidError as error:
            raise InvalidError(f"{self.name}: {error}") from None


class Size(Field[Any]):
    def check(self, given: Any) -> int:
        return wire.check_size(given, self.name)


class Data(Field[Any]):
    def check(self, given: Any) -> bytes:
        if not isinstance(given, (bytes, bytearray, memoryview)):
            raise InvalidError(f"{self.name}: must be bytes, not {type(given).__name__}")
        return bytes(given)

    def encode(self, kept: Any) -> bytes | None:
        # Empty data isn't absent data.
        return None if kept is UNSET else jsonstyle.encode_value(kept)


class Nested(Field[Any]):
    """A ``kind`` in a value; it is made when it is first asked for, from its own raw bytes."""

    def __init__(self, kind: type[Value], doc: str, *, required: bool = False) -> None:
        super().__init__(doc, required=required)
        self.kind = kind

    def read(self, value: Value) -> Any:
        found = super().read(value)
        if isinstance(found, msgspec.Struct):
            found = _make(self.kind, found, value._read_members()[self.key], _NOTHING)
            setattr(value._fields, self.name, found)
        return found

    def check(self, given: Any) -> Any:
        _check_kind(given, self.kind, self.name)
        return given


class Many(Nested):
    """A tuple of them, made at once; null is an empty one."""

    def read(self, value: Value) -> Any:
        found = Field.read(self, value)
        if type(found) is not tuple:
            found = self._make_all(found, value) if found else ()
            setattr(value._fields, self.name, found)
        return found

    def _make_all(self, found: list[Any], value: Value) -> tuple[Any, ...]:
        raws = jsonstyle.decode(_LIST, value._read_members()[self.key], what=self.name)
        return tuple(self.kind._adopt_all(found, raws))

    def check(self, given: Any) -> tuple[Any, ...]:
        items = tuple(_check_iterable(given, self.name))
        if set(map(type, items)) != {self.kind}:
            for position, item in enumerate(items):
                _check_kind(item, self.kind, f"{self.name}[{position}]")
        return items

    def encode(self, kept: Any) -> bytes | None:
        if not kept:
            return super().encode(kept)
        # As item.to_json(), without a call and a copy for each of thousands.
        items = [
            item.to_json() if item._source is None or item._changed else item._source for item in kept
        ]
        return b"[%s]" % b",".join(items)


_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def _check_text(given: Any, name: str) -> str:
    if not isinstance(given, str):
        raise InvalidError(f"{name}: must be a str, not {type(given).__name__}")
    if not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:
            raise InvalidError(f"{name}: lone surrogate in {shorten(given)}") from None
    return given if type(given) is str else str.__str__(given)


def _check_iterable(given: Any, name: str) -> Iterable[Any]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise InvalidError(f"{name}: must be a sequence, not {type(given).__name__}")
    return given


def _check_kind(given: Any, kind: type, name: str) -> None:
    if not isinstance(given, kind):
        raise InvalidError(f"{name}: must be a {kind.__name__}, not {type(given).__name__}")


class Value(jsonstyle.Encodable):
    """A frozen value: decoded fields, the JSON that they were read from, and what changed since.

    A subclass names its ``schema`` and has a Field for each of the schema's that isn't foreign.
    """

    __slots__ = ("_changed", "_fields", "_source")

    # By name, in the order in which Go writes them.
    _attributes: ClassVar[dict[str, Field[Any]]]
    # Those that no caller sets.
    _fixed: ClassVar[dict[str, Any]] = {}
    _schema: ClassVar[type[wire.Schema]]
    # Their keys, as JSON.
    _quoted_keys: ClassVar[dict[str, bytes]]
    # For ``from_json``: the name in messages, and how many bytes are parsed.
    _what: ClassVar[str]
    _limit: ClassVar[int]

    _fields: Any
    _source: bytes | msgspec.Raw | None
    _changed: frozenset[str]

    def __init_subclass__(cls, schema: type[wire.Schema] | None = None) -> None:
        if schema is None:
            return
        cls._schema = schema
        cls._attributes = {}
        for name, key in zip(schema.__struct_fields__, schema.__struct_encode_fields__, strict=True):
            if name not in schema.foreign:
                field = cls._attributes[name] = getattr(cls, name)
                field.key = key
        cls._quoted_keys = {f.key: jsonstyle.encode_string(f.key) for f in cls._attributes.values()}

    @classmethod
    def from_json(cls: type[_ValueT], raw: bytes) -> _ValueT:
        """The value in ``raw``; InvalidError naming the field where it isn't one."""
        return cls._read(raw, what=cls._what, limit=cls._limit)

    @classmethod
    def _read(
        cls: type[_ValueT], raw: bytes, *, what: str, limit: int, media_type: str | None = None
    ) -> _ValueT:
        raw, fields = wire.read(cls._schema, raw, limit=limit, what=what, media_type=media_type)
        return _make(cls, fields, raw, _NOTHING)

    @classmethod
    def _adopt_all(
        cls: type[_ValueT], all_fields: Iterable[Any], raws: Iterable[bytes | msgspec.Raw]
    ) -> list[_ValueT]:
        """The values of structs that were decoded, and checked, from ``raws``."""
        values = []
        # As _make, without a call for each of thousands.
        for fields, raw in zip(all_fields, raws, strict=True):
            value = _new(cls)
            _set_fields(value, fields)
            _set_source(value, raw)
            _set_changed(value, _NOTHING)
            values.append(value)
        return values

    def _fill(self, **given: Any) -> None:
        """Makes a new value of what the caller of ``__init__`` gave."""
        _set_fields(self, self._schema(**self._fixed, **self._check(given)))
        _set_source(self, None)
        _set_changed(self, _NOTHING)

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

    def _as_read(self: _ValueT, raw: bytes, **fields: Any) -> _ValueT:
        """What would be read from ``raw``, which says what this does, with such fields."""
        return _make(type(self), msgspec.structs.replace(self._fields, **fields), raw, _NOTHING)

    @classmethod
    def _check(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in given.items():
            field = cls._attributes.get(name)
            if field is None or name in cls._fixed:
                raise TypeError(f"{cls.__name__} has no attribute {name!r} to set")
            if value is not None:
                kept[name] = field.check(value)
                cls._check_further(name, value)
            elif field.required:
                raise InvalidError(f"{name}: missing")
            else:
                kept[name] = UNSET
        return kept

    @classmethod
    def _check_further(cls, name: str, value: Any) -> None:
        """Raises InvalidError for what a field's own check can't know."""

    @property
    def raw(self) -> bytes | None:
        """The exact bytes that this was read from; None if it was made or changed since."""
        return None if self._source is None or self._changed else bytes(self._source)

    @property
    def extra(self) -> dict[str, bytes]:
        """The fields that this class doesn't know: name to the raw JSON of the value."""
        if self._source is None:
            return {}
        known = {field.key for field in self._attributes.values()}
        return {key: bytes(raw) for key, raw in self._read_members().items() if key not in known}

    def to_json(self) -> bytes:
        """The exact bytes that were read, if nothing was changed; else Go's compact style.

        A document (Index, Manifest) that was made or changed ends with a newline.
        """
        if self._source is not None and not self._changed:
            return bytes(self._source)
        members = self._encode_new() if self._source is None else self._encode_changed()
        quoted = self._quoted_keys
        parts = [
            b"%s:%s" % (quoted.get(key) or jsonstyle.encode_string(key), raw)
            for key, raw in members.items()
        ]
        return b"{%s}%s" % (b",".join(parts), b"\n" if self.is_document else b"")

    def _encode_new(self) -> dict[str, Any]:
        fields = self._fields
        return {
            field.key: raw
            for name, field in self._attributes.items()
            if (raw := field.encode(getattr(fields, name))) is not None
        }

    def _encode_changed(self) -> dict[str, Any]:
        members: dict[str, Any] = self._read_members()
        # Behind which member a new one is put: the nearest that stands before it in Go's order.
        before = None
        for name, field in self._attributes.items():
            key = field.key
            if name in self._changed:
                raw = field.encode(getattr(self._fields, name))
                if raw is None:
                    members.pop(key, None)
                elif key in members:
                    members[key] = raw
                else:
                    items = list(members.items())
                    place = list(members).index(before) + 1 if before else 0
                    members = dict([*items[:place], (key, raw), *items[place:]])
            if key in members:
                before = key
        return members

    def _read_members(self) -> dict[str, msgspec.Raw]:
        assert self._source is not None
        return jsonstyle.members(self._source, what=type(self).__name__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        if self is other:
            return True
        assert isinstance(other, Value)
        if self._source is not None and not self._changed and not other._changed:
            same = other._source is not None and bytes(self._source) == bytes(other._source)
            if same:
                return True
        return self._key() == other._key()

    def __hash__(self) -> int:
        required = [name for name, field in self._attributes.items() if field.required]
        return hash(tuple([getattr(self, name) for name in required]))

    def _key(self) -> tuple[Any, ...]:
        values = [getattr(self, name) for name in self._attributes]
        return (*[None if value in ("", (), {}) else value for value in values], self.extra)

    def __repr__(self) -> str:
        shown = [(name, getattr(self, name)) for name in self._attributes if name not in self._fixed]
        text = ", ".join(f"{name}={_show(value)}" for name, value in shown if value is not None)
        return f"{type(self).__name__}({text})"

    def __setattr__(self, name: str, value: Never) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen; use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __copy__(self: _ValueT) -> _ValueT:
        return self

    def __deepcopy__(self: _ValueT, memo: object) -> _ValueT:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        names = self._attributes if self._source is None else self._changed
        values = {name: getattr(self, name) for name in names if name not in self._fixed}
        plain = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
        source = None if self._source is None else bytes(self._source)
        return _restore, (type(self), source, plain)


_new = object.__new__
# Past the class's own __setattr__, which refuses.
_set_fields: Callable[[Any, Any], None] = vars(Value)["_fields"].__set__
_set_source: Callable[[Any, Any], None] = vars(Value)["_source"].__set__
_set_changed: Callable[[Any, Any], None] = vars(Value)["_changed"].__set__


def _make(cls: type[_ValueT], fields: Any, source: Any, changed: frozenset[str]) -> _ValueT:
    value = _new(cls)
    _set_fields(value, fields)
    _set_source(value, source)
    _set_changed(value, changed)
    return value


def _restore(cls: type[Value], source: bytes | None, values: dict[str, Any]) -> Value:
    if source is None:
        return cls(**values)
    return cls._read(source, what=cls.__name__, limit=len(source)).replace(**values)


def _show(value: Any) -> str:
    if isinstance(value, Digest):
        return str.__repr__(value)
    if isinstance(value, Mapping):
        return repr(dict(value))
    if isinstance(value, tuple) and len(value) > 4:
        return f"({', '.join(map(repr, value[:2]))}, ... {len(value) - 2} more)"
    return repr(value)
