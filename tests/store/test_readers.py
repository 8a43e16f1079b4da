"""Readers: bodies that break, and blobs that are damaged or replaced while they are read."""

from __future__ import annotations

import obstore
import pytest
from obstore.exceptions import (
    GenericError,
)

from conformance import noise
from fastcas import (
    CorruptError,
    NotExistError,
    SizeMismatchError,
)
from fastcas.store import bucket as requests
from store.conftest import raw


def test_the_last_bytes_of_a_damaged_blob_are_never_given(store, url):
    content = noise(5 << 20)
    digest, size = store.put_blob(content)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", content[:-1] + b"?")
    given = 0
    with pytest.raises(CorruptError), store.get_blob(digest) as blob:
        while data := blob.read(1 << 20):
            given += len(data)
    assert given < size


def test_a_blob_that_is_replaced_before_it_is_read_again(store, url):
    digest, size = store.put_blob(noise(5 << 20))
    with store.get_blob(digest) as blob:
        blob.read()
        obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(size, 7))
        blob.seek(0)
        with pytest.raises(NotExistError, match="stored anew"):
            blob.read()


class Breaks:
    """An answer whose body ends after so many bytes, in an error or as if that were all."""

    def __init__(self, found, after, error):
        self.found, self.after, self.error = found, after, error
        self.meta, self.attributes = found.meta, found.attributes

    def stream(self, min_chunk_size):
        left = self.after
        for chunk in self.found.stream(min_chunk_size=min_chunk_size):
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                break
        if self.error:
            raise GenericError("connection reset")


class Removed(Breaks):
    """The client asks once more for the rest, and is told that there is none."""

    def bytes(self):
        raise GenericError("<Code>NoSuchKey</Code>")


def test_a_small_blob_that_is_removed_while_it_comes(store, monkeypatch):
    digest, _ = store.put_blob(b"small")
    real = requests.obstore.get
    monkeypatch.setattr(
        requests.obstore, "get", lambda *args, **more: Removed(real(*args, **more), 0, False)
    )
    with pytest.raises(NotExistError, match="removed"):
        store.read_blob(digest)
    with store.get_blob(digest) as blob, pytest.raises(NotExistError, match="removed"):
        blob.read()


@pytest.mark.parametrize("error", [True, False])
def test_a_broken_body_is_taken_up_again(store, monkeypatch, error):
    content = noise(5 << 20)
    digest, _ = store.put_blob(content)
    real = obstore.get
    asked = []

    def get(client, key, *, options=None):
        asked.append((options or {}).get("range"))
        found = real(client, key, options=options)
        return Breaks(found, 2 << 20, error)

    monkeypatch.setattr(requests.obstore, "get", get)
    with store.get_blob(digest) as blob:
        assert blob.read() == content
        assert blob.verified
    assert asked == [(0, 1 << 20), {"offset": 1 << 20}, {"offset": 3 << 20}]


def test_a_body_that_never_comes_is_an_error(store, monkeypatch):
    digest, _ = store.put_blob(noise(3 << 20))
    real = obstore.get
    monkeypatch.setattr(
        requests.obstore,
        "get",
        lambda c, key, options=None: Breaks(real(c, key, options=options), 0, True),
    )
    monkeypatch.setattr("fastcas.store.reader._PAUSE", 0.001)
    with pytest.raises(OSError, match="connection reset"), store.get_blob(digest) as blob:
        blob.read()


@pytest.mark.parametrize("times", [1, 9])
def test_a_blob_that_is_stored_again_while_it_is_read(store, url, monkeypatch, times):
    """By another writer that found it absent: the etag is another, the bytes are the same."""
    content = noise(5 << 20)
    digest, _ = store.put_blob(content)
    real = obstore.get
    left = times

    def get(client, key, *, options=None):
        nonlocal left
        if left and options and "if_match" in options:
            left -= 1
            obstore.put(raw(url), key, content)
        return real(client, key, options=options)

    monkeypatch.setattr(requests.obstore, "get", get)
    monkeypatch.setattr("fastcas.store.reader._PAUSE", 0.001)
    with store.get_blob(digest) as blob:
        if times > 1:  # it never rests
            with pytest.raises(NotExistError, match="stored anew"):
                blob.read()
        else:
            assert blob.read() == content
            assert blob.verified


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_blob_that_is_stored_again_or_removed_before_it_is_read_again(store, url, size):
    content = noise(size)
    digest, _ = store.put_blob(content)
    with store.get_blob(digest) as blob:
        for _ in range(2):
            assert blob.read() == content
            blob.seek(0)
            obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", content)
        store.delete_blob(digest)
        with pytest.raises(NotExistError, match="removed"):
            blob.read()


def test_what_is_of_two_objects_is_called_neither_damaged_nor_right(store, url):
    digest, size = store.put_blob(noise(5 << 20))
    blob = store.get_blob(digest)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(size, 7))
    with pytest.raises(NotExistError, match="stored anew"), blob:
        blob.read()
    assert not blob.verified


class Cut(Breaks):
    def bytes(self):
        raise GenericError("connection reset")


@pytest.mark.parametrize("how", ["read", "readinto"])
def test_what_is_small_and_of_two_objects_is_neither(store, url, monkeypatch, how):
    digest, size = store.put_blob(noise(1000))
    real = obstore.get
    asked = 0

    def get(client, key, *, options=None):
        nonlocal asked
        found = real(client, key, options=options)
        asked += 1
        if asked == 2:
            obstore.put(raw(url), key, noise(size, 7))
        return Cut(found, 10, True) if asked <= 2 else found

    monkeypatch.setattr(requests.obstore, "get", get)
    monkeypatch.setattr("fastcas.store.reader._PAUSE", 0.001)
    blob = store.get_blob(digest)
    with pytest.raises(NotExistError, match="stored anew"), blob:
        blob.read() if how == "read" else blob.readinto(bytearray(size))
    assert asked == 3


def test_a_blob_that_is_stored_again_and_removed_while_it_is_read(store, url, monkeypatch):
    digest, _ = store.put_blob(noise(5 << 20))
    blob = store.get_blob(digest)
    obstore.put(raw(url), f"x/blobs/sha256/{digest.encoded}", noise(5 << 20))

    def head(*_):
        raise FileNotFoundError("404")

    monkeypatch.setattr(requests.obstore, "head", head)
    with pytest.raises(NotExistError, match="removed"), blob:
        blob.read()


@pytest.mark.parametrize(
    "said",
    [
        "416 Range Not Satisfiable: <Error><Code>InvalidRange</Code></Error>",
        "416 Range Not Satisfiable",
        "Received non-partial response when range requested",
    ],
)
def test_servers_that_give_no_range_are_asked_for_all(store, monkeypatch, said):
    digests = [store.put_blob(noise(size)).digest for size in (0, 10, 3 << 20)]
    real = obstore.get

    def get(client, key, *, options=None):
        if options and "range" in options:
            raise GenericError(said)
        return real(client, key, options=options)

    monkeypatch.setattr(requests.obstore, "get", get)
    for digest in digests:
        with store.get_blob(digest) as blob:
            blob.verify()
        store.read_blob(digest)


class Longer(Breaks):
    """An answer with a byte more than it says."""

    def __init__(self, found):
        super().__init__(found, 0, False)

    def stream(self, min_chunk_size):
        yield from self.found.stream(min_chunk_size=min_chunk_size)
        yield b"x"

    def bytes(self):
        return b"".join(self.stream(1))


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_a_body_with_more_than_it_says_gives_no_more(store, monkeypatch, size):
    content = noise(size)
    digest, _ = store.put_blob(content)
    real = obstore.get
    monkeypatch.setattr(requests.obstore, "get", lambda c, key, options=None: Longer(real(c, key)))
    got = []
    with pytest.raises(SizeMismatchError), store.get_blob(digest) as blob:
        while piece := blob.read(100_000):
            got.append(piece)
    assert len(b"".join(got)) < size


def test_a_blob_that_is_replaced_while_it_is_read(store, monkeypatch):
    digest, _ = store.put_blob(noise(5 << 20))
    real = obstore.get

    def get(client, key, *, options=None):
        if options and "range" in options:
            obstore.put(client, key, noise(5 << 20, 7))
        return Breaks(real(client, key, options=options), 2 << 20, True)

    monkeypatch.setattr(requests.obstore, "get", get)
    with store.get_blob(digest) as blob:
        with pytest.raises(NotExistError, match="stored anew"):
            blob.read()
        assert not blob.verified
