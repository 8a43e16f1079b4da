"""The contract of an engine, as functions over a store.

A *store* is a place for one engine's data: ``create()`` makes it and opens it, ``open()`` opens it
again, ``plant(digest, content)`` puts content behind a digest without asking the engine, right or
wrong.  ``path`` is scratch room for sources and copies.  Every function here starts from a store
that doesn't exist yet; nothing in it knows which engine it is talking to.
"""

from __future__ import annotations

import array
import errno
import gzip
import hashlib
import io
import json
import lzma
import mmap
import os
import shutil
import socket
import tarfile
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import fastcas
from fastcas import (
    ClosedError,
    CorruptError,
    Descriptor,
    Digest,
    DigestMismatchError,
    Index,
    InvalidError,
    Manifest,
    NotExistError,
    Platform,
    SizeMismatchError,
    UnknownTypeError,
    UnsupportedError,
)

REF_NAME = "org.opencontainers.image.ref.name"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
METHODS = {"reflink", "hardlink", "copy_file_range", "sendfile", "copy"}
SIZES = [0, 1, 55, 56, 63, 64, 65, 4095, 65535, 65536, 65537, 262144, 262145, 3 << 20 | 7]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def noise(size: int, seed: int = 0) -> bytes:
    """The same bytes every time, without a period that a lost or doubled chunk would hide in."""
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(size)


def descriptor_of(content: bytes = b"{}", media_type: str = MANIFEST, **more) -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content), **more)


def names_in(index) -> list[str | None]:
    return [(entry.annotations or {}).get(REF_NAME) for entry in index.manifests]


# ---- sources of every kind: each yields something that put_blob takes for `content` ----


class OnlyRead:
    """What has read(n) and nothing else, and gives at most `step` bytes a call."""

    def __init__(self, content: bytes, step: int):
        self.rest, self.step = io.BytesIO(content), step

    def read(self, size: int = -1) -> bytes:
        return self.rest.read(self.step if size < 0 else min(size, self.step))


class OnlyReadinto:
    def __init__(self, content: bytes):
        self.rest = io.BytesIO(content)

    def readinto(self, buffer) -> int:
        return self.rest.readinto(memoryview(buffer)[:777])


class Upper(io.FileIO):
    """A file whose read() gives something else than its descriptor would."""

    def readinto(self, buffer) -> int:
        count = super().readinto(buffer)
        view = memoryview(buffer)
        view[:count] = bytes(byte ^ 0xFF for byte in view[:count])
        return count

    def read(self, size: int = -1) -> bytes:
        return bytes(byte ^ 0xFF for byte in super().read(size))

    def readall(self) -> bytes:
        return bytes(byte ^ 0xFF for byte in super().readall())


@contextmanager
def feeding(open_target, content: bytes):
    """A thread that writes `content` to a file object that `open_target()` gives, then closes."""

    def feed():
        with suppress(BrokenPipeError), open_target() as target:
            target.write(content)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)
        assert not thread.is_alive(), "the source was not read to its end"


@contextmanager
def _file(content, room):
    path = room / "source"
    path.write_bytes(content)
    yield path


@contextmanager
def _mmap(content, room):
    with _file(content, room) as path, path.open("rb") as stream:
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


@contextmanager
def _array(content, room):
    yield array.array("I", content)


@contextmanager
def _fifo_path(content, room):
    path = room / "fifo"
    os.mkfifo(path)
    with feeding(lambda: path.open("wb"), content):
        yield path


@contextmanager
def _pipe(content, buffering):
    read, write = os.pipe()
    with open(read, "rb", buffering=buffering) as stream:
        with feeding(lambda: open(write, "wb"), content):
            yield stream


@contextmanager
def _buffered_consumed(content, room):
    with _pipe(b"prefix" + content, -1) as stream:
        assert stream.read(6) == b"prefix"
        yield stream


@contextmanager
def _file_consumed(content, room):
    with _file(b"prefix" + content, room) as path, path.open("rb") as stream:
        assert stream.read(6) == b"prefix"
        yield stream


@contextmanager
def _fileio(content, room):
    with _file(b"prefix" + content, room) as path, io.FileIO(path) as stream:
        stream.seek(6)
        yield stream


@contextmanager
def _fileio_subclass(content, room):
    with _file(bytes(byte ^ 0xFF for byte in content), room) as path, Upper(path) as stream:
        yield stream


@contextmanager
def _bytesio(content, room):
    stream = io.BytesIO(b"prefix" + content)
    stream.seek(6)
    yield stream


@contextmanager
def _socket(content, room):
    ours, theirs = socket.socketpair()
    with ours, feeding(lambda: _SocketWriter(theirs), content):
        yield ours


class _SocketWriter:
    def __init__(self, end):
        self.end = end

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end.close()

    def write(self, content):
        self.end.sendall(content)


@contextmanager
def _socket_file(content, room):
    with _socket(content, room) as ours, ours.makefile("rb") as stream:
        yield stream


@contextmanager
def _gzip(content, room):
    with gzip.open(room / "packed", "wb", compresslevel=1) as packed:
        packed.write(content)
    with gzip.open(room / "packed", "rb") as stream:
        yield stream


@contextmanager
def _lzma(content, room):
    (room / "packed").write_bytes(lzma.compress(content, preset=0))
    with lzma.open(room / "packed", "rb") as stream:
        yield stream


@contextmanager
def _buffered_over_gzip(content, room):
    # Exactly a BufferedReader, with a fileno(), and yet that descriptor has other bytes.
    with _gzip(content, room) as packed, io.BufferedReader(packed) as stream:
        yield stream


@contextmanager
def _tar_member(content, room):
    with tarfile.open(room / "some.tar", "w") as packer:
        member = tarfile.TarInfo("member")
        member.size = len(content)
        packer.addfile(member, io.BytesIO(content))
    with tarfile.open(room / "some.tar") as packed, packed.extractfile("member") as stream:
        yield stream


@contextmanager
def _temporary_file(content, room):
    with tempfile.NamedTemporaryFile(dir=room) as stream:
        stream.write(content)
        stream.seek(0)
        yield stream


def _pieces(content):
    kinds = (bytes, bytearray, memoryview, lambda piece: array.array("B", piece))
    yield b""
    for number, start in enumerate(range(0, len(content), 1000)):
        yield kinds[number % 4](content[start : start + 1000])
        yield b""


def _value(make):
    @contextmanager
    def manager(content, room):
        yield make(content)

    return manager


SOURCES = {
    "bytes": _value(bytes),
    "bytearray": _value(bytearray),
    "memoryview": _value(lambda content: memoryview(b"x" + content + b"y")[1:-1]),
    "array": _array,
    "mmap": _mmap,
    "path": _file,
    "fifo-path": _fifo_path,
    "pipe": lambda content, room: _pipe(content, -1),
    "raw-pipe": lambda content, room: _pipe(content, 0),
    "buffered-consumed": _buffered_consumed,
    "file-consumed": _file_consumed,
    "fileio": _fileio,
    "fileio-subclass": _fileio_subclass,
    "bytesio": _bytesio,
    "socket": _socket,
    "socket-file": _socket_file,
    "gzip": _gzip,
    "lzma": _lzma,
    "buffered-over-gzip": _buffered_over_gzip,
    "tar-member": _tar_member,
    "temporary-file": _temporary_file,
    "only-read": _value(lambda content: OnlyRead(content, 60_000)),
    "only-read-one-byte": _value(lambda content: OnlyRead(content, 1)),
    "only-readinto": _value(OnlyReadinto),
    "generator": _value(_pieces),
    "list": _value(lambda content: list(_pieces(content))),
}


def source_sizes(kind: str) -> list[int]:
    sizes = [0, 4, 65536, 70_004, (3 << 20) + 8]
    if kind == "mmap":
        sizes.remove(0)
    if kind in ("only-read-one-byte", "fileio-subclass", "lzma"):
        sizes.pop()
    return sizes


def check_source(store, kind):
    """Not one of CHECKS: called for every kind."""
    store.path.mkdir(exist_ok=True)
    with store.create() as cas:
        for size in source_sizes(kind):
            content = noise(size, 5)
            room = store.path / f"{kind}-{size}"
            room.mkdir()
            with SOURCES[kind](content, room) as source:
                assert cas.put_blob(source) == (digest_of(content), size)
            assert cas.read_blob(digest_of(content)) == content
            shutil.rmtree(room)


# ---- blobs ----


def check_new_store_is_empty(store):
    with store.create() as cas:
        assert list(cas.list_blobs()) == []
        assert list(cas) == []
        assert len(cas) == 0
        assert bool(cas)
        assert list(cas.get_index().manifests) == []
        assert list(cas.list_references()) == []


def check_round_trip_at_every_edge(store):
    with store.create() as cas:
        for size in SIZES:
            content = noise(size)
            result = cas.put_blob(content)
            assert result == (digest_of(content), size)
            assert (result.digest, result.size) == tuple(result)
            assert isinstance(result.digest, Digest)
            assert cas.stat_blob(result.digest) == (result.digest, size)
            with cas.get_blob(str(result.digest)) as reader:
                assert reader.read() == content
        assert len(cas) == len(SIZES)


def check_algorithms(store):
    with store.create() as cas:
        for algorithm in ("sha256", "sha512"):
            for size in SIZES:
                content = noise(size, 1)
                digest, _ = cas.put_blob(content, algorithm=algorithm)
                assert digest == digest_of(content, algorithm)
                assert digest.algorithm == algorithm
                assert cas.read_blob(digest) == content
        assert {digest.algorithm for digest in cas} == {"sha256", "sha512"}
        assert len(cas) == 2 * len(SIZES)


def check_unknown_algorithm(store):
    with store.create() as cas:
        for algorithm in ("nosuch", "md5", "SHA256", "../x"):
            with pytest.raises(UnsupportedError) as caught:
                cas.put_blob(b"x", algorithm=algorithm)
            assert isinstance(caught.value, (UnknownTypeError, NotImplementedError))
            assert caught.value.algorithm == algorithm
        assert list(cas) == []


def check_put_is_idempotent(store):
    with store.create() as cas:
        first = cas.put_blob(b"again")
        assert cas.put_blob(b"again") == first
        assert cas.put_blob([b"ag", b"ain"], verify_existing=True) == first
        assert list(cas) == [first.digest]


def check_put_expectations_that_hold(store):
    content = noise(100_000)
    with store.create() as cas:
        for _ in range(2):
            result = cas.put_blob(content, expected_digest=digest_of(content), expected_size=100_000)
            assert result == (digest_of(content), 100_000)
        digest = digest_of(content, "sha512")
        stored = cas.put_blob(iter([content]), algorithm="sha512", expected_digest=digest)
        assert stored.digest == digest
        assert cas.put_blob(b"", expected_size=0) == (EMPTY, 0)


def check_put_expectations_that_fail(store):
    content = noise(100_000)
    right, wrong = digest_of(content), digest_of(b"something else")
    with store.create() as cas:
        for source in (content, OnlyRead(content, 3000), io.BytesIO(content), iter([content])):
            with pytest.raises(DigestMismatchError) as caught:
                cas.put_blob(source, expected_digest=wrong)
            assert (caught.value.expected, caught.value.actual) == (wrong, right)
            assert isinstance(caught.value, ValueError)
        for size in (0, 99_999, 100_001, 1 << 40):
            for source in (content, OnlyRead(content, 3000), io.BytesIO(content), iter([content])):
                with pytest.raises(SizeMismatchError) as caught:
                    cas.put_blob(source, expected_size=size)
                assert caught.value.expected == size
                assert caught.value.actual != size
        assert list(cas) == []
        cas.put_blob(content)
        with pytest.raises(DigestMismatchError):
            cas.put_blob(content, expected_digest=wrong)
        with pytest.raises(SizeMismatchError):
            cas.put_blob(content, expected_size=1)
        assert cas.read_blob(right) == content
        with pytest.raises(InvalidError):
            cas.put_blob(content, expected_digest="sha256:zz")


def check_put_of_what_is_no_source(store):
    with store.create() as cas:
        refused = ["text", 7, None, io.StringIO("text"), io.StringIO(""), object(), 1.5]
        refused += [["text"], [b"x", 7], iter([None])]
        for source in refused:
            with pytest.raises(TypeError):
                cas.put_blob(source)
        with open(os.devnull) as text, pytest.raises(TypeError):
            cas.put_blob(text)
        assert list(cas) == []
        assert cas.put_blob(b"").digest == EMPTY


def check_put_from_a_source_that_fails(store):
    class Bang(Exception):
        pass

    class Raises(OnlyRead):
        def read(self, size=-1):
            if self.rest.tell() > 70_000:
                raise Bang
            return super().read(size)

    class RaisesInto(Raises):
        def readinto(self, buffer):
            piece = self.read(len(buffer))
            buffer[: len(piece)] = piece
            return len(piece)

    def pieces():
        yield noise(70_000)
        raise Bang

    with store.create() as cas:
        content = noise(200_000)
        for source in (Raises(content, 999), RaisesInto(content, 999), pieces()):
            with pytest.raises(Bang):
                cas.put_blob(source)
        assert list(cas) == []
        assert cas.put_blob(content).digest == digest_of(content)


def check_put_from_a_reader_that_misbehaves(store):
    class Returns:
        def __init__(self, *answers):
            self.answers = [*answers, b""]

        def read(self, size=-1):
            return self.answers.pop(0)

    class Says:
        def __init__(self, count):
            self.count = count

        def readinto(self, buffer):
            return self.count

    with store.create() as cas:
        for bad in (None, "text", 7):
            for source in (Returns(bad), Returns(b"x", bad)):
                with pytest.raises((TypeError, ValueError, OSError)):
                    cas.put_blob(source)
        for count in (1 << 40, -1, None, "4"):
            with pytest.raises((TypeError, ValueError, OSError)):
                cas.put_blob(Says(count))
        with pytest.raises(IsADirectoryError):
            cas.put_blob(Path("/"))
        assert list(cas) == []
        # Too much at once is either stored whole or refused, never cut.
        huge = noise(5 << 20)
        with suppress(TypeError, ValueError, OSError):
            assert cas.put_blob(Returns(huge)) == (digest_of(huge), len(huge))
        assert set(cas) <= {digest_of(huge)}


def check_progress(store):
    content = noise((5 << 20) + 3)
    with store.create() as cas:
        pieces = [content[: 1 << 20], content[1 << 20 :]]
        for source in (content, OnlyRead(content, 1 << 18), pieces):
            calls = []
            digest, _ = cas.put_blob(source, progress=lambda *call, calls=calls: calls.append(call))
            done = [call[0] for call in calls]
            assert done == sorted(done)
            assert done[-1] == len(content)
            assert len(calls) < 100
            assert {call[1] for call in calls} <= {None, len(content)}
            cas.delete_blob(digest)

        def stop(done, total):
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            cas.put_blob(content, progress=stop)


def check_put_blobs(store):
    store.path.mkdir(exist_ok=True)
    path = store.path / "one"
    path.write_bytes(b"from a path")
    with store.create() as cas:
        assert cas.put_blobs([]) == []
        contents = [b"a", b"b", b"", b"a", noise(300_000)]
        results = cas.put_blobs(iter([*contents, path]), algorithm="sha512")
        wanted = [*contents, b"from a path"]
        assert results == [(digest_of(content, "sha512"), len(content)) for content in wanted]
        assert len(cas) == 5
        calls = []
        cas.put_blobs([noise(2 << 20, 9)], progress=lambda done, total: calls.append(done))
        assert calls
        assert calls[-1] == 2 << 20


def check_put_blobs_with_a_bad_source(store):
    missing = store.path / "not there"
    with store.create() as cas:
        with pytest.raises(OSError) as caught:
            cas.put_blobs([b"good", missing, b"never"])
        assert caught.value.errno == errno.ENOENT
        notes = getattr(caught.value, "__notes__", [])
        assert "not there" in " ".join([str(caught.value), str(caught.value.filename), *notes])
        # What comes after it may have been under way.
        assert set(cas) - {digest_of(b"never")} == {digest_of(b"good")}
        with pytest.raises(TypeError):
            cas.put_blobs([b"x", "text"])
        with pytest.raises(TypeError):
            cas.put_blobs(b"bytes are one source, not many")


def check_put_json(store):
    with store.create() as cas:
        for value, wanted in (
            ({}, b"{}\n"),
            ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}\n'),
            (
                {"a": "<&>\u2028\u2029\xe9"},
                b'{"a":"\\u003c\\u0026\\u003e\\u2028\\u2029\xc3\xa9"}\n',
            ),
            ([], b"[]\n"),
        ):
            assert cas.put_json(value) == (digest_of(wanted), len(wanted))
            assert cas.read_blob(digest_of(wanted)) == wanted
        assert cas.put_json({}, style="go") == (digest_of(b"{}\n"), 3)
        canonical = b'{"a":[1,"<"],"b":1.5}'
        put = cas.put_json({"b": 1.5, "a": (1.0, "<")}, style="canonical")
        assert put == (digest_of(canonical), len(canonical))
        with pytest.raises((ValueError, NotImplementedError)):
            cas.put_json({}, style="nosuch")


def check_missing_blob(store):
    absent = digest_of(b"absent")
    with store.create() as cas:
        for method in (cas.get_blob, cas.stat_blob, cas.read_blob):
            with pytest.raises(NotExistError) as caught:
                method(absent)
            assert isinstance(caught.value, FileNotFoundError)
            assert caught.value.digest == absent
        with pytest.raises(NotExistError):
            cas.copy_blob(absent, store.path / "copy")
        assert absent not in cas
        # An algorithm that the store has no folder for.
        with pytest.raises(NotExistError):
            cas.stat_blob(digest_of(b"absent", "sha512"))
        cas.delete_blob(digest_of(b"absent", "sha512"))


def check_invalid_digests(store):
    bad = [
        "",
        "sha256:",
        "sha256",
        "sha256:" + "a" * 63,
        "sha256:../../x",
        None,
        7,
        b"sha256:" + b"a",
    ]
    with store.create() as cas:
        for digest in bad:
            for method in (cas.get_blob, cas.stat_blob, cas.read_blob, cas.delete_blob):
                with pytest.raises(InvalidError):
                    method(digest)
            with pytest.raises(InvalidError):
                cas.copy_blob(digest, store.path / "copy")


def check_delete(store):
    with store.create() as cas:
        digest, _ = cas.put_blob(b"gone")
        kept, _ = cas.put_blob(b"kept")
        assert digest in cas
        assert cas.delete_blob(digest) is None
        assert cas.delete_blob(digest) is None
        assert digest not in cas
        assert list(cas) == [kept]
        with pytest.raises(NotExistError):
            cas.get_blob(digest)
        assert cas.put_blob(b"gone").digest == digest
        assert cas.read_blob(digest) == b"gone"


def check_list_is_lazy(store):
    with store.create() as cas:
        wanted = {cas.put_blob(noise(20, seed)).digest for seed in range(50)}
        blobs = cas.list_blobs()
        assert iter(blobs) is blobs
        first = next(blobs)
        assert isinstance(first, Digest)
        assert {first, *blobs} == wanted
        assert set(iter(cas)) == wanted
        assert len(cas) == 50


def check_deleting_while_listing(store):
    with store.create() as cas:
        for seed in range(100):
            cas.put_blob(noise(20, seed))
        for digest in cas.list_blobs():
            cas.delete_blob(digest)
        assert len(cas) == 0


# ---- readers ----


def check_reader_is_a_file(store):
    content = noise(700_001)
    with store.create() as cas:
        digest, size = cas.put_blob(content)
        with cas.get_blob(digest) as reader:
            assert isinstance(reader, io.RawIOBase)
            assert (reader.digest, reader.size, reader.verified) == (digest, size, False)
            assert reader.readable()
            assert reader.seekable()
            assert not reader.writable()
            if "descriptors" in cas.capabilities:
                assert os.fstat(reader.fileno()).st_size == size
            else:
                with pytest.raises(io.UnsupportedOperation):
                    reader.fileno()
            buffer = bytearray(100_000)
            pieces = []
            while count := reader.readinto(buffer):
                pieces.append(bytes(buffer[:count]))
            assert b"".join(pieces) == content
            assert reader.verified
            assert reader.read(10) == b""
        assert reader.closed
        reader.close()
        with pytest.raises(ValueError):
            reader.read(1)
        for size in (1, 4095, 65536, 700_001, 1 << 20):
            with cas.get_blob(digest) as reader:
                if size == 1:
                    assert [reader.read(1) for _ in range(100)] == [
                        content[i : i + 1] for i in range(100)
                    ]
                assert reader.read(0) == b""
                assert not reader.verified
                got = io.BytesIO(content[:100] if size == 1 else b"")
                got.seek(0, 2)
                shutil.copyfileobj(reader, got, max(size, 4096))
                assert got.getvalue() == content
                assert reader.verified
        with cas.get_blob(digest) as reader:
            assert reader.readall() == content
        with cas.get_blob(digest) as reader:
            assert reader.read(-1) == content
        with io.BufferedReader(cas.get_blob(digest)) as buffered:
            assert buffered.peek(1)[:1] == content[:1]
            assert buffered.read() == content
        with cas.get_blob(digest) as reader:
            array_of_int = array.array("I", bytes(4096))
            assert reader.readinto(array_of_int) == 4096
            assert array_of_int.tobytes() == content[:4096]
            with pytest.raises((TypeError, BufferError)):
                reader.readinto(b"read-only")


def check_reader_of_an_empty_blob(store):
    with store.create() as cas:
        cas.put_blob(b"")
        with cas.get_blob(EMPTY) as reader:
            assert reader.size == 0
            assert reader.read() == b""
            assert reader.verified
        with cas.get_blob(EMPTY) as reader:
            reader.verify()
            assert reader.verified


def check_reader_seeks(store):
    content = noise(300_000)
    with store.create() as cas:
        digest, size = cas.put_blob(content)
        with cas.get_blob(digest) as reader:
            assert reader.seek(1000) == 1000
            assert reader.tell() == 1000
            assert reader.read(50) == content[1000:1050]
            assert reader.tell() == 1050
            assert reader.seek(-10, os.SEEK_CUR) == 1040
            assert reader.read(10) == content[1040:1050]
            assert reader.seek(0, os.SEEK_END) == size
            assert reader.read(5) == b""
            assert reader.seek(-7, os.SEEK_END) == size - 7
            assert reader.readall() == content[-7:]
            assert not reader.verified, "a ranged read is never verified"
            with pytest.raises((ValueError, OSError)):
                reader.seek(-1)
            assert reader.seek(size + 10) == size + 10
            assert reader.read(5) == b""
            assert reader.seek(0) == 0
            assert reader.readall() == content
            assert reader.verified


def check_reader_closed_early(store):
    content = noise(300_000)
    with store.create() as cas:
        digest, _ = cas.put_blob(content)
        with cas.get_blob(digest) as reader:
            assert reader.read(5) == content[:5]
        assert not reader.verified
        with cas.get_blob(digest) as reader:
            assert reader.read(5) == content[:5]
            reader.verify()
            assert reader.verified
        reader = cas.get_blob(digest)
        reader.close()
        reader.close()
        assert reader.closed


def check_reader_outlives_delete_and_close(store):
    content = noise(300_000)
    cas = store.create()
    digest, _ = cas.put_blob(content)
    with cas.get_blob(digest) as reader:
        head = reader.read(10)
        cas.delete_blob(digest)
        cas.close()
        assert head + reader.readall() == content
        assert reader.verified


def damaged(content: bytes):
    """Every way in which stored content is wrong, by name."""
    middle = len(content) // 2
    yield "flip at the end", content[:-1] + bytes([content[-1] ^ 1])
    yield "flip", content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :]
    yield "truncated", content[:-1]
    yield "empty", b""
    yield "one more", content + b"\0"
    yield "other", b"other content"


def check_corrupt_blob(store):
    with store.create() as cas:
        for size in (1000, 70_000, 3 << 20):
            content = noise(size, 3)
            digest, _ = cas.put_blob(content)
            cas.sync()
            for _, wrong in damaged(content):
                store.plant(digest, wrong)
                reader = cas.get_blob(digest)
                got = bytearray()
                with pytest.raises(CorruptError) as caught:
                    while piece := reader.read(8000):
                        got += piece
                assert caught.value.digest == digest
                assert not reader.verified
                assert len(got) < max(1, len(wrong)), "the last bytes came before the check"
                assert wrong.startswith(got)
                for _ in range(2):
                    with pytest.raises(CorruptError):
                        reader.read(1)
                with pytest.raises(CorruptError):
                    reader.close()
                assert reader.closed
                with pytest.raises(CorruptError), cas.get_blob(digest) as reader:
                    reader.read()
                with pytest.raises(CorruptError), cas.get_blob(digest) as reader:
                    reader.verify()
                with pytest.raises(CorruptError):
                    cas.read_blob(digest, limit=1 << 30)
                assert digest in cas
                assert digest in set(cas)
                assert cas.stat_blob(digest).size == len(wrong)
                # The first byte may be refused at once, and never is another one.
                with suppress(CorruptError), cas.get_blob(digest) as reader:
                    assert reader.read(1) == wrong[:1]
            cas.put_blob(content, verify_existing=True)
            assert cas.read_blob(digest, limit=1 << 30) == content


def check_digest_mismatch_tells_both(store):
    with store.create() as cas:
        digest, _ = cas.put_blob(b"right")
        cas.sync()
        store.plant(digest, b"wrong")
        with pytest.raises(DigestMismatchError) as caught:
            cas.read_blob(digest)
        assert caught.value.expected == digest
        assert caught.value.actual == digest_of(b"wrong")
        assert caught.value.digest == digest


def check_put_repairs(store):
    content = b"what it should be"
    with store.create() as cas:
        digest, _ = cas.put_blob(content)
        for _, wrong in damaged(content):
            cas.sync()
            store.plant(digest, wrong)
            assert cas.put_blob(content).digest == digest
            assert cas.read_blob(digest) == content
        large = noise(3 << 20)
        digest, _ = cas.put_blob(large)
        for _, wrong in damaged(large):
            cas.sync()
            store.plant(digest, wrong)
            cas.put_blob(io.BytesIO(large), verify_existing=True)
            assert cas.read_blob(digest) == large


def check_read_blob_limit(store):
    with store.create() as cas:
        digest, _ = cas.put_blob(noise(1000))
        assert cas.read_blob(digest, limit=1000) == noise(1000)
        with pytest.raises(InvalidError) as caught:
            cas.read_blob(digest, limit=999)
        assert not isinstance(caught.value, CorruptError)
        digest, _ = cas.put_blob(noise((4 << 20) + 1))
        with pytest.raises(InvalidError):
            cas.read_blob(digest)
        assert len(cas.read_blob(digest, limit=5 << 20)) == (4 << 20) + 1
        digest, _ = cas.put_blob(noise(4 << 20))
        assert len(cas.read_blob(digest)) == 4 << 20
        assert type(cas.read_blob(digest)) is bytes


def check_copy_blob(store):
    store.path.mkdir(exist_ok=True)
    with store.create() as cas:
        for size in (0, 1, 70_000, (5 << 20) + 1):
            content = noise(size)
            digest, _ = cas.put_blob(content)
            for options in ({}, {"link": True}, {"verify": True}, {"link": True, "verify": True}):
                target = store.path / f"copy-{size}-{len(options)}-{'link' in options}"
                result = cas.copy_blob(digest, target, **options)
                assert result.method in METHODS
                assert result == (result.method, size)
                assert options.get("link") or result.method != "hardlink"
                assert target.read_bytes() == content
        calls = []
        copy = store.path / "progress"
        cas.copy_blob(digest, copy, progress=lambda done, total: calls.append((done, total)))
        assert calls[-1] == (size, size)
        store.plant(digest, bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(CorruptError):
            cas.copy_blob(digest, store.path / "corrupt", verify=True)


def check_put_copy(store):
    with store.create() as cas:
        for size, algorithm in ((0, "sha256"), (70_000, "sha512"), ((1 << 20) + 1, "sha256")):
            content = noise(size)
            digest, _ = cas.put_blob(content, algorithm=algorithm)
            with cas.get_blob(digest) as blob:
                assert cas.put_copy(blob) in (("exists", size), ("copy", size))
                if "outlives" in cas.capabilities:
                    cas.delete_blob(digest)  # the reader has it still
                    blob.seek(0)
                    assert cas.put_copy(blob).method in ("copy", "reflink")
                assert not blob.closed
            assert cas.read_blob(digest) == content
        contents = [noise(size, size) for size in (10, 70_000, (1 << 20) + 1)]
        blobs = [cas.get_blob(cas.put_blob(content).digest) for content in contents]
        calls = []
        copied = cas.put_copies(blobs, progress=lambda done, total: calls.append((done, total)))
        assert [copy.size for copy in copied] == [len(content) for content in contents]
        assert {copy.method for copy in copied} <= {"exists", "copy"}
        assert all(total is None for _, total in calls)
        if "outlives" in cas.capabilities:
            for blob in blobs:
                cas.delete_blob(blob.digest)
                blob.seek(0)
            assert {copy.method for copy in cas.put_copies(blobs)} <= {"copy", "reflink"}
        for blob, content in zip(blobs, contents, strict=True):
            assert cas.read_blob(blob.digest) == content
            blob.close()
        store.plant(digest_of(b"right"), b"wrong")
        with cas.get_blob(digest_of(b"right")) as blob:
            cas.delete_blob(digest_of(b"right"))
            with pytest.raises(DigestMismatchError):
                cas.put_copy(blob, verify=True)
            with suppress(DigestMismatchError):
                blob.close()
        assert digest_of(b"right") not in cas


def check_claim_blobs(store):
    with store.create() as cas:
        stored = [cas.put_blob(noise(size, size)) for size in (0, 10, 70_000, (1 << 20) + 1)]
        absent = (digest_of(b"absent"), 6)
        start = cas.read_clock()
        *claimed, last = cas.claim_blobs([*stored, absent])
        assert not last
        used = {blob.digest: blob.changed for blob in cas.scan_blobs()}
        for (digest, _), is_claimed in zip(stored, claimed, strict=True):
            assert not is_claimed or used[digest] >= start
        assert not any(cas.claim_blobs([(digest, size + 1) for digest, size in stored]))
        store.plant(digest_of(b"right"), b"wrong")
        assert not any(cas.claim_blobs([(digest_of(b"right"), 5)], verify=True))
        assert list(cas.stat_blobs([digest for digest, _ in stored])) == stored
        readers = cas.get_blobs([digest for digest, _ in stored])
        for reader, (digest, size) in zip(readers, stored, strict=True):
            with reader:
                assert (reader.digest, reader.size, len(reader.read())) == (digest, size, size)
        with pytest.raises(NotExistError):
            list(cas.stat_blobs([stored[0].digest, absent[0]]))


# ---- index ----


def check_index_round_trip(store):
    with store.create() as cas:
        first = descriptor_of(b"1", annotations={REF_NAME: "one"})
        index = Index((first, descriptor_of(b"2")))
        assert cas.put_index(index) is None
        got = cas.get_index()
        assert got == index
        assert got.to_json() == index.to_json()
        with store.open() as other:
            assert other.get_index() == index
        cas.put_index(Index())
        assert list(cas.get_index().manifests) == []


def check_put_index_of_something_else(store):
    with store.create() as cas:
        before = cas.get_index().to_json()
        for bad in (None, {}, b"{}", "x", 1):
            with pytest.raises((TypeError, ValueError, AttributeError)):
                cas.put_index(bad)
        for bad in ({}, b"{}", 1):
            with pytest.raises((TypeError, ValueError, AttributeError)):
                cas.update_index(lambda index, bad=bad: bad)
        assert cas.get_index().to_json() == before


def check_update_index(store):
    entry = descriptor_of()
    with store.create() as cas:
        written = cas.update_index(lambda index: index.replace(manifests=(*index.manifests, entry)))
        assert list(written.manifests) == [entry]
        assert cas.get_index() == written
        cas.update_index(lambda index: None)
        assert cas.get_index() == written

        def fails(index):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            cas.update_index(fails)
        assert cas.get_index() == written
        # The failure has not left anything locked.
        cas.update_index(lambda index: Index())
        assert list(cas.get_index().manifests) == []


def check_update_index_may_use_the_store(store):
    with store.create() as cas:

        def function(index):
            digest, size = cas.put_blob(b"put inside")
            assert cas.read_blob(digest) == b"put inside"
            assert digest in set(cas)
            assert list(cas.get_index().manifests) == []
            return index.replace(manifests=(Descriptor(MANIFEST, digest, size),))

        cas.update_index(function)
        assert [entry.digest for entry in cas.get_index().manifests] == [digest_of(b"put inside")]


def check_references(store):
    one, two, three = (descriptor_of(content) for content in (b"1", b"2", b"3"))
    with store.create() as cas:
        assert cas.update_reference("v1", one) == []
        assert cas.update_reference("v2", two) == []
        assert list(cas.list_references()) == ["v1", "v2"]
        assert [entry.digest for entry in cas.update_reference("v1", three)] == [one.digest]
        assert list(cas.list_references()) == ["v2", "v1"]
        entries = list(cas.get_index().manifests)
        assert [entry.digest for entry in entries] == [two.digest, three.digest]
        assert [dict(entry.annotations) for entry in entries] == [
            {REF_NAME: "v2"},
            {REF_NAME: "v1"},
        ]
        assert [entry.digest for entry in cas.delete_reference("v2")] == [two.digest]
        assert cas.delete_reference("v2") == []
        assert list(cas.list_references()) == ["v1"]
        with store.open() as other:
            assert list(other.list_references()) == ["v1"]


def check_references_keep_what_is_not_theirs(store):
    name = {REF_NAME: "twice"}
    entries = (
        descriptor_of(b"untagged"),
        descriptor_of(b"1", annotations=name),
        descriptor_of(b"other", annotations={REF_NAME: "other", "k": "v"}),
        descriptor_of(b"2", annotations=name),
    )
    with store.create() as cas:
        cas.put_index(Index(entries))
        assert list(cas.list_references()) == ["twice", "other", "twice"]
        replaced = cas.update_reference("twice", descriptor_of(b"3"))
        assert replaced == [entries[1], entries[3]]
        assert list(cas.get_index().manifests)[:2] == [entries[0], entries[2]]
        assert names_in(cas.get_index()) == [None, "other", "twice"]
        assert len(cas.delete_reference("twice")) == 1
        assert list(cas.get_index().manifests) == [entries[0], entries[2]]


def check_reference_names_are_strict_on_update(store):
    with store.create() as cas:
        for name in ("", "-", "a b", "a//b", "a\n", "/a", None, 7, b"v1"):
            with pytest.raises((InvalidError, TypeError)):
                cas.update_reference(name, descriptor_of())
        assert list(cas.list_references()) == []
        assert cas.delete_reference("not a valid name") == []


# ---- images ----


def put_image(cas, name: str, **more) -> Descriptor:
    """An image whose config and layer are called by its name; its descriptor."""
    config = {"architecture": "amd64", "os": "linux", "author": name}
    config["rootfs"] = {"type": "layers", "diff_ids": []}
    parts = []
    for content, kind in ((json.dumps(config).encode(), "config"), (name.encode(), "layer")):
        digest, size = cas.put_blob(content)
        media_type = f"application/vnd.oci.image.{kind}.v1" + ("+json" if kind == "config" else ".tar")
        parts.append(Descriptor(media_type, digest, size))
    digest, size = cas.put_json(Manifest(parts[0], parts[1:], **more))
    return Descriptor(MANIFEST, digest, size)


def put_index_of(cas, *manifests) -> Descriptor:
    digest, size = cas.put_json(Index(manifests))
    return Descriptor(INDEX, digest, size)


def check_read_descriptor(store):
    with store.create() as cas:
        image = put_image(cas, "one")
        index = put_index_of(cas, image)
        parsed = cas.read_descriptor(index)
        assert parsed.descriptor == index
        assert list(parsed.data.manifests) == [image]
        manifest = cas.read_descriptor(image)
        assert manifest.raw == cas.read_blob(image.digest) == manifest.data.to_json()
        assert cas.read_descriptor(manifest.data.config).data.author == "one"
        assert cas.read_descriptor(manifest.data.layers[0]).raw == b"one"
        store.plant(image.digest, manifest.raw[:-2])
        with pytest.raises(CorruptError):
            cas.read_descriptor(image)
        with pytest.raises(InvalidError):
            cas.read_descriptor(Descriptor(MANIFEST, index.digest, index.size))
        with pytest.raises(NotExistError):
            cas.read_descriptor(descriptor_of(b"absent"))


def check_get_verified_blob(store):
    content = noise(70_000)
    with store.create() as cas:
        cas.put_blob(content)
        right = descriptor_of(content, "m/t")
        with cas.get_verified_blob(right) as reader:
            assert (reader.digest, reader.size) == (right.digest, right.size)
            assert reader.read() == content
            assert reader.verified
        for size in (0, len(content) - 1, len(content) + 1):
            with (
                pytest.raises(SizeMismatchError),
                cas.get_verified_blob(right.replace(size=size)) as reader,
            ):
                reader.read()
        embedded = descriptor_of(b"embedded", "m/t", data=b"embedded")
        with cas.get_verified_blob(embedded) as reader:
            assert reader.read() == b"embedded"
        with pytest.raises(DigestMismatchError):
            cas.get_verified_blob(embedded.replace(data=b"Embedded"))
        with pytest.raises(NotExistError):
            cas.get_verified_blob(descriptor_of(b"embedded", "m/t"))
        store.plant(right.digest, content[:-1] + b"!")
        with pytest.raises(CorruptError), cas.get_verified_blob(right) as reader:
            reader.read()


def check_resolve_reference(store):
    with store.create() as cas:
        one, two = put_image(cas, "one"), put_image(cas, "two")
        arm = two.replace(platform=Platform("arm64", "linux"))
        index = put_index_of(cas, put_index_of(cas, one, arm))
        assert cas.resolve_reference("v1") == []
        cas.update_reference("v1", index)
        paths = cas.resolve_reference("v1")
        assert [path[-1] for path in paths] == [one, arm]
        assert [path[0].digest for path in paths] == [index.digest] * 2
        assert cas.resolve_reference("v1", platform="linux/arm64") == paths[1:]
        assert cas.resolve_reference("v1", platform=Platform("amd64", "linux")) == paths[:1]
        assert cas.resolve_reference("v1", platform="linux/s390x") == []
        assert cas.resolve_reference(one.digest) == paths[:1]
        assert cas.resolve_reference(f"v1@{two.digest}") == paths[1:]
        assert cas.resolve_reference(index.digest[:19]) == paths
        cas.delete_reference("v1")
        assert cas.resolve_reference("v1") == cas.resolve_reference(one.digest) == []


def check_walk(store):
    with store.create() as cas:
        one, two = put_image(cas, "one"), put_image(cas, "two")
        index = put_index_of(cas, one, two, one)
        paths = list(cas.walk(index))
        assert [len(path) for path in paths] == [1, 2, 3, 3, 2, 3, 3]
        assert [path[-1] for path in paths if len(path) == 2] == [one, two]
        pruned = cas.walk(index, lambda path: path[-1] != one)
        assert [len(path) for path in pruned] == [1, 2, 2, 3, 3]
        cas.delete_blob(one.digest)
        assert [len(path) for path in cas.walk(index)] == [1, 2, 2, 3, 3]
        with pytest.raises(NotExistError):
            list(cas.walk(one))
        node = two
        for _ in range(30):
            node = put_index_of(cas, node, node)
        assert len(list(cas.walk(node))) == 33


def check_map_descriptors(store):
    with store.create() as cas:
        index = Index([descriptor_of(b"1"), descriptor_of(b"2")], annotations={"k": "v"})
        sizes = iter((7, 8))
        mapped = cas.map_descriptors(index, lambda entry: entry.replace(size=next(sizes)))
        assert [entry.size for entry in mapped.manifests] == [7, 8]
        assert mapped.annotations == {"k": "v"}
        assert [entry.size for entry in index.manifests] == [1, 1]


def check_referrers(store):
    with store.create() as cas:
        image = put_image(cas, "image")
        artifact = put_image(cas, "sbom", subject=image, artifact_type="a/t", annotations={"k": "v"})
        listed = put_image(cas, "listed")
        cas.put_index(Index([image, artifact]))
        cas.update_reference(image.digest.replace(":", "-"), put_index_of(cas, listed, artifact))
        first, second = cas.referrers(image.digest)
        assert (first.digest, first.artifact_type) == (artifact.digest, "a/t")
        assert first.annotations == {"k": "v"}
        assert second.digest == listed.digest
        assert cas.referrers(image.digest, artifact_type="a/t") == [first]
        assert cas.referrers(artifact.digest) == []


# ---- garbage collection and scrub ----


def store_image(cas, seed: int = 0, *, algorithm: str = "sha256", **more):
    """Stores a manifest with a config and two layers; returns its descriptor and all four digests."""

    def put(content, media_type):
        return Descriptor(media_type, *cas.put_blob(content, algorithm=algorithm))

    config = put(b'{"architecture":"amd64","os":"linux","n":%d}' % seed, CONFIG)
    layers = [put(noise(1000 + seed, seed), LAYER), put(noise(70_000, 1000 + seed), LAYER)]
    manifest = put(Manifest(config, layers, **more).to_json(), MANIFEST)
    return manifest, {manifest.digest, config.digest, *(layer.digest for layer in layers)}


def check_gc(store):
    with store.create() as cas:
        tagged, one = store_image(cas, 1)
        untagged, two = store_image(cas, 2)
        _, three = store_image(cas, 3, algorithm="sha512")
        cas.update_reference("v1", tagged)
        cas.update_index(lambda index: index.replace(manifests=(*index.manifests, untagged)))
        assert cas.gc().deleted == [], "what is young stays"
        planned = cas.gc(grace=0, dry_run=True)
        assert set(cas) == one | two | three
        calls = []
        report = cas.gc(grace=0, progress=lambda *call: calls.append(call))
        assert {blob.digest for blob in report.deleted} == three
        assert set(planned.deleted) == set(report.deleted)
        assert (planned.freed, planned.kept, planned.dry_run) == (report.freed, 8, True)
        assert report.freed == sum(blob.size for blob in report.deleted) > 70_000
        assert (report.kept, report.dry_run) == (8, False)
        assert calls[-1] == (report.freed, report.freed)
        assert set(cas) == one | two
        assert cas.gc(grace=0) == ([], 0, 8, False)
        cas.delete_reference("v1")
        cas.gc(grace=0)
        assert set(cas) == two
        cas.put_index(Index())
        assert cas.gc(grace=0).kept == 0
        assert list(cas) == []


def check_gc_policies(store):
    with store.create() as cas:
        kept, _ = cas.put_blob(b"kept")
        gone, size = cas.put_blob(b"gone")
        tagged, digests = store_image(cas, 1)
        cas.update_reference("v1", tagged)
        seen = []

        def fails(blob):
            raise ZeroDivisionError

        for policy in (fails, seen.append, lambda blob: 1):
            with pytest.raises((ZeroDivisionError, TypeError)):
                cas.gc(grace=0, keep=[lambda blob: False, policy])
        assert set(cas) == {kept, gone, *digests}
        assert {blob.digest for blob in seen} <= {kept, gone}, "asked only for what would go"
        for bad in (lambda blob: True, [None], "x"):
            with pytest.raises(TypeError):
                cas.gc(grace=0, keep=bad)
        report = cas.gc(grace=0, keep=[lambda blob: False, lambda blob: blob.digest == kept])
        assert report.deleted == [(gone, size)]
        assert set(cas) == {kept, *digests}


def check_gc_of_bad_grace(store):
    with store.create() as cas:
        cas.put_blob(b"x")
        for grace in (-1, float("nan"), float("inf"), "3600", None, True):
            with pytest.raises(InvalidError):
                cas.gc(grace=grace)
        assert len(cas) == 1


def check_gc_fails_closed(store):
    with store.create() as cas:
        tagged, digests = store_image(cas, 1)
        cas.update_reference("v1", tagged)
        garbage, _ = cas.put_blob(b"garbage")
        right = cas.read_blob(tagged.digest)
        for wrong in (right[:-1], b"{}", right.replace(b"amd64", b"amd65") + b" ", b""):
            store.plant(tagged.digest, wrong)
            with pytest.raises(InvalidError) as caught:
                cas.gc(grace=0)
            assert caught.value.digest == tagged.digest
            assert garbage in cas
        store.plant(tagged.digest, right)
        assert [blob.digest for blob in cas.gc(grace=0).deleted] == [garbage]
        assert set(cas) == digests


def check_sweep(store):
    with store.create() as cas:
        old = [cas.put_blob(noise(100, seed)).digest for seed in range(5)]
        start = cas.read_clock()
        index = cas.get_index()
        cas.put_blob(noise(100, 4))
        new, _ = cas.put_blob(b"new")
        changed = {blob.digest: blob.changed for blob in cas.scan_blobs()}
        assert all(changed[digest] < start for digest in old[:4])
        assert changed[old[4]] >= start, "a dedupe hit counts as a put"
        assert changed[new] >= start
        sweep = {"index": index, "start": start, "grace": 0}
        absent = Digest(digest_of(b"absent"))
        swept = cas.sweep_blobs([old[4], new, absent, *old[:2]], **sweep)
        assert ([blob.digest for blob in swept.removed], swept.left) == (old[:2], [])
        assert cas.sweep_blobs(old, **{**sweep, "grace": 3600 * 10**9}) == ([], [])
        cas.update_reference("v1", descriptor_of())
        assert cas.sweep_blobs(old, **sweep) == ([], old)
        cas.delete_reference("v1")
        with cas.announce_sweep():
            swept = cas.sweep_blobs(old, **{**sweep, "index": cas.get_index()})
        assert [blob.digest for blob in swept.removed] == old[2:4]
        assert set(cas) == {old[4], new}


def kinds_in(report):
    return sorted((problem.kind, problem.digest) for problem in report.problems)


def check_scrub(store):
    with store.create() as cas:
        tagged, digests = store_image(cas, 1)
        store_image(cas, 2, algorithm="sha512")
        cas.update_reference("v1", tagged)
        total = sum(cas.stat_blob(digest).size for digest in cas)
        calls = []
        for options in ({}, {"threads": 1}, {"progress": lambda *call: calls.append(call)}):
            assert cas.scrub(**options) == (8, total, [])
        assert calls[-1] == (total, total)
        assert cas.scrub(quick=True) == (8, total, [])
        # An engine that can't look at many at once says so; one that can tells what is right.
        for quick in (False, True):
            means = cas.check_blobs(list(cas), quick=quick, threads=2)
            checksums = quick and "checksums" in cas.capabilities
            assert means is None or set(means) == ({"digest", "checksum"} if checksums else {"digest"})
        layer = max(digests, key=lambda digest: cas.stat_blob(digest).size)
        content = cas.read_blob(layer)
        # So does one that can't read many at once; wrong ones are left to read_blob.
        wanted = [(digest, cas.stat_blob(digest).size) for digest in digests]
        found = cas.start_reading([*wanted, (layer, 1), (digest_of(b"absent"), 6)])()
        assert all(a in (None, cas.read_blob(d)) for a, (d, _) in zip(found, wanted, strict=False))
        assert len(found) == len(wanted) + 2
        assert found[-2:] == [None, None]
        for _, wrong in damaged(content):
            store.plant(layer, wrong)
            report = cas.scrub()
            assert kinds_in(report) == [("corrupt", layer)]
            assert report.problems[0].detail
            assert str(layer).partition(":")[2] in report.problems[0].path
            assert kinds_in(cas.scrub(quick=True)) == [("corrupt", layer)]
        cas.delete_blob(layer)
        assert kinds_in(cas.scrub()) == kinds_in(cas.scrub(quick=True)) == [("missing", layer)]
        cas.delete_blob(tagged.digest)
        assert kinds_in(cas.scrub()) == [("dangling", tagged.digest)]
        cas.put_index(Index())
        assert cas.scrub().problems == []
        for threads in (0, -1, True, "2", 1.5):
            with pytest.raises(InvalidError):
                cas.scrub(threads=threads)


def check_scrub_of_wrong_sizes(store):
    with store.create() as cas:
        layer, size = cas.put_blob(noise(5000))
        config, _ = cas.put_blob(b"{}")
        manifest = Manifest(Descriptor(CONFIG, config, 2), [Descriptor(LAYER, layer, size + 1)])
        cas.update_reference("v1", Descriptor(MANIFEST, *cas.put_blob(manifest.to_json())))
        for quick in (False, True):
            report = cas.scrub(quick=quick, quarantine=store.path / "quarantine")
            assert kinds_in(report) == [("wrong-size", layer)]
            assert report.checked == 3
        assert layer in cas, "its content is right"


def check_quarantine_and_heal(store):
    quarantine = store.path / "some" / "quarantine"
    content = noise(3 << 20)
    with store.create() as cas:
        digest, _ = cas.put_blob(content)
        wrong = content[:-1] + b"?"
        for suffix in ("", ".1"):
            store.plant(digest, wrong)
            report = cas.scrub(quarantine=quarantine)
            assert kinds_in(report) == [("corrupt", digest)]
            assert digest not in cas
            assert cas.scrub() == (0, 0, [])
            moved = quarantine / f"sha256-{digest.encoded}{suffix}"
            assert moved.read_bytes() == wrong
            note = json.loads(moved.with_name(moved.name + ".json").read_bytes())
            assert (note["digest"], note["kind"]) == (digest, "corrupt")
            # What is absent is stored anew; a large blob that is damaged there needs to be verified.
            cas.put_blob(content)
            assert cas.read_blob(digest) == content
        move = cas.open_quarantine(str(quarantine))
        assert move(digest, {}) is None, "it is right"
        assert move(Digest(digest_of(b"absent")), {}) is None
        assert cas.read_blob(digest) == content
        store.plant(digest, wrong)
        cas.put_blob(content, verify_existing=True)
        assert cas.scrub().problems == []


# ---- life ----


def check_clean_keeps_everything(store):
    with store.create() as cas:
        digest, size = cas.put_blob(b"content")
        cas.update_reference("v1", Descriptor(MANIFEST, digest, size))
        unreferenced, _ = cas.put_blob(b"unreferenced")
        cas.put_blob(b"512", algorithm="sha512")
        assert list(cas.clean()) == []
        assert list(cas.list_references()) == ["v1"]
        assert len(cas) == 3
        assert cas.read_blob(unreferenced) == b"unreferenced"


def check_sync(store):
    with store.create() as cas:
        assert cas.sync() is None
        cas.put_blob(b"x")
        assert cas.sync() is None
        cas.sync()


def check_reopen(store):
    with store.create() as cas:
        cas.put_blob(noise(70_000))
        cas.update_reference("v1", descriptor_of())
    with store.open() as cas:
        assert list(cas) == [digest_of(noise(70_000))]
        assert cas.read_blob(digest_of(noise(70_000))) == noise(70_000)
        assert list(cas.list_references()) == ["v1"]


def check_two_engines_see_each_other(store):
    with store.create() as one, store.open() as two:
        digest, _ = one.put_blob(b"shared")
        one.sync()
        assert two.read_blob(digest) == b"shared"
        two.update_reference("v1", descriptor_of())
        assert list(one.list_references()) == ["v1"]
        two.delete_blob(digest)
        assert digest not in one


def check_durability(store):
    with store.create() as cas:
        assert cas.durability in ("full", "batch", "syncfs", "none")


def check_with_closes(store):
    with store.create() as cas:
        pass
    with pytest.raises(ClosedError):
        cas.put_blob(b"x")
    with pytest.raises(ZeroDivisionError), store.open() as cas:
        raise ZeroDivisionError
    with pytest.raises(ClosedError):
        list(cas.list_blobs())


def check_closed(store):
    store.path.mkdir(exist_ok=True)
    cas = store.create()
    digest, _ = cas.put_blob(b"x")
    cas.close()
    cas.close()
    calls = {
        "put_blob": lambda: cas.put_blob(b"y"),
        "put_blobs": lambda: cas.put_blobs([b"y"]),
        "put_json": lambda: cas.put_json({}),
        "get_blob": lambda: cas.get_blob(digest),
        "read_blob": lambda: cas.read_blob(digest),
        "stat_blob": lambda: cas.stat_blob(digest),
        "copy_blob": lambda: cas.copy_blob(digest, store.path / "copy"),
        "put_blob, compressed": lambda: cas.put_blob(b"x", compress="gzip"),
        "get_plain_blob": lambda: cas.get_plain_blob(digest),
        "delete_blob": lambda: cas.delete_blob(digest),
        "list_blobs": lambda: list(cas.list_blobs()),
        "get_index": cas.get_index,
        "put_index": lambda: cas.put_index(Index()),
        "update_index": lambda: cas.update_index(lambda index: index),
        "get_verified_blob": lambda: cas.get_verified_blob(descriptor_of(b"x")),
        "read_descriptor": lambda: cas.read_descriptor(descriptor_of(b"x")),
        "walk": lambda: list(cas.walk(descriptor_of(b"x"))),
        "referrers": lambda: cas.referrers(digest),
        "resolve_reference": lambda: cas.resolve_reference("v1"),
        "list_references": lambda: list(cas.list_references()),
        "update_reference": lambda: cas.update_reference("v1", descriptor_of()),
        "delete_reference": lambda: cas.delete_reference("v1"),
        "gc": cas.gc,
        "scrub": cas.scrub,
        "read_clock and scan_blobs": lambda: (cas.read_clock(), list(cas.scan_blobs())),
        "sweep_blobs": lambda: cas.sweep_blobs([digest], index=Index(), start=0, grace=0),
        "open_quarantine": lambda: cas.open_quarantine(str(store.path / "quarantine")),
        "clean": cas.clean,
        "sync": cas.sync,
        "in": lambda: digest in cas,
        "iter": lambda: list(cas),
        "len": lambda: len(cas),
    }
    for name, call in calls.items():
        with pytest.raises(ClosedError) as caught:
            call()
        assert isinstance(caught.value, ValueError), name
    with store.open() as again:
        assert list(again) == [digest]


def check_compressed_put_and_plain_read(store):
    content = noise(70_000) + bytes(2_000_000)
    with store.create() as cas:
        for name in ("none", "gzip", "zstd"):
            result = cas.put_blob(iter([content]), compress=name)
            assert (result.diff_id, result.plain_size) == (digest_of(content), len(content))
            assert tuple(result) == tuple(cas.stat_blob(result.digest))
            assert cas.put_blob(content, compress=name, expected_digest=result.digest) == result
            with cas.get_plain_blob(result.digest, diff_id=result.diff_id) as reader:
                assert (reader.compression, reader.read()) == (name, content)
            with cas.get_plain_blob(result.digest, limit=len(content) - 1) as reader:
                with pytest.raises(InvalidError):
                    reader.read()
        before = set(cas)
        with pytest.raises(DigestMismatchError):
            cas.put_blob(content, compress="gzip", expected_digest=digest_of(b"other"))
        with pytest.raises(UnknownTypeError):
            cas.put_blob(content, compress="unheard-of")
        with pytest.raises(InvalidError):
            cas.put_blob(content, compress="gzip", level=99)
        assert set(cas) == before


def check_one_base_for_errors(store):
    with store.create() as cas:
        for call in (lambda: cas.get_blob("bad"), lambda: cas.get_blob(EMPTY)):
            with pytest.raises(fastcas.FastCASError):
                call()


CHECKS = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_") and function is not check_source
}
