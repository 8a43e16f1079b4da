"""JSON at the boundary: strict reading of what others wrote, exact bytes of what we write.

Reading refuses what two parsers may read in two ways (duplicate keys, trailing data, NaN, byte
order marks, lone surrogates) and what is only there to hurt (depth, size).  Writing gives the
bytes of Go's ``encoding/json``: equal values have equal digests, whichever tool stored them.
"""

from __future__ import annotations

import re
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NoReturn, Protocol, TypeVar

from fastcas import _core
from fastcas.digest import shorten
from fastcas.errors import InvalidError
from fastcas.jsonlibrary import msgspec

__all__ = ["MAX_DEPTH", "Encodable", "decode_document", "encode_canonical", "encode_go"]

#: Arrays and objects may be nested this deeply, when reading and when writing.
MAX_DEPTH = 100

_T_co = TypeVar("_T_co", covariant=True)


class Decoder(Protocol[_T_co]):
    """What is used of a ``msgspec.json.Decoder``."""

    def decode(self, buf: bytes | str | msgspec.Raw, /) -> _T_co: ...


class Encodable:
    """A value that knows its own JSON; ``encode_go`` asks it instead of taking it apart."""

    __slots__ = ()

    #: Whether ``to_json`` is a whole document, to which not even a newline is added.
    is_document = False

    def to_json(self) -> bytes:
        raise NotImplementedError


def decode_document(raw: bytes, *, limit: int, what: str) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, in order, each as its exact bytes; all of it is checked.

    ``limit`` is in bytes; ``what`` names the document in messages.  Raises InvalidError for what
    isn't one JSON object of at most ``limit`` bytes without duplicate keys at any level.
    """
    raw = check_bytes(raw, limit=limit, what=what)
    check_exactly(raw, what=what)
    return members(raw, what=what)


def check_bytes(raw: bytes, *, limit: int, what: str) -> bytes:
    """``raw`` as bytes, found to be short enough and UTF-8 without a byte order mark."""
    if not isinstance(raw, bytes):
        try:
            raw = bytes(memoryview(raw))
        except TypeError:
            raise TypeError(f"{what} must be bytes, not {type(raw).__name__}") from None
    if len(raw) > limit:
        raise InvalidError(f"{what}: {len(raw)} bytes are more than the limit of {limit}")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InvalidError(f"{what}: begins with a byte order mark")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidError(f"{what}: not UTF-8 at byte {error.start}") from None
    return raw


def compact(document: bytes) -> bytes:
    """A valid document without blanks between its tokens, and with a newline at its end, as Go's
    encoder writes it; strings and numbers keep their bytes. One that is so already is itself returned.
    """
    text = document.rstrip()
    # Most have none, and to go through all of it takes ten times as long as to look for one.
    if any(blank in text for blank in (b" ", b"\n", b"\t", b"\r")):
        compacted = msgspec.json.format(text, indent=-1)
        if compacted != text:
            return compacted + b"\n"
    return document


def decode(decoder: Decoder[_T_co], raw: bytes | msgspec.Raw, *, what: str) -> _T_co:
    """``decoder.decode(raw)``, its errors as InvalidErrors that name the field."""
    # msgspec's recursion has the interpreter's own guard, which stops guarding where a program
    # has raised the limit beyond what the C stack holds.
    if sys.getrecursionlimit() > 10_000:
        _check_depth(bytes(raw), what)
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        _raise_field(error, what)
    except msgspec.DecodeError as error:
        text = str(error).removeprefix("JSON is malformed: ")
        raise InvalidError(f"{what}: not valid JSON: {text}") from None
    except RecursionError:
        raise InvalidError(f"{what}: nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidError(f"{what}: not UTF-8") from None


def decode_all(decoder: Decoder[_T_co], raws: list[bytes]) -> list[_T_co] | None:
    """``decoder.decode`` of each of ``raws``; None where ``decode`` must say what is wrong with one."""
    if sys.getrecursionlimit() > 10_000:
        return None
    read = decoder.decode
    try:
        return [read(raw) for raw in raws]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


_MEMBERS: Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def members(raw: bytes | msgspec.Raw, *, what: str) -> dict[str, msgspec.Raw]:
    """The members of a JSON object that was checked before, in order."""
    return decode(_MEMBERS, raw, what=what)


_FIELD = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


def _raise_field(error: msgspec.ValidationError, what: str) -> NoReturn:
    match = _FIELD.fullmatch(str(error))
    text, field = (match[1], match[2] or "") if match else (str(error), "")
    missing = _MISSING.fullmatch(text)
    if missing:
        text, field = "missing", f"{field}.{missing[1]}"
    text = text[:1].lower() + text[1:].replace("`", "").replace("int | float", "integer")
    field = field.lstrip(".").replace("[...]", "")
    raise InvalidError(f"{what}: {field}: {text}" if field else f"{what}: {text}") from None


def has_distinct_keys(raw: bytes, keys: int) -> bool:
    """Whether ``keys``, the number of distinct keys that were parsed, are all keys of ``raw``.

    False only means that ``check_exactly`` must look: every key ends in a quote, and where no space
    stands before a colon there are at least as many ``":`` as keys.  This costs a tenth of the
    exact check, which matters for an index of 10 000 entries.
    """
    if _core.count_pair(raw, b'":') != keys:
        return False
    # A search for one byte is a memchr (of find, not of in), a search for two is ten times slower: ask
    # for spaces first, beside the last newline.
    find = raw.find
    return (
        (find(b" ") < 0 or find(b" :") < 0)
        and (find(b"\n", 0, -1) < 0 or find(b"\n:") < 0)
        and (find(b"\t") < 0 or find(b"\t:") < 0)
        and (find(b"\r") < 0 or find(b"\r:") < 0)
    )


def check_exactly(raw: bytes, *, what: str) -> None:
    """Raises InvalidError for bad JSON, duplicate keys, lone surrogates and too much depth."""
    # msgspec keeps the last of equal keys and skips what no type asks for; json shows every pair.
    import json

    def check(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            seen = set()
            for key, _ in pairs:
                if key in seen:
                    raise InvalidError(f"{what}: duplicate key {shorten(key)}")
                seen.add(key)

    def refuse(constant: str) -> None:
        raise InvalidError(f"{what}: not valid JSON: {constant}")

    _check_depth(raw, what)
    _check_surrogates(raw, what)
    try:
        # Numbers aren't converted: of a hostile one, that alone could take minutes.
        json.loads(
            raw.decode(),
            object_pairs_hook=check,
            parse_constant=refuse,
            parse_int=len,
            parse_float=len,
        )
    except json.JSONDecodeError as error:
        raise InvalidError(f"{what}: not valid JSON: {error.msg} (character {error.pos})") from None
    except RecursionError:
        raise InvalidError(f"{what}: nested too deeply") from None


_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*["\\]?', re.DOTALL)


def _check_depth(raw: bytes, what: str) -> None:
    # No more openers than levels allowed: nothing to look for in most documents.
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    # Without its empty strings nothing but brackets is left, unless a string contains a bracket:
    # the number of quotes before that one is odd.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    brackets = plain.translate(_AS_ARRAYS, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", raw).translate(_AS_ARRAYS, _NOT_STRUCTURE)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return
    raise InvalidError(f"{what}: truncated, or nested more than {MAX_DEPTH} levels deep")


_LONE_SURROGATE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F])|.)",
    re.DOTALL,
)


def _check_surrogates(raw: bytes, what: str) -> None:
    if b"\\ud" in raw or b"\\uD" in raw:
        for match in _LONE_SURROGATE.finditer(raw):
            if match[1]:
                raise InvalidError(f"{what}: lone surrogate at byte {match.start()}")


def encode_go(value: object) -> bytes:
    r"""The JSON of ``value`` as Go's ``json.Encoder`` writes it, and a newline.

    Compact; ``<``, ``>``, ``&``, U+2028 and U+2029 as ``\u003c`` and so on; the keys of a mapping
    in the order of their UTF-8 bytes (as of a Go map); bytes as base64; floats as Go prints them.
    A ``msgspec.Raw`` is copied as it is; a ``Descriptor``, ``Index`` and so on gives its own JSON,
    and a document that was read gives the exact bytes that it was read from.
    Raises InvalidError for what JSON can't say (NaN, lone surrogates, keys that aren't ``str``),
    TypeError for other types.
    """
    if isinstance(value, Encodable):
        text = value.to_json()
        return text if value.is_document else text + b"\n"
    return encode_value(value) + b"\n"


def encode_canonical(value: object) -> bytes:
    """The JSON of ``value`` in the canonical form of RFC 8785, without a newline.

    Takes what ``encode_go`` takes, and of a document what it says, not its bytes. Raises InvalidError
    like that, and for a number that isn't a double's.
    """
    import json

    import rfc8785

    # Whatever has JSON becomes plain values, no deeper than MAX_DEPTH and without surrogates.
    text = encode_go(value).decode()
    try:
        return rfc8785.dumps(json.loads(text, parse_int=_as_double))
    except rfc8785.CanonicalizationError as error:
        raise InvalidError(f"no canonical JSON: {error}") from None


def _as_double(digits: str) -> int | float:
    number = int(digits)
    if abs(number) < 1 << 53:
        return number
    try:
        double = float(number)
    except OverflowError:
        double = 0.0
    # Of a double, encode_go wrote the shortest digits, which aren't all those of its value.
    if double != number and _encode_float(double) != digits.encode():
        raise InvalidError(f"no canonical JSON: no double is equal to {shorten(digits)}")
    return double


def encode_value(value: object) -> bytes:
    """As ``encode_go``, without the newline."""
    if isinstance(value, str):  # most are
        return encode_string(value)
    parts: list[bytes] = []
    _encode(value, parts.append, 0)
    return b"".join(parts)


def encode_string(value: str) -> bytes:
    """A string as Go quotes it."""
    try:
        text = msgspec.json.encode(value if type(value) is str else str.__str__(value))
    except UnicodeEncodeError:
        raise InvalidError(f"{shorten(value)} isn't UTF-8: lone surrogate") from None
    if b"<" in text or b">" in text or b"&" in text:
        text = text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def _encode(value: Any, put: Any, depth: int) -> None:
    if isinstance(value, str):
        put(encode_string(value))
    elif value is None:
        put(b"null")
    elif isinstance(value, bool):
        put(b"true" if value else b"false")
    elif isinstance(value, int):
        put(_encode_int(value))
    elif isinstance(value, float):
        put(_encode_float(value))
    elif isinstance(value, msgspec.Raw):
        put(bytes(value))
    elif isinstance(value, (bytes, bytearray, memoryview)):
        put(b'"%s"' % b64encode(value))
    elif isinstance(value, Encodable):
        put(value.to_json().rstrip(b"\n"))
    elif depth >= MAX_DEPTH:
        raise InvalidError(f"nested more than {MAX_DEPTH} levels deep")
    elif isinstance(value, Mapping):
        _encode_pairs(_sorted_items(value), put, depth)
    elif isinstance(value, msgspec.Struct):
        _encode_pairs(_struct_items(value), put, depth)
    elif isinstance(value, Sequence):
        put(b"[")
        for position, item in enumerate(value):
            if position:
                put(b",")
            _encode(item, put, depth + 1)
        put(b"]")
    else:
        raise TypeError(f"a {type(value).__name__} has no JSON")


def _encode_pairs(items: Sequence[tuple[str, Any]], put: Any, depth: int) -> None:
    put(b"{")
    for position, (key, item) in enumerate(items):
        if position:
            put(b",")
        put(encode_string(key) + b":")
        _encode(item, put, depth + 1)
    put(b"}")


def _sorted_items(value: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    for key in value:
        if not isinstance(key, str):
            raise InvalidError(f"a key must be a str, not {type(key).__name__}")
    # The order of code points is that of UTF-8 bytes.
    return sorted(value.items(), key=_first)


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _struct_items(value: msgspec.Struct) -> list[tuple[str, Any]]:
    pairs = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
    items = [(wire, getattr(value, name)) for wire, name in pairs]
    return [(wire, item) for wire, item in items if item is not msgspec.UNSET]


def _encode_int(value: int) -> bytes:
    try:
        return int.__repr__(value).encode()
    except ValueError:
        raise InvalidError("an integer of that many digits can't be written") from None


def _encode_float(value: float) -> bytes:
    # Go prints the shortest digits that read back, as Python does, and switches to an exponent
    # below 1e-6 and from 1e21 on (strconv.AppendFloat in encoding/json/encode.go).
    if not isfinite(value):
        raise InvalidError(f"JSON has no number {float.__repr__(value)}")
    text = float.__repr__(value)
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if not digits:
        return (sign + "0").encode()
    if -6 < point <= 21:
        if point <= 0:
            text = "0." + "0" * -point + digits
        elif point >= len(digits):
            text = digits + "0" * (point - len(digits))
        else:
            text = f"{digits[:point]}.{digits[point:]}"
    else:
        power = point - 1
        tail = f".{digits[1:]}" if digits[1:] else ""
        text = f"{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power)}"
    return (sign + text).encode()
