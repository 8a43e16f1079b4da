"""Strict JSON in, Go's JSON out."""

from __future__ import annotations

import json
import struct
import sys
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcas.digest import Digest
from fastcas.errors import InvalidError
from fastcas.jsonstyle import MAX_DEPTH, decode_document, encode_canonical, encode_go
from fastcas.model import Descriptor, Index, Manifest, Platform

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


# ---- against Go's encoder: tests/go/jsonvectors prints what is recorded beside it ----

RECORDED = Path(__file__).with_name("go") / "jsonvectors.jsonl"
VECTORS = [json.loads(line) for line in RECORDED.read_text().splitlines()]
KINDS = {"descriptor": Descriptor, "manifest": Manifest, "index": Index}


def test_case_34_as_go_encodes_values():
    vectors = [each for each in VECTORS if each["kind"] == "value"]
    assert len(vectors) > 300
    for vector in vectors:
        # As Go does for an interface{}, each number is a double.
        value = json.loads(vector["in"], parse_int=float)
        assert encode_go(value).decode() == vector["out"], vector["in"]


def made_anew(value):
    """The same, without the bytes that it was read from, so that all of it is encoded."""
    if isinstance(value, tuple):
        return tuple(map(made_anew, value))
    if not isinstance(value, (Descriptor, Index, Manifest, Platform)):
        return value
    names = [name for name in value._attributes if name not in value._fixed]
    return type(value)(**{name: made_anew(getattr(value, name)) for name in names})


@pytest.mark.parametrize("vector", [each for each in VECTORS if each["kind"] != "value"])
def test_case_34_as_go_encodes_structs(vector):
    made = made_anew(KINDS[vector["kind"]].from_json(vector["in"].encode()))
    assert encode_go(made).decode() == vector["out"]


# ---- RFC 8785 ----

# Its section 3.2.2 to 3.2.4, one example from parsing to sorting.
EXAMPLE = rb"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
EXAMPLE_CANONICAL = (
    '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
    '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
)

# Section 3.2.3: names are sorted as UTF-16.
SORTED = {
    "\u20ac": "Euro Sign",
    "\r": "Carriage Return",
    "\ufb33": "Hebrew Letter Dalet With Dagesh",
    "1": "One",
    "\U0001f600": "Emoji: Grinning Face",
    "\u0080": "Control",
    "\u00f6": "Latin Small Letter O With Diaeresis",
}
SORTED_NAMES = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]

# Appendix B: the bits of a double, and how it is written.
NUMBERS = {
    0x0000000000000000: "0",
    0x8000000000000000: "0",
    0x0000000000000001: "5e-324",
    0x8000000000000001: "-5e-324",
    0x7FEFFFFFFFFFFFFF: "1.7976931348623157e+308",
    0xFFEFFFFFFFFFFFFF: "-1.7976931348623157e+308",
    0x4340000000000000: "9007199254740992",
    0xC340000000000000: "-9007199254740992",
    0x4430000000000000: "295147905179352830000",
    0x44B52D02C7E14AF5: "9.999999999999997e+22",
    0x44B52D02C7E14AF6: "1e+23",
    0x44B52D02C7E14AF7: "1.0000000000000001e+23",
    0x444B1AE4D6E2EF4E: "999999999999999700000",
    0x444B1AE4D6E2EF4F: "999999999999999900000",
    0x444B1AE4D6E2EF50: "1e+21",
    0x3EB0C6F7A0B5ED8C: "9.999999999999997e-7",
    0x3EB0C6F7A0B5ED8D: "0.000001",
    0x41B3DE4355555553: "333333333.3333332",
    0x41B3DE4355555554: "333333333.33333325",
    0x41B3DE4355555555: "333333333.3333333",
    0x41B3DE4355555556: "333333333.3333334",
    0x41B3DE4355555557: "333333333.33333343",
    0xBECBF647612F3696: "-0.0000033333333333333333",
    0x43143FF3C1CB0959: "1424953923781206.2",
}


def test_canonical_example():
    assert encode_canonical(json.loads(EXAMPLE)).decode() == EXAMPLE_CANONICAL


def test_canonical_order_of_names():
    text = encode_canonical(SORTED).decode()
    assert list(json.loads(text)) == SORTED_NAMES
    assert json.loads(text) == SORTED
    assert text.startswith('{"\\r":"Carriage Return","1":"One","\u0080":"Control"')


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items(), ids=NUMBERS.values())
def test_canonical_numbers(bits, text):
    (double,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    assert encode_canonical(double).decode() == text


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_canonical_refuses_what_is_no_number(bad):
    with pytest.raises(InvalidError):
        encode_canonical([bad])


def test_canonical_integers_are_doubles():
    for number in (0, -1, (1 << 53) - 1, 1 << 53, 1 << 60, 10**20, 10**22):
        assert float(encode_canonical(number)) == number
    assert encode_canonical(10**22) == b"1e+22"
    for bad in ((1 << 53) + 1, -(1 << 60) - 1, 10**400, int("1" * 30)):
        with pytest.raises(InvalidError):
            encode_canonical({"a": bad})


def test_canonical_of_what_go_style_takes():
    assert (
        encode_canonical({"b": b"\xff", "a": ("<&>\u2028",)})
        == '{"a":["<&>\u2028"],"b":"/w=="}'.encode()
    )
    descriptor = Descriptor("m/t", "a:b", 1, annotations={"z": "1", "a": "2"})
    expected = b'{"annotations":{"a":"2","z":"1"},"digest":"a:b","mediaType":"m/t","size":1}'
    assert encode_canonical(descriptor) == expected
    raw = b'{"size":1, "mediaType":"m/t","digest":"a:b","annotations":{"z":"1","a":"2"}}\n'
    assert encode_canonical(Descriptor.from_json(raw)) == expected
    for bad in ({1: 2}, "\ud800", {"\udc00": 1}):
        with pytest.raises(InvalidError):
            encode_canonical(bad)
    with pytest.raises(TypeError):
        encode_canonical({1, 2})
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidError):
        encode_canonical(deep)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53) + 1, (1 << 53) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=200, deadline=None)
def test_both_styles_say_the_same_as_json(value):
    # Of large doubles both write the shortest digits, which as integers would be others.
    assert json.loads(encode_go(value), parse_int=float) == value
    canonical = encode_canonical(value)
    assert json.loads(canonical, parse_int=float) == value
    assert encode_canonical(json.loads(canonical)) == canonical


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=300, deadline=None)
def test_both_styles_write_a_double_alike(double):
    """Go took ECMAScript's form for its numbers, but for minus zero."""
    text = encode_go(double)[:-1]
    assert encode_canonical(double) == (b"0" if double == 0 else text)
