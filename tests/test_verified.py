"""The content of descriptors: limited, verified, and served from the descriptor where it is there."""

from __future__ import annotations

import hashlib
import io

import pytest

from fastcas import (
    CorruptError,
    Descriptor,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnknownAlgorithmError,
)
from fastcas.image.verified import get_verified_blob, read_content
from images import EMPTY_JSON, LAYER, describe, put

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_fd_leak")]


class NoEngine:
    """Whoever asks it for anything fails the test."""

    def __getattr__(self, name):
        pytest.fail(f"{name} was asked for")


def open_and_read(cas, descriptor):
    with cas.get_verified_blob(descriptor) as reader:
        return reader.read()


@pytest.mark.parametrize("size", [1, 1000, 70_000, 3 << 20])
def test_case_24_a_descriptor_that_is_too_small(cas, size):
    content = bytes(size)
    right = put(cas, content, LAYER)
    for wrong in (size - 1, 0):
        with pytest.raises(SizeMismatchError) as caught:
            open_and_read(cas, Descriptor(LAYER, right.digest, wrong))
        assert caught.value.digest == right.digest
        assert (caught.value.expected, caught.value.actual) == (wrong, size)
    assert open_and_read(cas, right) == content


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_case_25_a_descriptor_that_is_too_large(cas, size):
    right = put(cas, bytes(size), LAYER)
    for wrong in (size + 1, 1 << 62):
        with pytest.raises(SizeMismatchError) as caught:
            open_and_read(cas, Descriptor(LAYER, right.digest, wrong))
        assert (caught.value.expected, caught.value.actual) == (wrong, size)


def test_case_26_a_blob_without_its_last_newline(cas, layout):
    right = put(cas, b'{"a":1}\n', LAYER)
    path = layout / "blobs" / "sha256" / right.digest[7:]
    path.unlink()
    path.write_bytes(b'{"a":1}')
    with pytest.raises(SizeMismatchError):
        open_and_read(cas, right)
    with pytest.raises(DigestMismatchError):
        open_and_read(cas, Descriptor(LAYER, right.digest, 7))


def test_case_26_a_blob_that_grows_after_it_was_opened(cas, layout):
    right = put(cas, bytes(100), LAYER)
    with pytest.raises(CorruptError), cas.get_verified_blob(right) as reader:
        path = layout / "blobs" / "sha256" / right.digest[7:]
        path.chmod(0o644)
        with path.open("ab") as file:
            file.write(b"x")
        assert len(reader.read()) < 100


def test_case_28_negative_sizes_do_no_io():
    with pytest.raises(InvalidError, match="size"):
        get_verified_blob(NoEngine(), Descriptor(LAYER, "sha256:" + "0" * 64, -1))
    raw = b'{"mediaType":"m","digest":"a:b","size":-1}'
    with pytest.raises(InvalidError, match="size"):
        get_verified_blob(NoEngine(), Descriptor.from_json(raw))


@pytest.mark.parametrize("content", [b"", b"x", b"embedded" * 1000])
def test_case_29_embedded_data(content):
    right = describe(content, LAYER, data=content)
    with get_verified_blob(NoEngine(), right) as reader:
        assert (reader.digest, reader.size) == (right.digest, right.size)
        assert reader.verified
        reader.verify()
        assert reader.readable()
        assert reader.seekable()
        assert reader.read() == content
        assert reader.seek(0) == 0
        assert reader.read(5) + reader.read(None) == content
        assert reader.readall() == b""
        assert reader.seek(0) == 0
        assert io.BufferedReader(reader).read() == content
    assert reader.closed
    for use in (reader.read, reader.readall, reader.verify):
        with pytest.raises(ValueError):
            use()
    for algorithm in ("sha512",):
        digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        other = Descriptor(LAYER, digest, len(content), data=content)
        assert read_content(NoEngine(), other) == content


def test_case_29_embedded_data_that_is_wrong(cas):
    right = put(cas, b"stored", LAYER)
    for data, kind in ((b"Stored", DigestMismatchError), (b"", SizeMismatchError)):
        with pytest.raises(kind) as caught:
            cas.get_verified_blob(right.replace(data=data))
        assert caught.value.digest == right.digest
    empty = describe(b"", LAYER)
    with pytest.raises(SizeMismatchError) as caught:
        cas.get_verified_blob(empty.replace(data=b"x"))
    assert (caught.value.expected, caught.value.actual) == (0, 1)


def test_case_29_embedded_data_beside_a_blob_that_is_damaged(cas, layout):
    right = put(cas, b"stored", LAYER)
    path = layout / "blobs" / "sha256" / right.digest[7:]
    path.unlink()
    path.write_bytes(b"broken")
    assert open_and_read(cas, right.replace(data=b"stored")) == b"stored"
    with pytest.raises(DigestMismatchError):
        open_and_read(cas, right)


@pytest.mark.parametrize("digest", ["foo:bar", "multihash+base58:QmX"])
def test_case_30_embedded_data_under_a_digest_nobody_knows(digest):
    with pytest.raises(UnknownAlgorithmError) as caught:
        get_verified_blob(NoEngine(), Descriptor(LAYER, digest, 1, data=b"x"))
    assert caught.value.digest == digest
    with pytest.raises(InvalidError):
        Descriptor.from_json(b'{"mediaType":"m","digest":"x","size":1,"data":"eA=="}')


@pytest.mark.parametrize("content", [b"", b"0", b"{}\n", b"null", b"[]", b"{ }"])
def test_case_31_the_empty_type_is_the_empty_object(cas, content):
    stored = put(cas, content, EMPTY_JSON)
    for wrong in (stored, stored.replace(data=content)):
        for use in (cas.get_verified_blob, cas.read_descriptor):
            with pytest.raises(InvalidError) as caught:
                use(wrong)
            assert caught.value.digest == stored.digest


def test_case_31_the_empty_object(cas):
    right = put(cas, b"{}", EMPTY_JSON)
    assert right.digest.startswith("sha256:44136fa3")
    assert open_and_read(cas, right) == b"{}"
    assert open_and_read(cas, right.replace(data=b"{}")) == b"{}"
    digest, _ = cas.put_blob(b"{}", algorithm="sha512")
    assert open_and_read(cas, Descriptor(EMPTY_JSON, digest, 2)) == b"{}"
    assert cas.read_descriptor(right).data == {}
    with pytest.raises(InvalidError):
        cas.get_verified_blob(Descriptor(EMPTY_JSON, right.digest, 3))
    with pytest.raises(InvalidError):
        cas.get_verified_blob(Descriptor(EMPTY_JSON, "sha256:" + "4" * 64, 2))


def test_what_is_not_stored_and_other_types(cas):
    with pytest.raises(NotExistError):
        cas.get_verified_blob(describe(b"absent", LAYER))
    for bad in (None, "sha256:" + "0" * 64, {}):
        with pytest.raises(TypeError):
            cas.get_verified_blob(bad)


def test_read_content_has_a_limit(cas):
    stored = put(cas, bytes(100), LAYER)
    assert read_content(cas, stored, limit=100) == bytes(100)
    for descriptor in (stored, stored.replace(data=bytes(100))):
        with pytest.raises(InvalidError, match="100 bytes") as caught:
            read_content(cas, descriptor, limit=99)
        assert not isinstance(caught.value, CorruptError)
        assert caught.value.digest == stored.digest
    with pytest.raises(NotExistError):
        read_content(cas, Descriptor(LAYER, "sha256:" + "0" * 64, 1 << 40))
