"""Digest: the grammar, the registered algorithms, and that it is a str."""

from __future__ import annotations

import pickle
import random
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcas.digest import REGISTERED, Digest
from fastcas.errors import InvalidError

HEX = "0123456789abcdef" * 4
GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", re.ASCII)

BAD = {
    "empty": "",
    "no colon": HEX,
    "only colon": ":",
    "no encoded": "sha256:",
    "no algorithm": ":" + HEX,
    "63 hex": "sha256:" + HEX[1:],
    "65 hex": "sha256:" + HEX + "0",
    "upper hex": "sha256:" + HEX.upper(),
    "one upper": "sha256:" + HEX[:-1] + "F",
    "not hex": "sha256:" + HEX[:-1] + "g",
    "upper algorithm": "SHA256:" + HEX,
    "traversal": "sha256:../../x",
    "dots": "sha256:..",
    "absolute": "sha256:/etc/passwd",
    "slash": "sha256:a/b",
    "slash in unknown": "foo:a/b",
    "algorithm traversal": "../sha256:" + HEX,
    "NUL": "sha256:" + HEX[:-1] + "\0",
    "NUL behind": "sha256:" + HEX + "\0",
    "trailing newline": "sha256:" + HEX + "\n",
    "newline of unknown": "foo:bar\n",
    "trailing space": "sha256:" + HEX + " ",
    "leading space": " sha256:" + HEX,
    "full-width": "sha256:" + HEX[:-1] + "\uff11",
    "full-width of unknown": "foo:\uff11",
    "arabic digit": "sha256:" + HEX[:-1] + "\u0661",
    "arabic digit of unknown": "foo\u0661:bar",
    "sha512 of 64": "sha512:" + HEX,
    "blake3 of 128": "blake3:" + HEX * 2,
    "two colons": "sha256:" + HEX[:-1] + ":",
    "two colons of unknown": "foo:bar:baz",
    "lone surrogate": "sha256:" + HEX[:-1] + "\ud800",
    "surrogate of unknown": "foo:\udcff",
    "two separators": "a++b:c",
    "separator first": "+a:c",
    "separator last": "a+:c",
    "other separator": "a~b:c",
    "1 MB": "a" * (1 << 20),
    "1 MB of hex": "sha256:" + "0" * (1 << 20),
    "bytes": b"sha256:" + HEX.encode(),
    "None": None,
    "int": 5,
    "list": ["sha256:" + HEX],
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_case_14_invalid_digest(value):
    with pytest.raises(InvalidError) as caught:
        Digest(value)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "value",
    [
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8",
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
        "foo:bar",
        "a-b_c.d+0:=_-Z",
        "sha384:" + "0" * 96,
    ],
)
def test_case_15_unknown_algorithm_is_valid_to_name(value):
    digest = Digest(value)
    assert digest == value
    assert f"{digest.algorithm}:{digest.encoded}" == value
    assert digest.algorithm not in REGISTERED


@pytest.mark.parametrize(("algorithm", "length"), REGISTERED.items())
def test_registered_algorithms(algorithm, length):
    encoded = (HEX * 2)[:length]
    digest = Digest(f"{algorithm}:{encoded}")
    assert (digest.algorithm, digest.encoded) == (algorithm, encoded)
    assert digest == Digest.of(algorithm, encoded)
    for wrong in (encoded[1:], encoded + "0", encoded.upper(), "x" + encoded[1:]):
        with pytest.raises(InvalidError):
            Digest(f"{algorithm}:{wrong}")


def test_is_a_str():
    text = "sha256:" + HEX
    digest = Digest(text)
    assert isinstance(digest, str)
    assert digest == text
    assert hash(digest) == hash(text)
    assert {digest: 1}[text] == 1
    assert repr(digest) == f"Digest('{text}')"
    assert f"{digest}" == str(digest) == text
    assert type(digest.encoded) is str
    assert Digest(digest) is digest
    again = pickle.loads(pickle.dumps(digest))
    assert again == digest
    assert type(again) is Digest
    with pytest.raises(AttributeError):
        digest.algorithm = "sha512"


# Pieces that a parser may trip over, put together at random.
PIECES = ["sha256", "sha512", "blake3", "foo", ":", "+", ".", "_", "-", "=", HEX, HEX * 2, "A", "\n"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PIECES), max_size=6).map("".join)))
def test_agrees_with_the_grammar(text):
    valid = GRAMMAR.fullmatch(text) is not None
    if valid:
        algorithm, encoded = text.split(":")
        if algorithm in REGISTERED:
            valid = re.fullmatch(f"[0-9a-f]{{{REGISTERED[algorithm]}}}", encoded) is not None
    if valid:
        assert Digest(text) == text
    else:
        with pytest.raises(InvalidError):
            Digest(text)


def test_one_changed_character():
    random_ = random.Random(3)
    good = "sha256:" + HEX
    for _ in range(500):
        place = random_.randrange(len(good))
        text = good[:place] + random_.choice(string.printable + "\u0130\u0660") + good[place + 1 :]
        algorithm, _, encoded = text.partition(":")
        if GRAMMAR.fullmatch(text) and (
            algorithm not in REGISTERED or not encoded.strip("0123456789abcdef")
        ):
            assert Digest(text) == text
        else:
            with pytest.raises(InvalidError):
                Digest(text)
