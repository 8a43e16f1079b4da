"""put_blobs on a directory: groups, the second thread, one durability point, and every way to end."""

import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

import fastcas
from conftest import NOBODY, patch_fsync
from fastcas import _core
from fastcas.dir import batch
from fastcas.engine import Engine
from fastcas.errors import ClosedError, UnsupportedError
from preload import build_shim, run_with_shim
from test_cases import BESIDE

pytestmark = pytest.mark.usefixtures("no_fd_leak", "no_thread_left")


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def digest_of(content, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def expected(contents, algorithm="sha256"):
    return [(digest_of(content, algorithm), len(content)) for content in contents]


def threads():
    return len(os.listdir("/proc/self/task"))


@pytest.fixture
def no_thread_left():
    before = threads()
    yield
    for _ in range(200):  # who has told that it ends needs a moment to be gone
        if threads() <= before:
            return
        time.sleep(0.01)
    pytest.fail("a thread outlived the call")


def check_sound(cas, layout):
    """Every stored blob is what it is called, and no temporary file is there."""
    for digest in cas:
        cas.read_blob(digest, limit=1 << 30)
    assert [name for name in os.listdir(layout) if name.endswith(".tmp")] == []


@pytest.fixture(params=["group", "named", "no-openat2"])
def way(request, monkeypatch):
    if request.param == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    elif request.param == "no-openat2":
        monkeypatch.setattr("fastcas.dir.root.HAVE_OPENAT2", False)
    return request.param


# ---- what is stored


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_every_kind_of_source_in_order(layout, tmp_path, way, durability, algorithm):
    contents = [noise(size, size) for size in (0, 1, 4096, 65535, 65536, 65537, 300_000, 3 << 20)] * 2
    random.Random(5).shuffle(contents)

    def as_source(number, content):
        path = tmp_path / str(number)
        path.write_bytes(content)
        return [
            lambda: content,
            lambda: path,
            lambda: bytearray(content),
            lambda: memoryview(content),
            lambda: io.BytesIO(content),
            lambda: [content[:100], content[100:]],
            lambda: path.open("rb"),
        ]

    wanted, sources = [], []
    for number, content in enumerate(contents):
        for make in as_source(number, content):
            wanted.append(content)
            sources.append(make())
    try:
        with fastcas.create(layout, durability=durability) as cas:
            assert cas.put_blobs(iter(sources), algorithm=algorithm) == expected(wanted, algorithm)
            assert set(cas) == {digest for digest, _ in expected(wanted, algorithm)}
            check_sound(cas, layout)
            assert cas.clean() == []
    finally:
        for source in sources:
            if hasattr(source, "close"):
                source.close()


def test_thousands_of_small_and_a_few_large_ones(layout, tmp_path):
    small = [noise(random.Random(i).randrange(3000), i) for i in range(5000)]
    large = [noise(24 << 20, 1), noise(9 << 20, 2), noise(5 << 20, 3)]
    path = tmp_path / "large"
    path.write_bytes(large[0])
    contents = [large[0], *small[:2500], large[1], large[2], *small[2500:]]
    with fastcas.create(layout, durability="none") as cas:
        assert cas.put_blobs([path, *contents[1:]]) == expected(contents)
        check_sound(cas, layout)


@pytest.mark.parametrize("durability", ["full", "none"])
def test_the_same_content_many_times(layout, tmp_path, durability):
    path = tmp_path / "path"
    path.write_bytes(b"small")
    big = noise(200_000)
    contents = [b"small", b"small", big, b"small", big, b"", b""] * 100
    sources = [path if i % 7 == 3 else content for i, content in enumerate(contents)]
    with fastcas.create(layout, durability=durability) as cas:
        assert cas.put_blobs(sources) == expected(contents)
        assert len(cas) == 3
        assert cas.put_blobs(sources) == expected(contents)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_stored_ones_are_marked_as_used_and_damaged_ones_replaced(layout, size):
    contents = [noise(size, i) for i in range(5)]
    with fastcas.create(layout) as cas:
        paths = [layout / "blobs" / Path(*r.digest.split(":")) for r in cas.put_blobs(contents)]
        inodes = [path.stat().st_ino for path in paths]
        for path in paths:
            os.utime(path, (1, 1))
        paths[1].chmod(0o644)
        paths[1].write_bytes(bytes(size))  # another content of the same size
        paths[2].unlink()
        paths[2].symlink_to("/etc/passwd")
        paths[3].chmod(0o644)
        paths[3].write_bytes(b"short")
        assert cas.put_blobs(contents) == expected(contents)
        for number, path in enumerate(paths):
            facts = path.lstat()
            assert stat.S_ISREG(facts.st_mode)
            assert path.read_bytes() == contents[number]
            assert facts.st_mtime > 1000
            assert (facts.st_ino == inodes[number]) is (number in (0, 4))


def test_a_directory_in_the_place_of_a_blob(layout):
    with fastcas.create(layout) as cas:
        (layout / "blobs" / Path(*digest_of(b"b").split(":"))).mkdir()
        with pytest.raises(fastcas.InvalidError) as caught:
            cas.put_blobs([b"a", b"b", b"c"])
        assert caught.value.source == b"b"
        assert cas.read_blob(digest_of(b"a")) == b"a"


def test_sources_are_taken_before_the_next_is_asked_for(layout):
    """But for paths, and for bytes, which can't change."""
    me = threading.get_ident()
    fed = []

    class Reader:
        def __init__(self, content):
            self.stream = io.BytesIO(content)

        def readinto(self, view):
            fed.append(threading.get_ident())
            return self.stream.readinto(view)

    def sources():
        buffer = bytearray(1000)
        for number in range(50):
            buffer[:] = bytes([number]) * 1000
            yield buffer
            buffer[:] = bytes(1000)
            reader = Reader(bytes([number]) * 100_000)
            yield reader
            assert reader.stream.tell() == 100_000
            yield noise(100_000, number)

    wanted = []
    for number in range(50):
        wanted += [bytes([number]) * 1000, bytes([number]) * 100_000, noise(100_000, number)]
    with fastcas.create(layout, durability="none") as cas:
        assert cas.put_blobs(sources()) == expected(wanted)
    assert set(fed) == {me}


@pytest.mark.parametrize("kind", ["iterable", "list of what can change"])
def test_memory_is_bounded(layout, kind):
    sources = (i.to_bytes(8, "big") * (60_000 // 8) for i in range(1500))
    if kind != "iterable":
        sources = [bytearray(60_000)] * 1500
    with fastcas.create(layout, durability="none") as cas:
        tracemalloc.start()
        try:
            cas.put_blobs(sources)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(cas) == (1500 if kind == "iterable" else 1)
    assert peak < 2 * batch.MOST_BYTES


EDGES = """
import hashlib, random, sys
from pathlib import Path
import fastcas
from fastcas import _core

SLOT = 64 << 10
sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120]
for edge in (SLOT, 2 * SLOT, 4 * SLOT, 1 << 20, 2 << 20):
    sizes += [edge - 64, edge - 9, edge - 8, edge - 1, edge, edge + 1, edge + 63, edge + 64]
chosen = random.Random(7)
sizes += [chosen.randrange(300_000) for _ in range(60)]
chosen.shuffle(sizes)
sizes += [9 << 20, (34 << 20) + 5]  # the last are left alone, one for each thread, then one
folder = Path(sys.argv[1])
folder.mkdir()
contents, sources = [], []
for number, size in enumerate(sizes):
    contents.append(chosen.randbytes(size))
    sources.append(contents[-1])
    if number % 2:
        sources[-1] = folder / str(number)
        sources[-1].write_bytes(contents[-1])
wanted = [("sha256:" + hashlib.sha256(c).hexdigest(), len(c)) for c in contents]
for durability in ("none", "full"):
    with fastcas.create(folder / durability, durability=durability) as cas:
        assert cas.put_blobs(sources) == wanted
        assert all(cas.read_blob(d, limit=1 << 30) == c for (d, _), c in zip(wanted, contents))
print(fastcas.backend)
"""


@pytest.mark.parametrize("kernel", _core.KERNELS)
def test_digests_by_every_kernel(tmp_path, kernel):
    """Lengths around the edges of blocks, slots and split blobs."""
    environment = {**os.environ, "FASTCAS_SHA256": kernel}
    done = subprocess.run(
        [sys.executable, "-c", EDGES, tmp_path / "work"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert kernel in done.stdout


def test_a_path_that_no_file_can_have(layout):
    with fastcas.create(layout, durability="none") as cas:
        with pytest.raises(ValueError, match="null"):
            cas.put_blobs([b"before", Path("a\0b"), b"after"])
        assert digest_of(b"before") in cas


def test_large_ones_after_a_failure_are_not_begun(layout, tmp_path):
    """Reading the memory of this process from its beginning fails with EIO."""
    later = [tmp_path / str(number) for number in range(50)]
    for number, path in enumerate(later):
        path.write_bytes(noise(1 << 20, number))
    with fastcas.create(layout, durability="none") as cas:
        with pytest.raises(OSError) as caught:
            cas.put_blobs([b"before", Path("/proc/self/mem"), *later])
        assert caught.value.errno == errno.EIO
        assert caught.value.filename == "/proc/self/mem"
        assert caught.value.source == Path("/proc/self/mem")
        assert digest_of(b"before") in cas
        assert len(cas) < 40
        check_sound(cas, layout)


def test_a_fifo_among_the_paths(layout, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(b"through a fifo"))
    writer.start()
    try:
        with fastcas.create(layout, durability="none") as cas:
            contents = [b"before", b"through a fifo", b"after"]
            assert cas.put_blobs([contents[0], fifo, contents[2]]) == expected(contents)
    finally:
        writer.join()


@pytest.mark.parametrize("kind", ["tmpfile", "named"])
def test_from_within_update_index(layout, monkeypatch, kind):
    """The lock is this thread's: a second one would wait for it for ever."""
    if kind == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    contents = [noise(300_000, i) for i in range(6)] + [b"small"] * 2

    with fastcas.create(layout, durability="none") as cas:
        cas.put_blob(contents[0])

        def put(index):
            assert cas.put_blobs(contents) == expected(contents)

        cas.update_index(put)
        check_sound(cas, layout)


@pytest.mark.parametrize("durability", ["full", "none"])
def test_few_descriptors(spawn, tmp_path, durability):
    assert spawn(with_few_descriptors, tmp_path, durability).result() == "done"


def with_few_descriptors(place, durability):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    path = Path(place, "path")
    path.write_bytes(noise(200_000))
    contents = [noise(1000, i) for i in range(500)] + [noise(100_000, i) for i in range(100)]
    with fastcas.create(Path(place, "image"), durability=durability) as cas:
        for _ in range(2):
            sources = [*contents, path, *map(io.BytesIO, contents[-100:])]
            assert cas.put_blobs(sources) == expected([*contents, noise(200_000), *contents[-100:]])
        assert cas.put_blobs(contents) == expected(contents)
        # Others have most of them.
        taken = []
        try:
            while len(taken) < 64:
                taken.append(os.dup(1))
        except OSError:
            pass
        for fd in taken[-8:]:
            os.close(fd)
        more = [noise(1000, -i) for i in range(1, 40)]
        assert cas.put_blobs(more) == expected(more)
    return "done"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_belong_to_the_owner_of_the_layout(layout, way):
    fastcas.create(layout, durability="none").close()
    for folder, _, names in os.walk(layout):
        os.chown(folder, NOBODY, NOBODY)
        for name in names:
            os.chown(os.path.join(folder, name), NOBODY, NOBODY)
    with fastcas.open(layout, durability="none") as cas:
        for content, (digest, _) in zip(
            (b"small", noise(100_000)), cas.put_blobs([b"small", noise(100_000)]), strict=True
        ):
            facts = (layout / "blobs" / Path(*digest.split(":"))).stat()
            assert (facts.st_uid, facts.st_gid, facts.st_size) == (NOBODY, NOBODY, len(content))
            assert stat.S_IMODE(facts.st_mode) == 0o444


# ---- progress


@pytest.mark.parametrize("count", [0, 1, 3])
def test_progress_over_all(layout, tmp_path, count):
    paths = []
    for number in range(count):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(noise(5 << 20, number))
    calls, where = [], set()

    def progress(done, total):
        calls.append(done)
        where.add((threading.get_ident(), total))

    sources = [*paths, *[bytes([i]) * 50_000 for i in range(100)], io.BytesIO(bytes(3 << 20))]
    with fastcas.create(layout, durability="none") as cas:
        results = cas.put_blobs(sources, progress=progress)
    assert calls[-1] == sum(result.size for result in results)
    assert calls == sorted(set(calls))
    assert where == {(threading.get_ident(), None)}


def test_progress_that_raises_ends_it(layout, tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(noise(8 << 20, number))

    def progress(done, total):
        raise KeyError("enough")

    with fastcas.create(layout, durability="none") as cas:
        with pytest.raises(KeyError, match="enough"):
            cas.put_blobs(paths, progress=progress)
        check_sound(cas, layout)


# ---- errors


def test_sources_that_cannot_be_looked_at(tmp_path):
    """They are named as well, and what came before them is stored."""

    class Shy(io.BytesIO):
        def readinto(self, view):
            raise KeyError("none of your business")

        def __repr__(self):
            raise AttributeError("not begun")

    released = memoryview(b"gone")
    released.release()
    with fastcas.create(tmp_path / "image") as cas:
        for number, (kind, source) in enumerate({ValueError: released, KeyError: Shy()}.items()):
            with pytest.raises(kind) as caught:
                cas.put_blobs([bytes([number]), source, b"never"])
            assert caught.value.source is source
            if hasattr(caught.value, "__notes__"):
                assert caught.value.__notes__[0].startswith("source 1 of put_blobs: ")
            assert len(cas) == number + 1


PUT_BLOBS = {"group": fastcas.DirEngine.put_blobs, "one by one": Engine.put_blobs}


@pytest.mark.parametrize("put_blobs", PUT_BLOBS.values(), ids=PUT_BLOBS)
@pytest.mark.parametrize(
    "source",
    [bytes(32 << 20), [bytes(16 << 20), "x"], "x" * (32 << 20)],
    ids=["bytes", "list", "str"],
)
def test_the_name_of_a_large_source_is_short(tmp_path, monkeypatch, put_blobs, source):
    def fails(*_args, **_options):
        raise OSError(errno.EIO, "Input/output error")

    with fastcas.create(tmp_path / "image") as cas:
        tracemalloc.start()
        try:
            with monkeypatch.context() as patch, pytest.raises((OSError, TypeError)) as caught:
                patch.setattr(_core, "sync_files", fails)
                patch_fsync(patch, fails)
                put_blobs(cas, [source])
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
    assert caught.value.source is source


@pytest.mark.parametrize("put_blobs", PUT_BLOBS.values(), ids=PUT_BLOBS)
@pytest.mark.parametrize(
    ("source", "name"),
    [(Path("/missing"), "'/missing'"), (7, "7"), ("text", "'text'"), ([7], "<list>")],
)
def test_the_name_of_a_source(tmp_path, put_blobs, source, name):
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        with pytest.raises((TypeError, FileNotFoundError)) as caught:
            put_blobs(cas, [b"1", source])
    if hasattr(caught.value, "add_note"):
        assert caught.value.__notes__ == [f"source 1 of put_blobs: {name}"]


@pytest.mark.parametrize("put_blobs", PUT_BLOBS.values(), ids=PUT_BLOBS)
def test_an_error_that_takes_no_attributes(tmp_path, put_blobs):
    @dataclasses.dataclass(frozen=True)
    class Broken(Exception):
        what: str

    def source():
        yield b"1"
        raise Broken("the line")

    with fastcas.create(tmp_path / "image", durability="none") as cas:
        with pytest.raises(Broken, match="the line"):
            put_blobs(cas, [b"1", source()])


@pytest.mark.parametrize("put_blobs", PUT_BLOBS.values(), ids=PUT_BLOBS)
def test_a_str_that_is_a_path_as_well(tmp_path, put_blobs):
    class StrPath(str):
        def __fspath__(self):
            return str(self)

    path = tmp_path / "path"
    path.write_bytes(b"content")
    with fastcas.create(tmp_path / "image", durability="none") as cas:
        with pytest.raises(TypeError):
            put_blobs(cas, [StrPath(path)])
        assert list(cas) == []


@pytest.mark.parametrize("durability", ["full", "none"])
def test_a_source_that_fails(layout, tmp_path, way, durability):
    class Reader:
        def __init__(self):
            self.left = 5

        def read(self, size):
            self.left -= 1
            if not self.left:
                raise KeyError("midway")
            return bytes(size)

    large = tmp_path / "large"
    large.write_bytes(noise(1 << 20))
    bad = {
        FileNotFoundError: tmp_path / "missing",
        IsADirectoryError: tmp_path,
        TypeError: "text",
        KeyError: Reader(),
    }
    with fastcas.create(layout, durability=durability) as cas:
        for number, (kind, source) in enumerate(bad.items()):
            before = [b"before", large, noise(90_000, number), bytes([number])]
            with pytest.raises(kind) as caught:
                cas.put_blobs([*before, source, tmp_path / "too", object(), b"never"])
            assert caught.value.source is source
            if hasattr(caught.value, "__notes__"):
                assert caught.value.__notes__[0].startswith("source 4 of put_blobs: ")
            for content in (b"before", noise(1 << 20), before[2], before[3]):
                assert digest_of(content) in cas
            check_sound(cas, layout)


def test_an_iterable_that_fails(layout):
    def sources():
        yield from [b"1", b"2", noise(100_000)]
        raise KeyError("no more")

    with fastcas.create(layout) as cas:
        with pytest.raises(KeyError, match="no more"):
            cas.put_blobs(sources())
        assert len(cas) == 3
    with pytest.raises(ClosedError):
        cas.put_blobs([])


def test_a_full_disk(with_mounts, tmp_path):
    assert with_mounts(on_a_full_disk, tmp_path) == "done"


def on_a_full_disk(place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    layout = Path(place, "image")
    with fastcas.create(layout) as cas:
        contents = [noise(20_000, i) for i in range(100)]
        for sources in (contents, [noise(300_000, i) for i in range(9)]):
            fds = len(os.listdir("/proc/self/fd"))
            with pytest.raises(OSError) as caught:
                cas.put_blobs(sources)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.source in sources
            assert str(layout) in str(caught.value.filename)
            assert len(os.listdir("/proc/self/fd")) == fds
            check_sound(cas, layout)
            for digest in list(cas):
                cas.delete_blob(digest)
            assert cas.put_blobs(sources[:2]) == expected(sources[:2])
    return "done"


# ---- interruption and fork


def test_ctrl_c_in_large_files(layout, tmp_path):
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.touch()
        os.truncate(path, 2 << 30)
    with fastcas.create(layout, durability="none") as cas:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                cas.put_blobs(paths)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert list(cas) == []
        check_sound(cas, layout)


@pytest.mark.parametrize("durability", ["full", "none"])
def test_ctrl_c_at_any_time(layout, durability):
    def endless(seed):
        generator = random.Random(seed)
        started = time.monotonic()
        # The timer is the one that would end a test that hangs, and a disk is full in a minute.
        while time.monotonic() - started < 20:
            yield generator.randbytes(generator.choice([100, 100, 100, 90_000]))
        pytest.fail("the interrupt was lost")

    with fastcas.create(layout, durability=durability) as cas:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            for number in range(12):
                signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.013 * number)
                with pytest.raises(KeyboardInterrupt):
                    cas.put_blobs(endless(number))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        check_sound(cas, layout)
        cas.put_index(cas.get_index())


@pytest.mark.parametrize("kind", ["tmpfile", "named"])
@pytest.mark.parametrize("goes", ["on", "wrong"])
def test_fork_in_the_middle(layout, tmp_path, monkeypatch, kind, goes):
    if kind == "named":
        monkeypatch.setattr("fastcas.dir.temp.HAVE_O_TMPFILE", False)
    paths = []
    for number in range(3):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(noise(6 << 20, number))
    wanted = [noise(6 << 20, number) for number in range(3)] + [bytes([i]) for i in range(20)]
    child = None

    def sources():
        nonlocal child
        yield from paths  # the second thread is at work
        for number in range(20):
            if number == 10:
                child = os.fork()
            if child == 0 and goes == "wrong":
                raise KeyError("the child's iterable fails")
            yield bytes([number])
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    with fastcas.create(layout, durability="none") as cas:
        try:
            results = cas.put_blobs(sources())
        except UnsupportedError:
            os._exit(0 if child == 0 and goes == "on" else 1)
        except KeyError:
            os._exit(0 if child == 0 and goes == "wrong" else 1)
        finally:
            if child == 0:
                os._exit(2)
        assert results == expected(wanted)
        check_sound(cas, layout)


# ---- the order of system calls, and syncs that fail

SHIM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { MOST = 100000 };
struct { long what, inode; } seen[MOST]; /* what: a letter */
int count, syncs, fail_sync, fail_directory, fail_thread, interrupted;

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with)
{
    return fail_thread ? EAGAIN : REAL(pthread_create)(thread, how, run, with);
}

static int note(char what, int fd)
{
    struct stat facts;
    int directory = !fstat(fd, &facts) && S_ISDIR(facts.st_mode);
    int at = __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST);

    seen[at % MOST].what = directory ? 'd' : what;
    seen[at % MOST].inode = (long)facts.st_ino;
    return directory;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    note('w', fd);
    return REAL(pwrite)(fd, data, size, at);
}

int sync_file_range(int fd, off64_t from, off64_t size, unsigned flags)
{
    note('k', fd);
    return REAL(sync_file_range)(fd, from, size, flags);
}

int fsync(int fd)
{
    int status;

    if (interrupted > 0) {
        interrupted--;
        errno = EINTR;
        return -1;
    }
    status = REAL(fsync)(fd);
    if (note('s', fd) ? fail_directory : __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST) == fail_sync) {
        errno = EIO;
        return -1;
    }
    return status;
}

int linkat(int from, const char *path, int to, const char *name, int flags)
{
    int fd = from;

    sscanf(path, "/proc/self/fd/%d", &fd);
    note('l', fd);
    return REAL(linkat)(from, path, to, name, flags);
}
"""

PRELUDE = """
import ctypes, hashlib, json, os, random, sys
import fastcas
shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
def variable(name, kind=ctypes.c_int):
    return kind.in_dll(shim, name)
def told(**facts):
    print(json.dumps(facts))
def seen():
    calls = variable("seen", ctypes.c_long * 200_000)
    return [(chr(calls[2 * i]), calls[2 * i + 1]) for i in range(variable("count").value)]
def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()
noise = [random.Random(i).randbytes(100) for i in range(700)]
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"), SHIM)


@pytest.fixture
def run(shim):
    def run(program, *arguments):
        done = run_with_shim(shim, PRELUDE + textwrap.dedent(program), *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_written_synced_named_and_the_directory_once(run, tmp_path, durability):
    told = run(
        """
        with fastcas.create(sys.argv[1], durability=sys.argv[2]) as cas:
            cas.put_blobs([b"the first anchors the directory"])
            variable("count").value = 0
            large = random.Random(1).randbytes(3 << 20)
            results = cas.put_blobs([*noise, large, iter([b"iterable"])])
            calls = seen()
            assert len(results) == len(noise) + 2
        told(calls=calls)
        """,
        tmp_path / "image",
        durability,
    )
    calls = told["calls"]
    order = {}
    for number, (what, inode) in enumerate(calls):
        order.setdefault(inode, []).append((what, number))
    directories = [number for number, (what, _) in enumerate(calls) if what == "d"]
    linked = [number for number, (what, _) in enumerate(calls) if what == "l"]
    files = ["".join(dict.fromkeys(w for w, _ in steps)) for steps in order.values()]
    files.remove("d") if directories else None
    assert len(linked) == len(files) == 702
    if durability == "none":
        assert set(files) == {"wl"}
        return
    assert set(files) == {"wksl"}  # the disk is told early, each is synced, then named
    for steps in order.values():
        text = "".join(what for what, _ in steps)
        assert text == "d" or text.endswith("sl")  # one sync, and nothing written after it
        assert text.count("s") <= 1
    assert len(directories) == 1
    assert directories[0] > linked[-1]


def test_nothing_has_a_name_before_its_group_is_synced(run, tmp_path):
    told = run(
        """
        with fastcas.create(sys.argv[1]) as cas:
            cas.put_blobs([b"the first anchors the directory"])
            variable("count").value = 0
            cas.put_blobs(noise[:100])
            told(order="".join(what for what, _ in seen()))
        """,
        tmp_path / "image",
    )
    assert told["order"] == "w" * 100 + "k" * 100 + "s" * 100 + "l" * 100 + "d"


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("number", [1, 7, 300, 701])
def test_a_sync_that_fails(run, tmp_path, number, stored):
    told = run(
        """
        number, stored = int(sys.argv[2]), sys.argv[3] == "True"
        with fastcas.create(sys.argv[1]) as cas:
            large = random.Random(1).randbytes(3 << 20)
            contents = [*noise, large]
            if stored:
                cas.put_blobs(contents)
            variable("syncs").value = 0
            variable("fail_sync").value = number
            fds = len(os.listdir("/proc/self/fd"))
            try:
                cas.put_blobs(contents)
            except OSError as error:
                failed = error
            variable("fail_sync").value = 0
            right = all(cas.read_blob(d) is not None for d in cas)
            told(
                kind=type(failed).__name__, errno=failed.errno, right=right, count=len(cas),
                named=bool(failed.filename), source=failed.source in contents,
                there=digest_of(failed.source) in cas,
                left=len(os.listdir("/proc/self/fd")) - fds,
                names=sorted(os.listdir(sys.argv[1])),
                after=[r.digest for r in cas.put_blobs(contents)] == [digest_of(c) for c in contents],
            )
        """,
        tmp_path / "image",
        number,
        stored,
    )
    assert set(told.pop("names")) - set(BESIDE) == {"blobs", "index.json", "oci-layout"}
    count = told.pop("count")
    assert count == 701 if stored else 0 <= count < 701
    assert told == {
        "kind": "DurabilityError" if stored else "OSError",
        "errno": errno.EIO,
        "right": True,
        "named": not stored,
        "source": True,
        "there": stored,
        "left": 0,
        "after": True,
    }


@pytest.mark.parametrize(
    "call", ["cas.put_blob(bytearray(b'1'))", "cas.put_blobs([iter([b'1']), b'2'])"]
)
def test_a_sync_of_stored_ones_that_a_signal_ends(run, tmp_path, call):
    """That is no failure."""
    told = run(
        f"""
        with fastcas.create(sys.argv[1]) as cas:
            {call}
            variable("interrupted").value = 3
            {call}
            told(left=variable("interrupted").value)
        """,
        tmp_path / "image",
    )
    assert told == {"left": 0}


def test_a_directory_that_cannot_be_synced(run, tmp_path):
    told = run(
        """
        with fastcas.create(sys.argv[1]) as cas:
            variable("fail_directory").value = 1
            kinds = []
            for call in (lambda: cas.put_blobs(noise), lambda: cas.put_index(cas.get_index())):
                try:
                    call()
                except fastcas.DurabilityError as error:
                    kinds.append(error.errno)
            variable("fail_directory").value = 0
            try:
                cas.close()
            except fastcas.DurabilityError:
                pass
        told(kinds=kinds)
        """,
        tmp_path / "image",
    )
    assert told["kinds"] == [errno.EIO] * 2


def test_without_a_second_thread(run, tmp_path):
    told = run(
        """
        contents = [*noise, random.Random(1).randbytes(5 << 20), random.Random(2).randbytes(1 << 20)]
        with fastcas.create(sys.argv[1]) as cas:
            variable("fail_thread").value = 1
            results = cas.put_blobs(contents)
        told(right=[r.digest for r in results] == [digest_of(c) for c in contents])
        """,
        tmp_path / "image",
    )
    assert told == {"right": True}
