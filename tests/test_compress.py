"""Compressed puts, plain reads: round-trips, equal bytes, both digests, caps, damage, no leftovers."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zlib

import pytest

import fastcas
from fastcas.errors import (
    ClosedError,
    CorruptError,
    DigestMismatchError,
    InvalidError,
    NotExistError,
    SizeMismatchError,
    UnknownAlgorithmError,
    UnknownTypeError,
    UnsupportedError,
)
from fastcas.image import codec, compress
from fastcas.image.compress import decompress, layer_media_type, library, put_compressed
from oracle import OracleEngine

MIB = 1 << 20
BLOCKS = {"none": 4 * MIB, "gzip": MIB, "zstd": 4 * MIB}
NAMES = list(BLOCKS)
LIBRARIES = [*(("gzip", level) for level in range(1, 10)), ("zstd", 1), ("zstd", 3), ("none", None)]


def text(size: int, seed: int = 1) -> bytes:
    """Compressible, with matches across the edges of blocks."""
    generator = random.Random(seed)
    words = [generator.randbytes(generator.randrange(2, 12)).hex().encode() for _ in range(400)]
    made, count = [], 0
    while count < min(size, 300_000):
        made.append(generator.choice(words))
        count += len(made[-1])
    base = b" ".join(made) or b"x"
    return (base * (size // len(base) + 1))[:size]


CONTENT = text(9 * MIB + 12345)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def packed(name: str, content: bytes, level: int | None = None, threads: int = 2) -> bytes:
    """The stored bytes."""
    kept: list[bytes] = []

    class Store:
        def put_blob(self, source, **_):
            source.feed(type("Sink", (), {"write": lambda _, data: kept.append(bytes(data))})())
            whole = b"".join(kept)
            return fastcas.PutResult(fastcas.Digest(sha256(whole)), len(whole))

    put_compressed(Store(), content, name, level, threads=threads)
    return b"".join(kept)


def plain_of(data: bytes, **options) -> bytes:
    with decompress(io.BytesIO(data), **options) as reader:
        return reader.read()


@pytest.fixture
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def nothing_stored(cas) -> bool:
    names = [name for name in os.listdir(cas.path) if name.endswith(".tmp")]
    return not names and list(cas) == []


# Round-trips.


@pytest.mark.parametrize(("name", "level"), LIBRARIES)
def test_what_went_in_comes_out(cas, name, level, no_fd_leak, no_thread_left):
    result = cas.put_blob(CONTENT, compress=name, level=level)
    stored = cas.read_blob(result.digest, limit=1 << 30)
    assert result == (sha256(stored), len(stored))
    assert (result.diff_id, result.plain_size) == (sha256(CONTENT), len(CONTENT))
    assert name == "none" or len(stored) < len(CONTENT) // 2
    with cas.get_plain_blob(result.digest, diff_id=result.diff_id) as reader:
        assert reader.compression == name
        assert reader.read() == CONTENT
        assert reader.verified
        assert reader.plain_size == len(CONTENT)
        assert reader.read(1) == b""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("delta", [-1, 0, 1])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_lengths_around_the_edges_of_blocks(name, blocks, delta):
    size = max(0, blocks * BLOCKS[name] + delta)
    content = text(size)
    stored = packed(name, content)
    assert plain_of(stored, diff_id=sha256(content)) == content
    if name == "gzip":
        assert gzip.decompress(stored) == content


@pytest.mark.parametrize("name", NAMES)
def test_incompressible_content_and_zeros(name):
    for content in (random.Random(5).randbytes(3 * MIB), bytes(3 * MIB)):
        stored = packed(name, content)
        assert plain_of(stored) == content
        assert len(stored) < len(content) * 1.001 + 100


@pytest.mark.parametrize("level", range(1, 10))
def test_gzip_is_one_member_that_every_reader_takes(tmp_path, level):
    stored = packed("gzip", CONTENT, level)
    # Method deflate, no flags, no time, no extra flags, operating system unknown.
    assert stored[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    stream = zlib.decompressobj(31)
    assert stream.decompress(stored) == CONTENT
    assert stream.eof
    assert stream.unused_data == b""
    path = tmp_path / "layer.gz"
    path.write_bytes(stored)
    subprocess.run(["gzip", "-t", path], check=True)
    assert subprocess.run(["gzip", "-dc", path], capture_output=True, check=True).stdout == CONTENT


def test_gzip_keeps_its_window_across_blocks():
    noise = random.Random(3).randbytes(30_000)
    content = bytes(MIB - len(noise)) + noise + noise
    for rest in (b"", bytes(MIB)):  # the second is a last block, and one of several
        assert len(packed("gzip", content + rest, 6)) < 1.5 * len(noise)


def test_the_levels_are_worth_their_time():
    quickest = len(packed("gzip", CONTENT, 1))
    assert all(len(packed("gzip", CONTENT, level)) < quickest for level in (4, 6, 9))
    assert len(packed("zstd", CONTENT, 19)) < len(packed("zstd", CONTENT, 1))


# Equal bytes.


@pytest.mark.parametrize(("name", "level"), LIBRARIES)
def test_the_bytes_do_not_depend_on_the_number_of_threads(name, level):
    reference = packed(name, CONTENT, level, threads=1)
    for threads in (1, 2, 3, 8):
        assert packed(name, CONTENT, level, threads=threads) == reference


class Reads:
    """Offers only `read`, or only `readinto`, in pieces of odd sizes."""

    def __init__(self, content: bytes, sizes) -> None:
        self._stream = io.BytesIO(content)
        self._sizes = sizes

    def next_size(self, most: int) -> int:
        return min(most, self._sizes())


class OnlyRead(Reads):
    def read(self, size=-1):
        return self._stream.read(self.next_size(size))


class OnlyReadinto(Reads):
    def readinto(self, view):
        return self._stream.readinto(view[: self.next_size(len(view))])


def ways_of_feeding(content: bytes, path, stack: list):
    generator = random.Random(8)

    def odd() -> int:
        return generator.randrange(1, 300_000)

    def pieces():
        at = 0
        while at < len(content):
            size = odd()
            yield content[at : at + size]
            yield b""
            at += size

    path.write_bytes(content)
    yield content
    yield bytearray(content)
    yield memoryview(content)[::1]
    yield path
    yield pieces()
    yield [memoryview(content).cast("H")] if len(content) % 2 == 0 else [content]
    yield OnlyRead(content, odd)
    yield OnlyReadinto(content, odd)
    for opened in (
        path.open("rb"),
        path.open("rb", buffering=0),
        gzip.GzipFile(fileobj=stored(content)),
    ):
        stack.append(opened)
        yield opened
    read, write = os.pipe()
    feeder = threading.Thread(target=feed, args=(lambda data: os.write(write, data), content, write))
    feeder.start()
    pipe = os.fdopen(read, "rb")
    stack.append(pipe)
    yield pipe
    feeder.join()
    ours, theirs = socket.socketpair()
    end = theirs.detach()
    feeder = threading.Thread(target=feed, args=(lambda data: os.write(end, data), content, end))
    feeder.start()
    stack.append(ours)
    yield ours
    feeder.join()


def feed(write, content: bytes, descriptor: int) -> None:
    view = memoryview(content)
    while view:
        view = view[write(view[:100_000]) :]
    os.close(descriptor)


def stored(content: bytes) -> io.BytesIO:
    return io.BytesIO(gzip.compress(content, 1))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_every_way_of_feeding_gives_the_same_blob(cas, tmp_path, name, no_fd_leak, no_thread_left):
    content = CONTENT[: 5 * MIB + 78]
    expected = sha256(packed(name, content))
    count = 0
    stack: list = []
    for source in ways_of_feeding(content, tmp_path / "source", stack):
        result = cas.put_blob(source, compress=name)
        assert (result.digest, result.diff_id) == (expected, sha256(content)), source
        count += 1
    assert count == 13
    for opened in stack:
        opened.close()


def test_a_file_is_taken_from_where_it_stands(cas, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        file.seek(777)
        assert cas.put_blob(file, compress="gzip").diff_id == sha256(CONTENT[777:])
        assert file.read() == b""


def test_a_reader_that_is_put_decompresses_and_compresses_again(cas):
    first = cas.put_blob(CONTENT, compress="gzip")
    with cas.get_plain_blob(first.digest, diff_id=first.diff_id) as reader:
        second = cas.put_blob(reader, compress="zstd")
    assert second.diff_id == first.diff_id


# What a put says.


def test_the_result_is_a_put_result_with_more(cas):
    result = cas.put_blob(b"hello", compress="gzip")
    digest, size = result
    assert isinstance(result, fastcas.PutResult)
    assert type(result) is fastcas.CompressedPutResult
    assert (digest, size) == (result.digest, result.size) == tuple(cas.stat_blob(digest))
    assert (result.diff_id, result.plain_size) == (sha256(b"hello"), 5)
    assert isinstance(result.diff_id, fastcas.Digest)
    assert "diff_id='sha256:" in repr(result).replace("Digest(", "").replace(")", "")
    again = pickle.loads(pickle.dumps(result))
    assert (again, again.diff_id, again.plain_size) == (result, result.diff_id, 5)
    with pytest.raises(AttributeError):
        result.diff_id = "other"


def test_without_compression_nothing_has_changed(cas):
    assert type(cas.put_blob(b"hello")) is fastcas.PutResult


def test_the_oracle_gives_the_same(cas, tmp_path):
    with OracleEngine.create(tmp_path / "oracle") as oracle:
        for name in NAMES:
            ours, theirs = (e.put_blob(CONTENT, compress=name) for e in (cas, oracle))
            assert (ours, ours.diff_id) == (theirs, theirs.diff_id)
            with oracle.get_plain_blob(theirs.digest, diff_id=theirs.diff_id) as reader:
                assert reader.read() == CONTENT


def test_sha512_is_that_of_both_streams(cas):
    result = cas.put_blob(b"hello", compress="gzip", algorithm="sha512")
    assert result.digest.algorithm == "sha512"
    assert result.diff_id == "sha512:" + hashlib.sha512(b"hello").hexdigest()
    again = cas.put_blob(b"hello", compress="gzip", expected_digest=result.digest)
    assert again.diff_id == result.diff_id
    with pytest.raises(UnknownAlgorithmError):
        cas.put_blob(b"hello", compress="gzip", algorithm="md5")


def test_expectations_are_about_the_stored_bytes(cas):
    data = packed("gzip", CONTENT)
    cas.put_blob(CONTENT, compress="gzip", expected_digest=sha256(data), expected_size=len(data))
    cas.delete_blob(sha256(data))
    with pytest.raises(DigestMismatchError):
        cas.put_blob(CONTENT, compress="gzip", expected_digest=sha256(CONTENT))
    for size in (len(data) - 1, len(data) + 1, 10):
        with pytest.raises(SizeMismatchError):
            cas.put_blob(CONTENT, compress="gzip", expected_size=size)
    assert nothing_stored(cas)


def test_progress_counts_plain_bytes(cas):
    seen = []
    cas.put_blob(CONTENT, compress="gzip", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert len(seen) == 10


def test_names_and_levels(cas):
    for level in (0, 10, -1, True, 2.0, "6"):
        with pytest.raises(InvalidError, match="gzip has no level"):
            cas.put_blob(b"", compress="gzip", level=level)
    for level in (0, 23):
        with pytest.raises(InvalidError, match="1 to 22"):
            cas.put_blob(b"", compress="zstd", level=level)
    with pytest.raises(InvalidError):
        cas.put_blob(b"", compress="none", level=1)
    with pytest.raises(InvalidError, match="compress="):
        cas.put_blob(b"", level=1)
    with pytest.raises(UnknownTypeError) as caught:
        cas.put_blob(b"", compress="brotli")
    assert caught.value.algorithm == "brotli"
    with pytest.raises(TypeError):
        cas.put_blob(b"", compress=6)
    with pytest.raises(TypeError):
        cas.put_blob("text", compress="gzip")
    assert nothing_stored(cas)


def test_media_types():
    base = "application/vnd.oci.image.layer.v1.tar"
    assert layer_media_type("none") == base
    assert layer_media_type("gzip") == base + "+gzip"
    assert layer_media_type("zstd") == base + "+zstd"
    with pytest.raises(UnknownTypeError):
        layer_media_type("lz4")


# Libraries.


def hide(monkeypatch, *names):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


def test_every_library_is_installed_here():
    assert library("gzip", 1).startswith("isa-l 2")
    assert library("gzip", 6).startswith("zlib-ng 2")
    assert library("zstd").startswith("zstd 1")
    assert library("none") == ""


def test_gzip_without_its_libraries(monkeypatch):
    hide(monkeypatch, "isal.isal_zlib", "zlib_ng.zlib_ng")
    for level in (1, 6, 9):
        assert library("gzip", level).startswith("zlib 1")
        data = packed("gzip", CONTENT, level)
        assert data == packed("gzip", CONTENT, level, threads=1)
        assert plain_of(data, diff_id=sha256(CONTENT)) == CONTENT
    with pytest.raises(CorruptError):
        plain_of(data[:-1])


def test_gzip_is_read_by_each_library(monkeypatch):
    data = packed("gzip", CONTENT)
    for hidden in ("isal.isal_zlib", "zlib_ng.zlib_ng"):
        assert plain_of(data, diff_id=sha256(CONTENT)) == CONTENT
        hide(monkeypatch, hidden)


def test_zstd_without_its_library(monkeypatch, cas):
    data = packed("zstd", b"hello")
    hide(monkeypatch, "compression.zstd", "backports.zstd")
    with pytest.raises(UnsupportedError, match=r"fastcas\[compress\]"):
        cas.put_blob(b"hello", compress="zstd")
    with pytest.raises(UnsupportedError, match=r"fastcas\[compress\]"):
        plain_of(data)
    assert nothing_stored(cas)


class Bzip2(codec.Codec):
    name = "bzip2"
    suffix = "+bzip2"
    magics = (b"BZh",)
    levels = range(1, 10)
    level = 9

    def encoder(self, level):
        class Encoder(codec.Encoder):
            block_size = 100_000

            def encode(self, block, before):
                return bz2.compress(block, level)

        return Encoder()

    def decoder(self):
        return bz2.BZ2Decompressor()

    def errors(self):
        return (OSError,)


def test_a_registered_compression(cas, monkeypatch):
    monkeypatch.setattr(codec, "_known", dict(codec._known))
    compress.register_compression(Bzip2())
    result = cas.put_blob(CONTENT[:MIB], compress="bzip2", level=2)
    assert bz2.decompress(cas.read_blob(result.digest)) == CONTENT[:MIB]
    with cas.get_plain_blob(result.digest, diff_id=result.diff_id) as reader:
        assert reader.compression == "bzip2"
        assert reader.read() == CONTENT[:MIB]
    with pytest.raises(CorruptError, match="bzip2"):
        plain_of(b"BZhello, this is none")
    assert layer_media_type("bzip2").endswith("tar+bzip2")
    assert compress.compressions() == ("none", "gzip", "zstd", "bzip2")
    with pytest.raises(InvalidError, match="already"):
        compress.register_compression(Bzip2())
    with pytest.raises(TypeError):
        compress.register_compression(Bzip2)


# Nothing is left behind.


class Broken(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize("name", NAMES)
def test_a_source_that_raises_leaves_nothing(cas, name, at, no_fd_leak, no_thread_left):
    def pieces():
        for _ in range(at):
            yield CONTENT[:MIB]
        raise Broken

    with pytest.raises(Broken):
        cas.put_blob(pieces(), compress=name)
    assert nothing_stored(cas)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, GeneratorExit])
def test_what_progress_raises_is_raised(cas, error, no_fd_leak, no_thread_left):
    def progress(done, total):
        if done > 3 * MIB:
            raise error

    with pytest.raises(error):
        cas.put_blob(CONTENT, compress="gzip", progress=progress)
    assert nothing_stored(cas)


def test_an_encoder_that_fails_in_its_thread(cas, monkeypatch, no_fd_leak, no_thread_left):
    class Failing(Bzip2):
        def encoder(self, level):
            encoder = super().encoder(level)

            def encode(block, before):
                raise Broken

            encoder.encode = encode
            return encoder

    monkeypatch.setattr(codec, "_known", {"bzip2": Failing()})
    with pytest.raises(Broken):
        cas.put_blob(CONTENT, compress="bzip2")
    assert nothing_stored(cas)


def test_a_source_that_keeps_the_memory_it_fills(cas):
    class Keeper(OnlyReadinto):
        kept = ()

        def readinto(self, view):
            for place in self.kept:
                place[:] = bytes(len(place))
            self.kept = (*self.kept[-3:], memoryview(view)[:1000])
            return super().readinto(view)

    result = cas.put_blob(Keeper(CONTENT, lambda: 300_000), compress="gzip")
    assert result.diff_id == sha256(CONTENT)
    with cas.get_plain_blob(result.digest, diff_id=result.diff_id) as reader:
        assert reader.read() == CONTENT


def test_a_socket_that_times_out(cas, no_fd_leak, no_thread_left):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        theirs.send(b"some")
        with pytest.raises(TimeoutError):
            cas.put_blob(ours, compress="gzip")
    assert nothing_stored(cas)


def interrupted(path):
    """Ctrl-C while the source gives for ever."""
    cas = fastcas.create(path, durability="none")

    def forever():
        for number in range(1 << 40):
            if number == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield CONTENT[:MIB]

    try:
        cas.put_blob(forever(), compress="gzip", level=1)
    except KeyboardInterrupt:
        return [threading.active_count(), len(list(cas)), sorted(os.listdir(path))]
    return None


def test_an_interrupt_ends_the_put(spawn, layout):
    threads, blobs, names = spawn(interrupted, layout).result()
    assert (threads, blobs) == (1, 0)
    assert not [name for name in names if name.endswith(".tmp")]


def forked(path):
    """The child goes on with the source, and may not store; the parent ends its put."""
    cas = fastcas.create(path, durability="none")
    parent = os.getpid()
    children = []

    def pieces():
        for number in range(12):
            if number == 6:
                children.append(os.fork())
            yield CONTENT[:MIB]

    try:
        result = cas.put_blob(pieces(), compress="gzip")
    except UnsupportedError:
        os._exit(7 if os.getpid() != parent else 8)
    if os.getpid() != parent:
        os._exit(9)
    child = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    return [child, result.plain_size, list(cas) == [result.digest]]


def test_a_fork_in_the_middle(spawn, layout):
    assert spawn(forked, layout).result() == [7, 12 * MIB, True]


def test_several_threads_put_at_once(cas, no_thread_left):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(cas.put_blob(CONTENT, compress="gzip")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert set(results) == {(sha256(packed("gzip", CONTENT)), results[0].size)}


def peak_of_a_large_put(path, size):
    """What a put of `size` MiB and the reading of it add to the peak of resident memory, in MiB."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with fastcas.create(path, durability="none") as cas:
        cas.put_blob(CONTENT, compress="gzip")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = cas.put_blob((CONTENT[:MIB] for _ in range(size)), compress="gzip", level=1)
        with cas.get_plain_blob(result.digest, diff_id=result.diff_id) as reader:
            buffer = bytearray(MIB)
            while reader.readinto(buffer):
                pass
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_memory_does_not_grow_with_the_blob(spawn, layout):
    assert spawn(peak_of_a_large_put, layout, 200).result() < 60


# Reading what is damaged, hostile or not what it should be.


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_truncated_anywhere(name):
    content = text(300_000)
    data = packed(name, content)
    cuts = {1, 2, 3, 5, 9, 10, 11, len(data) // 2, len(data) - 9, len(data) - 8, len(data) - 1}
    for cut in sorted(cuts):
        with pytest.raises(CorruptError):
            plain_of(data[:cut], compression=name)
    with pytest.raises(CorruptError, match="ends early"):
        plain_of(b"", compression=name)


@pytest.mark.parametrize("hidden", [(), ("isal.isal_zlib",), ("isal.isal_zlib", "zlib_ng.zlib_ng")])
@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_flipped_bit_is_found(monkeypatch, name, hidden):
    hide(monkeypatch, *hidden)
    content = text(200_000)
    data = packed(name, content)
    generator = random.Random(2)
    # Of gzip's header some bits don't matter.
    places = [generator.randrange(12, len(data)) for _ in range(60)]
    for place in [*places, len(data) - 1, len(data) - 5]:
        wrong = bytearray(data)
        wrong[place] ^= 1 << generator.randrange(8)
        with pytest.raises(CorruptError):
            plain_of(bytes(wrong), compression=name)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("garbage", [b"\0", b"\0" * 600, b"garbage after the end", b"\x1f"])
def test_trailing_garbage(name, garbage):
    data = packed(name, text(100_000))
    with pytest.raises(CorruptError):
        plain_of(data + garbage)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_several_members_are_one_stream(name):
    parts = [text(size, seed) for seed, size in enumerate((5, 300_000, 0, MIB + 1, 70_000))]
    data = b"".join(packed(name, part) for part in parts)
    assert plain_of(data, diff_id=sha256(b"".join(parts))) == b"".join(parts)


def test_gzip_as_others_write_it():
    named = io.BytesIO()
    with gzip.GzipFile("name of the file", "wb", fileobj=named, mtime=12345) as file:
        file.write(CONTENT)
    assert plain_of(named.getvalue(), diff_id=sha256(CONTENT)) == CONTENT


def test_zstd_as_others_write_it():
    for options in (["-q"], ["-q", "--ultra", "-22", "--long=27"], ["-q", "-19", "--no-check"]):
        made = subprocess.run(["zstd", *options, "-c"], input=CONTENT, capture_output=True, check=True)
        assert plain_of(made.stdout, diff_id=sha256(CONTENT)) == CONTENT
    skippable = b"\x53\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skipped"
    assert plain_of(skippable + made.stdout + skippable, diff_id=sha256(CONTENT)) == CONTENT


def test_others_read_our_zstd():
    for content in (b"", CONTENT):
        data = packed("zstd", content)
        done = subprocess.run(["zstd", "-q", "-dc"], input=data, capture_output=True, check=True)
        assert done.stdout == content


def test_a_zstd_window_that_is_too_large():
    # Magic; a frame without a size and with a window of 2 GiB; an empty last block.
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(CorruptError):
        plain_of(frame)
    small = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([(20 - 10) << 3]) + b"\x01\x00\x00"
    assert plain_of(small) == b""


class Counting(io.BytesIO):
    taken = 0

    def read(self, size=-1):
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """1 GiB of zeros."""
    member = packed("gzip", bytes(64 * MIB), 1)
    return {"gzip": member * 16, "zstd": packed("zstd", bytes(64 * MIB)) * 16}


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_bomb_ends_at_the_ratio(bombs, name):
    source = Counting(bombs[name])
    given = 0
    with decompress(source) as reader:
        with pytest.raises(InvalidError, match="for one"):
            while data := reader.read(MIB):
                given += len(data)
        assert given <= compress.RATIO_FLOOR
        assert source.taken <= 1 << 20
        assert reader.plain_size <= compress.RATIO_FLOOR + MIB or name == "gzip"
        with pytest.raises(InvalidError, match="for one"):
            reader.read(1)


def test_the_ratio_can_be_given(bombs):
    small = bombs["gzip"][: len(bombs["gzip"]) // 16]
    assert plain_of(small, ratio=2000) == bytes(64 * MIB)
    assert plain_of(packed("gzip", bytes(compress.RATIO_FLOOR)), ratio=0) == bytes(compress.RATIO_FLOOR)


@pytest.mark.parametrize("name", NAMES)
def test_the_limit(name):
    content = text(2 * MIB)
    data = packed(name, content)
    assert plain_of(data, compression=name, limit=len(content)) == content
    for limit in (0, 1, MIB, len(content) - 1):
        with pytest.raises(InvalidError, match=f"limit of {limit} bytes") as caught:
            plain_of(data, compression=name, limit=limit)
        assert not isinstance(caught.value, CorruptError)


@pytest.mark.parametrize(
    "options", [{"limit": -1}, {"ratio": "x"}, {"limit": True}, {"ratio": float("nan")}]
)
def test_caps_that_are_none(options):
    source = io.BytesIO(b"")
    with pytest.raises(InvalidError):
        decompress(source, **options)
    assert source.closed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 255, 256 << 10, (256 << 10) + 1, 600_000])
def test_a_wrong_diff_id_before_the_last_bytes(name, size):
    content = text(size)
    given = 0
    with decompress(io.BytesIO(packed(name, content)), diff_id=sha256(b"other")) as reader:
        with pytest.raises(DigestMismatchError) as caught:
            while data := reader.read(1000):
                given += len(data)
        assert given < size
        assert caught.value.expected == sha256(b"other")
        assert caught.value.actual == sha256(content)
        assert not reader.verified
        with pytest.raises(DigestMismatchError):
            reader.read(1)


def test_a_wrong_checksum_keeps_the_last_bytes_back():
    content = text(600_000)
    wrong = bytearray(packed("gzip", content))
    wrong[-8] ^= 1
    given = 0
    with decompress(io.BytesIO(wrong)) as reader:
        with pytest.raises(CorruptError):
            while data := reader.read(10_000):
                given += len(data)
    assert given < len(content)


@pytest.mark.parametrize("name", NAMES)
def test_reads_of_odd_sizes(name):
    generator = random.Random(9)
    content = text(MIB + 17)
    with decompress(io.BytesIO(packed(name, content)), diff_id=sha256(content)) as reader:
        got = b""
        while len(got) < len(content):
            size = generator.choice([1, 2, 7, 65537, 300_001])
            piece = reader.read(size)
            assert len(piece) == min(size, len(content) - len(got))
            got += piece
        assert reader.read(0) == b""
        assert reader.read(None) == reader.read() == b""
    assert got == content


def test_reading_into_memory_of_other_items():
    content = text(80_000)
    buffer = memoryview(bytearray(80_000)).cast("I")
    with decompress(io.BytesIO(packed("gzip", content))) as reader:
        assert reader.readinto(buffer) == 80_000
    assert bytes(buffer) == content


def test_after_an_interrupt_nothing_is_left_out():
    class Interrupting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            self.count += 1
            if self.count == 3:
                raise KeyboardInterrupt
            return super().read(size)

    with decompress(Interrupting(packed("gzip", CONTENT))) as reader:
        with pytest.raises(KeyboardInterrupt):
            reader.read()
        with pytest.raises(InvalidError, match="anew"):
            reader.read()


def test_a_stored_stream_that_would_block():
    class Empty(io.BytesIO):
        def read(self, size=-1):
            return None

    with pytest.raises(BlockingIOError):
        decompress(Empty())


def test_an_error_of_the_stored_stream_is_not_damage(monkeypatch):
    monkeypatch.setattr(codec, "_known", {"bzip2": Bzip2()})

    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "no disk")

    with decompress(Failing(), compression="bzip2") as reader:
        with pytest.raises(OSError, match="no disk") as caught:
            reader.read()
    assert not isinstance(caught.value, CorruptError)


def test_a_closed_reader(cas):
    result = cas.put_blob(CONTENT, compress="gzip")
    reader = cas.get_plain_blob(result.digest)
    reader.read(10)
    reader.close()
    reader.close()
    for use in (lambda: reader.read(1), lambda: reader.readinto(bytearray(1)), reader.readable):
        with pytest.raises(ClosedError):
            use()


def test_a_damaged_blob_is_found_by_its_own_digest(cas, no_fd_leak):
    result = cas.put_blob(random.Random(1).randbytes(MIB), compress="none")
    path = os.path.join(cas.path, "blobs", "sha256", result.digest.encoded)
    damaged = bytearray(cas.read_blob(result.digest))
    damaged[5000] ^= 1
    os.chmod(path, 0o644)
    with open(path, "wb") as file:
        file.write(damaged)
    reader = cas.get_plain_blob(result.digest)
    with pytest.raises(DigestMismatchError) as caught:
        reader.read()
    assert caught.value.digest == result.digest
    with pytest.raises(DigestMismatchError):
        reader.close()
    assert reader.closed


def test_a_blob_by_its_descriptor(cas):
    result = cas.put_blob(CONTENT, compress="zstd")
    right = fastcas.Descriptor(layer_media_type("zstd"), result.digest, result.size)
    with cas.get_plain_blob(right, compression="zstd", diff_id=result.diff_id) as reader:
        assert reader.read() == CONTENT
    wrong = fastcas.Descriptor(layer_media_type("zstd"), result.digest, result.size + 1)
    with pytest.raises(SizeMismatchError):
        cas.get_plain_blob(wrong)
    with pytest.raises(NotExistError):
        cas.get_plain_blob(sha256(b"absent"))
    with pytest.raises(InvalidError):
        cas.get_plain_blob("sha256:zz")


def test_what_is_asked_for_is_checked_before_it_is_read(cas, no_fd_leak):
    digest = cas.put_blob(b"plain content").digest
    with pytest.raises(UnknownTypeError):
        cas.get_plain_blob(digest, compression="lz4")
    with pytest.raises(InvalidError):
        cas.get_plain_blob(digest, diff_id="no digest")
    with pytest.raises(UnknownAlgorithmError):
        cas.get_plain_blob(digest, diff_id="md5:" + "0" * 32)
    with pytest.raises(CorruptError, match="damaged"):
        with cas.get_plain_blob(digest, compression="gzip") as reader:
            reader.read()


def test_the_system_has_the_tools_that_these_tests_use():
    assert shutil.which("gzip")
    assert shutil.which("zstd")
