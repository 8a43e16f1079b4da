"""Strict JSON in, Go's JSON out."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from enum import IntEnum

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcas.digest import Digest
from fastcas.errors import InvalidError
from fastcas.jsonstyle import MAX_DEPTH, decode_document, encode_go

LIMIT = 4 << 20


def read(raw, limit=LIMIT):
    return decode_document(raw, limit=limit, what="it")


def nested(depth, inner=b"1"):
    """An object whose only value has depth - 1 arrays."""
    return b'{"a":' + b"[" * (depth - 1) + inner + b"]" * (depth - 1) + b"}"


BAD = {
    "empty": b"",
    "spaces": b" \n",
    "null": b"null",
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "true": b"true",
    "truncated": b'{"a":1',
    "truncated string": b'{"a":"b',
    "truncated escape": b'{"a":"\\u12',
    "trailing bytes": b"{}x",
    "trailing document": b"{}{}",
    "trailing NUL": b"{}\0",
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1}//',
    "single quotes": b"{'a':1}",
    "bare key": b"{a:1}",
    "control character": b'{"a":"\x01"}',
    "tab in string": b'{"a":"\t"}',
    "bad escape": b'{"a":"\\q"}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":[{"b":-Infinity}]}',
    "leading zero": b'{"a":01}',
    "plus": b'{"a":+1}',
    "dot": b'{"a":1.}',
    "hex": b'{"a":0x1}',
    "duplicate": b'{"a":1,"a":1}',
    "duplicate escaped": b'{"a":1,"\\u0061":1}',
    "duplicate with spaces": b'{"a" :1,"a"\n:1}',
    "duplicate below": b'{"a":[{"b":{"c":1,"c":2}}]}',
    "duplicate among many": b'{"a":{"x":1,"y":2,"z":3,"x":4}}',
    "duplicate empty": b'{"":1,"":2}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16-LE": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32-be"),
    "bad UTF-8": b'{"a":"\xff"}',
    "overlong": b'{"a":"\xc0\xaf"}',
    "encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "cut UTF-8": b'{"a":"\xc3"}',
    "lone high": b'{"a":"\\ud800"}',
    "lone low": b'{"a":"\\udc00"}',
    "lone in key": b'{"\\uD800":1}',
    "swapped pair": b'{"a":"\\udc00\\ud800"}',
    "high and letter": b'{"a":"\\ud800x"}',
    "two high": b'{"a":"\\ud83d\\ud83d\\ude00"}',
    "100k arrays": b"[" * 100_000,
    "100k arrays in an object": nested(100_000),
    "100k open": b'{"a":' + b"[" * 100_000,
    "100k objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100k with brackets in strings": b'{"a":' + b'["]",' * 100_000 + b"1" + b"]" * 100_000 + b"}",
    "100k with escapes": b'{"a":' + b'["\\"]\\\\",' * 100_000 + b"1" + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_case_33_bad_json(raw):
    with pytest.raises(InvalidError) as caught:
        read(raw)
    assert str(caught.value).startswith("it: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
def test_case_33_bad_json_with_a_high_recursion_limit(raw):
    """Where a program lifts the interpreter's guard, ours must hold or the C stack overflows."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(InvalidError):
            read(raw)
    finally:
        sys.setrecursionlimit(limit)


GOOD = {
    "empty": b"{}",
    "spaces": b' \r\n\t{ "a" : 1 } \n',
    "escapes": b'{"a\\"\\\\":"\\u00e9\\/\\b\\f\\n\\r\\t"}',
    "pair": b'{"a":"\\ud83d\\ude00"}',
    "escaped backslash before u": b'{"a":"\\\\ud800"}',
    "colon quote": b'{"a":"\\":","b":":","c":""}',
    "same key at two levels": b'{"a":{"a":{"a":1}},"b":{"a":1}}',
    "case differs": b'{"a":1,"A":2}',
    "5000 digits": b'{"a":' + b"1" * 5000 + b"}",
    "1e999": b'{"a":1e999}',
    "deepest": nested(MAX_DEPTH),
    "brackets in strings": b'{"a":[' + b",".join([b'"[[[["'] * 500) + b"]}",
    "broad": b'{"a":[' + b",".join([b"{}"] * 5000) + b"]}",
}


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD)
def test_good_json(raw):
    found = read(raw)
    assert list(found) == list(json.loads(raw, parse_int=str))
    for value in found.values():
        assert bytes(value) in raw


def test_one_level_too_deep():
    with pytest.raises(InvalidError):
        read(nested(MAX_DEPTH + 1, b"[],[]"))


def test_limit_is_in_bytes():
    raw = b'{"a":1}'
    assert read(raw, len(raw))
    for more in (raw + b" ", b" " * 100_000_000, b"{" * LIMIT):
        with pytest.raises(InvalidError, match="limit"):
            read(more, len(raw))


def test_other_buffers_and_types():
    assert bytes(read(bytearray(b'{"a":1}'))["a"]) == b"1"
    assert bytes(read(memoryview(b'{"a":1}'))["a"]) == b"1"
    with pytest.raises(TypeError):
        read("{}")
    with pytest.raises(TypeError):
        read(None)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.data())
def test_damaged_json_gives_our_error_or_a_reading(value, data):
    raw = json.dumps(value).encode()
    place = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged = raw[:place] + bytes([byte]) + raw[place + 1 :]
    try:
        found = read(damaged)
    except InvalidError:
        return
    assert list(found) == list(json.loads(damaged, parse_int=str))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(JSON)
def test_encode_go_reads_back(value):
    text = encode_go(value)
    # A float may be written without a point: compare as floats what fits in one.
    assert json.loads(text, parse_int=float) == value
    assert text.endswith(b"\n")
    assert not set(b"<>&") & set(text)


class Colour(IntEnum):
    RED = 3


class Pair(msgspec.Struct, rename="camel"):
    last_name: str
    a: int
    left: object = msgspec.UNSET


# Printed by Go 1.26, json.NewEncoder(os.Stdout).Encode(value).
GO = [
    (None, b"null"),
    ([True, False, 0, -5, 1 << 64], b"[true,false,0,-5,18446744073709551616]"),
    ("<a href='x'>&amp;</a>", b"\"\\u003ca href='x'\\u003e\\u0026amp;\\u003c/a\\u003e\""),
    ("\u2028\u2029\u2027\u202a", '"\\u2028\\u2029\u2027\u202a"'.encode()),
    (
        '\0\x01\x08\x0c\n\r\t\x0b\x1f\x7f"\\/',
        b'"\\u0000\\u0001\\b\\f\\n\\r\\t\\u000b\\u001f\x7f\\"\\\\/"',
    ),
    ("é😀\ufffd", '"é😀\ufffd"'.encode()),
    (
        {"é": 1, "z": 2, "\uffff": 3, "😀": 4, "a<": 5, "": 6, "Z": 7},
        '{"":6,"Z":7,"a\\u003c":5,"z":2,"é":1,"\uffff":3,"😀":4}'.encode(),
    ),
    ({"a": b"", "c": b"\xff\xfe", "d": bytearray(b"hi")}, b'{"a":"","c":"//4=","d":"aGk="}'),
    ({"b": {"y": [], "x": {}}, "a": ()}, b'{"a":[],"b":{"x":{},"y":[]}}'),
    (0.0, b"0"),
    (-0.0, b"-0"),
    (1.0, b"1"),
    (1.5, b"1.5"),
    (100.0, b"100"),
    (-1e-9, b"-1e-9"),
    (1.5e-10, b"1.5e-10"),
    (1e-6, b"0.000001"),
    (9.99e-7, b"9.99e-7"),
    (1e-7, b"1e-7"),
    (1e20, b"100000000000000000000"),
    (1e21, b"1e+21"),
    (1.5e22, b"1.5e+22"),
    (123456789012345680000.0, b"123456789012345680000"),
    (0.1 + 0.2, b"0.30000000000000004"),
    (5e-324, b"5e-324"),
    (1.7976931348623157e308, b"1.7976931348623157e+308"),
]


@pytest.mark.parametrize(("value", "text"), GO, ids=[repr(value)[:30] for value, _ in GO])
def test_case_34_go_style(value, text):
    assert encode_go(value) == text + b"\n"


def test_encode_go_of_other_types():
    assert encode_go(Colour.RED) == b"3\n"
    assert encode_go(Digest("foo:bar")) == b'"foo:bar"\n'
    assert encode_go(OrderedDict(b=1, a=2)) == b'{"a":2,"b":1}\n'
    assert encode_go({"r": msgspec.Raw(b' {"x" : "<"} ')}) == b'{"r": {"x" : "<"} }\n'
    assert encode_go(Pair("x", 1)) == b'{"lastName":"x","a":1}\n'


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [-float("inf")], "\ud800", {"\udfff": 1}, {1: 2}, 1 << 20_000],
    ids=["nan", "inf", "-inf", "surrogate", "surrogate key", "int key", "6000 digits"],
)
def test_encode_go_refuses_what_json_cannot_say(value):
    with pytest.raises(InvalidError):
        encode_go(value)


def test_encode_go_refuses_other_types_and_cycles():
    with pytest.raises(TypeError):
        encode_go({"a": {1, 2}})
    cycle = []
    cycle.append(cycle)
    with pytest.raises(InvalidError):
        encode_go(cycle)
