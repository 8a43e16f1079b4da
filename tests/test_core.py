"""The compiled core: digests, sinks, readers and copies, against hashlib and plain files."""

import errno
import hashlib
import io
import os
import random
import signal
import textwrap
import threading
import time

import pytest

from fastcas import _core
from fastcas.digest import Digest
from preload import build_shim, run_with_shim

# FIPS 180-4 examples, as NIST publishes them (csrc.nist.gov, Cryptographic Standards and Guidelines).
NIST = [
    (
        "sha256",
        b"",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ),
    (
        "sha256",
        b"abc",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ),
    (
        "sha256",
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (
        "sha256",
        b"a" * 1_000_000,
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    ),
    (
        "sha512",
        b"abc",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ),
    (
        "sha512",
        b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn"
        b"hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
        "8e959b75dae313da8cf4f72814fc143f8f7779c6eb9f7fa17299aeadb6889018"
        "501d289e4900f7e4331b99dec4b5433ac7d329eeb6dd26545e96e55b874be909",
    ),
]

SLOT = 64 << 10
LARGE_SLOT = 256 << 10
SINK_THREAD_FROM = 512 << 10
READER_THREAD_FROM = 1 << 20
EDGES = sorted(
    {
        *range(300),
        *(
            edge + off
            for edge in (
                4096,
                SLOT,
                2 * SLOT,
                8 * SLOT,
                LARGE_SLOT,
                SINK_THREAD_FROM,
                SINK_THREAD_FROM + LARGE_SLOT,
                SINK_THREAD_FROM + 8 * LARGE_SLOT,
                READER_THREAD_FROM,
                READER_THREAD_FROM + LARGE_SLOT,
                READER_THREAD_FROM + 8 * LARGE_SLOT,
            )
            for off in (-65, -64, -1, 0, 1, 63, 64)
        ),
    }
)
NOISE = random.Random(20261123).randbytes(max(EDGES) + 1)
DIGESTS = {size: hashlib.sha256(NOISE[:size]).hexdigest() for size in EDGES}


class OneAtATime(io.RawIOBase):
    """Gives few bytes a time, as pipes and sockets may."""

    def __init__(self, data):
        self.data = memoryview(data)
        self.random = random.Random(len(data))

    def readinto(self, buffer):
        count = min(len(buffer), len(self.data), self.random.choice((1, 7, 4096, 70_000)))
        buffer[:count] = self.data[:count]
        self.data = self.data[count:]
        return count


def pieces(data, size):
    for at in range(0, len(data), size):
        yield data[at : at + size]


def feed_bytes(sink, data, _):
    sink.write(data)


def feed_bytearray(sink, data, _):
    sink.write(bytearray(data))


def feed_small_pieces(sink, data, _):
    for piece in pieces(data, max(1, len(data) // 50 - 3)):
        sink.write(piece)


def feed_large_pieces(sink, data, _):
    for piece in pieces(data, (1 << 20) + 12_345):
        sink.write(piece)


def feed_readinto(sink, data, _):
    sink.fill(io.BytesIO(data).readinto)


def feed_short_reads(sink, data, _):
    sink.fill(OneAtATime(data).readinto)


def feed_file(sink, data, path):
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        sink.copy_from_fd(fd)
    finally:
        os.close(fd)


def feed_pipe(sink, data, _):
    ours, theirs = os.pipe()

    def write():
        with open(theirs, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sink.copy_from_fd(ours, polled=True)
    finally:
        os.close(ours)
        writer.join()


FEEDS = [
    feed_bytes,
    feed_bytearray,
    feed_small_pieces,
    feed_large_pieces,
    feed_readinto,
    feed_short_reads,
    feed_file,
    feed_pipe,
]


@pytest.fixture
def target(tmp_path):
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield fd
    os.close(fd)


def fill(fd, data):
    os.ftruncate(fd, 0)
    assert os.pwrite(fd, data, 0) == len(data)


def test_backend_is_the_interpreters_libcrypto():
    import ssl

    assert _core.BACKEND.partition("; ")[0] == f"libcrypto {ssl.OPENSSL_VERSION}"


@pytest.mark.parametrize(("algorithm", "message", "expected"), NIST)
def test_nist_vectors(algorithm, message, expected):
    whole = _core.Digester(algorithm)
    whole.update(message)
    assert whole.hexdigest() == expected
    assert whole.digest() == bytes.fromhex(expected)
    assert whole.digest_size == len(expected) // 2
    split = _core.Digester(algorithm)
    for piece in pieces(message, 37):
        split.update(piece)
    assert split.hexdigest() == expected


def test_digester_copies_are_independent():
    one = _core.Digester("sha256")
    one.update(b"ab")
    other = one.copy()
    one.update(b"c")
    other.update(b"d")
    assert one.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert other.hexdigest() == hashlib.sha256(b"abd").hexdigest()


@pytest.mark.parametrize("name", ["md5", "SHA256", "", "sha256 "])
def test_digester_refuses_what_is_not_registered(name):
    with pytest.raises(ValueError, match="no digest algorithm"):
        _core.Digester(name)


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("known_size", [True, False])
def test_sink_at_every_edge(feed, known_size, target, tmp_path):
    sizes = EDGES if feed in (feed_bytes, feed_bytearray, feed_readinto) else EDGES[::3] + EDGES[-21:]
    for size in sizes:
        os.ftruncate(target, 0)
        data = NOISE[:size]
        sink = _core.Sink(target, "sha256", expected=size if known_size else -1, writeback=size % 2)
        feed(sink, data, tmp_path / "source")
        assert sink.finish() == (DIGESTS[size], size)
        assert os.pread(target, size + 1, 0) == data


def test_sink_counts_sha512(target):
    sink = _core.Sink(target, "sha512")
    sink.write(NOISE)
    assert sink.finish() == (hashlib.sha512(NOISE).hexdigest(), len(NOISE))


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("size", [1000, SLOT + 1, 3 << 20])
def test_sink_stops_at_its_limit(feed, size, target, tmp_path):
    data = NOISE[:size]
    sink = _core.Sink(target, "sha256", limit=len(data) - 1)
    with pytest.raises(_core.LimitError):
        feed(sink, data, tmp_path / "source")
    sink.abort()
    sink.abort()
    with pytest.raises(ValueError, match="finished"):
        sink.write(b"x")


def test_sink_refuses_a_reader_that_keeps_its_buffer(target):
    kept = []

    def readinto(view):
        kept.append(memoryview(view))
        return 1

    sink = _core.Sink(target, "sha256")
    with pytest.raises(BufferError):
        sink.fill(readinto)
    sink.abort()
    other = _core.Sink(target, "sha256")
    other.write(b"unharmed")
    kept[0][:4] = b"evil"
    assert other.finish()[0] == hashlib.sha256(b"unharmed").hexdigest()


def test_sink_stores_what_it_hashed_of_memory_that_changes(target):
    data = bytearray(NOISE)
    stop = threading.Event()

    def scribble():
        rng = random.Random(1)
        while not stop.is_set():
            data[rng.randrange(len(data))] ^= 0xFF

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        for _ in range(10):
            os.ftruncate(target, 0)
            sink = _core.Sink(target, "sha256")
            sink.write(data)
            found, size = sink.finish()
            assert hashlib.sha256(os.pread(target, size, 0)).hexdigest() == found
    finally:
        stop.set()
        writer.join()


def test_sink_tells_the_files_failure_from_the_sources(tmp_path):
    with open("/dev/full", "wb") as full:
        sink = _core.Sink(full.fileno(), "sha256")
        with pytest.raises(OSError) as caught:
            sink.write(NOISE)
        assert caught.value.errno == errno.ENOSPC
        assert sink.storing
    directory = os.open(tmp_path, os.O_RDONLY)
    sink = _core.Sink(-1, "sha256")
    with pytest.raises(IsADirectoryError):
        sink.copy_from_fd(directory)
    assert not sink.storing
    os.close(directory)


def test_sink_notices_that_the_file_has_another_size(target):
    os.ftruncate(target, 100)
    sink = _core.Sink(target, "sha256")
    sink.write(b"short")
    with pytest.raises(OSError) as caught:
        sink.finish()
    assert caught.value.errno == errno.EIO


def test_progress_comes_about_once_a_mebibyte(target):
    calls = []
    sink = _core.Sink(target, "sha256", expected=len(NOISE), progress=lambda *call: calls.append(call))
    feed_readinto(sink, NOISE, None)
    sink.finish()
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {len(NOISE)}
    assert done == sorted(done)
    assert done[-1] == len(NOISE)
    assert len(calls) <= len(NOISE) / (1 << 20) + 1


def test_progress_that_raises_ends_the_stream(target):
    def progress(*_):
        raise RuntimeError("enough")

    sink = _core.Sink(target, "sha256", progress=progress)
    with pytest.raises(RuntimeError, match="enough"):
        sink.write(NOISE)


@pytest.mark.parametrize("step", [None, 1000, SLOT, 1 << 20, (1 << 20) + 1])
def test_reader_at_every_edge(step, target):
    for size in EDGES[::5] + EDGES[-21:] if step else EDGES:
        if step and size > 3000 * step:
            continue
        fill(target, NOISE[:size])
        reader = _core.Reader(target, "sha256", size, bytes.fromhex(DIGESTS[size]))
        got = bytearray()
        if step is None:
            got += reader.read()
        else:
            while piece := reader.read(step):
                got += piece
        assert got == NOISE[:size]
        assert reader.verified
        reader.close()


@pytest.mark.parametrize("size", [1, 1000, SLOT, SLOT + 1, 3 << 20])
@pytest.mark.parametrize("damage", ["flip first", "flip last", "short", "long"])
@pytest.mark.parametrize("how", ["read", "steps", "drain"])
def test_reader_never_hands_out_the_end_of_damaged_content(size, damage, how, target):
    data = bytearray(NOISE[:size])
    if damage.startswith("flip"):
        data[0 if damage.endswith("first") else -1] ^= 1
    elif damage == "short":
        del data[-1]
    else:
        data += b"!"
    fill(target, data)
    digest = bytes.fromhex(hashlib.sha256(NOISE[:size]).hexdigest())
    reader = _core.Reader(target, "sha256", size, digest)
    got = 0
    with pytest.raises(_core.VerifyError) as caught:
        if how == "read":
            reader.read()
        elif how == "drain":
            reader.drain()
        else:
            buffer = bytearray(4096)
            while count := reader.readinto(buffer):
                got += count
    assert got < size
    assert caught.value.kind == {"s": "short", "l": "long", "f": "mismatch"}[damage[0]]
    assert not reader.verified
    reader.close()


def test_update_is_interrupted():
    content = bytes(512 << 20)

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    digester = _core.Digester("sha256")
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt):
            digester.update(content)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    rest = digester.copy()
    rest.update(b"more")  # it isn't in use any more
    assert digester.digest() != hashlib.sha256(content).digest()


def test_small_and_regular_files_are_opened_beneath(tmp_path):
    (tmp_path / "outside").write_bytes(b"abc")
    root = tmp_path / "root"
    blobs = root / "blobs"
    blobs.mkdir(parents=True)
    names = {what: hashlib.sha256(what).hexdigest() for what in (b"link", b"fifo", b"folder", b"none")}
    small, large = hashlib.sha256(b"abc").hexdigest(), hashlib.sha256(NOISE).hexdigest()
    (blobs / small).write_bytes(b"abc")
    (blobs / large).write_bytes(NOISE)
    (blobs / names[b"link"]).symlink_to(small)
    os.mkfifo(blobs / names[b"fifo"])
    (blobs / names[b"folder"]).mkdir()
    handle = _core.Handle(_core.open_path(root, os.O_RDONLY), lambda: LookupError("closed"))
    place = _core.Place(handle, b"blobs", "sha256", 64, str)
    assert place.read(small) == b"abc"
    for opened in (place.read(large), place.open(large), place.open(small)):
        file, size = opened
        with file as fd:
            assert os.fstat(fd).st_size == size
    for what in (b"fifo", b"folder"):
        for use in (place.open, place.read):
            with pytest.raises(_core.KindError):
                use(names[what])
        with handle as fd:
            assert _core.open_regular(fd, f"blobs/{names[what]}".encode()) is None
    for what, error in ((b"link", errno.ELOOP), (b"none", errno.ENOENT)):
        for use in (place.open, place.read):
            with pytest.raises(OSError) as caught:
                use(names[what])
            assert caught.value.errno == error
    (blobs / small).write_bytes(b"abd")
    with pytest.raises(_core.VerifyError):
        place.read(small)
    for text in ("", small[:-1], small.upper(), "../" + small[3:], small[:-1] + "\u0663", small + "\0"):
        for use in (place.open, place.read):
            with pytest.raises(ValueError):
                use(text)
    with handle as fd:
        for name, error in ((b"../outside", errno.EXDEV), (b"blobs/../..", errno.EXDEV)):
            for call in (_core.open_regular, lambda *a: _core.openat2(*a, os.O_RDONLY)):
                with pytest.raises(OSError) as caught:
                    call(fd, name)
                assert caught.value.errno == error
    handle.close()
    for use, *arguments in ((place.open, small), (place.read, small), (place.put, b"", 0, None, False)):
        with pytest.raises(LookupError):
            use(*arguments)


@pytest.mark.parametrize("first", ["reflink", "copy_file_range", "sendfile", "copy"])
@pytest.mark.parametrize("size", [0, 1, SLOT + 1, len(NOISE)])
def test_copy_ladder(first, size, target, tmp_path):
    (tmp_path / "source").write_bytes(NOISE[:size])
    calls = []
    with open(tmp_path / "source", "rb") as source:
        method, done = _core.copy_fd(
            source.fileno(), target, size, first=first, progress=lambda *call: calls.append(call)
        )
    ladder = ["reflink", "copy_file_range", "sendfile", "copy"]
    assert ladder.index(method) >= ladder.index(first)
    assert done == size
    assert os.pread(target, size + 1, 0) == NOISE[:size]
    assert not size or calls[-1] == (size, size)


def test_copy_into_a_pipe_falls_to_a_way_that_pipes_allow(tmp_path):
    (tmp_path / "source").write_bytes(NOISE)
    ours, theirs = os.pipe()
    got = []

    def read():
        with open(ours, "rb") as pipe:
            got.append(pipe.read())

    reader = threading.Thread(target=read)
    reader.start()
    with open(tmp_path / "source", "rb") as source:
        method, _ = _core.copy_fd(source.fileno(), theirs, len(NOISE))
    os.close(theirs)
    reader.join()
    assert method in ("sendfile", "copy")
    assert got == [NOISE]


def test_copy_of_a_file_that_shrank(target, tmp_path):
    (tmp_path / "source").write_bytes(b"abc")
    with open(tmp_path / "source", "rb") as source:
        for first in ("copy_file_range", "copy"):
            os.ftruncate(target, 0)
            os.lseek(target, 0, os.SEEK_SET)
            with pytest.raises(_core.VerifyError) as caught:
                _core.copy_fd(source.fileno(), target, 4, first=first)
            assert (caught.value.kind, caught.value.actual) == ("short", 3)


def test_names_that_cant_be_digests_are_left_out(tmp_path):
    good = {f"{number:064x}" for number in range(3000)}
    for name in good:
        (tmp_path / name).touch()
    for stray in (".DS_Store", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "12345"):
        (tmp_path / stray).touch()
    (tmp_path / ("f" * 64)).mkdir()
    (tmp_path / ("e" * 64)).symlink_to("a" * 63)
    fd = os.open(tmp_path, os.O_RDONLY)
    found = []
    while (batch := _core.read_digests(fd, b"sha256:", 64, Digest)) is not None:
        found += batch
    os.close(fd)
    assert sorted(found) == sorted(f"sha256:{name}" for name in good)
    assert {type(digest) for digest in found} == {Digest}


def test_streams_leave_no_thread_and_no_descriptor(target):
    def threads():
        return len(os.listdir("/proc/self/task"))

    before = threads(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        os.ftruncate(target, 0)
        sink = _core.Sink(target, "sha256")
        sink.write(NOISE)
        if _ % 2:
            sink.finish()
        else:
            sink.abort()
        fill(target, NOISE)
        reader = _core.Reader(target, "sha256", len(NOISE), bytes(32))
        reader.readinto(bytearray(1000))
        reader.close()
        dropped = _core.Reader(target, "sha256", len(NOISE), bytes(32))
        dropped.readinto(bytearray(1000))
        del dropped
    # A joined thread may be seen for a moment more.
    deadline = time.monotonic() + 60
    while threads() > before[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() <= before[0]
    assert len(os.listdir("/proc/self/fd")) == before[1]


@pytest.fixture
def one_processor():
    """The test's thread may run on one processor only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def two_processors():
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("one processor")
    os.sched_setaffinity(0, allowed[:2])
    yield
    os.sched_setaffinity(0, allowed)


class AtWork:
    """A thread within a section of the core, which keeps the thread busy until the end of the block."""

    def __enter__(self):
        theirs, self._ours = os.pipe()

        def work():
            sink = _core.Sink(-1, "sha256")
            sink.copy_from_fd(theirs)
            sink.abort()
            os.close(theirs)

        self._thread = threading.Thread(target=work)
        self._thread.start()
        task = f"/proc/self/task/{self._thread.native_id}/syscall"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with open(task) as file:
                if file.read().split()[:2] == [_READ, hex(theirs)]:
                    return
            time.sleep(0.001)
        raise AssertionError("the thread doesn't read")

    def __exit__(self, *_):
        os.close(self._ours)
        self._thread.join()
        while os.path.exists(f"/proc/self/task/{self._thread.native_id}"):  # for a moment more
            time.sleep(0.001)


_READ = {"x86_64": "0", "aarch64": "63"}.get(os.uname().machine)


def helpers_of(reader, size=LARGE_SLOT):
    """How many threads there are more after `reader` has read something."""
    before = len(os.listdir("/proc/self/task"))
    reader.readinto(bytearray(size))
    return len(os.listdir("/proc/self/task")) - before


def test_no_helper_on_one_processor(target, one_processor):
    fill(target, NOISE)
    reader = _core.Reader(target, "sha256", len(NOISE), hashlib.sha256(NOISE).digest())
    assert helpers_of(reader) == 0
    assert reader.read() == NOISE[LARGE_SLOT:]


@pytest.mark.skipif(_READ is None, reason="the number of read(2) isn't known here")
def test_helper_as_soon_as_a_processor_is_left_for_it(target, two_processors):
    fill(target, NOISE)
    reader = _core.Reader(target, "sha256", len(NOISE), hashlib.sha256(NOISE).digest())
    with AtWork():
        assert helpers_of(reader) == 0
    assert helpers_of(reader) == 1
    assert reader.read() == NOISE[2 * LARGE_SLOT :]
    assert reader.verified


@pytest.mark.skipif(_READ is None, reason="the number of read(2) isn't known here")
def test_who_is_at_work_in_the_parent_isnt_in_a_forked_child(target, two_processors):
    fill(target, NOISE)
    with AtWork():
        child = os.fork()
        if child == 0:
            try:
                reader = _core.Reader(target, "sha256", len(NOISE), bytes(32))
                os._exit(10 + helpers_of(reader))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
void *dlopen(const char *name, int flags)
{
    static void *(*real)(const char *, int);
    if (!name || (flags & RTLD_NOLOAD) || strstr(name, "libcrypto"))
        return 0;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "dlopen");
    return real(name, flags);
}
"""


def test_last_rung_works_and_says_so(tmp_path):
    """Without libcrypto, hashlib's own objects do the work."""
    shim = build_shim(tmp_path, SHIM)
    program = textwrap.dedent(
        """
        import hashlib, io, sys
        import fastcas
        assert fastcas.backend.startswith("hashlib"), fastcas.backend
        data = bytes(range(256)) * 20_000
        with fastcas.create(sys.argv[1]) as cas:
            for source in (data, io.BytesIO(data), b"small"):
                digest, size = cas.put_blob(source)
                content = data if size > 5 else b"small"
                assert digest == "sha256:" + hashlib.sha256(content).hexdigest()
                assert cas.read_blob(digest, limit=1 << 30) == content
            found = cas.put_blob(data, algorithm="sha512").digest.encoded
            assert found == hashlib.sha512(data).hexdigest()
            with cas.get_blob("sha256:" + hashlib.sha256(data).hexdigest()) as blob:
                while blob.read(100_000):
                    pass
                assert blob.verified
        print("done")
        """
    )
    result = run_with_shim(shim, program, tmp_path / "image")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
